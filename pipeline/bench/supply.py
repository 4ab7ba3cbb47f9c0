"""Are the posteriors of start-up times honest? Simulated offers that are not as they state, and what was learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from models.random_streams import stream
from models.supply.startup import Interval, Stated, posterior

Z99: Final = 2.3263478740408398
PER_PROVIDER: Final = 5
RESOLUTIONS: Final = {"1 s": 1.0, "ticks of 10 s": 10.0, "ticks of 60 s": 60.0}
"""How closely launches are seen: an observation each so many seconds."""


def _lognormal(draw: Any, median: float, sigma: float) -> tuple[float, Callable[[int], Any]]:
    return median * math.exp(Z99 * sigma), lambda n: median * np.exp(sigma * draw.standard_normal(n))


def _gamma(draw: Any, median: float, sigma: float) -> tuple[float, Callable[[int], Any]]:
    """A gamma distribution with the coefficient of variation that the lognormal would have."""
    from scipy.stats import gamma

    shape = 1 / math.expm1(sigma**2)
    scale = median / float(gamma.ppf(0.5, shape))
    return scale * float(gamma.ppf(0.99, shape)), lambda n: draw.gamma(shape, scale, n)


SHAPES: Final[Mapping[str, Callable[[Any, float, float], tuple[float, Callable[[int], Any]]]]] = {
    "lognormal": _lognormal,
    "gamma (not as assumed)": _gamma,
}


def measured(offers: int, launches: int, seed: int) -> dict[str, Any]:
    """Share of simulated offers whose 95 % interval of the start-up p99 covers the truth, after so many launches.

    An offer states a median of 20 to 300 s and a 99 % quantile of 1.5 to 4 times that. Its provider's are slower by a
    factor of log deviation 0.7, its own by one of 0.5 more, and the spread differs by one of 0.3.

    Args:
        offers: number of them, five a provider.
        launches: of each.
        seed: of the draws.
    """
    shown = {
        shape: {
            name: _covered(shape, width_s, offers, launches, seed) for name, width_s in RESOLUTIONS.items()
        }
        for shape in SHAPES
    }
    shares = [share["covered"] for share in shown["lognormal"].values()]
    summary = {"covered_least": min(shares), "covered_most": max(shares), "target": [0.92, 0.98]}
    return {"offers": offers, "launches": launches, "seed": seed, "startup_p99": shown, "summary": summary}


def _covered(shape: str, width_s: float, offers: int, launches: int, seed: int) -> dict[str, float]:
    covered, ratios, stated_errors, errors = 0, [], [], []
    for i in range(offers):
        draw = stream(np, seed, "bench supply", shape, i)
        provider = math.exp(0.7 * stream(np, seed, "provider", i // PER_PROVIDER).standard_normal())
        median, ratio = math.exp(draw.uniform(math.log(20), math.log(300))), draw.uniform(1.5, 4.0)
        stated = Stated(median, ratio * median)
        truth, launch = SHAPES[shape](
            draw,
            median * provider * math.exp(0.5 * draw.standard_normal()),
            stated.sigma * math.exp(0.3 * draw.standard_normal()),
        )
        counts: dict[tuple[float, float], float] = {}
        for took in launch(launches).tolist():
            low = math.floor(took / width_s) * width_s
            counts[low, low + width_s] = counts.get((low, low + width_s), 0.0) + 1
        intervals: list[Interval] = [(low, high, n) for (low, high), n in counts.items()]
        learnt = posterior(stated, intervals)
        low_s, high_s = learnt.interval()
        covered += low_s <= truth <= high_s
        ratios.append(high_s / low_s)
        stated_errors.append(abs(math.log(stated.p99_s / truth)))
        errors.append(abs(math.log(learnt.p99_s / truth)))
    return {
        "covered": covered / offers,
        "interval_high_to_low": round(float(np.median(ratios)), 3),
        "error_of_stated": round(math.expm1(float(np.median(stated_errors))), 3),
        "error_of_learnt": round(math.expm1(float(np.median(errors))), 3),
    }
