"""Partition key, partitioner and pseudonym of a record's user. Raw user ids never leave ingest."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import polars as pl

from pipeline.errors import UsageError
from pipeline.security import signing_keys
from pipeline.settings import Settings

PSEUDONYM_BYTES = 16
DEMO_KEY = b"leadtime-demo-pseudonym-key-not-a-secret"
MAX_USERS = 2_000_000
"""Users of a partition whose pseudonym is remembered; beyond that all are worked out anew."""


def entity(app: str, user: str | None, scope: str = "USER", instance: str | None = None) -> str:
    """The partition key: `app/user`; usage that is no user's (scope SHARED, APP, INSTANCE) counts as one more.

    >>> entity("shop", "ann"), entity("shop", None, "SHARED"), entity("shop", None, "INSTANCE", "i-7")
    ('shop/ann', 'shop/#SHARED', 'shop/#INSTANCE:i-7')
    """
    if scope == "USER":
        return f"{app}/{user}"
    return f"{app}/#{scope}:{instance}" if instance else f"{app}/#{scope}"


def murmur2(data: bytes) -> int:
    """Austin Appleby's MurmurHash2 (32 bits) with Kafka's seed, as in org.apache.kafka.common.utils.Utils."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * m) & mask
        k = ((k ^ (k >> 24)) * m) & mask
        h = ((h * m) & mask) ^ k
    if tail := data[whole:]:
        h = ((h ^ int.from_bytes(tail, "little")) * m) & mask
    h = ((h ^ (h >> 13)) * m) & mask
    return h ^ (h >> 15)


def partition_of(key: str, partitions: int) -> int:
    """Where Java's default partitioner (librdkafka: murmur2_random) puts a key."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


@dataclass(frozen=True)
class Key:
    """A pseudonymisation key, used for ticks that start at `valid_from` (unix seconds) or later."""

    key_id: str
    secret: bytes
    valid_from: int

    def pseudonym(self, key: str) -> bytes:
        """Keyed BLAKE2b of `app/user`, 16 bytes: the same user is the same pseudonym until the key rotates."""
        return blake2b(key.encode(), digest_size=PSEUDONYM_BYTES, key=self.secret).digest()


class KeyRing:
    """Keys by the tick from which they are valid: which one is used is a function of event time alone.

    Raises:
        UsageError: no key is valid from the beginning.
    """

    def __init__(self, ring: Sequence[Key]) -> None:
        self.keys = sorted(ring, key=lambda key: key.valid_from)
        if not self.keys or self.keys[0].valid_from > 0:
            raise UsageError("pseudonym keys: the first one must have valid_from 0")

    @classmethod
    def of(cls, settings: Settings) -> "KeyRing":
        """Keys of an installation: the demo key, else those of its key file; the default file is made on first use.

        Raises:
            UsageError: the file cannot be read, or is not a JSON list of keys.
        """
        if settings.demo_keys:
            return cls([Key("demo", DEMO_KEY, 0)])
        path = settings.pseudonym_keys_file or settings.data_dir / "keys" / "pseudonyms.json"
        if settings.pseudonym_keys_file is None:
            first = [{"key_id": "1", "secret": secrets.token_hex(32), "valid_from": 0}]
            signing_keys.write_once(path, json.dumps(first).encode())
        try:
            listed = json.loads(path.read_bytes())
            # BLAKE2b takes at most 64 bytes of key
            return cls([Key(k["key_id"], k["secret"].encode()[:64], int(k["valid_from"])) for k in listed])
        except OSError as error:
            raise UsageError(f"pseudonym keys {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UsageError(
                f"pseudonym keys {path}: not a JSON list of {{key_id, secret, valid_from}}"
            ) from None

    def until(self, tick_start_s: int) -> int:
        """First unix second after the given time from which another key is valid."""
        return min((key.valid_from for key in self.keys if key.valid_from > tick_start_s), default=2**62)

    def at(self, tick_start_s: int) -> Key:
        """Key for a tick that starts at the given unix second."""
        return next(
            key for key in reversed(self.keys) if key.valid_from <= tick_start_s or key is self.keys[0]
        )


# `entity`, for whole columns
_USER = pl.concat_str("app", pl.lit("/"), "user")
_OTHER = pl.concat_str("app", pl.lit("/#"), pl.col("scope").cast(pl.String))
_ENTITY = (
    pl.when(pl.col("scope").cast(pl.String) == "USER")
    .then(_USER)
    .when((pl.col("instance") != "").fill_null(False))
    .then(pl.concat_str(_OTHER, pl.lit(":"), "instance"))
    .otherwise(_OTHER)
)


class Directory:
    """Codes for the users of one partition: app, pseudonym and right partition, worked out once each."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.codes: dict[str, int] = {}
        self.keys: list[str] = []
        self.apps: list[str] = []
        self.partition: list[int] = []
        self._pseudonyms: tuple[str, list[bytes]] = ("", [])
        self._order = np.zeros(0, np.int64)

    def code(self, rows: pl.DataFrame) -> np.ndarray:
        """(row,) code of each record's user."""
        names = rows.select(_ENTITY if "scope" in rows.columns else _USER).to_series().to_list()
        codes = [self.codes.get(name, -1) for name in names]
        if -1 in codes:
            for app, name in zip(rows["app"].to_list(), names, strict=True):
                self._admit(app, name)
            codes = [self.codes[name] for name in names]
        return np.array(codes, np.int64)

    def _admit(self, app: str, key: str) -> None:
        if key not in self.codes:
            self.codes[key] = len(self.keys)
            self.keys.append(key)
            self.apps.append(app)
            self.partition.append(partition_of(key, self.partitions))

    def pseudonyms(self, key: Key) -> list[bytes]:
        """(code) pseudonyms under one key."""
        if self._pseudonyms[0] != key.key_id:
            self._pseudonyms, self._order = (key.key_id, []), np.zeros(0, np.int64)
        known = self._pseudonyms[1]
        known.extend(key.pseudonym(name) for name in self.keys[len(known) :])
        return known

    def order(self, key: Key) -> np.ndarray:
        """(code,) position in the order of pseudonyms."""
        pseudonyms = self.pseudonyms(key)
        if len(self._order) < len(pseudonyms):
            self._order = np.empty(len(pseudonyms), np.int64)
            self._order[sorted(range(len(pseudonyms)), key=pseudonyms.__getitem__)] = np.arange(
                len(pseudonyms)
            )
        return self._order

    def forget(self) -> None:
        """Drop all codes if there are too many; call it only while no code is in use."""
        if len(self.keys) > MAX_USERS:
            self.__init__(self.partitions)
