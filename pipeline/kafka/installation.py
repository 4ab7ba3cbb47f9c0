"""What an installation's topics tell of it: the length of its tick, and how far its event time has come.

The first ingest states the length on the topic `installation`; frames carry it as well. What a shell is set to counts
only where the topics do not know it yet.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, Message

from models.tick import following
from pipeline.errors import Poison, UsageError
from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.kafka.reader import POLL_S, last, reader, records
from pipeline.settings import Settings
from pipeline.wire.codec import Codec, Record

TOPIC: Final = "installation"
LIVE_S: Final = 900.0
"""An installation whose newest frame was published within so long of the event time that it had reached runs with the
wall clock: lateness, an idle partition and a restart take some minutes, a replay's times are hours or years old."""


@dataclass(frozen=True)
class Progress:
    """An installation's tick, and how far it has come.

    Attributes:
        tick_s: length of a tick, seconds; None: neither an ingest nor a frame has stated it.
        reached_s: event time that the newest frame had passed, unix seconds; None: there is no frame.
        live: whether event time goes with the wall clock.
    """

    tick_s: int | None
    reached_s: float | None
    live: bool

    def next_tick(self, now_s: float) -> int | None:
        """The tick after the one that is open; None before the first frame of what is not live: all are to come.

        Args:
            now_s: wall clock, unix seconds.
        """
        times = [self.reached_s] if self.reached_s is not None else []
        times += [now_s] if self.live else []
        return following(max(times), self.tick_s) if times and self.tick_s is not None else None


def progress(settings: Settings) -> Progress:
    """What the topics of an installation tell.

    Raises:
        Unreachable: Kafka does not answer, or there is no topic of frames.
    """
    stated, frames = _stated(settings), _newest_frames(settings)
    if not frames:
        if stated is None:
            return Progress(None, None, live=False)
        return Progress(stated["tick_s"], None, live=not stated["event_time"])
    message, newest = max(frames, key=lambda pair: pair[1]["watermark"])
    reached_s = newest["watermark"].timestamp()
    live = abs(message.timestamp()[1] / 1000 - reached_s) <= LIVE_S + newest["tick_s"]
    return Progress((stated or newest)["tick_s"], reached_s, live)


def tick_length(settings: Settings) -> int | None:
    """Length of the installation's tick, seconds; None where its topics do not know it.

    Raises:
        UsageError: another length is set, by LEADTIME_TICK_S or an option.
        Unreachable: Kafka does not answer.
    """
    tick_s = progress(settings).tick_s if _exists(settings, "behaviour.frames") else None
    if tick_s not in (None, settings.tick_s) and "tick_s" in settings.model_fields_set:
        raise UsageError(
            f"this installation has ticks of {tick_s} s, {settings.tick_s} s are set: leave out LEADTIME_TICK_S or "
            f"--tick, or give {tick_s}, or another LEADTIME_PREFIX for another installation"
        )
    return tick_s


def settled(settings: Settings) -> Settings:
    """Settings with the tick of the installation, where its topics know it.

    Raises:
        UsageError, Unreachable: as `tick_length`.
    """
    tick_s = tick_length(settings)
    return settings if tick_s in (None, settings.tick_s) else settings.model_copy(update={"tick_s": tick_s})


def declare(settings: Settings, clock: Callable[[], float] = time.time) -> Settings:
    """State the tick of an installation that has not stated one; settings with the tick that it has.

    Of two processes that state it at once, the first holds, and the other is refused.

    Args:
        clock: wall clock, unix seconds; stamps the statement.

    Raises:
        UsageError: as `settled`.
        Unreachable: Kafka does not answer.
    """
    settings = settled(settings)
    if _exists(settings, TOPIC) and _stated(settings) is None:
        outputs = Outputs(settings)
        record = {"tick_s": settings.tick_s, "event_time": settings.event_time}
        outputs.publish(TOPIC, "installation", record, key=TOPIC, timestamp_ms=int(clock() * 1000))
        outputs.flush()
        settings = settled(settings.model_copy(update={"tick_s": settings.tick_s}))
    return settings


def _exists(settings: Settings, logical: str) -> bool:
    consumer = reader(settings)
    try:
        name = topics.name(logical, settings)
        error = consumer.list_topics(name, timeout=POLL_S).topics[name].error
        return error is None or error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART
    finally:
        consumer.close()


def _stated(settings: Settings) -> Record | None:
    """The first statement; None where there is none."""
    if not _exists(settings, TOPIC):
        return None  # made by an older version
    return next((record for _, record in records(settings, TOPIC)), None)


def _newest_frames(settings: Settings) -> list[tuple[Message, Record]]:
    """The last frame of each partition that has one."""
    codec, frames = Codec(settings.registry_url), list[tuple[Message, Record]]()
    for message in last(settings, "behaviour.frames"):
        try:
            frames.append((message, codec.decode(message.value() or b"")[1]))
        except Poison:
            continue
    return frames
