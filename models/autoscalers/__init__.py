"""The autoscaling policies that we compare with, each true to its documentation, behind one interface.

A backtest makes one object per policy, for all apps and for a whole sweep of headrooms, and steps it:

    fleet = Fleet(least, most, tick_s=300, lead_ticks=2)
    policy = make("hpa", fleet)                            # at the defaults of its documentation
    policy = make("hpa", fleet, KNOBS["hpa"].sweep)        # (headroom), the leanest first
    wanted = policy.decide(tick, load, ready)              # (headroom, app), at the end of each tick

What a policy sees is `load`, the full replicas that usage filled per metric (`usage_in_replicas`), up to and including
this tick, and the replicas ready by its own decisions; what it answers is replicas. It answers at the end of tick t,
for what serves from tick t + 1 on as far as it need not start. Calls are for consecutive ticks; a tick without
telemetry is a load of NaN. No policy draws random numbers.

`headroom` is the knob by which the product's documentation sets how much is kept free; `KNOBS` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.autoscalers.base import Autoscaler, Fleet, Float, Future, usage_in_replicas
from models.autoscalers.hpa import HorizontalPodAutoscaler, HpaSettings

__all__ = ["KNOBS", "NAMES", "Autoscaler", "Fleet", "Future", "Knob", "make", "usage_in_replicas"]

UTILISATIONS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.3, 0.2)


@dataclass(frozen=True)
class Knob:
    """What `headroom` sets in one policy.

    setting: its name in the product; default: what the product does unasked
    sweep: values to compare at, from the leanest to the amplest
    """

    setting: str
    default: float
    sweep: tuple[float, ...]
    make: Callable[[Fleet, Float, Future | None], Autoscaler]


KNOBS: Final[dict[str, Knob]] = {
    "hpa": Knob(
        "averageUtilization",
        HpaSettings.target_utilisation,
        UTILISATIONS,
        lambda fleet, headroom, _: HorizontalPodAutoscaler(HpaSettings(), fleet, headroom),
    ),
}
NAMES: Final = tuple(KNOBS)


def make(
    name: str, fleet: Fleet, headrooms: Sequence[float] | None = None, future: Future | None = None
) -> Autoscaler:
    """The policy of this name, one of NAMES, at its documentation's defaults but for its headroom.

    headrooms: the values of its knob to decide at, so many rows of its answers; None = its default alone.
    future: what the oracle knows; the others never see it.

    Raises:
        ValueError: no such policy, or an oracle without a future.
    """
    if name not in KNOBS:
        raise ValueError(f"no autoscaler {name!r}; known are {', '.join(NAMES)}")
    knob = KNOBS[name]
    values = np.array(knob.default if headrooms is None else headrooms, np.float64, ndmin=1)
    return knob.make(fleet, values, future)
