"""Finds the last tick of a replay from the last message of each partition of the raw topics.

In a replay event time advances with the plans, so that after the last one a command that is being retried would wait
for ever. `pipeline.sources.replay` marks its last watermarks with a header; once all partitions of both raw topics end
in such a watermark, the tick before it is the last one that will be planned.
"""

from pipeline.errors import Poison
from pipeline.kafka.reader import bounds, read
from pipeline.kafka.topics import RAW
from pipeline.settings import Settings
from pipeline.wire.codec import Codec
from pipeline.wire.messages import END_HEADER, header_of


def last_tick(settings: Settings) -> int | None:
    """Number of the replay's last tick; None while the replay runs, or if no end was marked.

    Raises:
        Unreachable: Kafka does not answer.
    """
    codec, ends_us = Codec(settings.registry_url), list[int]()
    for topic in RAW:
        highs = {number: bounds(settings, topic, number)[1] for number in range(settings.partitions)}
        if not all(highs.values()):
            return None
        for message in read(settings, topic, {number: high - 1 for number, high in highs.items()}, highs):
            try:
                if not header_of(message, END_HEADER):
                    return None
                _, record = codec.decode(message.value() or b"")
            except (Poison, UnicodeDecodeError):
                return None
            ends_us.append(int(record["ts"].timestamp() * 1e6))
    if len(ends_us) < len(RAW) * settings.partitions:
        return None
    return (min(ends_us) // 1_000_000 - settings.allowed_lateness_s) // settings.tick_s - 1
