"""Price feeds: what each API answers, on contract servers of the loopback, and everything that is no price."""

import json
import os
import threading
import time
from collections.abc import Callable, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.inputs.feeds import web
from pipeline.inputs.feeds.feed import FeedFault, Quote
from pipeline.inputs.feeds.files import Feeds, read_feeds
from pipeline.inputs.feeds.pull import answers, changes, pull, repriced
from pipeline.inputs.feeds.table import parsed
from pipeline.inputs.files import read_prices
from pipeline.kafka.installation import Progress
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT, Record
from tests.markdown import ROOT
from tests.unit.pipeline.inputs.feeds_server import (
    CORE,
    KEY,
    MEMORY,
    Clouds,
    Handler,
    azure_row,
    drip,
    gcp_sku,
    product,
    serving,
    spot,
)

EXAMPLE = ROOT / "examples" / "feeds.toml"
AZURE, GCP, CSV = "azure-d4s", "gcp-n2-spot", "colo-m4"


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> Generator[Clouds]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with serving() as there:
        monkeypatch.setenv("AWS_ENDPOINT_URL", there.url)
        yield there


@pytest.fixture
def feeds(clouds: Clouds, tmp_path: Path) -> Feeds:
    return example(clouds, tmp_path)


def example(clouds: Clouds, folder: Path) -> Feeds:
    """The example's feeds, from the loopback."""
    text = EXAMPLE.read_text().replace(
        'key_file = "gcp.key"', f'key_file = "gcp.key"\nurl = "{clouds.url}/gcp"'
    )
    text = text.replace('file = "colo.csv"', f'url = "{clouds.url}/prices.csv"')
    (folder / "feeds.toml").write_text(f'{text}\n[sources.azure-retail]\nurl = "{clouds.url}/azure"\n')
    (folder / "clouds.toml").write_text((ROOT / "examples" / "clouds.toml").read_text())
    (folder / "gcp.key").write_text(f"{KEY}\n")
    return read_feeds(folder / "feeds.toml")


def asked(feeds: Feeds, of: str, within_s: float = 10.0) -> dict[str, Quote | FeedFault]:
    """Answers of an offer and its neighbours, without AWS where it is none of its: clients take a second."""
    is_aws = of.startswith("aws")
    readers = [pair for pair in feeds.readers() if pair[1][0].source.startswith("aws") in (False, is_aws)]
    return dict(answers(readers, within_s))


def fault(feeds: Feeds, offer: str, within_s: float = 10.0) -> str:
    """Why an offer has no quote."""
    answer = asked(feeds, offer, within_s)[offer]
    assert isinstance(answer, FeedFault), answer
    return str(answer)


def offer(**other: Any) -> Record:
    """A price record."""
    record = next(p for p in read_prices(ROOT / "examples" / "clouds.toml") if p["offer_id"] == CSV)
    whole = {"version": 1, "valid_from_tick": 0} | record | other
    return DEFAULT.decode(DEFAULT.encode("price", whole))[1]


def test_the_example_is_answered_by_every_api(feeds: Feeds, clouds: Clouds) -> None:
    clouds.page = 1
    assert answers(feeds.readers()) == {
        "aws-m7i-spot": Quote(Decimal("0.0740000"), "USD"),
        "aws-m7i": Quote(Decimal("0.2247000000"), "USD"),
        AZURE: Quote(Decimal("0.23"), "USD"),
        "azure-d4s-spot": Quote(Decimal("0.046"), "USD"),
        GCP: Quote(Decimal("0.064"), "USD"),
        CSV: Quote(Decimal("0.1875"), "USD"),
    }
    assert not any(KEY in path for path in clouds.requests)


def test_the_newest_spot_price_of_the_zone_counts(feeds: Feeds, clouds: Clouds) -> None:
    clouds.spots = [
        spot("0.08", "2026-11-29T09:00:00.000Z"),
        spot("0.09", "2026-11-29T11:00:00.000Z"),
        spot("0.01", "2026-11-29T12:00:00.000Z", availabilityZone="eu-west-1b"),
    ]
    assert answers(feeds.readers())["aws-m7i-spot"] == Quote(Decimal("0.09"), "USD")


def test_a_meter_of_the_primary_region_counts(feeds: Feeds, clouds: Clouds) -> None:
    clouds.azure.append(azure_row(isPrimaryMeterRegion=False, retailPrice=0.5))
    assert answers(feeds.readers())[AZURE] == Quote(Decimal("0.23"), "USD")


def _set(name: str, value: Any) -> Callable[[Clouds], None]:
    return lambda clouds: setattr(clouds, name, value)


PRICELESS = gcp_sku(CORE, "h", 0)
OF_ONE_OFFER = [
    ("aws-m7i-spot", _set("spots", []), "not in the feed"),
    ("aws-m7i-spot", _set("spots", [spot("0.1"), spot("0.2")]), "2 matches in the feed: 0.1, 0.2"),
    ("aws-m7i-spot", _set("spots", [spot("NaN")]), "its price is no number: 'NaN'"),
    ("aws-m7i", _set("products", []), "not in the feed"),
    ("aws-m7i", _set("products", [product(marketoption="CapacityBlock")]), "not in the feed"),
    ("aws-m7i", _set("products", [product(sku="A"), product(sku="B")]), "2 matches in the feed: A, B"),
    (
        "aws-m7i",
        _set("products", [{"product": {"attributes": product()["product"]["attributes"]}}]),
        "malformed",
    ),
    ("aws-m7i", _set("products", [product(price="Infinity")]), "its price is no number: 'Infinity'"),
    (AZURE, _set("azure", []), "not in the feed"),
    (
        AZURE,
        _set("azure", [azure_row(), azure_row(meterName="x")]),
        "2 matches in the feed: Virtual Machines Dsv5",
    ),
    (AZURE, _set("azure", [azure_row(retailPrice=float("nan"))]), "its price is no number: 'NaN'"),
    (AZURE, _set("azure", [azure_row(retailPrice=None)]), "its price is no number: 'None'"),
    (
        AZURE,
        _set("azure", [azure_row(unitOfMeasure="1/Month")]),
        "its price is by '1/Month', that of an hour",
    ),
    (GCP, _set("gcp", [gcp_sku(CORE, "h", 5)]), f"memory_sku {MEMORY}: not in the feed"),
    (
        GCP,
        _set("gcp", [gcp_sku(CORE, "h", 5), gcp_sku(CORE, "h", 6)]),
        f"core_sku {CORE}: 2 matches in the feed",
    ),
    (
        GCP,
        _set("gcp", [gcp_sku(CORE, "GiBy.h", 5)]),
        f"core_sku {CORE}: its price is by 'GiBy.h', 'h' is meant",
    ),
    (
        GCP,
        _set("gcp", [gcp_sku(CORE, "h", 5, serviceRegions=["us-east1"])]),
        "not of europe-west1 but of us-east1",
    ),
    (GCP, _set("gcp", [gcp_sku(CORE, "h", 5, pricingInfo=[])]), f"core_sku {CORE}: its SKU is malformed"),
    (GCP, _set("gcp", [gcp_sku(CORE, "h", 10**500)]), "its price is no number: '1000"),
    (GCP, _set("gcp", [PRICELESS, gcp_sku(MEMORY, "GiBy.h", 5)]), "a SKU of it costs nothing"),
    (CSV, _set("csv", b"offer_id,price\ncolo-m5,1\n"), "not in the feed"),
    (CSV, _set("csv", b"offer_id,price\ncolo-m4,1\ncolo-m4,2\n"), "2 matches in the feed: 1, 2"),
    (CSV, _set("csv", b"offer_id,price\ncolo-m4,nan\n"), "its price is no number: 'nan'"),
    (CSV, _set("csv", b"offer_id,price,interruption\ncolo-m4,1,nan\n"), "interruption must be in 0 to 3600"),
    (CSV, _set("csv", b"offer_id,cost\ncolo-m4,1\n"), "its first line must name offer_id and price"),
    (CSV, _set("csv", b""), "its first line must name offer_id and price"),
    (CSV, _set("csv", b"offer_id,price\ncolo-m4," + b"1" * 10_000_000 + b"\n"), "not in the feed"),
]


@pytest.mark.parametrize(("of", "change", "text"), OF_ONE_OFFER)
def test_a_fault_of_one_offer_leaves_its_neighbours(
    of: str, change: Callable[[Clouds], None], text: str, feeds: Feeds, clouds: Clouds
) -> None:
    change(clouds)
    answered = asked(feeds, of)
    assert text in str(answered[of])
    faulty = {offer for offer, answer in answered.items() if isinstance(answer, FeedFault)}
    same_source = {AZURE: {"azure-d4s-spot"}}
    assert of in faulty
    assert faulty - {of} <= same_source.get(of, set())


def _answering(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(body, status, **headers)


def _endless_azure(handler: Handler) -> None:
    link = f"{handler.clouds.url}/azure?$skip={len(handler.clouds.requests)}"
    handler.answer(json.dumps({"Items": [], "NextPageLink": link}).encode())


def _linking(link: str) -> Callable[[Handler], None]:
    return _answering(json.dumps({"Items": [], "NextPageLink": link}).encode())


OF_A_FEED = [
    (
        "/azure",
        _answering(b"", 302, Location="file:///etc/passwd"),
        "redirects to 'file:///etc/passwd', which is not",
    ),
    (
        "/azure",
        _answering(b"", 301, Location="https://elsewhere.test/"),
        "redirects to 'https://elsewhere.test/'",
    ),
    ("/azure", _answering(b"no", 503), "answers with status 503"),
    ("/azure", _answering(b"<html>"), "answers what is no JSON object"),
    ("/azure", _answering(b"[" * 100_000), "answers what is no JSON object"),
    ("/azure", _answering(b"[]"), "answers what is no JSON object"),
    ("/azure", _answering(b'{"Items": 3}'), "answers without a list Items"),
    ("/azure", _answering(b'{"Items": [3]}'), "answers without a list Items"),
    (
        "/azure",
        _answering(b"{}", Content_Encoding="br"),
        "answers in an encoding that was not asked for: 'br'",
    ),
    ("/azure", _answering(b"no gzip", Content_Encoding="gzip"), "no answer: "),
    ("/azure", _answering(b"{}", Content_Length="10"), "ends early"),
    ("/azure", _linking("file:///etc/passwd"), "its next page must be https://host/"),
    ("/azure", _linking("http://127.0.0.1:1/azure"), "its next page is at another host"),
    (
        "/azure",
        _linking("https://prices.azure.com@elsewhere.test/"),
        "its next page must not have a password",
    ),
    ("/azure", _endless_azure, "its pages do not end: 5 were read"),
    ("/gcp", _answering(b"{}", 403), "answers with status 403"),
    ("/gcp", _answering(b'{"skus": [], "nextPageToken": "1"}'), "its pages do not end: 5 were read"),
    (
        "/prices.csv",
        _answering(b"", 302, Location="/other.csv"),
        "redirects to '/other.csv', which is not followed",
    ),
    ("/prices.csv", _answering(b"x" * 3_000_000), "answers more than 1 MiB"),
]


@pytest.mark.parametrize(("path", "failure", "text"), OF_A_FEED)
def test_a_feed_that_fails_is_named_and_the_others_go_on(
    path: str,
    failure: Callable[[Handler], None],
    text: str,
    feeds: Feeds,
    clouds: Clouds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "MOST_PAGES", 5)
    monkeypatch.setattr(web, "MOST_BYTES", 2**20)
    clouds.failing[path] = failure
    of = {"/azure": AZURE, "/gcp": GCP, "/prices.csv": CSV}[path]
    answered = asked(feeds, of)
    assert text in str(answered[of])
    assert sum(isinstance(answer, Quote) for answer in answered.values()) == (2 if path == "/azure" else 3)


def test_a_gzip_bomb_is_not_unpacked(feeds: Feeds, clouds: Clouds, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(web, "MOST_BYTES", 2**20)
    clouds.failing["/azure"] = _answering(gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")
    assert "more than 1 MiB" in fault(feeds, AZURE)


@pytest.mark.parametrize("path", ["/azure", "/gcp", "/prices.csv", "/"])
def test_a_feed_that_drips_is_given_up_in_time(path: str, feeds: Feeds, clouds: Clouds) -> None:
    clouds.failing[path] = drip
    begun = time.monotonic()
    of = {"/azure": AZURE, "/gcp": GCP, "/prices.csv": CSV, "/": "aws-m7i"}[path]
    answered = asked(feeds, of, 0.6)
    assert time.monotonic() - begun < 3
    assert isinstance(answered[of], FeedFault)


def test_a_feed_that_is_down_is_named(feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    down = Feeds(feeds.path, feeds.feeds, urls=dict.fromkeys(feeds.urls, "http://127.0.0.1:1"), key="k")
    answered = answers(down.readers(), 10.0)
    assert "no answer" in str(answered[AZURE])
    assert "no answer" in str(answered[GCP])
    assert "no answer from AWS" in str(answered["aws-m7i-spot"])
    assert isinstance(answered[CSV], Quote)


def test_without_credentials_aws_is_named(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert "no credentials for AWS" in fault(feeds, "aws-m7i")


def test_plain_http_stays_on_this_machine(feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert isinstance(asked(feeds, GCP)[GCP], Quote)


def test_a_pull_that_is_stopped_does_not_wait_for_its_feeds(feeds: Feeds, clouds: Clouds) -> None:
    clouds.failing["/azure"] = drip
    stop, begun = threading.Event(), time.monotonic()
    stop.set()
    pulled = pull(Settings(bootstrap="127.0.0.1:1"), feeds, stop=stop)
    assert (pulled.records, str(pulled)) == ([], "0 prices published, 0 unchanged, 0 not followed")
    assert time.monotonic() - begun < 2


@given(st.binary(max_size=300) | st.text(alphabet='offer_idprce,"\n\r\x00 1.', max_size=200).map(str.encode))
def test_any_bytes_are_rows_or_a_fault(data: bytes) -> None:
    for head in (b"", b"offer_id,price\n"):
        try:
            by_offer = parsed(head + data)
        except FeedFault:
            continue
        assert all({"offer_id", "price"} <= row.keys() for rows in by_offer.values() for row in rows)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z\-,\" ]{1,12}", fullmatch=True).map(str.strip).filter(bool),
        st.decimals(min_value="0.000001", max_value=10**6, places=6),
        max_size=6,
    ),
    st.lists(st.sampled_from(["", "x", 'a"b,1', "a,b,c,d", '"', "\x00,1"]), max_size=5),
)
def test_rows_are_read_beside_broken_lines(prices: dict[str, Decimal], broken: list[str]) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["offer_id", "price"])
    for name, price in prices.items():
        writer.writerow([name, price])
        text.write("".join(f"{line}\n" for line in broken))
    by_offer = parsed(text.getvalue().encode())
    assert {name: [Decimal(row["price"]) for row in by_offer[name]] for name in prices} == {
        name: [price] for name, price in prices.items()
    }


def test_only_what_a_feed_says_of_a_record_changes() -> None:
    record = offer()
    new = repriced(record, Quote(Decimal("0.2111111111"), "USD", 0.05))
    assert new == record | {"price": Decimal("0.211111"), "interruption": 0.05}


def test_a_converted_price_keeps_its_rate() -> None:
    of_rate = {"quoted_price": Decimal("0.15"), "quoted_currency": "GBP", "rate": Decimal("1.28")}
    record = offer(price=Decimal("0.192"), **of_rate)
    new = repriced(record, Quote(Decimal("0.2"), "GBP"))
    assert (new["price"], new["quoted_price"], new["rate"]) == (
        Decimal("0.256"),
        Decimal("0.2"),
        Decimal("1.28"),
    )
    with pytest.raises(FeedFault, match="its price is in USD, its record's in GBP"):
        repriced(record, Quote(Decimal("0.2"), "USD"))


@pytest.mark.parametrize(
    ("price", "currency", "text"),
    [
        ("0", "USD", "its price is 0, that of an hour is above 0"),
        ("-1", "USD", "its price is -1"),
        ("NaN", "USD", "its price is NaN"),
        ("1e30", "USD", "its price is 1E"),
        ("0.0000001", "USD", "its price is 1E-7"),
        ("0.2", "EUR", "its price is in EUR, its record's in USD"),
        ("1.92", "USD", "its price is 1.92 and was 0.192 USD: 10 times as much"),
        ("0.0192", "USD", "its price is 0.0192 and was 0.192 USD: 10 times"),
    ],
)
def test_a_price_that_is_not_believed(price: str, currency: str, text: str) -> None:
    with pytest.raises(FeedFault, match=text):
        repriced(offer(), Quote(Decimal(price), currency))


@pytest.mark.parametrize(
    ("max_age_s", "since", "reason"),
    [(None, 0, ""), (7200.0, 941, ""), (7200.0, 940, "age"), (7200.0, 0, "age")],
)
def test_a_confirmed_price_is_renewed_at_half_of_its_age(
    max_age_s: float | None, since: int, reason: str
) -> None:
    feeds = Feeds(Path("feeds.toml"), ())
    settings = Settings(price_max_age_s=max_age_s)
    at = Progress(60, 999 * 60.0, live=False)
    assert at.next_tick(0.0) == 1000
    known = {CSV: {1: offer(valid_from_tick=since)}}
    done = changes({CSV: Quote(Decimal("0.1920"), "USD")}, known, feeds, at, settings)
    assert done.reasons == ({CSV: reason} if reason else {})
    assert done.unchanged == ([] if reason else [CSV])


def test_a_first_record_in_another_currency_leaves_its_neighbours() -> None:
    first, published = offer(offer_id="new", currency="EUR"), {CSV: {1: offer()}}
    answered = {"new": Quote(Decimal("0.2"), "EUR"), CSV: Quote(Decimal("0.2"), "USD")}
    at = Progress(60, 999 * 60.0, live=False)
    done = changes(answered, published, Feeds(Path("f"), (), [first]), at, Settings())
    assert "offers that one app may buy are in EUR and others" in done.faults["new"]
    assert done.reasons == {CSV: "price"}


def test_a_version_that_is_still_to_come_is_not_what_a_feed_changes() -> None:
    known = {CSV: {1: offer(), 2: offer(version=2, valid_from_tick=5000, pool="later")}}
    at = Progress(60, 999 * 60.0, live=False)
    answered = {CSV: Quote(Decimal("0.2"), "USD")}
    [record] = changes(answered, known, Feeds(Path("f"), ()), at, Settings()).records
    assert (record["pool"], "version" in record) == ("", False)


def test_an_offer_without_a_record_is_named() -> None:
    answered = {CSV: Quote(Decimal("0.2"), "USD")}
    done = changes(answered, {}, Feeds(Path("f"), ()), Progress(None, None, live=False), Settings())
    assert "no price record of it" in done.faults[CSV]


FEED = '[[feed]]\noffer_id = "a"\nsource = "csv"\nfile = "a.csv"\n'
FILES = [
    ("", "no tables [[feed]]"),
    ("feed = 3", "no tables [[feed]]"),
    ("[[feed]", "not a TOML file"),
    (f"{FEED}[other]", "other: only prices, [[feed]] and [sources] belong here"),
    (FEED.replace('"a"\ns', '"a/b"\ns'), "feed a/b: offer_id must not have a slash"),
    (FEED.replace('"a"\ns', "3\ns"), "feed 1: offer_id must be text, got 3"),
    (FEED.replace('"csv"', '"cvs"'), "feed a: source must be one of aws-spot, "),
    (FEED.replace("file", "path"), "feed a: there is no field path; csv has file, url"),
    (FEED + 'url = "https://x.test/"', "feed a: needs file or url, not both"),
    (FEED.replace('file = "a.csv"', 'url = "file:///etc/passwd"'), "feed a: url must be https://host/"),
    (FEED.replace('file = "a.csv"', 'url = "http://x.test/"'), "feed a: url must be https://host/"),
    (FEED.replace('file = "a.csv"', 'url = "https://u:p@x.test/"'), "feed a: url must not have a password"),
    (FEED + FEED, "feed a: is there 2 times"),
    ('[[feed]]\noffer_id = "a"\nsource = "aws-spot"\nregion = "r"\nzone = "z"', "feed a: instance_type is missing"),
    ('[[feed]]\noffer_id = "a"\nsource = "azure-retail"\nprice_type = "Reservation"\n'
     'region = "r"\nsku = "s"\nsku_name = "n"', "feed a: price_type must be Consumption or"),
    (f"{FEED}[sources.csv]\nurl = 'https://x.test'", "sources.csv: there is no setting url"),
    (f"{FEED}[sources]\ncsv = 3", "sources must be tables"),
    (f"{FEED}[sources.gcp-catalogue]\nkey_file = 'none'", "none: No such file or directory"),
    (f"prices = 3\n{FEED}", "prices must be the path of a prices file, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_file_that_cannot_be_followed_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "feeds.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_feeds(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_catalogue_needs_a_key(tmp_path: Path) -> None:
    file = tmp_path / "feeds.toml"
    file.write_text(EXAMPLE.read_text().replace('key_file = "gcp.key"', "").replace("prices = ", "# "))
    with pytest.raises(UsageError, match="gcp-catalogue needs a key"):
        read_feeds(file)
    assert read_feeds(file, KEY).key == KEY
    assert KEY not in repr(read_feeds(file, KEY))
    assert read_feeds(file, f"{KEY}\n").key == KEY
    with pytest.raises(UsageError, match="LEADTIME_GCP_API_KEY: not a key") as refused:
        read_feeds(file, f"{KEY}\nX-Other: 1")
    assert KEY not in str(refused.value)
