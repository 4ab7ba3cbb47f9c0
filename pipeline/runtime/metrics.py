"""Serves Prometheus metrics, liveness and readiness of a stage on a port, of the loopback by default.

/metrics    all of the below, with the process's memory and processor time
/healthz    200 while the stage's loop completes rounds, else 503
/readyz     200 while it has its partitions and none is being restored, else 503
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

from pipeline.errors import UsageError
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.settings import Settings

LAG = Gauge("leadtime_lag_messages", "Messages that are not yet taken.", ["stage", "topic", "partition"])
WATERMARK_DELAY = Gauge(
    "leadtime_watermark_delay_seconds",
    "From the event time up to which all is taken until now, a replay's shift taken off.",
    ["stage", "partition"],
)
STATE_BYTES = Gauge("leadtime_state_bytes", "State in the last snapshot.", ["stage", "partition"])
SNAPSHOT_SECONDS = Histogram(
    "leadtime_snapshot_seconds", "To write a snapshot.", ["stage"], buckets=(0.01, 0.05, 0.2, 1, 5, 20, 60)
)
RECOVERY_SECONDS = Gauge(
    "leadtime_recovery_seconds", "To fence a predecessor and read what it left.", ["stage", "partition"]
)
DROPPED = Counter(
    "leadtime_dropped_total",
    "What was taken and goes no further: refused records by reason, repeats, users forgotten, commands refused.",
    ["stage", "reason"],
)
REFUSED = Counter(
    "leadtime_refused_total",
    "Raw records that were refused, by app (empty: not known, or one of many) and reason.",
    ["app", "reason"],
)
COMPLETENESS = Gauge(
    "leadtime_completeness",
    "Share of an app's telemetry that its last plan was made from: not refused, of users that reported, not stopped.",
    ["app"],
)
UNDELIVERED = Gauge(
    "leadtime_undelivered",
    "1 where what was commanded of an app's offer did not come, or somebody else changed it; else 0.",
    ["app", "offer"],
)
ADJUSTMENTS_REFUSED = Counter(
    "leadtime_adjustments_refused_total",
    "Adjustments that were not followed, by app (empty: what is not signed names none) and reason.",
    ["app", "reason"],
)
LEARNER_PRICE = Gauge(
    "leadtime_learner_price",
    "Price of an hour's shortage, in those of a replica-hour, that the last adjustment of an app sets; 0 where static.",
    ["app"],
)
LEARNER_IN_FORCE = Gauge(
    "leadtime_learner_in_force",
    "1 for the arm that the learner holds in force for an app, else 0.",
    ["app", "arm"],
)
LEARNER_E_VALUE = Gauge(
    "leadtime_learner_e_value", "Evidence that an arm costs less than the first one.", ["app", "arm"]
)
LEARNER_CHANGES = Counter(
    "leadtime_learner_changes_total", "Promotions and rollbacks of an app's arms.", ["app", "change"]
)
LEARNER_REALISED = Gauge(
    "leadtime_learner_realised",
    "Share of an app's ticks in which capacity sufficed (of time), or of its plans that sufficed in every step of "
    "their window (of plans), over the last day or all that the learner has measured; NaN before the first.",
    ["app", "of", "over"],
)
LEARNER_SAVING = Gauge(
    "leadtime_learner_saving",
    "Share of static's cost that the learner saved an app so far; NaN before the first day.",
    ["app"],
)
LEARNER_FOLLOWED = Gauge(
    "leadtime_learner_followed",
    "1 where an app's last plan followed an adjustment, 0 where none could be followed; of apps with the learner on.",
    ["app"],
)
TAKEN = Counter("leadtime_taken_total", "Messages taken.", ["stage"])
READY = Gauge("leadtime_ready", "1 while /readyz answers 200, else 0.", ["stage"])
PLAN_DUE = Gauge(
    "leadtime_plan_due_timestamp_seconds",
    "Unix time by which the next tick's plans are due: its end and the lateness that is allowed; live alone.",
    ["partition"],
)
FEASIBLE = Gauge("leadtime_plan_feasible", "1 where the app's last plan meets its policy, else 0.", ["app"])
SHADOW = Gauge(
    "leadtime_plan_shadow", "1 where the app is in shadow mode: plans command nothing; else 0.", ["app"]
)
CONFIDENCE = Gauge(
    "leadtime_plan_confidence",
    "Of the app's last plan: share of the scenarios in which it holds (planned), and what the policy asks (asked).",
    ["app", "kind"],
)
COST = Gauge("leadtime_plan_cost_per_hour", "Of the app's last plan, per hour.", ["app", "currency"])
REPLICAS = Gauge(
    "leadtime_plan_replicas", "Of the app's last plan at the first step of its promise.", ["app"]
)
DEMAND = Gauge(
    "leadtime_demand",
    "Measured demand of the app in the last planned tick, the metric's unit.",
    ["app", "metric"],
)
REQUIRED = Gauge(
    "leadtime_required",
    "Demand that the app's last plan serves at the first step of its promise, the metric's unit.",
    ["app", "metric"],
)
UNREPORTED = Gauge(
    "leadtime_unreported_metrics",
    "Governed metrics that nobody of the app reported in the last tick.",
    ["app"],
)
PRICE_STALE = Gauge(
    "leadtime_price_stale",
    "1 where an offer's price is older than LEADTIME_PRICE_MAX_AGE_S, else 0.",
    ["offer"],
)
PROVIDER_CALL_SECONDS = Histogram(
    "leadtime_provider_call_seconds",
    "Calls of a provider (apply, observe): how many, and how long each was waited for.",
    ["provider", "call"],
    buckets=(0.01, 0.05, 0.2, 1, 5, 10),
)
PROVIDER_ERRORS = Counter(
    "leadtime_provider_errors_total",
    "Calls of a provider that failed, by class: throttled, timeout, retryable, defect, rejected, exhausted.",
    ["provider", "call", "class"],
)
PROVIDER_READY_SECONDS = Histogram(
    "leadtime_provider_ready_seconds",
    "From a command that grows a target until an observation has that many instances ready, its retries included.",
    ["provider"],
    buckets=(5, 15, 30, 60, 120, 300, 600, 1200, 3600),
)
OF_PLANS: Final = (
    *(COMPLETENESS, UNDELIVERED, PLAN_DUE, FEASIBLE, SHADOW, CONFIDENCE, COST, REPLICAS, DEMAND, REQUIRED),
    *(UNREPORTED, PRICE_STALE, LEARNER_FOLLOWED),
)
"""Gauges that the owner of a partition sets when it plans; who loses its partitions clears them."""

STAGES: Final = ("ingest", "worker", "actuator")
SEVERAL: Final = 32
"""Most processes of a stage on one machine: each listens on the next free port of its stage."""
LAG_S: Final = 5.0
STALLED_S: Final = 30.0
"""A loop without a completed round for this time hangs: a batch or snapshot takes a few seconds."""

Positions = Callable[[], Mapping[tuple[str, int], int]]
"""Offset of the next message to process, by topic (its name on the cluster) and partition."""


class Vitals:
    """Liveness (time of the last beat of the stage's loop) and readiness of a stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.ready = clock, False
        self.turned_s = clock()

    def beat(self) -> None:
        """Note that the stage's loop completed a round."""
        self.turned_s = self.clock()

    @property
    def alive(self) -> bool:
        """Whether the last beat is recent."""
        return self.clock() - self.turned_s < STALLED_S


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = False  # a port that another stage listens on is taken


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log no requests."""


def serve(stage: str, vitals: Vitals, settings: Settings) -> int | None:
    """Start the server, until the process ends; return its port, or None if none is set.

    Raises:
        UsageError: no port is free.
    """
    if settings.metrics_port is None:
        return None
    metrics = make_wsgi_app()
    READY.labels(stage).set_function(lambda: vitals.alive and vitals.ready)

    def answer(environ: Any, start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start)
        good = {"/healthz": vitals.alive, "/readyz": vitals.alive and vitals.ready}.get(path)
        status = "404 Not Found" if good is None else "200 OK" if good else "503 Service Unavailable"
        start(status, [("Content-Type", "text/plain")])
        return [status[4:].encode() + b"\n"]

    first = settings.metrics_port + STAGES.index(stage)
    for port in range(first, first + len(STAGES) * SEVERAL, len(STAGES)):
        with suppress(OSError):
            server = make_server(settings.metrics_host, port, answer, _Server, _Quiet)
            threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
            return port
    raise UsageError(f"metrics_port: no port of {settings.metrics_host} is free from {first} on")


def watch_lag(stage: str, positions: Positions, settings: Settings) -> None:
    """Update LAG every LAG_S seconds in a thread of its own; without a metrics port do nothing."""
    if settings.metrics_port is None:
        return
    admin = quiet_admin(connection(settings))

    def watch() -> None:
        shown: set[tuple[str, int]] = set()
        while True:
            with suppress(KafkaException):  # the broker is away: the next time
                shown = show_lag(stage, positions(), shown, admin)
            time.sleep(LAG_S)

    threading.Thread(target=watch, name="lag", daemon=True).start()


def show_lag(
    stage: str, positions: Mapping[tuple[str, int], int], shown: set[tuple[str, int]], admin: Any
) -> set[tuple[str, int]]:
    """Set LAG from the current ends of the topics; remove it for partitions of `shown` without a position."""
    for topic, partition in shown - set(positions):
        LAG.remove(stage, topic, str(partition))
    if positions:
        ends = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in positions}
        for at, future in admin.list_offsets(ends).items():
            lag = future.result().offset - positions[at.topic, at.partition]
            LAG.labels(stage, at.topic, str(at.partition)).set(max(0, lag))
    return set(positions)
