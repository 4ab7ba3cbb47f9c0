"""Azure Retail Prices API: public, one request for each offer.

https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices
"""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from pipeline.inputs.feeds.feed import Answers, Feed, FeedFault, Quote, amount, each, only
from pipeline.inputs.feeds.web import document, following, get, numbered, rows

URL: Final = "https://prices.azure.com/api/retail/prices"
FILTERS: Final = {
    "region": "armRegionName",
    "sku": "armSkuName",
    "sku_name": "skuName",
    "product": "productName",
    "meter": "meterName",
    "price_type": "priceType",
}
"""The API's name of each field of a feed that chooses rows; an answer's rows call priceType `type`."""


def read(feeds: Sequence[Feed], until_s: float, url: str = URL) -> Answers:
    """Prices of virtual machines, as `Reader`."""
    return each(feeds, lambda feed: _quote(feed, until_s, url))


def _quote(feed: Feed, until_s: float, url: str) -> Quote:
    chosen = {name: str(feed.fields[name]) for name in FILTERS if feed.fields[name]}
    escaped = {name: value.replace("'", "''") for name, value in chosen.items()}
    terms = " and ".join(f"{FILTERS[name]} eq '{value}'" for name, value in escaped.items())
    query = {"$filter": terms, "currencyCode": f"'{feed.fields['currency']}'"}
    link, there = f"{url}?{urlencode(query)}", list[dict[str, Any]]()
    for _ in numbered():
        page = document(get(link, until_s))
        there += [row for row in rows(page, "Items") if _matches(row, chosen)]
        after = page.get("NextPageLink")
        if not after:
            break
        link = following(url, str(after))
    primary = [row for row in there if row.get("isPrimaryMeterRegion") is True] or there
    row = only(
        primary, lambda row: f"{row.get('productName')} / {row.get('skuName')} / {row.get('meterName')}"
    )
    if row.get("unitOfMeasure") != "1 Hour":
        raise FeedFault(f"its price is by {str(row.get('unitOfMeasure'))[:40]!r}, that of an hour is meant")
    return Quote(amount(row.get("retailPrice")), str(row.get("currencyCode")))


def _matches(row: dict[str, Any], chosen: dict[str, str]) -> bool:
    names = FILTERS | {"price_type": "type"}
    return all(row.get(names[name]) == value for name, value in chosen.items())
