"""What a shard keeps of its apps' dependence: whose row is whose, what survives a restart, what is dropped."""

import json

import numpy as np
import pytest

from models.behaviour.error_dependence import EARLY_NONE, Dependence
from models.metrics import METRICS
from models.tick import Tick
from pipeline.stages.simulator.app_dependence import BLOCK_BYTES, FADED, FORGET_S, DependenceTable

PRIOR = Dependence(np.full(5, 0.2), np.eye(5), 0.3)
KEPT = np.array([True, False])


def names(*users: str) -> bytes:
    return b"".join(user.encode().ljust(16, b".") for user in users)


def tell(
    table: DependenceTable, tick: int, *users: str, app: str = "shop", kept: np.ndarray = KEPT
) -> np.ndarray:
    """A tick in which every user but `odd` moves with the app in all metrics; the loadings."""
    scores = np.full((len(users), len(METRICS), 3), np.nan)
    scores[:, :, 0] = np.random.default_rng(tick).standard_normal((1, 5))
    scores[np.array(users) == "odd"] *= -1
    return table.learn(app, tick, names(*users), scores, kept)[1]


def test_a_user_keeps_its_row_wherever_it_stands() -> None:
    table, rest = DependenceTable(PRIOR), "abcdefgh"
    loading = [tell(table, tick, *rest, "odd", "z") for tick in range(60)][-1]
    assert loading.tolist() == [1] * 8 + [-1, 1]
    # "z" is silent, and "0" is new
    assert tell(table, 60, "0", *rest, "odd").tolist() == [1] * 9 + [-1]
    app = table.apps["shop"]
    assert app.ids == names("0", *rest, "odd", "z")
    assert (app.users["early"][-1] == EARLY_NONE).all()
    before = app.users["loading"].tolist()
    tell(table, 61, "odd", kept=np.zeros(2, bool))
    # as many silent ones stay as there are others; nobody was there to compare "odd" with
    assert app.ids == names("odd", "0")
    assert app.users["loading"].tolist() == pytest.approx([before[-2], before[0]], rel=0.01)


def test_who_is_hardly_known_is_forgotten_when_silent() -> None:
    table = DependenceTable(PRIOR)
    tell(table, 0, "a", "b", "c")
    assert (table.apps["shop"].users["known"] < FADED).all()
    tell(table, 1, "a", "b")
    assert table.apps["shop"].ids == names("a", "b")


def test_after_a_gap_early_scores_wait_no_longer() -> None:
    table = DependenceTable(PRIOR)
    tell(table, 0, "a", "b")
    assert (table.apps["shop"].users["early"][:, 0] != EARLY_NONE).all()
    tell(table, 2, "a", "b", kept=np.zeros(2, bool))
    assert (table.apps["shop"].users["early"] == EARLY_NONE).all()


def test_blocks_give_the_same_bytes_after_a_restart_and_fit_a_message() -> None:
    table, users = DependenceTable(PRIOR), [f"{number:06}" for number in range(12_000)]
    for tick in range(3):
        tell(table, tick, *users)
        tell(table, tick, "a", "odd", app="blog")
    blocks = list(table.blocks())
    # a user has 16 bytes of pseudonym, 8 of loading and 10 of early scores
    assert sum(map(len, blocks)) == pytest.approx(12_002 * 34 + 2 * 1_200, rel=0.01)
    assert all(len(block) <= BLOCK_BYTES for block in blocks)
    assert len(blocks) == -(-sum(map(len, blocks)) // BLOCK_BYTES)
    again = DependenceTable(PRIOR)
    again.restore(blocks)
    for one in (table, again):
        tell(one, 3, "a", "new", "odd", app="blog")
        tell(one, 3, *users[5:])
    assert b"".join(again.blocks()) == b"".join(table.blocks())
    empty = DependenceTable(PRIOR)
    empty.restore([])
    assert empty.apps == {}


def test_apps_that_are_silent_for_a_week_are_forgotten() -> None:
    table = DependenceTable(PRIOR)
    tell(table, 0, "a", app="old")
    tell(table, 1, "a", app="new")
    table.forget(FORGET_S // 300, 300)
    assert set(table.apps) == {"old", "new"}
    table.forget(FORGET_S // 300 + 1, 300)
    assert set(table.apps) == {"new"}


def usage(*levels: float) -> np.ndarray:
    return np.array(levels)[:, None]


def test_who_is_silent_went_and_came_is_known_by_what_they_last_used() -> None:
    table = DependenceTable(PRIOR)
    one = table.turnover("shop", Tick(0, 60), names("a", "b"), usage(1.0, 2.0), usage(1.0, 2.0))
    assert [level.tolist() for level in one] == [[0], [0], [3]]
    last = usage(1.0, 2.5, 4.0)
    two = table.turnover("shop", Tick(1, 60), names("a", "b", "c"), usage(np.nan, 2.5, 4.0), last)
    assert [level.tolist() for level in two] == [[1], [1], [4]]
    again = DependenceTable(PRIOR)
    again.restore(list(table.blocks()))
    for each in (table, again):
        three = each.turnover("shop", Tick(2, 60), names("a", "b", "c"), usage(1.5, np.nan, 4.0), last)
        assert [level.tolist() for level in three] == [[2.5], [2.5], [1.5]]  # "a" is back
        four = each.turnover("shop", Tick(3, 60), names("a", "b", "c"), usage(1.5, np.nan, 4.0), last)
        assert [level.tolist() for level in four] == [[2.5], [0], [0]]


def test_who_reports_another_metric_is_silent_in_the_one_that_is_missing_for_a_quarter_of_an_hour() -> None:
    """Of metrics 0 and 3, in whichever columns they come, and also after a restart."""
    table, here = DependenceTable(PRIOR), names("a", "b")
    both, last = np.array([[1.0, 10.0], [2.0, 20.0]]), np.array([[1.0, 10.0], [2.0, 20.0]])
    table.turnover("shop", Tick(0, 60), here, both, last, np.array([0, 3]))
    lost = np.array([[10.0, 1.0], [np.nan, 2.0]])
    for number in range(1, 20):
        silent, went, came = table.turnover(
            "shop", Tick(number, 60), here, lost, last[:, ::-1], np.array([3, 0])
        )
        assert silent.tolist() == [20.0 if number <= 15 else 0.0, 0]
        assert went.tolist() == [20.0 if number == 1 else 0.0, 0]
        assert came.tolist() == [0, 0]
        blocks, table = list(table.blocks()), DependenceTable(PRIOR)
        table.restore(blocks)
    back = table.turnover("shop", Tick(20, 60), here, both, last, np.array([0, 3]))
    assert [level.tolist() for level in back] == [[0, 0], [0, 0], [0, 20]]


@pytest.mark.parametrize("rest", [[], [1]])
def test_a_snapshot_of_a_version_without_ages_tells_who_reported(rest: list[int]) -> None:
    table = DependenceTable(PRIOR)
    tell(table, 0, "a", "b")
    table.turnover("shop", Tick(0, 60), names("a", "b"), usage(1.0, 2.0), usage(1.0, 2.0))
    whole = b"".join(table.blocks())
    end = 4 + int.from_bytes(whole[:4], "little")
    ((*head, known, width),) = json.loads(whole[4:end])
    text = json.dumps([[*head, *rest]]).encode()
    body = whole[end : len(whole) - known * (16 + 2 * width)]
    older = DependenceTable(PRIOR)
    older.restore([len(text).to_bytes(4, "little") + text + body + b"".join(names("a") for _ in rest)])
    after = older.turnover("shop", Tick(1, 60), names("a", "b"), usage(np.nan, np.nan), usage(1.0, 2.0))
    assert after.went.tolist() == [1.0 if rest else 3.0]


def test_a_new_pseudonym_is_no_newcomer() -> None:
    table = DependenceTable(PRIOR)
    table.turnover("shop", Tick(0, 60), names("a", "b"), usage(1.0, 2.0), usage(1.0, 2.0))
    table.rename("shop", names("z", "b"), names("a") + bytes(16))
    after = table.turnover("shop", Tick(1, 60), names("z", "b"), usage(1.0, 2.0), usage(1.0, 2.0))
    assert [level.tolist() for level in after] == [[0], [0], [0]]


def test_who_comes_where_nobody_was_may_replace_users_of_another_shard_or_of_before_a_gap() -> None:
    elsewhere, gap = DependenceTable(PRIOR), DependenceTable(PRIOR)
    for table in (elsewhere, gap):
        table.turnover("shop", Tick(0, 60), names("a"), usage(2.0), usage(2.0))
    renamed = elsewhere.turnover("shop", Tick(1, 60), names("a"), usage(np.nan), usage(2.0))
    came = DependenceTable(PRIOR).turnover("shop", Tick(1, 60), names("b"), usage(2.0), usage(2.0))
    assert [level.tolist() for level in (renamed.went, came.came)] == [[2], [2]]
    gap.turnover("shop", Tick(1, 60), names("a"), usage(np.nan), usage(2.0))
    after = gap.turnover("shop", Tick(2, 60), names("a", "b"), usage(np.nan, 2.0), usage(2.0, 2.0))
    assert [level.tolist() for level in after] == [[2], [0], [2]]
