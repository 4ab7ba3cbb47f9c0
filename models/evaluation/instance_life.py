"""Life of one cloud instance: start-up, interruption and bill, from uniform draws."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, inf, log
from statistics import NormalDist
from typing import Final

Z99: Final = NormalDist().inv_cdf(0.99)
CERTAINTY: Final = 0.99
"""Probability with which a pending instance is ready after the time that `remaining_s` gives."""


def log_startup(p50_s: float, p99_s: float) -> NormalDist:
    """Distribution of the logarithm of a start-up time in seconds: lognormal through its median and 99 %.

    A median below a millisecond counts as one, and a 99 % below the median as the median.
    """
    median = max(p50_s, 1e-3)
    return NormalDist(log(median), max(log(max(p99_s, median) / median) / Z99, 1e-9))


def startup_s(startup: NormalDist, uniform: float) -> float:
    """A start-up time by inversion; `startup`: of `log_startup`; `uniform`: in (0, 1)."""
    return exp(startup.inv_cdf(uniform))


def interruption_after_s(per_hour: float, uniform: float) -> float:
    """Seconds until an interruption, exponential by inversion: -ln(1 - u) / rate; infinite at a rate of 0."""
    return -log(1.0 - uniform) / per_hour * 3600 if per_hour > 0 else inf


def remaining_s(startup: NormalDist, age_s: float, factor: float = 1.0) -> float:
    """Seconds within which a pending instance is ready with probability CERTAINTY.

    The quantile of a start-up time T given T > age: F⁻¹(F(age) + 0.99 (1 − F(age))) − age.

    Args:
        startup: of `log_startup`.
        age_s: since the launch.
        factor: multiplies every start-up time.
    """
    passed = startup.cdf(log(age_s / factor)) if age_s > 0 else 0.0
    level = min(passed + CERTAINTY * (1 - passed), 1 - 1e-12)
    return max(exp(startup.inv_cdf(level)) * factor - age_s, 0.0)


def billed_s(lives: Iterable[tuple[float, float]], until_s: float, least_s: float) -> float:
    """Instance-seconds billed up to a moment, at least `least_s` for each instance requested until then.

    Args:
        lives: request and end of each instance, unix seconds.
        until_s: unix seconds.
        least_s: the offer's billing minimum.
    """
    return sum(
        max(min(end_s, until_s) - requested_s, least_s)
        for requested_s, end_s in lives
        if requested_s <= until_s
    )
