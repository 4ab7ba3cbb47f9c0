"""Faust's Kafka consumer with short waits, so that it fetches as soon as a stream has room.

With the waits of Faust, a tick of more messages than a stream buffers was up to two seconds late, for two reasons:

- the broker is given 1.5 s to answer a fetch when there is nothing, and a partition that was read meanwhile is in the
  next one only;
- partitions of a full stream are left out of a wait for messages that lasts a second, also when there is room again.
"""

import asyncio
from typing import Any, Final

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

FETCH_MS: Final = 50
FULL_S: Final = 0.01
"""Of a wait while a stream is full."""


class PromptConsumer(Consumer):
    """Faust's consumer with shorter waits for fetches and for full streams."""

    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        if not self._buffered_partitions:
            return await super()._wait_next_records(timeout)
        if self.flow_active and not self._get_active_partitions():
            await asyncio.sleep(FULL_S)
            return {}, set()
        return await super()._wait_next_records(FULL_S)


class _Thread(AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_MS  # pyright: ignore[reportPrivateUsage]
        return consumer
