"""Demand, forecasts and scenarios of a trace's apps tick by tick, as profiler and simulator make them.

They do not depend on plans, so another process may compute them (`pipeline.backtest.forecast_process`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from models.behaviour.compiled_step import small_block
from models.behaviour.error_dependence import followed
from models.behaviour.lstm import BehaviourModel, State
from models.demand import collapsed_sampler, turnover
from models.demand.scenarios import ScenarioKey, by_loading
from models.metrics import EVENT_KINDS, METRICS, horizon_steps
from models.quantile_function import QuantileFunction
from models.tick import Tick
from models.totals import total
from pipeline.backtest.job import Arrays, Job
from pipeline.inputs import model_folder
from pipeline.stages.allocator import decide
from pipeline.stages.allocator.decide import AppTotals
from pipeline.stages.profiler.user_states import NAMES, Users
from pipeline.stages.simulator.app_dependence import DependenceTable
from pipeline.wire.demand import Demand

SHARD: Final = 0
CAPACITY: Final = 2_000_000  # users; a trace in memory has fewer


class AppForecast(NamedTuple):
    """Demand and forecasts of an app at a tick's end.

    Attributes:
        demand: measured in the tick, without scenarios.
        total: (METRICS, step) forecast of the app's total.
        metrics: of the scenarios.
        scenarios: (scenario, step, metric) of its users' sum, or a function that draws them.
    """

    demand: Demand
    total: QuantileFunction
    metrics: tuple[str, ...]
    scenarios: np.ndarray | Callable[[], np.ndarray]

    def drawn(self) -> AppForecast:
        """With scenarios."""
        return self._replace(scenarios=self.scenarios() if callable(self.scenarios) else self.scenarios)


class ForecastSource(Protocol):
    """Forecasts of consecutive rows."""

    def row(self, t: int) -> dict[str, AppForecast]:
        """Forecasts by app, of all apps with data in this row or an earlier one; rows are asked for in order."""
        ...

    def blocks(self) -> Arrays:
        """A snapshot: all that the next row depends on; of another process only at a day's end."""
        ...

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""
        ...


def model_of(folder: Path, users: int) -> BehaviourModel:
    """The model for steps of so many users; compiled once a process and block."""
    return model_folder.load_model(folder, small_block(users))


class ForecastPass:
    """The behaviour model over a job's users and apps' totals, and the dependence between users' errors.

    Args:
        job: what is simulated.
        model: forecasts users and totals, stepped together.
    """

    def __init__(self, job: Job, model: BehaviourModel) -> None:
        self.job, self.model = job, model
        self.states: dict[str, State] = {}  # by app, of its total
        self.turnover: dict[str, turnover.State] = {}  # by app
        self.users = Users(model, CAPACITY)
        self.dependence_table = DependenceTable(model.dependence)
        self._inside = np.zeros((len(job.apps), len(job.ids)), bool)
        for a, app in enumerate(job.apps):
            self._inside[a, job.members[app]] = True
        self._ids = np.array(job.ids, NAMES)
        self._by_id = np.argsort(self._ids, kind="stable")
        self._present = np.asarray(np.isfinite(job.values).any(-1) | np.isfinite(job.events).any(-1))

    def row(self, t: int) -> dict[str, AppForecast]:
        """See `ForecastSource`. Users and totals are stepped together: a row depends on itself alone, to the bit."""
        job, tick = self.job, self.job.first_tick + t
        now = np.flatnonzero(self._present[t]).tolist()
        ids = self._ids[now]
        rows, place = self.users.enter(ids, np.zeros(len(ids), int), [""], tick, job.tick_s)
        values = np.full((len(rows), len(METRICS)), np.nan, np.float32)
        events = np.full((len(rows), len(EVENT_KINDS)), np.nan, np.float32)
        saturated = np.zeros((len(rows), len(METRICS)), bool)
        values[place], events[place], saturated[place] = (
            job.values[t, now],
            job.events[t, now],
            job.saturated[t, now],
        )
        places = {name: self._of(name, rows) for name in job.apps}
        places = {name: of for name, of in places.items() if len(of) or name in self.states}
        if not places:
            return {}
        for name in places:
            self.states.setdefault(name, self.model.initial_state(1))
        before = self.users.take(rows)
        demands = {
            name: replace(
                _demand(values[of], events[of], saturated[of]),
                turnover=self.dependence_table.turnover(
                    name,
                    Tick(tick, job.tick_s),
                    self.users.ids[rows[of]].tobytes(),
                    values[of],
                    np.where(before["seen"][of] > 0, before["last"][of], np.nan),
                ),
            )
            for name, of in places.items()
        }
        for name, demand in demands.items():
            learnt_of = self.turnover.setdefault(name, turnover.initial_state())
            self.turnover[name], demands[name] = decide.settled(learnt_of, demand, job.tick_s)
        measured = AppTotals.of(list(demands.values()))
        totals = decide.together([self.states[name] for name in places])
        after, forecast, flags = self.model.step(
            {name: np.concatenate([before[name], totals[name]]) for name in before},
            np.concatenate([values, measured.estimated]),
            np.concatenate([events, measured.events]),
            np.concatenate([saturated, measured.saturated]),
            tick=tick,
            tick_s=job.tick_s,
        )
        users = len(rows)
        self.users.put(rows, {name: array[:users] for name, array in after.items()})
        self.states |= decide.apart({name: array[users:] for name, array in after.items()}, list(places))
        known = np.flatnonzero(np.isfinite(forecast.location[:users]).any(axis=(0, 2)))
        own = followed(tick, job.tick_s)
        forecasts: dict[str, AppForecast] = {}
        for a, (name, of) in enumerate(places.items()):
            learnt = self.dependence_table.learn(
                name, tick, self.users.ids[rows[of]].tobytes(), flags["scores"][of], own
            )
            draw = partial(
                _drawn,
                forecast[of][:, known],
                *learnt,
                known,
                ScenarioKey(name.encode(), tick, SHARD, job.scenarios, job.seed),
            )
            forecasts[name] = AppForecast(
                demands[name],
                forecast[users + a],
                tuple(METRICS[m] for m in known),
                draw,
            )
        self.dependence_table.forget(tick, job.tick_s)
        return forecasts

    def _of(self, app: str, rows: np.ndarray) -> np.ndarray:
        """Places in `rows` of an app's users."""
        columns = self._by_id[np.searchsorted(self._ids, self.users.ids[rows], sorter=self._by_id)]
        return np.flatnonzero(self._inside[self.job.apps.index(app), columns]) if len(rows) else columns

    def blocks(self) -> Arrays:
        """See `ForecastSource`."""
        users = self.users
        return {
            "ids": users.ids.view(np.uint8),
            "seen": users.seen,
            "copulas": np.frombuffer(b"".join(self.dependence_table.blocks()), np.uint8),
            **{
                f"turnover.{app}\n{key}": array
                for app, state in self.turnover.items()
                for key, array in state.items()
            },
            **{f"user.{name}": array for name, array in users.state.items()},
            **{
                f"app.{app}\n{key}": array
                for app, state in self.states.items()
                for key, array in state.items()
            },
        }

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """See `ForecastSource`."""
        users, ids = self.users, blocks["ids"].view(NAMES)
        slots = users.admit(ids, np.zeros(len(ids), int), [""], 0)
        users.seen[:] = blocks["seen"]
        users.put(slots, {name: blocks[f"user.{name}"] for name in users.state})
        self.dependence_table.restore([blocks["copulas"].tobytes()])
        for kind, states in (("app.", self.states), ("turnover.", self.turnover)):
            for key in blocks:
                if key.startswith(kind):
                    app, _, name = key.removeprefix(kind).partition("\n")
                    states.setdefault(app, {})[name] = blocks[key]


def _drawn(*given: Any) -> np.ndarray:
    """`by_loading` on NumPy, for another process: a module cannot be sent."""
    return by_loading(np, collapsed_sampler.simulate, *given)


def _demand(values: np.ndarray, events: np.ndarray, saturated: np.ndarray) -> Demand:
    """Demand of an app in a tick, without scenarios, from its users' values (user, ...)."""
    silent = Demand.silent((), len(horizon_steps(60)))
    if not len(values):
        return silent
    held = np.where(saturated & ~np.isnan(values), values, 0)
    return replace(
        silent,
        usage=total(values),
        saturated=total(held),
        rates=total(events),
        users=len(values),
        reporting=int(np.isfinite(values).any(axis=1).sum()),
    )
