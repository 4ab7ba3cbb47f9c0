"""A pull: what feeds say becomes new versions of price records, of those alone whose price changed or would be stale.

All versions of a pull are one transaction of Kafka, which begins before the records are read and fences a pull that
began before: of two at once one publishes, and the other reads again and finds nothing to do. A kill leaves all or
nothing of it.

A price that its feed confirms is fresh, but plans know a price's age from its version alone, which counts from
`valid_from_tick` (`pipeline.wire.policies.offer_of`). So a confirmed price becomes a new version when the age of the
one that holds has reached half of LEADTIME_PRICE_MAX_AGE_S; before that, and where prices do not age, nothing is
published.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from pipeline.errors import Fenced, LeadtimeError, Unreachable
from pipeline.inputs.feeds.feed import Feed, FeedFault, Quote, Reader
from pipeline.inputs.feeds.files import Feeds
from pipeline.inputs.publish import publish, published, valid_at
from pipeline.kafka.installation import Progress, progress
from pipeline.kafka.producer import Outputs
from pipeline.providers.bounds import one_line
from pipeline.settings import Settings
from pipeline.wire.codec import Record
from pipeline.wire.currencies import MOST, PLACES, mixed

PULL_S: Final = 120.0
"""For all feeds together; GCP's catalogue has some 60 MB."""
JUMP: Final = 10
"""A price so many times the last one, or a part so small of it, is not believed."""
LOOK_S: Final = 0.25
"""Seconds after which a pull that waits for feeds looks whether it is to end."""
ATTEMPTS: Final = 5
TRANSACTION: Final[Mapping[str, Any]] = {"transaction.timeout.ms": 10_000}
"""Readers wait for so long, or for the next pull, after a kill within the transaction."""
RENEW_AT: Final = 0.5
"""Share of LEADTIME_PRICE_MAX_AGE_S: a pull that fails, or comes late, leaves as much time again."""
_OURS: Final = ("schema_version", "version", "valid_from_tick")
"""Fields of a record that its next version has anew."""
Answered = Mapping[str, Quote | FeedFault]


@dataclass(frozen=True)
class Changes:
    """What a pull comes to.

    Attributes:
        records: to publish, without version and tick.
        before: price of each record that there was, by offer.
        reasons: of each record, by offer: price, interruption, age or first.
        unchanged: offers whose price stands as its feed has it.
        faults: by offer, why its price stands though its feed does not confirm it.
    """

    records: list[Record] = field(default_factory=list[Record])
    before: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    unchanged: list[str] = field(default_factory=list[str])
    faults: dict[str, str] = field(default_factory=dict[str, str])


def answers(
    readers: Sequence[tuple[Reader, Sequence[Feed]]],
    within_s: float = PULL_S,
    stop: threading.Event | None = None,
) -> Answered:
    """What feeds say by offer, or why one says nothing, each place in a thread of its own.

    Args:
        readers: of places, with the feeds that each is read for.
        within_s: for all of them.
        stop: ends the wait for them.
    """
    until_s = time.monotonic() + within_s
    there: dict[str, Quote | FeedFault] = {}
    threads = [
        threading.Thread(target=_read, args=(reader, feeds, until_s, there), name="feed", daemon=True)
        for reader, feeds in readers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:  # one that hangs in a name server or an SDK is left behind
        while thread.is_alive() and time.monotonic() < until_s and not (stop and stop.is_set()):
            thread.join(min(LOOK_S, max(0.0, until_s - time.monotonic())))
    late = FeedFault(f"no answer within {within_s:g} s")
    return {feed.offer_id: there.get(feed.offer_id, late) for _, feeds in readers for feed in feeds}


def _read(reader: Reader, feeds: Sequence[Feed], until_s: float, there: dict[str, Quote | FeedFault]) -> None:
    try:
        there.update(reader(feeds, until_s))  # as they come: what a slow one said before the end counts
    except LeadtimeError as error:
        fault = FeedFault(str(error))
    except Exception as error:  # whatever an answer that is no price list brings about
        fault = FeedFault(f"answers what is no price list ({type(error).__name__}: {one_line(error)[:200]})")
    else:
        fault = FeedFault("not in the feed")
    for feed in feeds:
        there.setdefault(feed.offer_id, fault)


def repriced(record: Record, quote: Quote) -> Record:
    """A price record with the price of its feed; one that was converted keeps its rate.

    Raises:
        FeedFault: the price is not believed.
    """
    is_converted = record["quoted_currency"] is not None
    currency = record["quoted_currency"] if is_converted else record["currency"]
    last: Decimal = record["quoted_price"] if is_converted else record["price"]
    if quote.currency != currency:
        raise FeedFault(f"its price is in {quote.currency[:10]}, its record's in {currency}")
    if not (quote.price.is_finite() and 0 < quote.price < MOST) or not (
        price := quote.price.quantize(PLACES)
    ):
        raise FeedFault(f"its price is {quote.price}, that of an hour is above 0")
    if not last / JUMP < price < last * JUMP:
        raise FeedFault(
            f"its price is {price.normalize():f} and was {last.normalize():f} {currency}: {JUMP} times as much, or as "
            "little, is not believed; `leadtime prices set` publishes it"
        )
    changed: Record = {"price": price}
    if is_converted:
        changed = {"price": (price * record["rate"]).quantize(PLACES), "quoted_price": price}
        if not 0 < changed["price"] < MOST:
            raise FeedFault(f"its price is {price} {currency}, which its rate leaves nothing of, or too much")
    if quote.interruption is not None:
        changed["interruption"] = quote.interruption
    return record | changed


def changes(
    answered: Answered,
    known: Mapping[str, Mapping[int, Record]],
    feeds: Feeds,
    at: Progress,
    settings: Settings,
    clock: Callable[[], float] = time.time,
) -> Changes:
    """What answers change of the records that hold from the next tick on.

    Args:
        answered: by offer.
        known: records by offer and version.
        feeds: whose prices file has records of offers that have none.
        at: progress of the installation.
        settings: of which LEADTIME_PRICE_MAX_AGE_S counts.
        clock: wall clock in unix seconds.
    """
    done, first = Changes(), {record["offer_id"]: record for record in feeds.prices}
    newest = [versions[max(versions)] for versions in known.values()]
    following = at.next_tick(clock())
    for offer, answer in answered.items():
        holding = valid_at(known.get(offer, {}), math.inf if following is None else following)
        record = holding or first.get(offer)
        if holding is not None:
            done.before[offer] = holding["price"]
        try:
            if isinstance(answer, FeedFault):
                raise answer
            if record is None:
                raise FeedFault("no price record of it: publish one, or name its file as `prices`")
            if holding is None and (fault := mixed([*newest, record])) is not None:
                raise FeedFault(f"with the prices that are published, {fault}")
            new = repriced(record, answer)
        except FeedFault as fault:
            done.faults[offer] = str(fault)
            continue
        reason = _reason(holding, new, following, at.tick_s, settings.price_max_age_s)
        if reason:
            done.records.append({name: value for name, value in new.items() if name not in _OURS})
            done.reasons[offer] = reason
        else:
            done.unchanged.append(offer)
    return done


def _reason(
    holding: Record | None, new: Record, following: int | None, tick_s: int | None, max_age_s: float | None
) -> str:
    """Why a record is to be published; empty: it is not."""
    if holding is None:
        return "first"
    changed = [name for name in ("price", "quoted_price", "interruption") if new[name] != holding[name]]
    if changed:
        return changed[0]
    if max_age_s is None or following is None or tick_s is None or holding["tier"] == "RESERVED":
        return ""
    age_s = (following + 1 - holding["valid_from_tick"]) * tick_s
    return (
        "age" if age_s > RENEW_AT * max_age_s else ""
    )  # not yet, but by the tick after: two pulls are ticks apart


@dataclass(frozen=True)
class Pulled:
    """A pull that is done: its changes, and the records as they are on the topic, none in a dry run."""

    changes: Changes
    records: Sequence[Record]

    def __str__(self) -> str:
        of = self.changes
        return f"{len(of.records)} prices published, {len(of.unchanged)} unchanged, {len(of.faults)} not followed"

    def as_json(self) -> dict[str, Any]:
        """For people's programs; prices are texts."""
        of = self.changes
        versions = {record["offer_id"]: record for record in self.records}
        rows = [
            {
                "offer_id": record["offer_id"],
                "before": None if record["offer_id"] not in of.before else str(of.before[record["offer_id"]]),
                "price": str(record["price"]),
                "currency": record["currency"],
                "reason": of.reasons[record["offer_id"]],
                "version": versions.get(record["offer_id"], {}).get("version"),
                "valid_from_tick": versions.get(record["offer_id"], {}).get("valid_from_tick"),
            }
            for record in of.records
        ]
        return {"prices": rows, "unchanged": of.unchanged, "faults": of.faults}


def pull(
    settings: Settings,
    feeds: Feeds,
    *,
    dry_run: bool = False,
    within_s: float = PULL_S,
    clock: Callable[[], float] = time.time,
    stop: threading.Event | None = None,
    reached: Callable[[], None] = lambda: None,
) -> Pulled:
    """Read all feeds, and publish what changed.

    Args:
        settings: of the installation.
        feeds: to read.
        dry_run: publish nothing.
        within_s: for all feeds together.
        clock: wall clock in unix seconds.
        stop: where it is set before all feeds have answered, nothing is published.
        reached: called within the transaction, before anything of it is sent.

    Raises:
        Unreachable: Kafka does not answer, or other pulls publish all the time.
    """
    answered = answers(feeds.readers(), within_s, stop)
    if stop is not None and stop.is_set():
        return Pulled(Changes(), [])

    def compared() -> Changes:
        return changes(answered, published(settings, "prices"), feeds, progress(settings), settings, clock)

    if dry_run:
        return Pulled(compared(), [])
    for attempt in range(1, ATTEMPTS + 1):
        begun_s = time.monotonic()
        outputs = Outputs(settings, {**TRANSACTION, "transactional.id": f"{settings.group}-prices-pull"})
        try:
            with outputs.transaction():
                done, sent = compared(), list[Record]()
                reached()
                if done.records:
                    sent = publish(settings, "prices", "price", done.records, clock=clock, outputs=outputs)
            return Pulled(done, sent)
        except Fenced:  # who fenced us needs as long as we did: at once again, we would fence it, and it us
            time.sleep(attempt * (time.monotonic() - begun_s))
    raise Unreachable("other pulls publish prices all the time: nothing was published")
