"""How often the stated confidence is kept, of apps made of a trace's users (docs/scoring.md, "Promise confidence")."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.baselines.forecasters.residual import persistence
from models.behaviour import causal_pass, error_dependence
from models.behaviour.lstm import BehaviourModel
from models.demand import collapsed_sampler, reconciliation
from models.demand.reconciliation import PROMISED
from models.demand.scenarios import ScenarioKey, by_loading, requirements
from models.evaluation import forecast_pass
from models.evaluation.forecast_scores import DRAWS, Scores
from models.evaluation.trace_window import TraceWindow
from models.metrics import DAY_S, METRICS, STEPS, horizon_steps
from models.quantile_function import LEVELS, QuantileFunction
from models.totals import total

SIZES: Final = (10, 25, 50)  # users of an app; beside these one app of all users
SUM: Final = "sum_of_users"
LEARNT_DAYS: Final = 4  # days before the scored window in which decisions are made and learnt from

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
    """Users (user) of artificial apps: `each` drawn at random for every size of SIZES up to `users`, and all users."""
    rng = np.random.default_rng(seed)
    drawn = [
        np.sort(rng.choice(users, size, replace=False)) for size in SIZES if size < users for _ in range(each)
    ]
    return [*drawn, np.arange(users)]


class _Sum:
    """A rival that sums every user's own quantiles; it has the decisions of one block."""

    name = SUM

    def __init__(self, tick_s: int) -> None:
        self.steps = list(horizon_steps(tick_s))
        self.grids: dict[int, Array] = {}  # by row: (app, metric, step, 21)

    def quantiles(self, metric: int, rows: range, step: int, levels: NDArray[np.float64]) -> Array:
        """Quantiles (level, row, app); `levels` must be those of `models.evaluation.forecast_scores.LEVELS`."""
        k = self.steps.index(step)
        return forecast_pass.quantiles_of(
            _function(np.stack([self.grids[row][:, metric, k] for row in rows]))
        )


def _function(grid: Array) -> QuantileFunction:
    """The quantile function of values at the grid's levels, (..., 21)."""
    middle = grid[..., LEVELS // 2]
    return QuantileFunction(middle, np.ones_like(middle), grid - middle[..., None])


def totals(values: Array, apps: Sequence[NDArray[np.int64]]) -> Array:
    """Sums over each app's users, (tick, app, column), of values (tick, user, column); NaN where none is measured."""
    by_app = [values[:, users] for users in apps]
    return np.stack([total(v, axis=1) for v in by_app], 1).astype(np.float32)


class _Planner:
    """Plans apps made of a trace's users, learning from tick to tick as the stream does.

    Attributes:
        apps: each an array of users.
        metrics: metrics of the trace, as indices of METRICS; `governed`: those of them that the promise covers.
        usage: (tick, app, 5) totals; `measured`: the demand that they show.
        states, common: state of reconciliation, of each app and of all apps together.
        learnt: state of each app's learnt dependence between its users' errors.
    """

    def __init__(
        self,
        model: BehaviourModel,
        trace: TraceWindow,
        apps: Sequence[NDArray[np.int64]],
        governed: Sequence[str],
    ) -> None:
        self.model, self.trace, self.apps = model, trace, apps
        self.metrics = np.flatnonzero(~np.isnan(trace.values).all((0, 1)))
        self.governed = [int(m) for m in self.metrics if METRICS[m] in governed]
        self.usage = totals(trace.values, apps)
        held = totals(np.where(trace.saturated, trace.values, 0), apps)
        self.measured = reconciliation.measured(self.usage, held)
        self.states = [reconciliation.initial_state() for _ in apps]
        self.common = reconciliation.initial_common()
        self.learnt = [
            (np.zeros((), error_dependence.SUMS), error_dependence.users(len(users))) for users in apps
        ]

    def forecasts(self) -> Iterator[tuple[QuantileFunction, QuantileFunction, NDArray[Any]]]:
        """For each tick the users' forecasts (user, 5, 6), the totals' (app, 5, 6), and the users' error scores."""
        trace, tick = self.trace, {"first_tick": self.trace.first_tick, "tick_s": self.trace.tick_s}
        events = totals(trace.events, self.apps)
        of_users = causal_pass.forecasts(self.model, trace.values, trace.events, trace.saturated, **tick)
        of_totals = causal_pass.forecasts(self.model, self.usage, events, self.measured.bounded, **tick)
        for (_, users, flags), (_, own, _) in zip(of_users, of_totals, strict=True):
            yield users, own, flags["scores"]

    def observe(self, t: int) -> None:
        """Compare earlier decisions with the usage of row t."""
        tick, tick_s = self.trace.first_tick + t, self.trace.tick_s
        for a in range(len(self.apps)):
            known = self.measured.known[t, a].astype(np.float64)
            self.states[a], self.common = reconciliation.observe(
                self.states[a], self.common, known, self.measured.proved[t, a], tick, tick_s
            )

    def learn(self, t: int, scores: NDArray[Any]) -> None:
        """Learn each app's dependence from the scores of its users' errors in row t."""
        followed = error_dependence.followed(self.trace.first_tick + t, self.trace.tick_s)
        self.learnt = [
            error_dependence.learn(*of_app, scores[members], followed, self.model.dependence)
            for of_app, members in zip(self.learnt, self.apps, strict=True)
        ]

    def decide(
        self, a: int, t: int, users: QuantileFunction, own: QuantileFunction, *, scenarios: int, seed: int
    ) -> Array:
        """Reconciled scenarios (scenario, step, metric) of an app's demand after row t, kept for `observe`."""
        tick = self.trace.first_tick + t
        demand = by_loading(
            np,
            collapsed_sampler.simulate,
            users[self.apps[a]][:, self.metrics],
            error_dependence.estimate(self.learnt[a][0], self.model.dependence),
            error_dependence.loadings(self.learnt[a][1]),
            self.metrics,
            ScenarioKey(b"%d" % a, tick, shard=0, scenarios=scenarios, seed=seed),
        )
        demand, self.states[a] = reconciliation.reconcile(
            demand,
            own[a, self.metrics],
            self.states[a],
            self.common,
            reconciliation.Decision(
                self.metrics.tolist(),
                self.governed,
                window=slice(0, STEPS),
                confidence=float(PROMISED[1]),
                tick=tick,
                tick_s=self.trace.tick_s,
            ),
        )
        return demand

    def ahead(self, t: int) -> NDArray[Any]:
        """Demand of the governed metrics at the steps after row t, (step, app, governed), NaN where not known."""
        return self.measured.known[np.array(horizon_steps(self.trace.tick_s)) + t][..., self.governed]

    def kept(self, demands: Sequence[Array], ahead: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether demand `ahead` stayed within each app's required curves at PROMISED, (app, promised)."""
        index = [self.metrics.tolist().index(m) for m in self.governed]
        kept = np.zeros((len(demands), len(PROMISED)), bool)
        for a, demand in enumerate(demands):
            for c, (curve, _) in enumerate(requirements(demand, PROMISED.tolist(), slice(0, STEPS), index)):
                kept[a, c] = not (ahead[:, a] > curve[:, index]).any()
        return kept

    def marginals(self, demands: Sequence[Array]) -> QuantileFunction:
        """Marginal distributions of each app's scenarios, (app, 5, step)."""
        grids = np.full((len(demands), len(METRICS), STEPS, LEVELS), np.nan, np.float32)
        for a, demand in enumerate(demands):
            grids[a, self.metrics] = reconciliation.marginals(demand)
        return _function(grids)


class _Outcomes:
    """Collects the scored decisions: whether each is kept, and the marginals scored beside rivals a day at a time.

    Args:
        planner: made the decisions.
        trace: of its users.
        every: ticks from one decision to the next.
        seed: of the randomised PIT.

    Attributes:
        scores: of the marginals, up to the last day that has ended.
    """

    def __init__(self, planner: _Planner, trace: TraceWindow, every: int, seed: int) -> None:
        self._planner, self._every, self._day = planner, every, trace.days()
        self._sums = _Sum(trace.tick_s)
        rivals = [persistence(planner.usage, tick_s=trace.tick_s), self._sums]
        names = [f"{len(users)} users {i}" for i, users in enumerate(planner.apps)]
        self.scores = Scores.zeros(names, int(self._day[-1]) + 1, [rival.name for rival in rivals])
        self._scorer = forecast_pass.Scorer(
            self.scores,
            rivals,
            planner.usage,
            planner.measured.bounded,
            trace.tick_s,
            np.random.default_rng(seed),
        )
        self._kept: list[NDArray[np.bool_]] = []
        self._known: list[NDArray[np.bool_]] = []
        self._made: list[int] = []
        self._unscored: list[QuantileFunction] = []

    def add(self, t: int, users: QuantileFunction, demands: Sequence[Array]) -> None:
        """Add the decisions after row t: the users' forecasts (user, 5, 6), and each app's scenarios of `decide`."""
        ahead = self._planner.ahead(t)
        self._kept.append(self._planner.kept(demands, ahead))
        self._known.append(np.asarray((~np.isnan(ahead)).any((0, 2))))
        self._made.append(t)
        self._unscored.append(self._planner.marginals(demands))
        own_bounds = np.where(np.isfinite(users.location)[..., None], np.maximum(users.grid(), 0), 0)
        self._sums.grids[t] = np.stack([own_bounds[members].sum(0) for members in self._planner.apps])

    def end_tick(self, t: int) -> None:
        """Score the marginals of a day whose last row is t."""
        count = len(self._unscored)
        if count and (t == len(self._day) - 1 or self._day[t + 1] != self._day[t]):
            rows = range(self._made[-count], t + 1, self._every)[:count]
            self._scorer.add(self._unscored, rows, int(self._day[t]))
            self._unscored, self._sums.grids = [], {}

    def promise(self) -> Promise:
        """Whether each decision added was kept."""
        sizes = np.array([len(members) for members in self._planner.apps])
        return Promise(np.stack(self._kept), np.stack(self._known), self._day[self._made], sizes)


def study(
    model: BehaviourModel,
    trace: TraceWindow,
    apps: Sequence[NDArray[np.int64]],
    *,
    governed: Sequence[str],
    every: int,
    scenarios: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Promise, Scores]:
    """Plan apps over a trace as the stream would, and score the promise, and the marginals beside rivals.

    The promise covers all six steps; rivals are persistence of each app's total, and the sum of its users' quantiles.
    Decisions are made, and learnt from, every `every` ticks; with the horizon in ticks that is as often as the stream
    learns from its own.

    Args:
        model: forecasts users and totals.
        trace: of the users.
        apps: each an array of users.
        governed: metrics that the promise covers; those that the trace lacks are ignored.
        every: ticks from one decision to the next.
        scenarios: of each decision.
        seed: of scenarios and randomised PIT.
        progress: called with (ticks done, ticks).
    """
    planner = _Planner(model, trace, apps, governed)
    outcomes = _Outcomes(planner, trace, every, seed)
    tick_s, score_from, total = trace.tick_s, trace.score_from, len(trace.values)
    learnt_rows = LEARNT_DAYS * max(1, DAY_S // tick_s)
    first = score_from % every + every * max(0, (score_from - learnt_rows) // every)
    last = total - horizon_steps(tick_s)[-1]
    for t, (users, own, errors) in enumerate(planner.forecasts()):
        planner.observe(t)
        if t >= first:
            planner.learn(t, errors)
        if first <= t < last and (t - first) % every == 0:
            demands = [
                planner.decide(a, t, users, own, scenarios=scenarios, seed=seed) for a in range(len(apps))
            ]
            if t >= score_from:
                outcomes.add(t, users, demands)
        outcomes.end_tick(t)
        progress(t + 1, total)
    return outcomes.promise(), outcomes.scores


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
