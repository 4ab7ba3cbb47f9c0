"""Table of all topics: schemas, message key, retention and compaction."""

from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic

from pipeline.errors import Unreachable, UsageError
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.settings import Settings

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


@dataclass(frozen=True)
class Topic:
    """One row of the table.

    Attributes:
        schemas: names of the schemas of its records; the first is the main one.
        key: description of the message key, for people.
        partitioned: as many partitions as the installation has, else one.
        retention_ms: how long records stay; None: as long as their key is not overwritten (compacted).
        compaction_lag_ms: how long overwritten versions stay in a compacted topic: a restarted stage folds some
            ticks again and must find the versions that it used then.
        retention_bytes: of one partition, where it is bounded by size as well.
        max_message_bytes: largest message that the broker accepts.
        stamped: whether the broker stamps messages, with the time of their arrival.
    """

    schemas: tuple[str, ...]
    key: str
    partitioned: bool = True
    retention_ms: int | None = 7 * DAY_MS
    compaction_lag_ms: int = DAY_MS
    retention_bytes: int | None = None
    max_message_bytes: int = 1024 * 1024
    stamped: bool = False

    def config(self) -> dict[str, str]:
        """The topic's configuration on the broker."""
        config = {
            "max.message.bytes": str(self.max_message_bytes),
            # The broker refuses what is stamped an hour ahead of it: a stage whose clock jumps could not write at all.
            "message.timestamp.after.max.ms": str(2**63 - 1),
        }
        if self.stamped:
            config["message.timestamp.type"] = "LogAppendTime"
        if self.retention_ms is None:
            config |= {"cleanup.policy": "compact", "min.compaction.lag.ms": str(self.compaction_lag_ms)}
        else:
            config |= {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}
        if self.retention_bytes is not None:
            # Segments must be smaller than what is kept, or nothing is ever deleted.
            config |= {
                "retention.bytes": str(self.retention_bytes),
                "segment.bytes": str(self.retention_bytes // 4),
            }
        return config


# Raw topics take up to 4 MiB: an absurd record (a 1 MB user id) becomes a dead letter that says so, where a
# refusal would leave its producer stuck.
# They are stamped by the broker: event time does not pass the time of arrival, so no producer's clock can hurry it.
_RAW_BYTES = 4 * 1024 * 1024

TOPICS: dict[str, Topic] = {
    "telemetry.metrics": Topic(
        ("metric", "watermark"), "app/user", max_message_bytes=_RAW_BYTES, stamped=True
    ),
    "telemetry.events": Topic(("event", "watermark"), "app/user", max_message_bytes=_RAW_BYTES, stamped=True),
    "behaviour.frames": Topic(("frame",), "shard", retention_ms=30 * DAY_MS),
    "forecasts": Topic(("forecast",), "shard"),
    "forecasts.apps": Topic(("forecast",), "shard"),
    # 4,096 scenarios of an app are 0.2 MB a shard and tick: kept by size, for as long as a slow allocator needs.
    "scenarios": Topic(
        ("scenario", "marker"), "allocation group", retention_ms=30 * MINUTE_MS, retention_bytes=2 * 1024**3
    ),
    "hold.notices": Topic(("hold_notice",), "allocation group"),
    "plans": Topic(("plan",), "app", retention_ms=90 * DAY_MS),
    "commands": Topic(("command",), "target", retention_ms=90 * DAY_MS),
    "commands.results": Topic(("command_result",), "target", retention_ms=90 * DAY_MS),
    # Two days: a backtest of yesterday begins plans with what was observed then.
    "capacity.observed": Topic(
        ("capacity_observed",), "target", retention_ms=None, compaction_lag_ms=2 * DAY_MS
    ),
    "policies": Topic(("policy",), "app@version", partitioned=False, retention_ms=None),
    "prices": Topic(("price",), "offer@version", partitioned=False, retention_ms=None),
    "calendar": Topic(("calendar",), "id@version", partitioned=False, retention_ms=None),
    "models": Topic(("model",), "model@version", partitioned=False, retention_ms=None),
    # One an app and epoch, which expires soon: for as long as frames, so that a backtest finds what plans followed.
    "adjustments": Topic(("adjustment",), "app@version", partitioned=False, retention_ms=30 * DAY_MS),
    "installation": Topic(("installation",), "installation", partitioned=False, retention_ms=None),
    "state.profiler": Topic((), "block", retention_ms=None, compaction_lag_ms=0),
    "state.simulator": Topic((), "block", retention_ms=None, compaction_lag_ms=0),
    "state.allocator": Topic((), "block", retention_ms=None, compaction_lag_ms=0),
    "state.learner": Topic((), "block", retention_ms=None, compaction_lag_ms=0),
    "dead-letters": Topic(
        ("dead_letter",),
        "topic/partition/offset",
        retention_ms=30 * DAY_MS,
        max_message_bytes=2 * 1024 * 1024,
    ),
}


def name(logical: str, settings: Settings) -> str:
    """The topic's name on the cluster."""
    if logical not in TOPICS:
        raise UsageError(f"no topic named {logical!r}; there are: {', '.join(TOPICS)}")
    return settings.prefix + logical


def create(settings: Settings, timeout_s: float = 30.0) -> list[str]:
    """Create the topics that are missing; returns their names.

    Raises:
        Unreachable: the cluster does not answer.
        UsageError: a topic exists with another number of partitions (users would move between them).
    """
    admin = quiet_admin(connection(settings))
    try:
        existing = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise Unreachable(f"Kafka at {settings.bootstrap} does not answer: {error.args[0].str()}") from None
    missing: list[NewTopic] = []
    for logical, topic in TOPICS.items():
        partitions = settings.partitions if topic.partitioned else 1
        metadata = existing.get(name(logical, settings))
        if metadata is None:
            missing.append(
                NewTopic(name(logical, settings), partitions, settings.replication, config=topic.config())
            )
        elif len(metadata.partitions) != partitions:
            raise UsageError(
                f"topic {name(logical, settings)} has {len(metadata.partitions)} partitions, "
                f"this installation is set to {partitions}: set LEADTIME_PARTITIONS to match"
            )
    if missing:
        for topic_name, future in admin.create_topics(missing, operation_timeout=timeout_s).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise Unreachable(f"topic {topic_name} was not created: {error.args[0].str()}") from None
    return [topic.topic for topic in missing]


def existing(settings: Settings) -> list[dict[str, Any]]:
    """The rows of `describe` with `exists`, and with the partitions that a topic has on the cluster (0: none).

    Raises:
        Unreachable: the cluster does not answer.
    """
    try:
        on_cluster = quiet_admin(connection(settings)).list_topics(timeout=10.0).topics
    except KafkaException as error:
        raise Unreachable(f"Kafka at {settings.bootstrap} does not answer: {error.args[0].str()}") from None
    rows: list[dict[str, Any]] = []
    for row in describe(settings):
        topic = on_cluster.get(row["name"])
        rows.append(
            row | {"exists": topic is not None, "partitions": 0 if topic is None else len(topic.partitions)}
        )
    return rows


def describe(settings: Settings) -> list[dict[str, Any]]:
    """One row per topic: its name, schemas, key, partitions as set, and configuration."""
    return [
        {
            "name": name(logical, settings),
            "schemas": list(topic.schemas),
            "key": topic.key,
            "partitions": settings.partitions if topic.partitioned else 1,
            **topic.config(),
        }
        for logical, topic in TOPICS.items()
    ]


RAW: tuple[str, str] = ("telemetry.metrics", "telemetry.events")
