"""Signs records whose schema has `key_id` and `signature`, and verifies them, in a way that any language can.

Ed25519 (RFC 8032) over the Avro binary body (no header) of the record, written with the schema version that its
`schema_version` names, with an empty `signature`. `key_id` is inside and so is signed as well.
"""

import io
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from fastavro import parse_schema, schemaless_writer

import schemas
from pipeline.security.signing_keys import Keyring, SigningKey
from pipeline.wire.codec import Record


@cache
def _schema(name: str, version: int) -> Any:
    return parse_schema(dict(schemas.versions(name)[version]))


def signed_bytes(name: str, record: Record) -> bytes:
    """Bytes that the signature of a record of this name covers (see the module).

    Raises:
        KeyError: a schema version that was never published.
    """
    out = io.BytesIO()
    schemaless_writer(out, _schema(name, record["schema_version"]), {**record, "signature": b""})
    return out.getvalue()


def sign(name: str, record: Record, key: SigningKey) -> Record:
    """The record with that key's id and signature."""
    record = {**record, "key_id": key.key_id}
    return {**record, "signature": key.private.sign(signed_bytes(name, record))}


def verify(name: str, record: Record, ring: Keyring) -> bool:
    """Whether the signature is valid and by a key of the ring; False also for an unknown schema version."""
    public = ring.get(record["key_id"])
    if public is None:
        return False
    try:
        public.verify(record["signature"], signed_bytes(name, record))
    except (InvalidSignature, KeyError):
        return False
    return True
