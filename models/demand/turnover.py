"""Users who fell silent: how much of their demand goes on unseen, and how much others have taken over.

Telemetry that stops may be lost, or its user may have ended. Where about as much comes as went, as when every pod of an
app is renamed or pods live for minutes, those who went were replaced; where nothing comes, their demand is planned for
until the silence is long. Of one app and metric, in units of the metric:

    balance  = hidden - kept + went - came      kept = credit / 2^(tick / CREDIT_S)
    hidden   = balance, at least 0 and at most what silent users last had
    whole    = usage + hidden
    credit   = -balance, at least 0 and at most kept but for what came without a rise of the whole

went is the last usage of users whose first silent tick this is, came the usage of users who report and did not the tick
before, new or back. Credit is for those who come before others go and share their load, as in a rollout with a surge:
the app does not use more. Where it does, they are growth, which replaces nobody who falls silent later. In CREDIT_S
half of the credit is forgotten. Of hidden demand the part that was replaced is forgotten as silence is: in SILENT_S.

Demand of the app's users then counts by the share (usage + hidden) / (usage + silent): the mean by the share, the
deviations from it by its root, as of independent users of which so many are left.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.metrics import METRICS

Array = NDArray[np.float64]
State = dict[str, NDArray[Any]]

CREDIT_S: Final = 1_800.0  # a rollout with a surge overlaps for minutes


SILENT_S: Final = 900
"""A user silent for so long (and SILENT_TICKS) is no longer forecast: a gap in telemetry is not an end of demand."""
SILENT_TICKS: Final = 3


def silent_ticks(tick_s: int) -> int:
    """Ticks of silence until a user is no longer forecast."""
    return max(SILENT_TICKS, SILENT_S // tick_s)


class Turnover(NamedTuple):
    """What an app's users last used, each (METRICS) float64.

    silent: of those who do not report in the tick; went: of those of them who did the tick before; came: of those who
    report and did not the tick before.
    """

    silent: Array
    went: Array
    came: Array

    @classmethod
    def none(cls) -> Turnover:
        """Nobody is silent, and nobody came or went."""
        return cls(*np.zeros((3, len(METRICS))))


def initial_state() -> State:
    """Of an app that is new: hidden, credit and whole (METRICS)."""
    return {name: np.zeros(len(METRICS)) for name in ("hidden", "credit", "whole")}


def observe(state: State, users: Turnover, usage: Array, tick_s: int) -> State:
    """State after a tick.

    Args:
        state: of the app.
        users: of the tick.
        usage: (METRICS) of those who report, NaN = not measured.
        tick_s: its length.
    """
    kept = state["credit"] * 0.5 ** (tick_s / CREDIT_S)
    balance = state["hidden"] - kept + users.went - users.came
    hidden = np.clip(balance, 0, users.silent)
    whole = np.nan_to_num(usage) + hidden
    rise = np.maximum(whole - state["whole"], 0)
    early = np.maximum(-balance - kept - rise, 0)  # of those who came, who share the load of others
    credit = np.minimum(np.maximum(-balance, 0), kept + early)
    replaced = 1 - hidden / np.where(users.silent > 0, users.silent, 1.0)
    hidden = hidden * (1 - replaced / silent_ticks(tick_s))
    return {"hidden": hidden, "credit": credit, "whole": whole}


def left(state: State, users: Turnover) -> float:
    """Share of the silent users who count as the app's: that of the metric of which the most is hidden; 1 for none."""
    known = users.silent > 0
    return float((state["hidden"][known] / users.silent[known]).max()) if known.any() else 1.0


def share(state: State, users: Turnover, usage: Array) -> Array:
    """Share of the users' demand (METRICS) that is left; usage: (METRICS) of those who report, NaN = not measured."""
    reported = np.nan_to_num(usage)
    whole = reported + users.silent
    return np.where(users.silent > 0, (reported + state["hidden"]) / np.where(whole > 0, whole, 1.0), 1.0)


def lessened(demand: NDArray[np.float32], share: Array) -> NDArray[np.float32]:
    """Scenarios (scenario, step, metric) of the share (metric) of the users; where it is 1, as they are."""
    if (share == 1).all():
        return demand
    mean = demand.mean(axis=0, dtype=np.float64)
    fewer = np.maximum(share * mean + np.sqrt(share) * (demand - mean), 0).astype(np.float32)
    return np.where(share == 1, demand, fewer)
