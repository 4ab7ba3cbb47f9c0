"""AWS through boto3: DescribeSpotPriceHistory of EC2, and GetProducts of the Price List Query API.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSpotPriceHistory.html and
https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html
"""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from pipeline.inputs.feeds.feed import Answers, Feed, FeedFault, Quote, amount, each, only
from pipeline.inputs.feeds.web import document
from pipeline.providers.aws.integration import connect_to
from pipeline.providers.aws.resources import Account
from pipeline.providers.bounds import CALL_S

if TYPE_CHECKING:
    from pipeline.providers.aws.api import Call

PRICING_REGION: Final = "us-east-1"
"""The Price List API answers for all regions in three of them."""
CURRENCY: Final = "USD"
"""Of spot prices, which state none."""
FILTERS: Final = {
    "region": "regionCode",
    "instance_type": "instanceType",
    "operating_system": "operatingSystem",
    "tenancy": "tenancy",
}
"""The attribute of a product that each field of a feed chooses by."""
PLAIN: Final = {
    "preInstalledSw": "NA",
    "licenseModel": "No License required",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
"""Attributes of an instance without software of others, of no capacity reservation and of no capacity block."""


def read_spot(feeds: Sequence[Feed], until_s: float) -> Answers:
    """Spot prices of one account and region, as `Reader`."""
    place = feeds[0].fields
    with closing(connect_to(Account(place["profile"], place["region"]))) as api:
        yield from each(feeds, lambda feed: _spot(feed, api.call(_within(until_s))))


def read_on_demand(feeds: Sequence[Feed], until_s: float) -> Answers:
    """On-demand prices with the credentials of one profile, as `Reader`."""
    with closing(connect_to(Account(feeds[0].fields["profile"], PRICING_REGION))) as api:
        yield from each(feeds, lambda feed: _on_demand(feed, api.call(_within(until_s))))


def _within(until_s: float) -> float:
    """Seconds that a call has."""
    return min(CALL_S, until_s - monotonic())


def _spot(feed: Feed, call: "Call") -> Quote:
    of = feed.fields
    page = call.pages(
        "DescribeSpotPriceHistory",
        "SpotPriceHistory",
        service="ec2",
        StartTime=datetime.now(UTC),  # from now on: the last change before it, which holds
        AvailabilityZone=of["zone"],
        InstanceTypes=[of["instance_type"]],
        ProductDescriptions=[of["product"]],
    )
    wanted = (of["zone"], of["instance_type"], of["product"])
    keys = ("AvailabilityZone", "InstanceType", "ProductDescription")
    there = [row for row in page if tuple(row.get(key) for key in keys) == wanted]
    if not all(isinstance(row.get("Timestamp"), datetime) for row in there):
        raise FeedFault("a spot price has no time")
    newest = max((row["Timestamp"] for row in there), default=None)
    prices = sorted({str(row.get("SpotPrice")) for row in there if row["Timestamp"] == newest})
    return Quote(amount(only(prices, str)), CURRENCY)


def _on_demand(feed: Feed, call: "Call") -> Quote:
    terms = {attribute: feed.fields[name] for name, attribute in FILTERS.items()} | PLAIN
    listed = call.pages(
        "GetProducts",
        "PriceList",
        service="pricing",
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in terms.items()],
    )
    try:
        products = [document(str(text).encode()) for text in listed]
        product: Any = only(products, lambda product: str(product["product"]["sku"]))
        offer: Any = only([*product["terms"]["OnDemand"].values()], lambda term: str(term["offerTermCode"]))
        price: Any = only([*offer["priceDimensions"].values()], lambda price: str(price["rateCode"]))
        unit, currencies = price["unit"], [*price["pricePerUnit"].items()]
    except (LookupError, TypeError, AttributeError):
        raise FeedFault("its product is malformed") from None
    if unit != "Hrs":
        raise FeedFault(f"its price is by {str(unit)[:40]!r}, that of an hour is meant")
    currency, stated = only(currencies, lambda pair: pair[0])
    return Quote(amount(stated), currency)
