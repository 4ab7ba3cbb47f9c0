"""What a decision needs beside the stream: policies, prices, calendar, models, adjustments and observed capacity.

Every process reads these topics whole, from the beginning, in a thread. Versions carry the tick from which they are
valid: tick t uses the newest with `valid_from_tick` <= t. What a plan used is in its decision record, so that a
stage that plans the tick again after a kill uses the same, also where a newer version has come since.
"""

import math
import threading
from bisect import insort
from collections.abc import Iterable, Mapping
from itertools import islice

from confluent_kafka import KafkaError

from models.capacity import validate
from pipeline.errors import Poison, Unreachable
from pipeline.kafka import topics
from pipeline.kafka.reader import POLL_S, batch, reader, whole
from pipeline.logs import get_logger
from pipeline.names import name_fault, offer_fault
from pipeline.runtime import metrics
from pipeline.security.signing_keys import Keyring
from pipeline.settings import Settings
from pipeline.wire import adjustments
from pipeline.wire.codec import Codec, Record
from pipeline.wire.policies import OBSERVED_COUNTS, policy_of, refuse_negative

ADJUSTMENTS = "adjustments"
OBSERVED = "capacity.observed"
VERSIONED = {
    "policies": "app",
    "prices": "offer_id",
    "calendar": "id",
    "models": "model_id",
    ADJUSTMENTS: "app",
}
"""Topics of versioned inputs, and the field that says of what."""
KEPT_TICKS = 2048
"""Observations kept of a target: a successor plans again from its last snapshot, some hundred ticks at most."""
_LOG = get_logger()

Versions = dict[str, list[Record]]


class SideInputs:
    """A copy of the side topics that is always on its way to being current.

    Args:
        settings: where.
        logical: the topics to follow.
        kept_ticks: observations kept of a target, and adjustments of an app, the newest.
        ring: keys of whoever may adjust; None: adjustments are taken without looking at their signatures, as of
            recorded topics whose plans name what they followed.
        max_ahead_s: most seconds that the end of an observation's tick may be after its message's timestamp; None: it
            is not looked at, as in a replay, whose event time may be ahead of the clock.
    """

    def __init__(
        self,
        settings: Settings,
        logical: Iterable[str] = (*VERSIONED, OBSERVED),
        kept_ticks: int = KEPT_TICKS,
        ring: Keyring | None = None,
        max_ahead_s: float | None = None,
    ) -> None:
        self.kept_ticks, self.ring, self.max_ahead_s = kept_ticks, ring, max_ahead_s
        self.settings, self.codec = settings, Codec(settings.registry_url)
        self.names = {topics.name(topic, settings): topic for topic in logical}
        self.inputs: dict[str, Versions] = {topic: {} for topic in VERSIONED}
        self.observations: dict[str, dict[str, dict[int, Record]]] = {}
        self.changed = threading.Condition()
        self._last: dict[tuple[str, str], int] = {}  # newest version, by topic and name
        self._behind: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="side-inputs", daemon=True)

    def start(self) -> "SideInputs":
        """Read everything that is there, then keep following.

        Raises:
            Unreachable: the topics cannot be read.
        """
        consumer = reader(self.settings, more={"enable.partition.eof": True})
        positions = [at for name in self.names for at in whole(consumer, name)]
        self._behind = {(tp.topic, tp.partition) for tp in positions}
        consumer.assign(positions)
        self._consumer = consumer
        self._thread.start()
        with self.changed:
            if not self.changed.wait_for(
                lambda: not self._behind or self._failure is not None, timeout=POLL_S
            ):
                raise Unreachable("side inputs: no answer")
        return self

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(5)

    def _follow(self) -> None:
        while not self._stop.is_set():
            for message in batch(self._consumer, 1000, 0.05):
                error, topic = message.error(), message.topic() or ""
                with self.changed:
                    if error is None:
                        self._take(self.names[topic], message.value(), message.timestamp()[1] / 1000)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        self._behind.discard((topic, message.partition()))
                    self.changed.notify_all()
        self._consumer.close()

    def _take(self, topic: str, value: bytes | None, produced_s: float = math.inf) -> None:
        if value is None:
            return
        try:
            _, record = self.codec.decode(value)
            if topic == OBSERVED:
                refuse_negative(record, OBSERVED_COUNTS, f" of {record['offer_id']}")
                self._refuse_ahead(record, produced_s)
                kept = self.observations.setdefault(record["app"], {}).setdefault(record["offer_id"], {})
                kept[record["tick"]] = record
                while len(kept) > self.kept_ticks:
                    del kept[min(kept)]
                return
            self._check(topic, record)
        except (Poison, ValueError) as error:
            _LOG.warning("side input ignored", topic=topic, error=str(error))
            return
        name = record[VERSIONED[topic]]
        versions = self.inputs[topic].setdefault(name, [])
        if record["version"] <= self._last.get((topic, name), -1):
            versions[:] = [known for known in versions if known["version"] != record["version"]]
        else:  # looking through a year of hourly prices for each of them would cost more than reading them
            self._last[topic, name] = record["version"]
        insort(versions, record, key=_order)
        if topic == ADJUSTMENTS:
            del versions[: -self.kept_ticks]

    def _refuse_ahead(self, record: Record, produced_s: float) -> None:
        """Refuse an observation of a tick that was not over when it was produced: all waits would take it for theirs.

        Raises:
            ValueError: its tick ends more than `max_ahead_s` after that.
        """
        ahead_s = (record["tick"] + 1) * self.settings.tick_s - produced_s
        if self.max_ahead_s is not None and ahead_s > self.max_ahead_s:
            raise ValueError(
                f"tick {record['tick']} of {record['target']} ends {ahead_s:,.0f} s after it was produced, at most "
                f"{self.max_ahead_s:g} s are taken"
            )

    def _check(self, topic: str, record: Record) -> None:
        """Check a version of a side input.

        Raises:
            ValueError: it cannot be used; what is wrong with it.
        """
        if topic == "policies":
            validate(policy_of(record))
        fault = (offer_fault if topic == "prices" else name_fault)(record[VERSIONED[topic]])
        if fault is not None:
            raise ValueError(f"{VERSIONED[topic]} {fault}")
        if topic == ADJUSTMENTS and self.ring is not None:
            why = adjustments.untrusted(record, self.ring)
            if why is not None:
                metrics.ADJUSTMENTS_REFUSED.labels("", why.partition(":")[0]).inc()
                raise ValueError(f"version {record['version']} of {record['app']}: {why}")

    def at(self, topic: str, name: str, tick: int, pinned: int | None = None) -> Record | None:
        """The version valid at a tick, or the one that an earlier plan of this tick used."""
        with self.changed:
            versions = self.inputs[topic].get(name, [])
            if pinned is not None:
                return next((known for known in versions if known["version"] == pinned), None)
            return next((known for known in reversed(versions) if known["valid_from_tick"] <= tick), None)

    def newest(self, topic: str, name: str, tick: int, most: int) -> list[Record]:
        """The newest versions with `valid_from_tick` <= tick, newest first, `most` at most."""
        with self.changed:
            versions = self.inputs[topic].get(name, [])
            return list(
                islice((known for known in reversed(versions) if known["valid_from_tick"] <= tick), most)
            )

    def all_at(self, topic: str, tick: int, pinned: Mapping[str, int] | None = None) -> list[Record]:
        """The valid version of each, by name; with `pinned` those and no others."""
        with self.changed:
            names = sorted(self.inputs[topic] if pinned is None else pinned)
        records = (self.at(topic, name, tick, None if pinned is None else pinned[name]) for name in names)
        return [record for record in records if record is not None]

    def observed(self, app: str, before_tick: int) -> dict[str, Record]:
        """By offer, the newest observation of a tick before that one."""
        with self.changed:
            targets = {
                o: [t for t in ticks if t < before_tick]
                for o, ticks in self.observations.get(app, {}).items()
            }
            return {o: self.observations[app][o][max(ticks)] for o, ticks in targets.items() if ticks}

    def wait_observed(self, app: str, tick: int, wait_s: float, expected: Iterable[str] = ()) -> bool:
        """Whether all of an app's targets, `expected` ones among them, have been observed at a tick or later.

        Waits for it, `wait_s` at most.
        """

        def there() -> bool:
            offers = self.observations.get(app, {})
            return all(max(offers.get(offer, {}), default=-1) >= tick for offer in {*offers, *expected})

        with self.changed:
            return self.changed.wait_for(there, timeout=wait_s)

    def wait_version(self, topic: str, name: str, version: int, wait_s: float) -> bool:
        """Whether a version of a side input, or a newer one, is there; waits for it, `wait_s` at most."""

        def there() -> bool:
            return any(known["version"] >= version for known in reversed(self.inputs[topic].get(name, [])))

        with self.changed:
            return self.changed.wait_for(there, timeout=wait_s)


def _order(record: Record) -> tuple[int, int]:
    return record["valid_from_tick"], record["version"]
