"""Ed25519 keys that sign and verify commands: PEM files, named by a hash of their public half.

- whoever signs (the allocator) has one private key: `signing_key_file`, or one made at first use in
  `<data_dir>/keys/signing.pem`, readable by its owner alone;
- whoever verifies (an actuator) trusts every public key in `<data_dir>/keys/trusted/*.pem` and the public
  half of `signing_key_file`, which may hold a public key only. To rotate: put the new public key there, sign
  with the new private one, remove the old public key when its last command has expired.

No key is ever logged: private keys are hidden from `repr`.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from os import PathLike
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pipeline.errors import UsageError
from pipeline.settings import Settings

DEMO_SEED = blake2b(b"leadtime demo signing key: public, not a secret", digest_size=32).digest()
"""Everybody can compute it: a demo and the tests sign with it so that two runs give the same bytes."""

Keyring = Mapping[str, Ed25519PublicKey]
"""Public keys by key id."""


def key_id(public: Ed25519PublicKey) -> str:
    """The first 8 bytes of BLAKE2b of the raw public key, as hex: a name, not a proof."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return blake2b(raw, digest_size=8).hexdigest()


@dataclass(frozen=True)
class SigningKey:
    """A private key, and the id under which its public key is trusted."""

    private: Ed25519PrivateKey = field(repr=False)

    @cached_property
    def public(self) -> Ed25519PublicKey:
        """The public key."""
        return self.private.public_key()

    @cached_property
    def key_id(self) -> str:
        """Id of the key in the field `key_id` of commands."""
        return key_id(self.public)

    @property
    def keyring(self) -> Keyring:
        """A ring that trusts this key alone."""
        return {self.key_id: self.public}


def demo_key() -> SigningKey:
    """The fixed key of demos and tests; it is published, so it protects nothing."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(DEMO_SEED))


def generate(path: Path) -> SigningKey:
    """Make a private key at `path`; a key that is there already (or that another process made first) wins."""
    private = Ed25519PrivateKey.generate()
    write_once(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return read_private(path)


def write_once(path: Path, secret: bytes) -> None:
    """Put a secret into a file for its owner alone; a file that is there already stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path, secret)
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def replace(path: Path, secret: bytes) -> None:
    """Replace the content of a secret's file, as a whole, also where a link leads to it; owner and mode stay.

    Raises:
        UsageError: it cannot be written.
    """
    path = path.resolve()
    try:
        before, draft = path.stat(), _draft(path, secret)
        os.chown(draft, before.st_uid, before.st_gid)
        draft.chmod(stat.S_IMODE(before.st_mode))
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _draft(path: Path, secret: bytes) -> Path:
    """A file beside `path`, for its owner alone, written whole: linked or renamed, no reader sees half a key."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(handle)  # a rename that outlives a power failure must not outlive its content
    return draft


def read_private(path: Path) -> SigningKey:
    """Read a private key from a PEM file.

    Raises:
        UsageError: the file is missing, or holds no Ed25519 private key.
    """
    try:
        private = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(f"{path} holds no Ed25519 private key (PEM, without a password)") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(f"{path} holds a private key of another kind than Ed25519")
    return SigningKey(private)


def read_public(path: Path) -> Ed25519PublicKey:
    """Read a public key from a PEM file, or the public half of a private key.

    Raises:
        UsageError: the file is missing, or holds no Ed25519 key.
    """
    data = _read(path)
    if b"PRIVATE KEY" in data:
        return read_private(path).public
    return parse_public(data, str(path))


def parse_public(pem: bytes, source: str) -> Ed25519PublicKey:
    """A public key from PEM bytes; `source` names them in an error.

    Raises:
        UsageError: they hold no Ed25519 public key.
    """
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{source} holds no Ed25519 public key (PEM)") from None
    if not isinstance(public, Ed25519PublicKey):
        raise UsageError(f"{source} holds a public key of another kind than Ed25519")
    return public


def public_keyring(keys: Iterable[Ed25519PublicKey | bytes | str | PathLike[str]]) -> Keyring:
    """A ring that trusts these keys: objects, PEM bytes, or paths of PEM files.

    Raises:
        UsageError: none is given, or one cannot be read as an Ed25519 public key.
    """
    ring: dict[str, Ed25519PublicKey] = {}
    for key in keys:
        if isinstance(key, bytes):
            public = parse_public(key, "the key given as bytes")
        else:
            public = key if isinstance(key, Ed25519PublicKey) else read_public(Path(key))
        ring[key_id(public)] = public
    if not ring:
        raise UsageError("no public key is given to verify with")
    return ring


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read key {path}: {error.strerror}") from None


def signing_key(settings: Settings) -> SigningKey:
    """The key that this installation signs with; made at first use unless a file is set.

    Raises:
        UsageError: the file that is set cannot be read as a private key.
    """
    if settings.demo_keys:
        return demo_key()
    if settings.signing_key_file is not None:
        return read_private(settings.signing_key_file)
    key = generate(settings.data_dir / "keys" / "signing.pem")
    trust(key.public, settings)
    return key


def trust(public: Ed25519PublicKey, settings: Settings) -> None:
    """Add the key to those that actuators of this data folder trust."""
    path = settings.data_dir / "keys" / "trusted" / f"{key_id(public)}.pem"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def keyring(settings: Settings) -> Keyring:
    """All public keys that an actuator trusts; with `demo_keys` set, the demo key alone.

    Raises:
        UsageError: no key is trusted, or a file cannot be read as a key.
    """
    if settings.demo_keys:
        return demo_key().keyring
    paths = sorted((settings.data_dir / "keys" / "trusted").glob("*.pem"))
    if settings.signing_key_file is not None:
        paths.append(settings.signing_key_file)
    ring = {key_id(public): public for public in map(read_public, paths)}
    if not ring:
        raise UsageError(
            f"no key to verify commands with: put the allocator's public key into "
            f"{settings.data_dir / 'keys' / 'trusted'} or set LEADTIME_SIGNING_KEY_FILE"
        )
    return ring
