"""Apps of a trace through the stream's own steps, tick by tick, without Kafka; each lane's plans meet simulated supply.

One `Rerun` is what one worker would do for its apps: users' forecasts (`pipeline.profiler.Users` and the model's step),
what is learnt of their dependence, scenarios, the apps' totals, reconciliation and the plan (`pipeline.planning`). A
lane plans the same scenarios at a confidence of its own and lives on what its own instances did. Nothing of a tick is
read before it has passed: a plan at the end of tick t sees rows up to t, and serves from t + 1 on.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from models import collapsed, reconciliation
from models.blocks import small_block
from models.dependence import followed
from models.distribution import QuantileFunction
from models.features import EVENT_KINDS, METRICS, horizon_steps
from models.lstm import BehaviourModel
from models.scenarios import by_loading, pack, unpack
from pipeline.barrier import Demand
from pipeline.copulas import Copulas
from pipeline.lanes import Arrays, Job
from pipeline.living import Living
from pipeline.planning import App, Decide, Heard, decision, states, take
from pipeline.simulator import total
from pipeline.users import NAMES, Users

SHARD: Final = 0
CAPACITY: Final = 2_000_000  # users; a trace in memory has fewer


def model_of(folder: Path, users: int) -> BehaviourModel:
    """For steps of so many users; loaded and compiled once a process and block: it takes ten seconds."""
    return _loaded(folder, small_block(users))


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, block: int) -> BehaviourModel:
    model = BehaviourModel.load(folder, block)
    gc.freeze()  # what is loaded stays: the collector takes half a second to look through it
    return model


class Rerun(Living):
    """A worker's apps.

    Args:
        job: what is run.
        model: forecasts users and totals.
    """

    def __init__(self, job: Job, model: BehaviourModel) -> None:
        super().__init__(job)
        self.model = model
        self.apps: dict[str, App] = {}
        self.users = Users(model, CAPACITY)
        self.copulas = Copulas(model.dependence)
        self.common = reconciliation.initial_common()
        self._inside = np.zeros((len(job.apps), len(job.ids)), bool)
        for a, app in enumerate(job.apps):
            self._inside[a, job.members[app]] = True
        self._ids = np.array(job.ids, NAMES)
        self._by_id = np.argsort(self._ids, kind="stable")
        self._there = np.asarray(np.isfinite(job.values).any(-1) | np.isfinite(job.events).any(-1))

    def decided(self, t: int, plans: bool) -> dict[str, tuple[Decide, int]]:
        """The row's forecasts and scenarios."""
        job, tick = self.job, self.job.first_tick + t
        demands, forecast, rows, heard = self._forecast(t)
        if not demands:
            return {}
        waiting = [name for name in demands if self.apps[name].reconciled["made"][0] == reconciliation.NONE]
        names = list(demands) if plans else waiting if t >= job.learn_from else []
        own = followed(tick, job.tick_s)
        known = np.flatnonzero(np.isfinite(forecast.location[: len(rows)]).any(axis=(0, 2)))
        decided: dict[str, Decide] = {}
        for a, name in enumerate(demands):
            place = self._of(name, rows)
            ids = self.users.ids[rows[place]].tobytes()
            learnt, loading = self.copulas.learn(name, tick, ids, heard[place], own)
            if name not in names:
                continue
            drawn = by_loading(
                np,
                collapsed.simulate,
                forecast[place][:, known],
                learnt,
                loading,
                known,
                app=name.encode(),
                tick=tick,
                shard=SHARD,
                scenarios=job.scenarios,
                seed=job.seed,
            )
            metrics = tuple(METRICS[m] for m in known)
            if not demands[name].users:
                metrics = self.apps[name].metrics
                drawn = np.zeros((64, len(job.steps), len(metrics)), np.float32)
            demand = replace(demands[name], scenarios=unpack(*pack(drawn)), metrics=metrics)
            first = self.lanes[name, job.markets[0]]
            decided[name] = decision(
                name,
                self.apps[name],
                demand,
                forecast[len(rows) + a],
                self.common,
                offers=first.offers,
                policy=first.policy,
                tick=tick,
                tick_s=job.tick_s,
                seed=job.seed,
            )
        self.copulas.forget(tick, job.tick_s)
        return {name: (decide, demands[name].users) for name, decide in decided.items()} if plans else {}

    def _forecast(self, t: int) -> tuple[dict[str, Demand], QuantileFunction, np.ndarray, np.ndarray]:
        """Step users and totals together: a row depends on itself alone, to the bit.

        Returns:
            what was heard of each app, forecasts of the users and then of the totals, slots and scores of the users.
        """
        job, tick = self.job, self.job.first_tick + t
        now = np.flatnonzero(self._there[t]).tolist()
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
        demands: dict[str, Demand] = {}
        for name in job.apps:
            of = self._of(name, rows)
            if len(of) or name in self.apps:
                demands[name] = _heard(values[of], events[of], saturated[of])
                self.apps.setdefault(
                    name, App(name, self.model.initial_state(1), reconciliation.initial_state(), {}, True)
                )
        if not demands:
            return {}, QuantileFunction(*(np.zeros((0, len(METRICS), 6)),) * 3), rows, values
        names = list(demands)
        heard = Heard.of([demands[name] for name in names])
        before = self.users.take(rows)
        totals = states(self.apps, names)
        after, forecast, flags = self.model.step(
            {name: np.concatenate([before[name], totals[name]]) for name in before},
            np.concatenate([values, heard.values]),
            np.concatenate([events, heard.events]),
            np.concatenate([saturated, heard.saturated]),
            tick=tick,
            tick_s=job.tick_s,
        )
        self.users.put(rows, {name: array[: len(rows)] for name, array in after.items()})
        of_totals = {name: array[len(rows) :] for name, array in after.items()}
        self.common = take(self.apps, names, of_totals, heard.outcome, self.common, tick, job.tick_s)
        return demands, forecast, rows, flags["scores"][: len(rows)]

    def _of(self, app: str, rows: np.ndarray) -> np.ndarray:
        """Places in `rows` of an app's users."""
        columns = self._by_id[np.searchsorted(self._ids, self.users.ids[rows], sorter=self._by_id)]
        return np.flatnonzero(self._inside[self.job.apps.index(app), columns]) if len(rows) else columns

    def blocks(self) -> Arrays:
        """A snapshot: all that the next tick depends on."""
        users = self.users
        found: Arrays = {
            **self.lane_blocks(),
            "ids": users.ids.view(np.uint8),
            "seen": users.seen,
            "copulas": np.frombuffer(b"".join(self.copulas.blocks()), np.uint8),
            **{f"common.{name}": array for name, array in self.common.items()},
            **{f"user.{name}": array for name, array in users.state.items()},
        }
        for name, app in self.apps.items():
            found |= {f"app.{name}\n{key}": array for key, array in app.state.items()}
            found |= {f"learnt.{name}\n{key}": array for key, array in app.reconciled.items()}
            found[f"metrics.{name}"] = np.array(app.metrics, "U16")
        return found

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from one."""
        users, ids = self.users, blocks["ids"].view(NAMES)
        self.restore_lanes(blocks)
        self.common = {name: blocks[f"common.{name}"] for name in self.common}
        slots = users.admit(ids, np.zeros(len(ids), int), [""], 0)
        users.seen[:] = blocks["seen"]
        users.put(slots, {name: blocks[f"user.{name}"] for name in users.state})
        self.copulas.restore([blocks["copulas"].tobytes()])
        for key in blocks:
            if key.startswith("metrics."):
                name = key.removeprefix("metrics.")
                state, learnt = (
                    {k.partition("\n")[2]: v for k, v in blocks.items() if k.startswith(f"{kind}.{name}\n")}
                    for kind in ("app", "learnt")
                )
                self.apps[name] = App(name, state, learnt, {}, True, tuple(blocks[key].tolist()))


def _heard(values: np.ndarray, events: np.ndarray, saturated: np.ndarray) -> Demand:
    """What a tick says of an app, as its scenarios would: users (user, ...) that are forecast."""
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
