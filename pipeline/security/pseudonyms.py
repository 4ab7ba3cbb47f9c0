"""Partition key, partitioner, identity and pseudonym of a record's user. Raw user ids never leave ingest."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.errors import UsageError
from pipeline.format import iso
from pipeline.security import signing_keys
from pipeline.settings import Settings

PSEUDONYM_BYTES = 16
DEMO_KEY = b"leadtime-demo-pseudonym-key-not-a-secret"
MAX_USERS = 2_000_000
"""Users of a partition whose pseudonym is remembered; beyond that all are worked out anew."""
FORGET_S = 7 * 86_400
"""State of a user silent for a week is dropped: longer than any weekly habit's pause."""
CARRIED_S = FORGET_S + 86_400
"""For so long after a key's begin frames name its users' earlier pseudonyms: until no state under these is left."""


def entity(app: str, user: str | None, scope: str = "USER", instance: str | None = None) -> str:
    """The partition key: `app/user`; usage that is no user's (scope SHARED, APP, INSTANCE) counts as one more.

    Two users can have one key (`c` of app `a/b`, `b/c` of app `a`): they share a partition, not an `identity`.

    >>> entity("shop", "ann"), entity("shop", None, "SHARED"), entity("shop", None, "INSTANCE", "i-7")
    ('shop/ann', 'shop/#SHARED', 'shop/#INSTANCE:i-7')
    """
    if scope == "USER":
        return f"{app}/{user}"
    return f"{app}/#{scope}:{instance}" if instance else f"{app}/#{scope}"


def identity(app: str, user: str | None, scope: str = "USER", instance: str | None = None) -> str:
    """What a pseudonym is of: another text for any other app, user, scope or instance, and `entity` for plain names.

    Percent signs and slashes of an app are escaped as in URLs, so that the first slash ends it; a user that begins with
    `#` or `%` gets a `%` before it, so that no user is taken for a scope. Names are compared byte by byte: neither case
    nor Unicode's normal forms nor white space are folded.

    >>> identity("shop", "ann"), identity("prod/web", "pod-1"), identity("prod", "web/pod-1")
    ('shop/ann', 'prod%2Fweb/pod-1', 'prod/web/pod-1')
    >>> identity("shop", "#SHARED"), identity("shop", None, "SHARED")
    ('shop/%#SHARED', 'shop/#SHARED')
    """
    app = app.replace("%", "%25").replace("/", "%2F")
    if scope == "USER" and user is not None and user.startswith(("#", "%")):
        user = f"%{user}"
    return entity(app, user, scope, instance)


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
    """A pseudonymisation key, used for ticks that start at `valid_from` (unix seconds) or later.

    Attributes:
        carry_over: whether users keep their state when this key replaces the one before, so that the two pseudonyms
            of a user can be linked; else every user is a new one.
    """

    key_id: str
    secret: bytes = field(repr=False)
    valid_from: int
    carry_over: bool = False

    def pseudonym(self, key: str) -> bytes:
        """Keyed BLAKE2b of an `identity`, 16 bytes: the same user is the same pseudonym until the key rotates."""
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
        path = keys_file(settings)
        if settings.pseudonym_keys_file is None:
            first = [{"key_id": "1", "secret": secrets.token_hex(32), "valid_from": 0}]
            signing_keys.write_once(path, json.dumps(first).encode())
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> "KeyRing":
        """Keys of a file.

        Raises:
            UsageError: the file cannot be read, or is not a JSON list of keys.
        """
        try:
            return cls([_key(**fields) for fields in json.loads(path.read_bytes())])
        except OSError as error:
            raise UsageError(f"pseudonym keys {path}: {error.strerror}") from None
        except (ValueError, TypeError, AttributeError):
            raise UsageError(
                f"pseudonym keys {path}: not a JSON list of {{key_id, secret, valid_from}}, "
                "with carry_over true or false where users keep their state or not"
            ) from None

    def until(self, tick_start_s: int) -> int:
        """First unix second after the given time from which another key is valid."""
        return min((key.valid_from for key in self.keys if key.valid_from > tick_start_s), default=2**62)

    def at(self, tick_start_s: int) -> Key:
        """Key for a tick that starts at the given unix second."""
        return next(
            key for key in reversed(self.keys) if key.valid_from <= tick_start_s or key is self.keys[0]
        )

    def earlier(self, tick_start_s: int) -> list[Key]:
        """Keys under which state may be left that a tick's users carry over, the newest first.

        They end at the first change of keys that does not carry over, or was more than CARRIED_S ago.
        """
        carried: list[Key] = []
        for number in range(self.keys.index(self.at(tick_start_s)), 0, -1):
            key = self.keys[number]
            if not key.carry_over or tick_start_s - key.valid_from > CARRIED_S:
                break
            carried.append(self.keys[number - 1])
        return carried


def _key(key_id: str, secret: str, valid_from: int, carry_over: object = False, **_: object) -> Key:
    """A key from its fields in a file, where others may stand beside them."""
    if not isinstance(carry_over, bool):
        raise TypeError("carry_over")
    # BLAKE2b takes at most 64 bytes of key
    return Key(key_id, secret.encode()[:64], int(valid_from), carry_over)


def keys_file(settings: Settings) -> Path:
    """The installation's key file."""
    return settings.pseudonym_keys_file or settings.data_dir / "keys" / "pseudonyms.json"


def rotate(settings: Settings, valid_from: int, carry_over: bool) -> tuple[Path, Key]:
    """Add a new key to an installation's key file, which every ingest reads when it starts.

    Args:
        settings: of the installation.
        valid_from: unix seconds of event time, after every other key's.
        carry_over: see `Key`.

    Returns:
        the file and the new key.

    Raises:
        UsageError: the keys are the demo's, the file cannot be read or written, or a key is valid later.
    """
    if settings.demo_keys:
        raise UsageError("LEADTIME_DEMO_KEYS is set: the demo's pseudonym key is fixed")
    path = keys_file(settings)
    keys = KeyRing.read(path).keys
    if valid_from <= (newest := keys[-1]).valid_from:
        raise UsageError(
            f"pseudonym keys {path}: key {newest.key_id} is valid from {iso(newest.valid_from)}, "
            "a new key must be valid from a later time"
        )
    used = {key.key_id for key in keys}
    fields = {
        "key_id": next(name for name in map(str, count(len(keys) + 1)) if name not in used),
        "secret": secrets.token_hex(32),
        "valid_from": valid_from,
        "carry_over": carry_over,
    }
    signing_keys.replace(path, json.dumps([*json.loads(path.read_bytes()), fields], indent=1).encode())
    return path, KeyRing.read(path).keys[-1]


# `entity` and `identity`, for whole columns
_APP, _USER = pl.col("app"), pl.col("user")
_ESCAPED_APP = _APP.str.replace_all("%", "%25", literal=True).str.replace_all("/", "%2F", literal=True)
_ESCAPED_USER = pl.when(_USER.str.contains("^[#%]")).then(pl.concat_str(pl.lit("%"), _USER)).otherwise(_USER)


def _joined(app: pl.Expr, user: pl.Expr, *, scoped: bool) -> pl.Expr:
    """`entity` of columns; scoped: there are columns scope and instance."""
    of_user = pl.concat_str(app, pl.lit("/"), user)
    if not scoped:
        return of_user
    other = pl.concat_str(app, pl.lit("/#"), pl.col("scope").cast(pl.String))
    return (
        pl.when(pl.col("scope").cast(pl.String) == "USER")
        .then(of_user)
        .when((pl.col("instance") != "").fill_null(False))
        .then(pl.concat_str(other, pl.lit(":"), "instance"))
        .otherwise(other)
    )


class Directory:
    """Codes for the users of one partition: app, pseudonym and right partition, worked out once each.

    Where several producers, or one of several instances, report a user, each of these series has a code of its own, and
    that of the first is the user's. Which one that is has no effect on frames.
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.codes: dict[str, int] = {}
        self.keys: list[str] = []
        self.apps: list[str] = []
        self.partition: list[int] = []
        self._names: dict[str, int] = {}  # numbers of the series' names
        self._series = np.zeros(0, np.int32)  # (code,) the number of the code's own series; -1: none yet
        self._others: dict[tuple[int, int], int] = {}  # codes of further series, by user's code and series
        self._pseudonyms: dict[Key, list[bytes]] = {}
        self._order: tuple[Key | None, np.ndarray] = (None, np.zeros(0, np.int64))

    def code(self, rows: pl.DataFrame) -> np.ndarray:
        """(row,) code of each record's user."""
        scoped = "scope" in rows.columns
        names = rows.select(_joined(_ESCAPED_APP, _ESCAPED_USER, scoped=scoped)).to_series().to_list()
        codes = [self.codes.get(name, -1) for name in names]
        if -1 in codes:
            keys = rows.select(_joined(_APP, _USER, scoped=scoped)).to_series().to_list()
            for app, name, key in zip(rows["app"].to_list(), names, keys, strict=True):
                self._admit(app, name, key)
            codes = [self.codes[name] for name in names]
        return np.array(codes, np.int64)

    def series(self, rows: pl.DataFrame, code: np.ndarray) -> np.ndarray:
        """(row,) code of each metric record's series: what one producer reports of one instance of the user.

        Args:
            rows: with `producer` and `instance`.
            code: (row,) of `code`, the users'.
        """
        name = self._series_of(rows)
        if len(self._series) < len(self.keys):
            grown = np.full(2 * len(self.keys), -1, np.int32)
            grown[: len(self._series)] = self._series
            self._series = grown
        fresh = np.flatnonzero(self._series[code] < 0)[::-1]
        self._series[code[fresh]] = name[fresh]
        others = np.flatnonzero(self._series[code] != name)
        if len(others):
            code = code.copy()
            pairs = zip(code[others].tolist(), name[others].tolist(), strict=True)
            code[others] = [self._others.get(pair) or self._admit_series(pair) for pair in pairs]
        return code

    def _series_of(self, rows: pl.DataFrame) -> np.ndarray:
        """(row,) number of the producer and instance."""
        producer, instance = rows["producer"], rows["instance"]
        if rows.height and instance.null_count() == rows.height and (producer == producer[0]).all():
            return np.full(rows.height, self._number(f"{len(producer[0].encode())}:{producer[0]}"), np.int32)
        names = rows.select(
            pl.concat_str(
                pl.col("producer").str.len_bytes().cast(pl.String),
                pl.lit(":"),
                "producer",
                pl.col("instance").fill_null(""),
            )
        ).to_series()
        known = {name: self._number(name) for name in names.unique().to_list()}
        return (
            names.replace_strict(known, return_dtype=pl.Int32).to_numpy() if known else np.zeros(0, np.int32)
        )

    def _number(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def _admit_series(self, pair: tuple[int, int]) -> int:
        """A code for one more series of a user."""
        user = pair[0]
        code = self._others[pair] = len(self.keys)
        self.keys.append(self.keys[user])
        self.apps.append(self.apps[user])
        self.partition.append(self.partition[user])
        return code

    def app_of(self, key: bytes | None) -> str:
        """App of a message that cannot be decoded, by its key `app/user`; "" where the key does not say."""
        text = (key or b"").decode(errors="replace")
        if text in self.codes:
            return self.apps[self.codes[text]]
        return text.partition("/")[0] if "/" in text else ""

    def _admit(self, app: str, name: str, key: str) -> None:
        """Give a code to the identity `name`, whose partition key is `key`."""
        if name not in self.codes:
            self.codes[name] = len(self.keys)
            self.keys.append(name)
            self.apps.append(app)
            self.partition.append(partition_of(key, self.partitions))

    def pseudonyms(self, key: Key) -> list[bytes]:
        """(code) pseudonyms under one key."""
        known = self._pseudonyms.setdefault(key, [])
        known.extend(key.pseudonym(name) for name in self.keys[len(known) :])
        return known

    def order(self, key: Key) -> np.ndarray:
        """(code,) position in the order of pseudonyms."""
        pseudonyms = self.pseudonyms(key)
        of, order = self._order
        if of != key or len(order) < len(pseudonyms):
            order = np.empty(len(pseudonyms), np.int64)
            order[sorted(range(len(pseudonyms)), key=pseudonyms.__getitem__)] = np.arange(len(pseudonyms))
            for (user, _), code in self._others.items():
                order[code] = order[user]
            self._order = key, order
        return order

    def keep(self, keys: Sequence[Key]) -> None:
        """Drop the pseudonyms under all other keys."""
        self._pseudonyms = {key: known for key, known in self._pseudonyms.items() if key in keys}

    def forget(self) -> None:
        """Drop all codes if there are too many; call it only while no code is in use."""
        if len(self.keys) > MAX_USERS:
            self.__init__(self.partitions)
