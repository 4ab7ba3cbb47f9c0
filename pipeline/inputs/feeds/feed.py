"""What a feeds file says of an offer, what a feed answers, and what keeps an answer from being a price."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from pipeline.errors import LeadtimeError

MOST: Final = Decimal(10) ** 12
"""Neither a price nor nanos of one: what is more is no number that can be reckoned with."""


class FeedFault(LeadtimeError):
    """A feed, or what it says of one offer, cannot be followed: the price stands."""


@dataclass(frozen=True)
class Feed:
    """Where an offer's price comes from; fields: of its source, with defaults."""

    offer_id: str
    source: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Quote:
    """A price per instance and hour in a currency, and the share of instances interrupted an hour where given."""

    price: Decimal
    currency: str
    interruption: float | None = None


Answers = Iterator[tuple[str, Quote | FeedFault]]
"""By offer, as they come."""
Reader = Callable[[Sequence[Feed], float], Answers]
"""Reads the prices of the feeds of one place until a time, monotonic seconds; a failure of all is a `LeadtimeError`."""


def each(feeds: Sequence[Feed], quote: Callable[[Feed], Quote]) -> Answers:
    """Each feed's quote, or why there is none: a fault of one leaves the others."""
    for feed in feeds:
        try:
            yield feed.offer_id, quote(feed)
        except FeedFault as fault:
            yield feed.offer_id, fault
        except LeadtimeError as error:
            yield feed.offer_id, FeedFault(str(error))


def amount(value: object) -> Decimal:
    """A number, or the text of one.

    Raises:
        FeedFault: it is none, not finite, or beyond MOST.
    """
    try:
        number = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number) >= MOST:
        raise FeedFault(f"its price is no number: {str(value)[:40]!r}")
    return number


def only(rows: Sequence[Any], what: Callable[[Any], str]) -> Any:
    """The one row of a feed that is of an offer.

    Raises:
        FeedFault: there is none, or there are several; `what` names each.
    """
    if not rows:
        raise FeedFault("not in the feed")
    if len(rows) > 1:
        names = ", ".join(what(row) for row in rows[:3]) + (", …" if len(rows) > 3 else "")
        raise FeedFault(f"{len(rows)} matches in the feed: {names}")
    return rows[0]
