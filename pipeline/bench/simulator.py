"""Simulator: processor time of the collapsed sampler, and its 99 % quantiles, against the exact sampler."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np

from models.behaviour.lstm import DEFAULT_MODEL, BehaviourModel
from models.demand import collapsed_sampler, scenarios
from models.demand.scenarios import Dependence
from models.quantile_function import QuantileFunction, Z

METRICS: Final = 4
STEPS: Final = 6
LEVEL: Final = 0.99


def measured(users: int, draws: int, exact_users: int, check_scenarios: int, seed: int) -> dict[str, Any]:
    """Processor seconds of both samplers, and the errors of the collapsed one's 99 % quantiles of the total.

    Forecasts are of users of lognormal size, with heavy, skew tails; their errors depend as the released model's do.

    Args:
        users, draws: users and scenarios that the collapsed sampler is timed on.
        exact_users: users that the exact sampler is timed on.
        check_scenarios: of the comparison of quantiles, on 500 users.
        seed: of the simulated forecasts and the scenarios.
    """
    dependence = _dependence()
    many, some = forecasts(users, seed), forecasts(exact_users, seed + 1)
    collapsed_sampler.simulate(some, dependence, _key(2, seed))  # tables of the moments, made once a process
    fast = _timed(lambda: collapsed_sampler.simulate(many, dependence, _key(draws, seed)))
    slow = _timed(lambda: scenarios.simulate(np, some, dependence, _key(draws, seed)))
    few = forecasts(500, seed + 2)
    exact = scenarios.simulate(np, few, dependence, _key(check_scenarios, seed))
    other = scenarios.simulate(np, few, dependence, _key(check_scenarios, seed, shard=1))
    mine = collapsed_sampler.simulate(few, dependence, _key(check_scenarios, seed))
    error, noise = (
        np.quantile(d, LEVEL, axis=0) / np.quantile(exact, LEVEL, axis=0) - 1 for d in (mine, other)
    )
    return {
        "users": users,
        "scenarios": draws,
        **{f"collapsed_{name}": value for name, value in fast.items()},
        "exact_users": exact_users,
        **{f"exact_{name}": value for name, value in slow.items()},
        "ratio_to_exact": round(slow["cpu_s"] / exact_users * users / fast["cpu_s"], 1),
        "quantile_99_users": 500,
        "quantile_99_scenarios": check_scenarios,
        "quantile_99_error_mean": round(float(np.abs(error).mean()), 5),
        "quantile_99_error_max": round(float(np.abs(error).max()), 5),
        "quantile_99_exact_again_mean": round(float(np.abs(noise).mean()), 5),
        "quantile_99_exact_again_max": round(float(np.abs(noise).max()), 5),
    }


def forecasts(users: int, seed: int) -> QuantileFunction:
    """Forecasts (user, 4, 6) of users of many sizes."""
    rng = np.random.default_rng(seed)
    shape = (users, METRICS, STEPS)
    location = np.repeat(rng.lognormal(0, 1.5, (users, METRICS, 1)), STEPS, axis=2)
    scale = location * rng.lognormal(-1.5, 0.7, shape)
    tail, skew = rng.uniform(0.45, 1.0, (users, 1, 1, 1)), rng.uniform(-0.3, 0.5, (*shape, 1))
    offsets = np.sinh((np.arcsinh(Z) + skew) / tail)
    return QuantileFunction(location.astype(np.float32), scale.astype(np.float32), offsets.astype(np.float16))


def _dependence() -> Dependence:
    whole = BehaviourModel.load(DEFAULT_MODEL).dependence
    part = slice(0, METRICS)
    return Dependence(whole.shared[part], whole.metric_correlation[part, part], whole.step_correlation)


def _key(draws: int, seed: int, shard: int = 0) -> scenarios.ScenarioKey:
    return scenarios.ScenarioKey(b"bench", tick=1, shard=shard, scenarios=draws, seed=seed)


def _timed(call: Any) -> dict[str, float]:
    """Processor and wall seconds, the better of two."""
    best = (np.inf, np.inf)
    for _ in range(2):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    return {"cpu_s": round(best[0], 3), "wall_s": round(best[1], 3)}
