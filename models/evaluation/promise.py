"""How often the stated confidence is kept, of apps made of a trace's users (docs/scoring.md, "Promise confidence")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.baselines.forecasters.residual import persistence
from models.behaviour import causal_pass, error_dependence
from models.behaviour.lstm import BehaviourModel
from models.capacity import floor_demand
from models.demand import collapsed_sampler, reconciliation
from models.demand.reconciliation import PROMISED, lower_bound
from models.demand.scenarios import by_loading, requirements
from models.evaluation import forecast_pass
from models.evaluation.forecast_scores import DRAWS, Scores
from models.metrics import DAY_S, METRICS, STEPS, horizon_steps
from models.quantile_function import LEVELS, QuantileFunction

SIZES: Final = (10, 25, 50)  # users of an app, each in so many groupings; and one app of all users
SUM: Final = "sum_of_users"
LEARNT_DAYS: Final = 4  # before the scored window, in which decisions are made and learnt from

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Promise:
    """Whether each decision's demand stayed within the required curves, at PROMISED.

    kept: (decision, app, promised); known: (decision, app), whether the demand of any step is known; day: (decision);
    users: (app)
    """

    kept: NDArray[np.bool_]
    known: NDArray[np.bool_]
    day: NDArray[np.int64]
    users: NDArray[np.int64]

    def table(self, seed: int = 0) -> list[dict[str, Any]]:
        """A row per confidence: share kept with its 95 % interval (bootstrap of days, all apps together), misses."""
        rng = np.random.default_rng(seed)
        days = np.unique(self.day)
        weights = rng.multinomial(len(days), [1 / len(days)] * len(days), DRAWS)
        rows: list[dict[str, Any]] = []
        for c, confidence in enumerate(PROMISED.tolist()):
            missed = self.known & ~self.kept[..., c]
            by_day = np.array(
                [[x[self.day == day].sum() for x in (missed, self.known)] for day in days.tolist()]
            )
            drawn = weights @ by_day
            low, high = np.quantile(1 - drawn[:, 0] / np.maximum(drawn[:, 1], 1), [0.025, 0.975])
            misses, known = int(missed.sum()), int(self.known.sum())
            allowed = (1 - confidence) * known
            rows.append(
                {
                    "confidence": confidence,
                    "decisions": known,
                    "kept": 1 - misses / max(known, 1),
                    "interval_95": [float(low), float(high)],
                    "misses": misses,
                    "allowed": allowed,
                    "misses_to_allowed": misses / max(allowed, 1e-9),
                    "kept_by_users": {
                        str(size): 1
                        - float(
                            missed[:, self.users == size].sum()
                            / max(self.known[:, self.users == size].sum(), 1)
                        )
                        for size in np.unique(self.users).tolist()
                    },
                }
            )
        return rows


def groupings(users: int, each: int, seed: int) -> list[NDArray[np.int64]]:
    """`each` drawn groupings of each of SIZES that there are users for, and the app of all."""
    rng = np.random.default_rng(seed)
    drawn = [
        np.sort(rng.choice(users, size, replace=False)) for size in SIZES if size < users for _ in range(each)
    ]
    return [*drawn, np.arange(users)]


class _Sum:
    """The sum of every user's own quantiles, of the decisions of one block, as a rival."""

    name = SUM

    def __init__(self, tick_s: int) -> None:
        self.steps = list(horizon_steps(tick_s))
        self.grids: dict[int, Array] = {}  # by row: (app, metric, step, 21)

    def quantiles(self, metric: int, rows: range, step: int, levels: NDArray[np.float64]) -> Array:
        """(level, row, app) at `scores.LEVELS`, the levels that are asked for."""
        k = self.steps.index(step)
        return forecast_pass.quantiles_of(
            _function(np.stack([self.grids[row][:, metric, k] for row in rows]))
        )


def _function(grid: Array) -> QuantileFunction:
    """Of values at the grid's levels, (..., 21)."""
    middle = grid[..., LEVELS // 2]
    return QuantileFunction(middle, np.ones_like(middle), grid - middle[..., None])


def totals(values: Array, apps: Sequence[NDArray[np.int64]]) -> Array:
    """Sums over the users of each app (tick, app, column) of (tick, user, column), NaN where nobody is."""
    some = [values[:, users] for users in apps]
    return np.stack(
        [np.where(np.isnan(v).all(1), np.nan, np.nansum(v, 1, dtype=np.float64)) for v in some], 1
    ).astype(np.float32)


def study(
    model: BehaviourModel,
    values: Array,
    events: Array,
    saturated: NDArray[np.bool_],
    apps: Sequence[NDArray[np.int64]],
    *,
    first_tick: int,
    tick_s: int,
    score_from: int,
    governed: Sequence[str],
    every: int,
    scenarios: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Promise, Scores]:
    """Plan apps over a trace as the stream would, and score the promise, and the marginals beside rivals.

    The promise is over all six steps; rivals are persistence of each app's total, and the sum of its users' quantiles.
    Decisions are made, and learnt from, every `every` ticks from the first on; the horizon in ticks makes them as
    frequent as those that the stream follows.

    Args:
        model: forecasts users and totals.
        values: (tick, user, 5), NaN where absent; `events` (tick, user, 4) and `saturated` (tick, user, 5).
        events: rates in 1/s.
        saturated: lower bounds.
        apps: each an array of users.
        first_tick: number of the first tick.
        tick_s: tick length in seconds.
        score_from: decisions made before this row warm up and are not scored.
        governed: metrics that the promise is about; those of them that there are.
        every: ticks from one decision to the next.
        scenarios: of each decision.
        seed: of scenarios and randomised PIT.
        progress: called with (ticks done, ticks).
    """
    rng = np.random.default_rng(seed)
    measured = np.flatnonzero(~np.isnan(values).all((0, 1)))
    inside = [int(m) for m in measured if METRICS[m] in governed]
    usage, of_saturated = totals(values, apps), totals(np.where(saturated, values, 0), apps)
    held = lower_bound(of_saturated, usage)
    proved = floor_demand(usage.astype(np.float64), np.nan_to_num(of_saturated).astype(np.float64))
    steps = list(horizon_steps(tick_s))
    total, length = len(values), max(1, DAY_S // tick_s)
    day = (first_tick + np.arange(total)) // length
    day -= day[min(score_from, total - 1)]
    scores = Scores.zeros([f"{len(users)} users {i}" for i, users in enumerate(apps)], int(day[-1]) + 1, [
        "persistence", SUM])  # fmt: skip
    sums = _Sum(tick_s)
    rivals = [persistence(usage, tick_s=tick_s), sums]
    states = [reconciliation.initial_state() for _ in apps]
    common = reconciliation.initial_common()
    learnt = [(np.zeros((), error_dependence.SUMS), error_dependence.users(len(users))) for users in apps]
    of_users = causal_pass.forecasts(model, values, events, saturated, first_tick=first_tick, tick_s=tick_s)
    of_totals = causal_pass.forecasts(
        model, usage, totals(events, apps), held, first_tick=first_tick, tick_s=tick_s
    )
    kept: list[NDArray[np.bool_]] = []
    known: list[NDArray[np.bool_]] = []
    made: list[int] = []
    pending: list[QuantileFunction] = []
    index = [measured.tolist().index(m) for m in inside]
    first = score_from % every + every * max(0, (score_from - LEARNT_DAYS * length) // every)
    for t, ((_, users, flags), (_, own, _)) in enumerate(zip(of_users, of_totals, strict=True)):
        for a in range(len(apps)):
            heard = np.where(held[t, a], np.nan, usage[t, a]).astype(np.float64)
            states[a], common = reconciliation.observe(
                states[a], common, heard, proved[t, a], first_tick + t, tick_s
            )
        if t >= first:
            followed = error_dependence.followed(first_tick + t, tick_s)
            learnt = [
                error_dependence.learn(*one, flags["scores"][members], followed, model.dependence)
                for one, members in zip(learnt, apps, strict=True)
            ]
        if t >= first and (t - first) % every == 0 and t + steps[-1] < total:
            grids = np.full((len(apps), len(METRICS), STEPS, LEVELS), np.nan, np.float32)
            met = np.zeros((len(apps), len(PROMISED)), bool)
            ahead = np.where(held, np.nan, usage)[np.array(steps) + t][..., inside]  # (step, app, governed)
            for a, members in enumerate(apps):
                demand = by_loading(
                    np,
                    collapsed_sampler.simulate,
                    users[members][:, measured],
                    error_dependence.estimate(learnt[a][0], model.dependence),
                    error_dependence.loadings(learnt[a][1]),
                    measured,
                    app=b"%d" % a,
                    tick=first_tick + t,
                    shard=0,
                    scenarios=scenarios,
                    seed=seed,
                )
                demand, states[a] = reconciliation.reconcile(
                    demand,
                    own[a, measured],
                    states[a],
                    common,
                    metrics=measured.tolist(),
                    governed=inside,
                    window=slice(0, STEPS),
                    confidence=float(PROMISED[1]),
                    tick=first_tick + t,
                    tick_s=tick_s,
                )
                grids[a, measured] = reconciliation.marginals(demand)
                for c, (curve, _) in enumerate(
                    requirements(demand, PROMISED.tolist(), slice(0, STEPS), index)
                ):
                    met[a, c] = not (ahead[:, a] > curve[:, index]).any()
            if t >= score_from:
                kept.append(met)
                known.append(np.asarray((~np.isnan(ahead)).any((0, 2))))
                made.append(t)
                pending.append(_function(grids))
                own_bounds = np.where(np.isfinite(users.location)[..., None], np.maximum(users.grid(), 0), 0)
                sums.grids[t] = np.stack([own_bounds[members].sum(0) for members in apps])
        if pending and (t == total - 1 or day[t + 1] != day[t]):
            rows = range(made[-len(pending)], t + 1, every)[: len(pending)]
            forecast_pass.add(scores, pending, rivals, usage, held, rows, int(day[t]), tick_s=tick_s, rng=rng)
            pending, sums.grids = [], {}
        progress(t + 1, total)
    sizes = np.array([len(members) for members in apps])
    return Promise(np.stack(kept), np.stack(known), day[made], sizes), scores


def report(promise: Promise, scores: Scores, seed: int = 0) -> dict[str, Any]:
    """The study's figures: `promise` (a row per confidence), scores of the marginals, and a `summary`."""
    rows, marginals = promise.table(seed), scores.table()
    summary = scores.summary(seed)
    by_metric: dict[str, list[float]] = {}
    for row in marginals:
        ratio = row["slack_ratio"]["persistence"]
        if ratio is not None and row["step"] in summary["steps"]:
            by_metric.setdefault(row["metric"], []).append(ratio)
    chosen = (
        "users",
        "ticks",
        "crps_ratio",
        "coverage_95",
        "bound_99",
        "slack_99_ratio",
        "slack_99_ratio_by_rival",
    )
    return {
        "promise": rows,
        "by_metric_and_step": marginals,
        "summary": {
            **{f"promise_{row['confidence']:g}": row["kept"] for row in rows},
            "misses_to_allowed": {f"{row['confidence']:g}": row["misses_to_allowed"] for row in rows},
            **{name if name != "users" else "apps": summary[name] for name in chosen},
            "slack_99_ratio_by_metric": {name: float(np.mean(ratios)) for name, ratios in by_metric.items()},
            "intervals_95": summary["intervals_95"],
        },
    }
