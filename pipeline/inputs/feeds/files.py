"""The feeds file: where the price of each offer comes from.

[[feed]]
offer_id = "aws-m7i-spot"       # as in prices
source = "aws-spot"             # whose fields the others are
region = "eu-west-1"
zone = "eu-west-1a"
instance_type = "m7i.xlarge"

[sources.gcp-catalogue]         # may be left out
key_file = "gcp.key"
"""

import re
import tomllib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from pipeline.errors import UsageError
from pipeline.inputs.feeds import aws, azure, gcp, table
from pipeline.inputs.feeds.feed import Feed, Reader
from pipeline.inputs.feeds.web import url_fault
from pipeline.inputs.files import read_prices
from pipeline.names import name_fault, offer_fault
from pipeline.wire.codec import Record
from pipeline.wire.currencies import CODES, DEFAULT

REGION: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
SERVICE: Final = re.compile(r"[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}")
"""Ids of services and SKUs of GCP."""
MOST_KEY: Final = 1024


@dataclass(frozen=True)
class Source:
    """Fields of a source's feeds, and how it is read.

    Attributes:
        needed: fields without a default; more: the others, with theirs.
        place: fields that say what one reader reads; feeds with the same are read together.
        url: default address; empty: it has none of ours.
    """

    needed: Sequence[str]
    more: Mapping[str, Any]
    place: Sequence[str] = ()
    url: str = ""


SOURCES: Final[Mapping[str, Source]] = {
    "aws-spot": Source(
        ("region", "zone", "instance_type"), {"product": "Linux/UNIX", "profile": ""}, ("profile", "region")
    ),
    "aws-on-demand": Source(
        ("region", "instance_type"),
        {"operating_system": "Linux", "tenancy": "Shared", "profile": ""},
        ("profile",),
    ),
    "azure-retail": Source(
        ("region", "sku", "sku_name"),
        {"product": "", "meter": "", "price_type": "Consumption", "currency": DEFAULT},
        ("region",),
        url=azure.URL,
    ),
    "gcp-catalogue": Source(
        ("region", "cores", "memory_gib", "core_sku", "memory_sku"),
        {"service": "6F81-5844-456A", "currency": DEFAULT},
        ("service", "currency"),
        url=gcp.URL,
    ),
    "csv": Source((), {"file": "", "url": ""}, ("file", "url")),
}
_NUMBERS: Final = ("cores", "memory_gib")
_FORMS: Final = {"region": REGION, "service": SERVICE, "core_sku": SERVICE, "memory_sku": SERVICE}


@dataclass(frozen=True)
class Feeds:
    """A feeds file.

    Attributes:
        path: of the file.
        feeds: of each offer.
        prices: records of a prices file that are published where an offer has none.
        urls: addresses by source.
        key: of GCP; empty: none.
    """

    path: Path
    feeds: Sequence[Feed]
    prices: Sequence[Record] = ()
    urls: Mapping[str, str] = field(default_factory=dict[str, str])
    key: str = field(default="", repr=False)

    def readers(self) -> list[tuple[Reader, list[Feed]]]:
        """What reads each place, with the feeds that it is read for."""
        places: dict[Hashable, list[Feed]] = {}
        for feed in self.feeds:
            place = tuple(feed.fields[name] for name in SOURCES[feed.source].place)
            places.setdefault((feed.source, place), []).append(feed)
        return [(self._reader(feeds[0].source), feeds) for feeds in places.values()]

    def _reader(self, source: str) -> Reader:
        url = self.urls.get(source, "")
        readers: dict[str, Reader] = {
            "aws-spot": aws.read_spot,
            "aws-on-demand": aws.read_on_demand,
            "azure-retail": partial(azure.read, url=url),
            "gcp-catalogue": partial(gcp.read, url=url, key=self.key),
            "csv": table.read,
        }
        return readers[source]


def read_feeds(path: Path, gcp_api_key: str | None = None) -> Feeds:
    """A feeds file, checked.

    Args:
        path: of the file; paths in it are from its folder.
        gcp_api_key: key of GCP where the file names none.

    Raises:
        UsageError: it cannot be followed: the file, the feed, the field and what is wrong with it, in one line.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    if unknown := document.keys() - {"feed", "sources", "prices"}:
        raise UsageError(
            f"{path}: {', '.join(sorted(unknown))}: only prices, [[feed]] and [sources] belong here"
        )
    try:
        feeds = _feeds(document.get("feed"), path.parent)
        urls, key_file = _settings(document.get("sources", {}))
        key = _key_of(path.parent / key_file) if key_file else _key(gcp_api_key or "", "LEADTIME_GCP_API_KEY")
        if not key and any(feed.source == "gcp-catalogue" for feed in feeds):
            raise ValueError(
                "gcp-catalogue needs a key: [sources.gcp-catalogue] key_file, or LEADTIME_GCP_API_KEY"
            )
        prices = document.get("prices", "")
        if not isinstance(prices, str):
            raise ValueError(f"prices must be the path of a prices file, got {prices!r}")
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    return Feeds(path, feeds, read_prices(path.parent / prices) if prices else (), urls, key)


def _feeds(listed: Any, folder: Path) -> list[Feed]:
    if not isinstance(listed, list) or not listed or not all(isinstance(row, dict) for row in listed):
        raise ValueError("no tables [[feed]]")
    feeds: list[Feed] = []
    for number, row in enumerate(cast("list[dict[str, Any]]", listed), 1):
        offer = row.get("offer_id")
        try:
            feeds.append(_feed(row, folder))
        except ValueError as error:
            named = isinstance(offer, str) and name_fault(offer) is None
            raise ValueError(f"feed {offer if named else number}: {error}") from None
    for offer, count in Counter(feed.offer_id for feed in feeds).items():
        if count > 1:
            raise ValueError(f"feed {offer}: is there {count} times")
    return feeds


def _feed(row: Mapping[str, Any], folder: Path) -> Feed:
    offer, name = row.get("offer_id"), row.get("source")
    if not isinstance(offer, str):
        raise ValueError(f"offer_id must be text, got {offer!r}")
    if fault := offer_fault(offer):
        raise ValueError(f"offer_id {fault}")
    if not isinstance(name, str) or name not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {name!r}")
    given = {key: value for key, value in row.items() if key not in ("offer_id", "source")}
    return Feed(offer, name, _fields(name, given, folder))


def _fields(name: str, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Fields of a source, checked, with its defaults.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    source = SOURCES[name]
    allowed = [*source.needed, *source.more]
    for key in given:
        if key not in allowed:
            raise ValueError(f"there is no field {key}; {name} has {', '.join(allowed)}")
    for key in source.needed:
        if key not in given:
            raise ValueError(f"{key} is missing")
    fields = dict(source.more) | {key: _value(key, value) for key, value in given.items()}
    if name == "csv":
        if (fields["file"] == "") == (fields["url"] == ""):
            raise ValueError("needs file or url, not both")
        fields["file"] = str(folder / fields["file"]) if fields["file"] else ""
    return fields


def _value(name: str, value: Any) -> Any:
    """A field's value, checked.

    Raises:
        ValueError: what is wrong with it.
    """
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise ValueError(f"{name} must be a number above 0, got {value!r}")
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}")
    faults = {
        "url": lambda: url_fault(value),
        "currency": lambda: None if value in CODES else f"must be an ISO code such as USD, got {value!r}",
        "price_type": lambda: (
            None
            if value in ("Consumption", "DevTestConsumption")
            else f"must be Consumption or DevTestConsumption, whose prices are of an hour, got {value!r}"
        ),
    }
    fault = name_fault(value) or (faults[name]() if name in faults else None)
    if fault is None and name in _FORMS and not _FORMS[name].fullmatch(value):
        fault = f"is malformed: {value[:80]!r}"
    if fault is not None:
        raise ValueError(f"{name} {fault}")
    return value


def _settings(tables: Any) -> tuple[dict[str, str], str]:
    """Addresses by source, and the file of GCP's key."""
    urls, key_file = {name: source.url for name, source in SOURCES.items() if source.url}, ""
    if not isinstance(tables, dict) or not all(isinstance(values, dict) for values in tables.values()):
        raise ValueError("sources must be tables such as [sources.gcp-catalogue]")
    for name, values in cast("dict[str, dict[str, Any]]", tables).items():
        allowed = [*(["url"] if name in urls else []), *(["key_file"] if name == "gcp-catalogue" else [])]
        for setting, value in values.items():
            if setting not in allowed:
                raise ValueError(f"sources.{name}: there is no setting {setting}")
            text = _value(setting, value)
            if setting == "url":
                urls[name] = text.rstrip("/")
            else:
                key_file = text
    return urls, key_file


def _key_of(path: Path) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return _key(file.read(MOST_KEY), str(path))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _key(text: str, where: str) -> str:
    """A key, checked: a header's error would have it in a log."""
    key = text.strip()
    if text and not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ValueError(f"{where}: not a key: one line of letters and digits is meant")
    return key
