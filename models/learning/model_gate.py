"""Whether a fine-tuned behaviour model may replace its parent: bets on the days of a pass that neither has learnt from.

A day gives the mean over users, metrics and steps of log(parent's CRPS / its CRPS), in units of `gate.SCALE`, cut off
at -1 and 1: under the hypothesis that the new model is no better its mean is 0 or less, and the wealth of
`models.learning.gate` is an e-process. There is one candidate, so that 1 / LEVEL is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.forecast_scores import RIVAL_FLOOR, Scores
from models.learning.gate import LEVEL, SCALE, Wealth


@dataclass(frozen=True)
class ModelEvidence:
    """Of a fine-tuned model beside its parent on the same days.

    Attributes:
        crps_ratio: geometric mean over days, users, metrics and steps of its CRPS to the parent's.
        e_value: that it forecasts better.
        days: judged.
    """

    crps_ratio: float
    e_value: float
    days: int

    @property
    def promoted(self) -> bool:
        """Whether the evidence suffices."""
        return self.e_value >= 1 / LEVEL

    def facts(self) -> dict[str, Any]:
        """For a model card."""
        return {
            "crps_ratio": round(self.crps_ratio, 4),
            "e_value": round(self.e_value, 2),
            "wanted": 1 / LEVEL,
            "days": self.days,
            "promoted": self.promoted,
        }


def judged(tuned: Scores, parent: Scores) -> ModelEvidence:
    """Compare two models' scores of the same users and ticks."""
    floor = RIVAL_FLOOR * tuned.sum_y
    ratio = np.maximum(tuned.model.crps, floor) / np.maximum(parent.model.crps, np.maximum(floor, 1e-30))
    logs = [_mean_log(ratio[day][tuned.sum_y[day] > 0]) for day in range(len(ratio))]
    known = [log for log in logs if log is not None]
    wealth = Wealth()
    for log in known:
        wealth = wealth.after(-log, SCALE)
    return ModelEvidence(float(np.exp(np.mean(known))) if known else 1.0, wealth.value, wealth.days)


def _mean_log(ratios: NDArray[np.floating[Any]]) -> float | None:
    """Mean of the logarithms of ratios above 0; None: there are none."""
    above = ratios[ratios > 0]
    return float(np.log(above).mean()) if len(above) else None
