"""`evaluate --users` chooses exactly the users whom a text names, whatever separators and wildcards names have."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.metrics import EVENT_KINDS, METRICS
from pipeline.errors import UsageError
from pipeline.traces.trace_file import Panel
from pipeline.training.evaluation import _chosen, _escaped  # pyright: ignore[reportPrivateUsage]

NAMES = [
    ("prod", "pod[1]"),
    ("prod", "pod1"),
    ("prod", "web/pod-1"),
    ("prod/web", "pod-1"),
    ("shop", "50%25"),
    ("shop", "ann"),
    ("web", "pod-1"),
]
NAME = st.text(st.sampled_from("ab/%25F*[?]"), min_size=1, max_size=6)


def panel(names: list[tuple[str, str]]) -> Panel:
    users = len(names)
    return Panel(
        ticks=np.arange(1),
        tick_s=60,
        apps=[app for app, _ in names],
        users=[user for _, user in names],
        values=np.zeros((1, users, len(METRICS)), np.float32),
        events=np.zeros((1, users, len(EVENT_KINDS)), np.float32),
        saturated=np.zeros((1, users, len(METRICS)), bool),
    )


def chosen(*patterns: str, names: list[tuple[str, str]] = NAMES) -> list[tuple[str, str]]:
    return [names[u] for u in _chosen(panel(names), patterns, held_out=False)]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("ann", [("shop", "ann")]),
        ("shop/ann", [("shop", "ann")]),
        ("prod/pod[1]", [("prod", "pod[1]")]),
        ("prod/pod[1-2]", [("prod", "pod1")]),
        ("prod%2Fweb/pod-1", [("prod/web", "pod-1")]),
        ("prod/web%2Fpod-1", [("prod", "web/pod-1")]),
        ("prod/*", [name for name in NAMES if name[0] == "prod"]),
        ("prod%2Fweb/*", [("prod/web", "pod-1")]),
        ("50%25", [("shop", "50%25")]),
        ("shop/50%2525", [("shop", "50%25")]),
        ("*", NAMES),
    ],
)
def test_a_text_names_its_users_and_no_others(pattern: str, wanted: list[tuple[str, str]]) -> None:
    assert chosen(pattern) == wanted


def test_a_text_that_names_users_in_two_ways_is_refused() -> None:
    with pytest.raises(UsageError, match=r"may be prod/web%2Fpod-1 or prod%2Fweb/pod-1: write a slash"):
        chosen("prod/web/pod-1")
    with pytest.raises(UsageError, match=r"may be prod/web%2Fpod-1 or web/pod-1: write a slash"):
        chosen("web/pod-1")


def test_a_text_that_names_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no user 'shop' in the trace; it has prod/pod\[1\], prod/pod1, prod/web%2F"
    ):
        chosen("shop")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UsageError, match=r"no users to score: @.*empty.txt names none"):
        chosen(f"@{tmp_path / 'empty.txt'}")


@given(st.lists(st.tuples(NAME, NAME), min_size=1, max_size=6, unique=True), st.data())
def test_an_escaped_text_names_one_user(names: list[tuple[str, str]], data: st.DataObject) -> None:
    wanted = data.draw(st.sampled_from(names))
    text = _escaped(wanted)
    app, _, user = text.partition("/")
    assume((app, user) not in names or (app, user) == wanted)  # somebody is called just as it is escaped
    assume(all(name[1] not in (text, text.replace("%2F", "/").replace("%25", "%")) for name in names))
    assert chosen(text, names=names) == [wanted]
