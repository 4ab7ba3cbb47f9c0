"""Checks the signature of a command outside an actuator; public as `leadtime.verify`."""

from collections.abc import Iterable
from os import PathLike

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pipeline.errors import Poison, UsageError
from pipeline.security.signing_keys import public_keyring
from pipeline.wire import commands
from pipeline.wire.codec import Record, decode

PublicKey = Ed25519PublicKey | bytes | str | PathLike[str]
"""An Ed25519 public key: the object, PEM bytes, or the path of a PEM file."""


def verify(command: bytes | Record, public_keys: PublicKey | Iterable[PublicKey]) -> bool:
    """Whether a trusted key signed exactly this command (Ed25519, RFC 8032, over its Avro body).

    The signature alone is checked. Whether the command is in time, in bounds and not a repeat is for the actuator to
    say: the list of checks is in `pipeline.wire.commands`.

    Args:
        command: a message's value from the topic `commands` (single-object encoding), or the record decoded from it.
        public_keys: those that are trusted, one or several.

    Raises:
        UsageError: a key cannot be read, is of another kind than Ed25519, or none is given; a field of the record is
            missing or has the wrong type.
        Poison: the bytes are not a record `command` of a known schema.
    """
    alone = isinstance(public_keys, Ed25519PublicKey | bytes | str | PathLike)
    ring = public_keyring([public_keys] if alone else public_keys)
    if isinstance(command, bytes):
        name, command = decode(command)
        if name != "command":
            raise Poison("wrong-schema", f"a {name} and no command")
    try:
        return commands.verify(command, ring)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"no command record: {type(error).__name__}: {error}") from None
