"""Follows the topic `plans`, outside any consumer group."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from confluent_kafka import Message

from pipeline.errors import Poison, Unreachable
from pipeline.kafka import reader
from pipeline.logs import get_logger
from pipeline.scaler.board import Planned
from pipeline.scaler.triggers import MOST_AGE_S
from pipeline.settings import Settings
from pipeline.wire.codec import Codec
from pipeline.wire.messages import position_of

TOPIC: Final = "plans"
AGAIN_S: Final = 1.0


class Follower:
    """Reads what plans there are, then each as it is published.

    Args:
        settings: of the installation.
        take: gets every plan.
        caught_up: is called once, when all plans that were there at the start were taken.
    """

    def __init__(
        self, settings: Settings, take: Callable[[Planned], object], caught_up: Callable[[], object]
    ) -> None:
        self.settings, self.take, self.caught_up = settings, take, caught_up
        self.codec = Codec(settings.registry_url)
        self.positions: dict[int, int] = {}
        self.has_all = self.failed = False

    def run(self) -> None:
        """Follow for ever. While Kafka does not answer, plans grow old; the first failure in a row is logged."""
        while True:
            try:
                self._follow()
            except Unreachable as error:
                if not self.failed:
                    get_logger().warning("plans cannot be read", reason=str(error))
                self.failed = True
                time.sleep(AGAIN_S)

    def _follow(self) -> None:
        self.positions = self.positions or reader.since(self.settings, TOPIC, time.time() - MOST_AGE_S)
        if not self.has_all:
            for message in reader.read(self.settings, TOPIC, dict(self.positions)):
                self._message(message)
            self.has_all = True
            self.caught_up()
        for message in reader.follow(self.settings, TOPIC, partitions=dict(self.positions)):
            self._message(message)

    def _message(self, message: Message) -> None:
        _, partition, offset = position_of(message)
        with suppress(Poison):
            name, record = self.codec.decode(message.value() or b"")
            if name == "plan":
                self.take(Planned.of(record))
        self.positions[partition] = offset + 1
        self.failed = False
