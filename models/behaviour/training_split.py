"""Division of users and ticks into those that train the behaviour model, stop its training, calibrate and score it.

Users are held out by the hash of their name (`training_series.held_out`). The end of every user's series is the test
window: 14 days, or a quarter of its ticks where that is shorter. Training, early stopping and calibration use nothing
of it.
"""

from __future__ import annotations

from typing import Final

from models.behaviour import training_series
from models.behaviour.training_series import Series
from models.metrics import DAY_S

TEST_S: Final = 14 * DAY_S
"""Length of the test window at a trace's end; a quarter of the trace where that is shorter."""
WARM_UP_S: Final = 8 * DAY_S
"""Run before the scored test window: a day, and the week of residuals that the baselines keep."""
CHECK_S: Final = 7 * DAY_S
"""Run before the window that stops the training."""
CALIBRATION_TICKS: Final = 4_000  # two weeks of five minutes
GROUP_SIZES: Final = (2, 3, 5, 8, 10, 15, 25, 35, 50, 75) * 3
"""Users of the groups whose totals are trained on, beside single users."""
LEAST_TICKS: Final = 100
"""Of a series that a model is fine-tuned on."""
COARSER: Final = 5
"""Ticks of a minute are trained on as ticks of so many minutes, too."""


def test_start(ticks: int, tick_s: int) -> int:
    """First row of the test window of a series of `ticks` rows; tick_s: their length in seconds."""
    return ticks - min(TEST_S // tick_s, ticks // 4)


def test_rows(ticks: int, tick_s: int) -> tuple[int, int]:
    """First row of the scoring pass, and the first one that it scores, of a series of `ticks` rows."""
    score = test_start(ticks, tick_s)
    return max(0, score - WARM_UP_S // tick_s), score


def calibration_rows(ticks: int, tick_s: int) -> tuple[int, int, int]:
    """First row of the calibrating pass, the first one that counts, and the row before which it ends."""
    stop = test_start(ticks, tick_s)
    start = max(0, stop - CALIBRATION_TICKS)
    return max(0, start - DAY_S // tick_s), start, stop


def train_and_check(users: list[Series]) -> tuple[list[Series], list[tuple[Series, int]]]:
    """Series that train; and series that decide when training stops, each with the first row that counts.

    The latter are of held-out users: the window before the test window, as long as it, after a warm-up of CHECK_S.
    """
    fit: list[Series] = []
    check: list[tuple[Series, int]] = []
    for user in users:
        ticks = len(user.values)
        stop = test_start(ticks, user.tick_s)
        if training_series.held_out(user.name):
            score = 2 * stop - ticks
            start = max(0, score - CHECK_S // user.tick_s)
            check.append((user.part(start, stop), score - start))
        else:
            fit.append(user.part(0, stop))
    return fit, check


def judged_rows(ticks: int, tick_s: int) -> tuple[int, int]:
    """First row of the pass that judges a fine-tuned model, and the first one that it scores: the last TEST_S, or half.

    Fine-tuning uses nothing of what is scored.
    """
    score = ticks - min(TEST_S // tick_s, ticks // 2)
    return max(0, score - WARM_UP_S // tick_s), score


def tuned_and_check(users: list[Series], until: int) -> tuple[list[Series], list[tuple[Series, int]]]:
    """Series that fine-tune a model; and series that decide when that stops, each with the first row that counts.

    Both are of all users; of each the last quarter before tick `until`, from which on the model is judged, checks.
    """
    fit: list[Series] = []
    check: list[tuple[Series, int]] = []
    for user in users:
        stop = min(until - user.first_tick, len(user.values))
        if stop < LEAST_TICKS:
            continue
        score = stop - stop // 4
        start = max(0, score - CHECK_S // user.tick_s)
        fit.append(user.part(0, score))
        check.append((user.part(start, stop), score - start))
    return fit, check


def extended(fit: list[Series], seed: int) -> list[Series]:
    """The training series of a trace, then totals of random groups, then one-minute series at COARSER minutes."""
    more: list[Series] = []
    if len(fit) > 5:
        more += training_series.groups(fit, [size for size in GROUP_SIZES if size <= len(fit)], seed)
    return fit + more + [training_series.coarser(one, COARSER) for one in fit if one.tick_s == 60]
