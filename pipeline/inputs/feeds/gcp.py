"""Cloud Billing Catalog API v1: an instance's price is cores times the core's SKU and memory times the memory's.

https://docs.cloud.google.com/billing/v1/how-tos/catalog-api and its method `services.skus.list`. The list cannot be
asked for single SKUs: it is read once for all offers, page by page, and only the SKUs that offers name are kept.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from pipeline.inputs.feeds.feed import Answers, Feed, FeedFault, Quote, amount, each, only
from pipeline.inputs.feeds.web import document, get, numbered, rows

URL: Final = "https://cloudbilling.googleapis.com/v1"
PAGE: Final = 5000
"""SKUs of a page, the most there are."""
NANO: Final = Decimal("1e-9")
UNITS: Final = {"core_sku": "h", "memory_sku": "GiBy.h"}
"""`usageUnit` of each SKU: an hour of a core, and of a GiB."""


def read(feeds: Sequence[Feed], until_s: float, url: str = URL, key: str = "") -> Answers:
    """Prices of machines of one service and currency, as `Reader`; key: of the API, sent as a header."""
    wanted = {feed.fields[name] for feed in feeds for name in UNITS}
    skus, token = dict[str, list[dict[str, Any]]](), ""
    service, currency = feeds[0].fields["service"], feeds[0].fields["currency"]
    for _ in numbered():
        query = {"pageSize": PAGE, "currencyCode": currency} | ({"pageToken": token} if token else {})
        address = f"{url}/services/{service}/skus?{urlencode(query)}"
        page = document(get(address, until_s, {"X-Goog-Api-Key": key}))
        for sku in rows(page, "skus"):
            if sku.get("skuId") in wanted:
                skus.setdefault(str(sku["skuId"]), []).append(sku)
        token = str(page.get("nextPageToken") or "")
        if not token:
            break
    yield from each(feeds, lambda feed: _quote(feed, skus))


def _quote(feed: Feed, skus: dict[str, list[dict[str, Any]]]) -> Quote:
    currencies: set[str] = set()
    prices: dict[str, Decimal] = {}
    for name, unit in UNITS.items():
        sku_id, region = feed.fields[name], feed.fields["region"]
        try:
            sku = only(skus.get(sku_id, []), lambda sku: str(sku.get("description")))
            if region not in sku["serviceRegions"]:
                raise FeedFault(f"not of {region} but of {', '.join(map(str, sku['serviceRegions'][:3]))}")
            expression = sku["pricingInfo"][-1]["pricingExpression"]  # in chronological order
            if expression["usageUnit"] != unit:
                raise FeedFault(f"its price is by {str(expression['usageUnit'])[:40]!r}, {unit!r} is meant")
            rate = only(expression["tieredRates"], lambda rate: f"from {rate.get('startUsageAmount')} on")
            money = rate["unitPrice"]
            prices[name] = amount(money.get("units") or 0) + amount(money.get("nanos") or 0) * NANO
            currencies.add(str(money["currencyCode"]))
        except FeedFault as fault:
            raise FeedFault(f"{name} {sku_id}: {fault}") from None
        except (LookupError, TypeError, AttributeError):
            raise FeedFault(f"{name} {sku_id}: its SKU is malformed") from None
    if min(prices.values()) <= 0:
        raise FeedFault("a SKU of it costs nothing")
    cores, memory = amount(feed.fields["cores"]), amount(feed.fields["memory_gib"])
    return Quote(
        cores * prices["core_sku"] + memory * prices["memory_sku"],
        only(sorted(currencies), lambda code: code),
    )
