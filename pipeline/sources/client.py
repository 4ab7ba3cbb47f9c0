"""`leadtime.Telemetry`: a producer of telemetry for a program's own code.

Arguments are checked as ingest checks records (pipeline.stages.ingest.validation), so that a mistaken unit is an error
in the program that made it and no dead letter that somebody reads days later.
"""

import itertools
import math
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Self, TypedDict, Unpack, cast

from models.metrics import EVENT_KINDS, METRIC_UNITS, METRICS
from models.telemetry_rules import DETAILS_MOST, MAX_COUNT, MAX_ID_BYTES, MAX_INTERVAL_S, MOST
from pipeline.errors import NotDelivered, Unreachable, UsageError
from pipeline.kafka.connection import reachable
from pipeline.kafka.installation import tick_length
from pipeline.kafka.producer import BY_KEY, Outputs
from pipeline.kafka.topics import RAW
from pipeline.names import name_fault
from pipeline.security.pseudonyms import entity
from pipeline.settings import Settings, load_settings
from pipeline.wire.codec import Record

OPTIONS: Final[Mapping[str, Any]] = {
    "linger.ms": 50,  # a batch of 50 ms: a tick is a second at least
    "compression.type": "lz4",
}
_UNITS: Final = {
    **dict(zip(METRICS, METRIC_UNITS, strict=True)),
    "queue": "requests",
    "rejected": "1/s",
    "latency_p99": "seconds",
    "replicas": "replicas",
}
ASK_S, ASK_AGAIN_S = 5.0, 60.0
"""How long a sample without an interval waits for Kafka to tell the tick, and when the next one asks again."""
EXPIRED_S: Final = 3.0
"""After its timeout a record has failed within so long: librdkafka looks for such once a second."""
_SCOPES: Final = ("USER", "SHARED", "APP", "INSTANCE")


class Usage(TypedDict, total=False):
    """What a sample says beside whom it is of; leave out what was not measured.

    Attributes:
        cpu: cores. memory: bytes. network, disk: bytes/s, both directions together. requests: 1/s. At least one of
            these five.
        limits: what could be used at most, by name of such a metric, in its unit.
        throttled: share of the time in which the CPU was throttled, 0 to 1.
        saturated: demand was above usage: the sample is a lower bound on demand.
        queue: requests that wait. rejected: requests refused, 1/s. latency_p99: seconds. replicas: of the app.
        instance: id of the machine, pod or container. region, zone: where it is.
    """

    cpu: float | None
    memory: float | None
    network: float | None
    disk: float | None
    requests: float | None
    limits: Mapping[str, float]
    throttled: float | None
    saturated: bool | None
    queue: float | None
    rejected: float | None
    latency_p99: float | None
    replicas: float | None
    instance: str | None
    region: str | None
    zone: str | None


class Details(TypedDict, total=False):
    """What an event says beside what happened.

    Attributes:
        name: of the call, query or page.
        duration: seconds.
        attributes: names and texts; only names that the installation allows (LEADTIME_EVENT_ATTRIBUTES) are used.
        region: where.
        event_id: default: the producer's name and a running number.
    """

    name: str
    duration: float | None
    attributes: Mapping[str, str]
    region: str | None
    event_id: str


class Telemetry:
    """A producer of metric samples and events, keyed and partitioned as ingest expects it (murmur2 of `app/user`).

    Records are batched and sent in the background (librdkafka); nothing is certain before `flush` or `close`. Where
    Kafka does not keep up and 100,000 records or 96 MB wait, a call waits for room. Objects may be shared by threads.

        with Telemetry("localhost:9092") as telemetry:
            telemetry.metric(app="shop", user="ann", cpu=0.5, memory=3e8)
            telemetry.event(app="shop", user="ann", kind="API_CALL")

    Args:
        bootstrap: Kafka's address, host:port[,host:port]; None: that of `settings`.
        settings: prefix of topics, schema registry, security; None: from `LEADTIME_*` in the environment.
        security: client options by their librdkafka names (security.protocol, sasl.*, ssl.*), over the settings' own.
        producer: a name for this producer in its records; None: host name and process id.
        clock: unix seconds; stamps records without a time of their own.
        timeout_s: a record that is not acknowledged for so long has failed.
        watermark_at_close: promise at the end that no older record follows; only where this is the sole producer.

    Raises:
        UsageError: no address, or an option that librdkafka does not know.
    """

    def __init__(
        self,
        bootstrap: str | None = None,
        *,
        settings: Settings | None = None,
        security: Mapping[str, str] | None = None,
        producer: str | None = None,
        clock: Callable[[], float] = time.time,
        timeout_s: float = 60.0,
        watermark_at_close: bool = False,
    ) -> None:
        settings = settings or load_settings()
        changed: dict[str, Any] = {"kafka": {**settings.kafka, **(security or {})}}
        changed |= {} if bootstrap is None else {"bootstrap": bootstrap}
        self.settings = settings.model_copy(update=changed)
        self.producer = producer or f"{socket.gethostname()}-{os.getpid()}"
        self._clock, self._timeout_s, self._watermark_at_close = clock, timeout_s, watermark_at_close
        self._outputs = Outputs(self.settings, {**OPTIONS, "delivery.timeout.ms": int(timeout_s * 1000)})
        self._metrics, self._events = itertools.count(), itertools.count()
        self._promised_us, self._closed = -math.inf, False
        self._tick_s, self._ask_at_s, self._asking = None, -math.inf, threading.Lock()

    def metric(
        self,
        app: str,
        user: str | None = None,
        *,
        scope: str = "USER",
        interval_s: float | None = None,
        ts: float | datetime | None = None,
        **usage: Unpack[Usage],
    ) -> None:
        """Send one sample of what a user used, on average over an interval.

        Args:
            app, user: whose it is.
            scope: USER; without a user SHARED (used by nobody in particular), APP (the app's total) or INSTANCE.
            interval_s: seconds that the sample stands for; None: the installation's tick, as its topics tell it. Where
                they cannot, that of the settings, with a warning; the first sample may wait ASK_S for them.
            ts: when the interval ended: unix seconds, or a datetime with a zone; None: now.
            usage: see `Usage`.

        Raises:
            UsageError: an argument is missing, unknown, negative, not finite or beyond its bound, `ts` lies before a
                watermark that was sent, or the settings have another tick than the installation.
        """
        given = cast("dict[str, Any]", usage)
        if unknown := given.keys() - Usage.__annotations__.keys():
            raise UsageError(
                f"unknown metric {sorted(unknown)[0]!r}; known are {', '.join(Usage.__annotations__)}"
            )
        record: Record = {
            "ts": self._time_us(ts),
            "interval_s": None
            if interval_s is None
            else _number("interval_s", interval_s, MAX_INTERVAL_S, "seconds"),
            **_owner(app, user, scope, given.get("instance")),
            **{name: _optional_text(name, given.get(name)) for name in ("instance", "region", "zone")},
            **{
                name: None
                if given.get(name) is None
                else _number(name, given[name], (MOST | DETAILS_MOST)[name], unit)
                for name, unit in _UNITS.items()
            },
            "limits": [
                {"metric": name, "value": limit}
                for name, value in (given.get("limits") or {}).items()
                if (limit := _limit(name, value)) is not None
            ],
            "saturated": None if given.get("saturated") is None else bool(given["saturated"]),
            "producer": self.producer,
        }
        if record["interval_s"] == 0:
            raise UsageError("interval_s must be above 0 seconds")
        if given.get("throttled") is not None:
            record["throttled"] = _number(
                "throttled", given["throttled"], DETAILS_MOST["throttled"], "share of time"
            )
        if all(record[name] is None for name in METRICS):
            raise UsageError(f"a sample needs at least one of {', '.join(METRICS)}")
        if interval_s is None:
            record["interval_s"] = float(self._tick())
        key = entity(app, user, scope, given.get("instance"))
        self._publish(RAW[0], "metric", record | {"producer_seq": next(self._metrics)}, key)

    def event(
        self,
        app: str,
        user: str,
        kind: str,
        *,
        count: float = 1.0,
        ts: float | datetime | None = None,
        **details: Unpack[Details],
    ) -> None:
        """Send that something happened in an app, once or `count` times.

        Args:
            app, user: whose it is.
            kind: API_CALL, DB_QUERY, INTERACTION or OTHER.
            count: how many equal events the record stands for.
            ts: when: unix seconds, or a datetime with a zone; None: now.
            details: see `Details`.

        Raises:
            UsageError: as `metric`.
        """
        given = cast("dict[str, Any]", details)
        if unknown := given.keys() - Details.__annotations__.keys():
            raise UsageError(
                f"unknown detail {sorted(unknown)[0]!r}; known are {', '.join(Details.__annotations__)}"
            )
        if kind not in EVENT_KINDS:
            raise UsageError(f"kind must be one of {', '.join(EVENT_KINDS)}; got {kind!r}")
        owner = _owner(app, user, "USER", None)
        duration = given.get("duration")
        record: Record = {
            "ts": self._time_us(ts),
            "event_id": _text("event_id", given.get("event_id") or f"{self.producer}.{next(self._events)}"),
            "app": owner["app"],
            "user": owner["user"],
            "kind": kind,
            "name": _text("name", given.get("name", ""), empty=True),
            "count": _number("count", count, MAX_COUNT, "events"),
            "duration": None
            if duration is None
            else _number("duration", duration, DETAILS_MOST["duration"], "seconds"),
            "attributes": [
                {
                    "key": _text("an attribute's name", name),
                    "value": _text(f"attribute {name}", value, empty=True),
                }
                for name, value in (given.get("attributes") or {}).items()
            ],
            "region": _optional_text("region", given.get("region")),
        }
        self._publish(RAW[1], "event", record, entity(app, user))

    def watermark(self, ts: float | datetime | None = None) -> None:
        """Promise that no record with an earlier time follows, in any partition of both raw topics.

        Ticks that end by then close at once instead of when later records arrive. Only a sole producer can know it:
        another's older records become late and are left out.

        Args:
            ts: unix seconds, or a datetime with a zone; None: now.

        Raises:
            UsageError: `ts` is not finite, too far from now, or before an earlier watermark.
            Unreachable: Kafka does not say how many partitions there are.
        """
        ts_us = self._time_us(ts)
        for topic in RAW:
            for number in range(self._outputs.partitions(topic)):
                self._publish(topic, "watermark", {"ts": ts_us}, None, number)
        self._promised_us = ts_us

    def flush(self) -> None:
        """Return when Kafka has acknowledged everything sent so far.

        Raises:
            NotDelivered: records failed since the last `flush`, or still wait after `timeout_s`: how many, and the
                first reason. The object can be used further; what failed is not sent again.
        """
        try:
            self._outputs.flush(self._timeout_s + EXPIRED_S)  # a record's own timeout gives the better reason
        except NotDelivered:
            self._outputs.forget_failures()
            raise

    def close(self) -> None:
        """Send the watermark that was asked for, and `flush`; nothing can be sent afterwards. Again: nothing.

        Raises:
            NotDelivered: as `flush`.
        """
        if self._closed:
            return
        try:
            if self._watermark_at_close:
                self.watermark()
        finally:
            self._closed = True
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except NotDelivered as undelivered:
            if error is None:
                raise
            error.add_note(f"leadtime: {undelivered}")  # what went wrong first is what the caller must see

    def _tick(self) -> int:
        """Seconds of the installation's tick; those of the settings while its topics do not tell it."""
        with self._asking:
            now_s = time.monotonic()
            if self._tick_s is None and now_s >= self._ask_at_s:
                why = "nothing has run there yet"
                try:
                    reachable(self.settings, min(self._timeout_s, ASK_S))
                    self._tick_s = tick_length(self.settings)
                except Unreachable as error:
                    why = str(error)
                if self._tick_s is None:
                    self._ask_at_s = time.monotonic() + ASK_AGAIN_S
                    warnings.warn(
                        f"the installation's tick is not known ({why}): samples stand for {self.settings.tick_s} s; "
                        "give interval_s",
                        stacklevel=3,
                    )
            return self.settings.tick_s if self._tick_s is None else self._tick_s

    def _publish(
        self, topic: str, name: str, record: Record, key: str | None, partition: int = BY_KEY
    ) -> None:
        now_ms = int(self._clock() * 1000)  # the same clock as `ts`, or ingest could not compare them
        self._outputs.publish(topic, name, record, key=key, partition=partition, timestamp_ms=now_ms)

    def _time_us(self, ts: float | datetime | None) -> int:
        """Microseconds since 1970; what ingest would refuse as too old or too far ahead is an error here."""
        if self._closed:
            raise UsageError("this Telemetry is closed")
        now_s = self._clock()
        if isinstance(ts, datetime):
            if ts.tzinfo is None:
                raise UsageError(f"ts {ts} has no time zone: give datetime.now(UTC) or unix seconds")
            ts = ts.timestamp()
        seconds = now_s if ts is None else ts
        if not math.isfinite(seconds):
            raise UsageError(f"ts must be finite unix seconds, got {seconds}")
        oldest, newest = now_s - self.settings.max_age_s, now_s + self.settings.max_ahead_s
        if not oldest <= seconds <= newest:
            raise UsageError(
                f"ts {seconds:.0f} lies {abs(seconds - now_s):.0f} s {'before' if seconds < now_s else 'after'} now; "
                f"ingest takes {self.settings.max_age_s:g} s before to {self.settings.max_ahead_s:g} s after "
                "(unix seconds are meant, no milliseconds)"
            )
        ts_us = round(seconds * 1e6)
        if ts_us < self._promised_us:
            raise UsageError(
                f"ts {seconds:.6f} lies before the watermark that was sent ({self._promised_us / 1e6:.6f})"
            )
        return ts_us


def _number(name: str, value: float, most: float, unit: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= most:  # NaN is neither
        raise UsageError(f"{name} must be a number from 0 to {most:,.16g} ({unit}); got {value!r}")
    return number


def _limit(name: str, value: Any) -> float | None:
    """The limit, or None where it is not above 0 (cgroups and the kubelet write 0 or -1 for none) or infinite."""
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r} in limits; known are {', '.join(METRICS)}")
    if isinstance(value, int | float) and (value <= 0 or value == math.inf):
        return None
    return _number(f"limit of {name}", value, MOST[name], _UNITS[name])


def _text(name: str, value: object, *, empty: bool = False) -> str:
    if not isinstance(value, str) or (not value and not empty) or len(value.encode()) > MAX_ID_BYTES:
        shown = repr(value)
        raise UsageError(
            f"{name} must be a text of {0 if empty else 1} to {MAX_ID_BYTES:,} bytes; got {shown[:40]}"
            f"{'…' if len(shown) > 40 else ''}"
        )
    return value


def _optional_text(name: str, value: object) -> str | None:
    return None if value is None else _text(name, value)


def _owner(app: str, user: str | None, scope: str, instance: str | None) -> Record:
    if scope not in _SCOPES:
        raise UsageError(f"scope must be one of {', '.join(_SCOPES)}; got {scope!r}")
    if user is None and scope == "USER":
        raise UsageError("user is missing: give a user, or a scope of SHARED, APP or INSTANCE")
    if user is not None and scope != "USER":
        raise UsageError(f"scope {scope} is no user's, and user {user!r} is given")
    if scope == "INSTANCE" and not instance:
        raise UsageError("scope INSTANCE needs an instance")
    if (fault := name_fault(_text("app", app))) is not None:
        raise UsageError(f"app {fault}")
    return {"app": app, "user": _optional_text("user", user), "scope": scope}
