"""The price APIs of three clouds on the loopback, in the shapes that they document, and how they fail."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

KEY = "a-key"
CORE, MEMORY = "1A2B-3C4D-0001", "1A2B-3C4D-0002"
Row = dict[str, Any]


def azure_row(**other: Any) -> Row:
    """An item of Azure's API."""
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": 0.23,
        "unitPrice": 0.23,
        "armRegionName": "westeurope",
        "location": "EU West",
        "effectiveStartDate": "2021-11-01T00:00:00Z",
        "meterId": "2ee6f9c3-2a3f-5d1c-b0f4-6cdd0e5f7a6c",
        "meterName": "D4s v5",
        "productId": "DZH318Z08M9T",
        "skuId": "DZH318Z08M9T/001P",
        "productName": "Virtual Machines Dsv5 Series",
        "skuName": "D4s v5",
        "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": "Standard_D4s_v5",
    } | other


def gcp_sku(sku_id: str, unit: str, nanos: int, **other: Any) -> Row:
    """An SKU of GCP's catalogue."""
    return {
        "name": f"services/6F81-5844-456A/skus/{sku_id}",
        "skuId": sku_id,
        "description": f"Spot Preemptible N2 Instance {unit} running in Belgium",
        "category": {
            "serviceDisplayName": "Compute Engine",
            "resourceFamily": "Compute",
            "resourceGroup": "CPU",
            "usageType": "Preemptible",
        },
        "serviceRegions": ["europe-west1"],
        "pricingInfo": [
            {
                "summary": "",
                "pricingExpression": {
                    "usageUnit": unit,
                    "displayQuantity": 1,
                    "tieredRates": [
                        {
                            "startUsageAmount": 0,
                            "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": nanos},
                        }
                    ],
                },
                "currencyConversionRate": 1,
                "effectiveTime": "2026-11-01T10:52:50.681Z",
            }
        ],
        "serviceProviderName": "Google",
    } | other


def product(price: str = "0.2247000000", sku: str = "ABCD", **attributes: str) -> Row:
    """A product of AWS's Price List API."""
    code = f"{sku}.JRTCKXETXF"
    return {
        "product": {
            "productFamily": "Compute Instance",
            "attributes": {
                "regionCode": "eu-west-1",
                "instanceType": "m7i.xlarge",
                "operatingSystem": "Linux",
                "tenancy": "Shared",
                "preInstalledSw": "NA",
                "capacitystatus": "Used",
                "marketoption": "OnDemand",
                "licenseModel": "No License required",
            }
            | attributes,
            "sku": sku,
        },
        "serviceCode": "AmazonEC2",
        "terms": {
            "OnDemand": {
                code: {
                    "offerTermCode": "JRTCKXETXF",
                    "sku": sku,
                    "priceDimensions": {
                        f"{code}.6YS6EN2CT7": {
                            "rateCode": f"{code}.6YS6EN2CT7",
                            "unit": "Hrs",
                            "beginRange": "0",
                            "endRange": "Inf",
                            "pricePerUnit": {"USD": price},
                        }
                    },
                }
            }
        },
    }


def spot(price: str = "0.0740000", at: str = "2026-11-29T10:00:00.000Z", **other: str) -> Row:
    """An item of DescribeSpotPriceHistory, as its XML names it."""
    return {
        "instanceType": "m7i.xlarge",
        "productDescription": "Linux/UNIX",
        "spotPrice": price,
        "timestamp": at,
        "availabilityZone": "eu-west-1a",
    } | other


@dataclass
class Clouds:
    """What the APIs have.

    Attributes:
        page: items of a page.
        failing: by the beginning of a path, what answers instead.
        requests: paths of requests.
    """

    url: str = ""
    azure: list[Row] = field(
        default_factory=lambda: [
            azure_row(),
            azure_row(skuName="D4s v5 Spot", meterName="D4s v5 Spot", retailPrice=0.046),
            azure_row(productName="Virtual Machines Dsv5 Series Windows", retailPrice=0.414),
            azure_row(type="Reservation", retailPrice=1200.0, reservationTerm="1 Year"),
        ]
    )
    gcp: list[Row] = field(
        default_factory=lambda: [
            gcp_sku("0000-0000-0000", "h", 5),
            gcp_sku(CORE, "h", 8_000_000),
            gcp_sku(MEMORY, "GiBy.h", 2_000_000),
        ]
    )
    products: list[Row] = field(default_factory=lambda: [product()])
    spots: list[Row] = field(default_factory=lambda: [spot()])
    csv: bytes = b"offer_id,price,currency,interruption\ncolo-m4,0.1875,USD,\n"
    page: int = 100
    failing: dict[str, Callable[["Handler"], None]] = field(default_factory=dict[str, Any])
    requests: list[str] = field(default_factory=list[str])


class Handler(BaseHTTPRequestHandler):
    """Answers for `clouds`."""

    clouds: Clouds
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Azure, GCP and a CSV."""
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.clouds.requests.append(self.path)
        if failure := self._failure():
            failure(self)
        elif parts.path == "/azure":
            self._azure(query)
        elif parts.path == "/gcp/services/6F81-5844-456A/skus":
            self._gcp(query)
        elif parts.path == "/prices.csv":
            self.answer(self.clouds.csv)
        else:
            self.answer(b"no such page", 404)

    def do_POST(self) -> None:
        """AWS, as the SDK asks."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        target = self.headers.get("X-Amz-Target", "")
        self.clouds.requests.append(target or body)
        if failure := self._failure():
            failure(self)
        elif target == "AWSPriceListService.GetProducts":
            wanted = {term["Field"]: term["Value"] for term in json.loads(body)["Filters"]}
            listed = [
                json.dumps(row)
                for row in self.clouds.products
                if wanted.items() <= row["product"]["attributes"].items()
            ]
            self.answer(
                json.dumps({"FormatVersion": "aws_v1", "PriceList": listed}).encode(),
                Content_Type="application/x-amz-json-1.1",
                x_amzn_RequestId="r-1",
            )
        else:
            query = {name: values[-1] for name, values in parse_qs(body).items()}
            assert query["Action"] == "DescribeSpotPriceHistory"
            names = {
                "instanceType": "InstanceType.1",
                "productDescription": "ProductDescription.1",
                "availabilityZone": "AvailabilityZone",
            }
            items = "".join(
                "<item>" + "".join(f"<{name}>{value}</{name}>" for name, value in row.items()) + "</item>"
                for row in self.clouds.spots
                if all(row[name] == query[key] for name, key in names.items())
            )
            self.answer(
                '<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r-1'
                f"</requestId><spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken/>"
                "</DescribeSpotPriceHistoryResponse>".encode(),
                Content_Type="text/xml",
            )

    def _failure(self) -> Callable[["Handler"], None] | None:
        return next((do for path, do in self.clouds.failing.items() if self.path.startswith(path)), None)

    def _azure(self, query: dict[str, str]) -> None:
        names = {"priceType": "type"}
        terms = [term.split(" eq ") for term in query["$filter"].split(" and ")]
        rows = [
            row
            for row in self.clouds.azure
            if all(row[names.get(name, name)] == value.strip("'") for name, value in terms)
        ]
        skip = int(query.get("$skip", 0))
        more = skip + self.clouds.page < len(rows)
        link = f"{self.clouds.url}/azure?{urlencode(query | {'$skip': skip + self.clouds.page})}"
        page = {
            "BillingCurrency": "USD",
            "CustomerEntityId": "Default",
            "CustomerEntityType": "Retail",
            "Items": rows[skip : skip + self.clouds.page],
            "NextPageLink": link if more else None,
            "Count": len(rows[skip : skip + self.clouds.page]),
        }
        self.answer(gzip.compress(json.dumps(page).encode()), Content_Encoding="gzip")

    def _gcp(self, query: dict[str, str]) -> None:
        if self.headers.get("X-Goog-Api-Key") != KEY:
            self.answer(b'{"error": {"code": 403}}', 403)
            return
        skip = int(query.get("pageToken", 0))
        after = skip + self.clouds.page
        page: Row = {"skus": self.clouds.gcp[skip:after]}
        page["nextPageToken"] = str(after) if after < len(self.clouds.gcp) else ""
        self.answer(json.dumps(page).encode())


def drip(handler: Handler) -> None:
    """An answer that never ends, a byte at a time."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


class Server(ThreadingHTTPServer):
    """Says nothing of clients that give up."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing."""


@contextmanager
def serving() -> Generator[Clouds]:
    """The APIs, until the block ends."""
    clouds = Clouds()
    handler = type("Handler", (Handler,), {"clouds": clouds})
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        clouds.url = f"http://127.0.0.1:{server.server_port}"
        yield clouds
        server.shutdown()
