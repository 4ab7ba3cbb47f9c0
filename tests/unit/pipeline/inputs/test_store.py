"""Versions of side inputs are in order, whatever order they came in."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.files import read_prices
from pipeline.inputs.store import SideInputs
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT
from tests.markdown import ROOT

PRICE = read_prices(Path(ROOT / "examples" / "prices.toml"))[0]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12))
def test_the_last_of_each_version_counts_in_the_order_of_validity(published: list[tuple[int, int]]) -> None:
    inputs = SideInputs(Settings())
    for version, tick in published:
        record = PRICE | {"version": version, "valid_from_tick": tick}
        inputs._take("prices", DEFAULT.encode("price", record))
    there = [
        (record["valid_from_tick"], record["version"])
        for record in inputs.inputs["prices"].get(PRICE["offer_id"], [])
    ]
    assert there == sorted((tick, version) for version, tick in dict(published).items())
