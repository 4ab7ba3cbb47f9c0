"""Names are identities: another app, user, scope or instance is never taken for the same, whatever its separators."""

from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import METRICS
from pipeline import display
from pipeline.errors import UsageError
from pipeline.inputs.example import Example
from pipeline.inputs.files import read_policies, read_prices
from pipeline.names import name_fault, offer_fault
from pipeline.security.pseudonyms import Directory, Key, KeyRing, entity, identity, partition_of
from pipeline.settings import Settings
from pipeline.sources.client import _owner  # pyright: ignore[reportPrivateUsage]
from pipeline.stages.ingest.service import Partition
from pipeline.traces.refused import split
from pipeline.wire.codec import DEFAULT
from pipeline.wire.commands import REPLICAS, Target
from tests.cases import price_file
from tests.unit.pipeline.messages import NOW_US, FakeMessage, metric, watermark

SEPARATORS = ("/", "%", "#", "a", "%2F", "%25", "#SHARED", ":")
METRIC, EVENT = "telemetry.metrics", "telemetry.events"
NAMES = (
    "shop",
    "Shop",
    " shop",
    "shop ",
    "..",
    ".",
    "a/b",
    "a%2Fb",
    "a_b",
    normalize("NFC", "é"),
    normalize("NFD", "é"),
)
"""Byte by byte different: nothing of a name is folded."""
names = st.text(min_size=1, max_size=6) | st.lists(st.sampled_from(SEPARATORS), min_size=1, max_size=4).map(
    "".join
)
owners = st.tuples(names, st.just("USER"), names) | st.tuples(
    names, st.sampled_from(["SHARED", "APP", "INSTANCE"]), st.sampled_from(["", "i", "a/b", "i:1"])
)


def identity_of(owner: tuple[str, str, str]) -> str:
    app, scope, name = owner
    return identity(app, name) if scope == "USER" else identity(app, None, scope, name)


@given(owners, owners)
def test_two_owners_are_two_identities(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (identity_of(one) == identity_of(other)) == (one == other)


def test_every_pair_of_names_with_separators_is_distinct() -> None:
    parts = ["".join(two) for two in product(("", *SEPARATORS), repeat=2) if any(two)]
    seen = {identity_of((app, "USER", user)) for app, user in product(set(parts), repeat=2)}
    assert len(seen) == len(set(parts)) ** 2


@pytest.mark.parametrize(
    ("app", "user"), [("shop", "ann"), ("prod", "web/pod-1"), ("購物車", "x#y%z"), ("..", ".")]
)
def test_ordinary_names_keep_their_bytes(app: str, user: str) -> None:
    assert identity(app, user) == f"{app}/{user}" == entity(app, user)


@given(st.lists(owners, min_size=1, max_size=9))
def test_columns_give_the_identities_and_partitions_of_single_names(
    given_owners: list[tuple[str, str, str]],
) -> None:
    rows = pl.DataFrame(
        [
            {"app": app, "scope": scope, "user": name if scope == "USER" else None, "instance": name}
            for app, scope, name in given_owners
        ],
        schema=dict.fromkeys(("app", "scope", "user", "instance"), pl.String),
    )
    directory = Directory(7)
    codes = directory.code(rows)
    assert [directory.keys[code] for code in codes] == [identity_of(owner) for owner in given_owners]
    keys = [entity(a, u, s, i) for a, s, u, i in rows.select("app", "scope", "user", "instance").iter_rows()]
    assert [directory.partition[code] for code in codes] == [partition_of(key, 7) for key in keys]


def frame_of(bodies: list[bytes]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The frame of one tick of these metric records, and their dead letters."""
    settings = Settings(tick_s=60, partitions=1)
    part = Partition(0, settings, DEFAULT, KeyRing([Key("k1", b"one", 0)]))
    letters = part.take(METRIC, [FakeMessage(body, at) for at, body in enumerate(bodies)])
    for topic in (METRIC, EVENT):
        part.take(topic, [FakeMessage(watermark(NOW_US + 120_000_000), 99, name=topic)])
    _, (frame,) = part.close()  # the tick before is empty
    return frame, letters


def cpu_of(frame: dict[str, Any]) -> dict[str, list[float]]:
    """Cores by app, a value for each of its users."""
    cpu = np.frombuffer(frame["values"], "<f4").reshape(len(METRICS), -1)[METRICS.index("cpu")]
    app = np.frombuffer(frame["app_index"], "<u4")
    return {name: sorted(cpu[app == number].tolist()) for number, name in enumerate(frame["apps"])}


def test_a_slash_in_an_app_or_a_user_makes_two_users_of_two_apps() -> None:
    frame, letters = frame_of(
        [metric(app="prod/web", user="pod-1", cpu=4.0), metric(app="prod", user="web/pod-1")]
    )
    assert cpu_of(frame) == {"prod": [1.0], "prod/web": [4.0]}
    assert not letters


def test_a_user_that_is_called_as_a_scope_is_not_taken_for_it() -> None:
    shared = metric(user=None, scope="SHARED", cpu=4.0)
    assert cpu_of(frame_of([metric(user="#SHARED"), shared])[0]) == {"shop": [1.0, 4.0]}


def test_names_that_differ_in_any_byte_are_different_apps() -> None:
    frame, letters = frame_of([metric(app=app, user="u", cpu=float(n)) for n, app in enumerate(NAMES)])
    assert cpu_of(frame) == {app: [float(n)] for n, app in enumerate(NAMES)}
    assert not letters


def test_an_app_with_control_characters_is_refused_and_its_neighbours_are_not() -> None:
    bad = ["a\nb", "a\0", "\x7f", "a\u2028b"]
    frame, letters = frame_of([*(metric(app=app) for app in bad), metric(app="good")])
    assert [letter["reason"] for letter in letters] == ["control-character"] * len(bad)
    assert frame["apps"] == ["good"]
    for app in bad:
        with pytest.raises(UsageError, match="control characters"):
            _owner(app, "u", "USER", None)


def test_the_demo_gives_every_app_offers_of_its_own() -> None:
    apps = [*NAMES, "a\\b", "x" * 1024, "x" * 1023 + "y", "/" * 1024, "車" * 341]
    example = Example.of_medians({app: {"cpu": 12.0} for app in apps})
    ids = [price["offer_id"] for price in example.prices]
    assert len(set(ids)) == len(ids)
    assert not any(offer_fault(offer) for offer in ids)
    assert [price["offer_id"] for price in Example.of_medians({"shop": {"cpu": 12.0}}).prices] == [
        "shop.reserved",
        "shop.on-demand",
        "shop.spot",
    ]
    for app in apps:
        assert Target("local", f"{app}/{ids[0]}").app == app


@pytest.mark.parametrize("offer", ["", "a/b", "budget", "quota eu", REPLICAS, "a\tb", "x" * 1025])
def test_an_offer_that_targets_could_not_name_is_refused_in_one_line(tmp_path: Path, offer: str) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(price_file.offer(offer.replace("\t", "\\t")))
    with pytest.raises(UsageError, match="offer_id must") as refusal:
        read_prices(prices)
    assert "\n" not in str(refusal.value)


def test_a_policy_of_a_name_that_ingest_refuses_is_refused(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    for app in ("x" * 1025, "a\\u0000b", "a\\nb"):
        policy.write_text(f'[[policy]]\napp = "{app}"\ngoverned = ["cpu"]\nunit = {{cpu = 1.0}}\n')
        with pytest.raises(UsageError, match=r"app must (not have control|have at most 1,024)") as refusal:
            read_policies(policy)
        assert "\n" not in str(refusal.value)
    assert name_fault("x" * 1024) is None


def test_a_trace_refuses_the_names_that_ingest_refuses() -> None:
    frame = pl.DataFrame({"app": ["a\nb", "good"], "user": ["u", "u"], "cpu": [1.0, 1.0]})
    refused = split(frame, 60.0)
    assert refused.good["app"].to_list() == ["good"]
    assert refused.bad["reason"].to_list() == ["control-character"]


@pytest.mark.parametrize("app", ["prod:key:1", "[/x]", "[red]x[/red]"])
def test_what_commands_print_has_names_as_they_are(app: str, capsys: pytest.CaptureFixture[str]) -> None:
    """rich would take brackets for markup, or fail at them, and `:key:` for a picture."""
    facts = {
        "notes": [f"app {app} has gaps"],
        "skipped": {f"app {app}": 2},
        "what_if": [{"": app, "as given": "1", f"campaign={app}@TIME/2h/x3": "2"}],
    }
    display.tell(facts, json=False)
    printed = capsys.readouterr().out
    assert [line.count(app) for line in printed.splitlines() if app in line] == [1] * 4
    assert f"campaign={app}@TIME" in printed
