"""ISO 4217 codes, and prices in one currency: an app's offers are compared as numbers, so they must be in the same."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from models.capacity import Offer
from models.tick import Tick
from pipeline.wire.codec import Record
from pipeline.wire.policies import offer_of, offered

_LISTED: Final = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP "
    "CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD "
    "MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB "
    "RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD "
    "UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"
)
CODES: Final = frozenset(_LISTED.split())
"""Currencies in circulation (ISO 4217, list one), without funds, metals and test codes."""
DEFAULT: Final = "USD"
"""Of a plan without offers; the schema's default of a price."""
PLACES: Final = Decimal("0.000001")
MOST: Final = Decimal(10) ** 12
"""No amount of money is as much: the schema's 18 digits less its scale."""


def converted(price: Record, to: str, rates: Mapping[str, Decimal]) -> Record:
    """A price in another currency at a stated rate, rounded to six decimals; it keeps what was quoted, and the rate.

    Args:
        price: the record.
        to: code of the currency.
        rates: what one unit of each other currency is worth in it.

    Raises:
        ValueError: no rate is stated for the price's currency, or nothing is left of the price, or too much.
    """
    quoted = price["currency"]
    if quoted == to:
        return price
    if quoted not in rates:
        raise ValueError(f"currency {quoted} has no rate to {to}: state it under [rates]")
    rate = rates[quoted]

    def at_rate(name: str) -> Decimal | None:
        amount = price[name]
        if amount is None:
            return None
        if not amount or PLACES / 2 < amount * rate < MOST:
            return (amount * rate).quantize(PLACES)
        raise ValueError(
            f"{name} of {amount.normalize():f} {quoted} at a rate of {rate.normalize():f} is "
            f"{amount * rate:.3g} {to}: is the rate what one {quoted} is worth in {to}, not the reverse?"
        )

    return price | {
        "price": at_rate("price"),
        "egress": at_rate("egress"),
        "currency": to,
        "quoted_price": price["price"],
        "quoted_currency": quoted,
        "rate": rate,
    }


def one_currency(prices: Iterable[Record]) -> tuple[str, list[str]]:
    """The currency of most of an app's offers, the first by name among equals, and the ids of offers in others."""
    of = {price["offer_id"]: price["currency"] for price in prices}
    counted = Counter(of.values())
    currency = min(counted, key=lambda code: (-counted[code], code), default=DEFAULT)
    return currency, sorted(offer for offer, code in of.items() if code != currency)


def offers_of(
    prices: Mapping[str, Record], at: Tick, max_age_s: float | None
) -> tuple[list[Offer], str, dict[str, str]]:
    """An app's offers at a tick's end, in one currency.

    Args:
        prices: records `price` by offer.
        at: the tick.
        max_age_s: age from which a price is stale; None: prices do not age.

    Returns:
        The offers, in the order of the prices; the currency; by offer id, why one in another currency is not to be had.
    """
    offers = [offer_of(price, at.end_s, max_age_s, at.length_s) for price in prices.values()]
    currency, others = one_currency(prices.values())
    foreign = {
        offer: f"its price is in {prices[offer]['currency']}, the app's offers are in {currency}"
        for offer in others
    }
    return (
        [
            replace(offer, ended=foreign[offer.offer_id], price_h=math.nan, owned_count=0)
            if offer.offer_id in foreign
            else offer
            for offer in offers
        ],
        currency,
        foreign,
    )


def mixed(prices: Iterable[Record]) -> str | None:
    """Which offers that one app may buy are in different currencies, or None."""
    listed = list(prices)
    for group in sorted({price["commitment_id"] or "" for price in listed}):
        offers = offered(listed, group)
        currency, others = one_currency(offers)
        if others:
            codes = {price["offer_id"]: price["currency"] for price in offers}
            stated = ", ".join(f"{offer} in {codes[offer]}" for offer in others)
            return f"offers that one app may buy are in {currency} and others ({stated}): give [rates], or one currency"
    return None
