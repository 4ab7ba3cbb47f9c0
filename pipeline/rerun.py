"""Apps of a trace through the stream's own steps, tick by tick, without Kafka; each lane's plans meet simulated supply.

One `Rerun` is what one worker would do for its apps: users' forecasts (`pipeline.profiler.Users` and the model's step),
what is learnt of their dependence, scenarios, the apps' totals, reconciliation and the plan (`pipeline.planning`). A
lane plans the same scenarios at a confidence of its own and lives on what its own instances did. Nothing of a tick is
read before it has passed: a plan at the end of tick t sees rows up to t, and serves from t + 1 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from models import collapsed, groups, reconciliation
from models.allocation import promised
from models.capacity import floor_demand, load, replicas
from models.dependence import followed
from models.distribution import QuantileFunction
from models.features import DAY_S, EVENT_KINDS, METRICS, horizon_steps
from models.lstm import BehaviourModel
from models.scenarios import by_loading, pack, unpack
from pipeline.barrier import Demand
from pipeline.copulas import Copulas
from pipeline.lanes import Arrays, Job, Lanes
from pipeline.planning import App, Heard, decision, states, take
from pipeline.simulator import total
from pipeline.users import NAMES, Users

SHARD: Final = 0
CAPACITY: Final = 2_000_000  # users; a trace in memory has fewer


class Rerun:
    """A worker's apps.

    Args:
        job: what is run.
        model: forecasts users and totals.
    """

    def __init__(self, job: Job, model: BehaviourModel) -> None:
        self.job, self.model = job, model
        self.users = Users(model, CAPACITY)
        self.copulas = Copulas(model.dependence)
        self.apps: dict[str, App] = {}
        self.common = reconciliation.initial_common()
        self.row = 0
        self.wanted, self.soon = np.ones((2, len(job.apps), len(job.levels)), np.int64)
        self.lanes = {
            (app, market): Lanes(job, app, market, [c for m, c in job.lanes if m == market])
            for app in job.apps
            for market in job.markets
        }
        self._inside = np.zeros((len(job.apps), len(job.ids)), bool)
        for a, app in enumerate(job.apps):
            self._inside[a, job.members[app]] = True
        self._ids = np.array(job.ids, NAMES)
        self._by_id = np.argsort(self._ids, kind="stable")
        self._there = np.asarray(np.isfinite(job.values).any(-1) | np.isfinite(job.events).any(-1))

    def run(self, progress: Callable[[int], None] = lambda row: None) -> Iterator[Arrays]:
        """What came of each day that is planned, from the present row on; a snapshot may be taken between two."""
        job = self.job
        length = max(1, DAY_S // job.tick_s)
        found: list[Arrays] = []
        while self.row < len(job.values):
            seen = self._tick(self.row)
            if self.row >= job.plan_from:
                found.append(seen)
            self.row += 1
            progress(self.row)
            if (self.row % length == 0 or self.row == len(job.values)) and found:
                yield {name: np.stack([one[name] for one in found]) for name in found[0]}
                found = []

    def _tick(self, t: int) -> Arrays:
        job, tick = self.job, self.job.first_tick + t
        planned = t >= job.plan_from
        if planned:
            for one in self.lanes.values():
                one.cloud.live(one.fleet, tick)
        outcome = self._outcome() if planned else {}
        demands, forecast, rows, heard = self._forecast(t)
        if not demands:
            return self._asked(outcome, {}) if planned else {}
        waiting = [name for name in demands if self.apps[name].reconciled["made"][0] == reconciliation.NONE]
        plans = planned and (t - job.plan_from) % job.every == 0
        names = list(demands) if plans else waiting if t >= job.learn_from else []
        own = followed(tick, job.tick_s)
        known = np.flatnonzero(np.isfinite(forecast.location[: len(rows)]).any(axis=(0, 2)))
        decided: dict[str, Any] = {}
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
        said = self._plan(decided, tick) if plans else {}
        for name in decided if plans else ():
            if demands[name].users:
                a = job.apps.index(name)
                self.wanted[a], self.soon[a] = self._needed(name, decided[name])
        return self._asked(outcome, said) if planned else {}

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

    def _plan(self, decided: Mapping[str, Any], tick: int) -> dict[tuple[str, str, int], Any]:
        """Every lane's plans; apps of one allocation group together, as the allocator has them."""
        said: dict[tuple[str, str, int], Any] = {}
        for market in self.job.markets:
            lanes = {name: self.lanes[name, market] for name in decided}
            of = {name: lanes[name].policy.allocation_group or name for name in lanes}
            for lane in range(len(next(iter(lanes.values())).confidences)):
                for group in sorted(set(of.values())):
                    members = {
                        name: self._member(decided[name], lanes[name], lane)
                        for name in lanes
                        if of[name] == group
                    }
                    for name, plan in groups.together(members).items():
                        said[name, market, lane] = plan.plan
                        lanes[name].memory[lane] = plan.memory
        for (name, market), one in self.lanes.items():
            if name in decided:
                for lane in range(len(one.confidences)):
                    counts = said[name, market, lane].counts
                    one.desired[lane] = [counts.get(o.offer_id, (0,))[0] for o in one.offers]
                one.follow(tick + 1)
        return said

    def _needed(self, app: str, decide: Any) -> np.ndarray:
        """(2, level) replicas that hold in so many of the scenarios, and carry present usage.

        Over the promise's steps, which is what to buy for; and over those before, until which nothing bought serves:
        what is ready is not released below them (`models.allocation`).
        """
        policy, scenarios, told = self.job.policies[app], decide.args[0], decide.keywords
        offers = self.job.offers[self.job.markets[0]][app]
        window, _ = promised(offers, policy, told["steps_s"], told["metrics"])
        needed = replicas(load(scenarios, told["metrics"], policy), policy)
        at = np.maximum(np.ceil(np.asarray(self.job.levels) * len(needed) - 1e-9).astype(int) - 1, 0)
        floor = replicas(
            load(floor_demand(told["usage"], told["saturated"]), told["metrics"], policy), policy
        )
        steps = (window, slice(0, max(1, window.start)))
        found = np.stack([np.sort(needed[:, some].max(axis=1))[at] for some in steps])
        return np.clip(found, floor, policy.limit)

    def _member(self, decide: Any, one: Lanes, lane: int) -> groups.Member:
        seen = one.observed(lane)
        confidence, memory = one.confidences[lane], one.memory[lane]
        return groups.Member(
            offers=one.offers,
            policy=replace(one.policy, confidence=confidence),
            running={offer: state.running for offer, state in seen.items()},
            decide=lambda offers, policy, draft: decide(
                offers=offers, observed=seen, policy=policy, memory=memory, draft=draft or self.job.draft
            ),
        )

    def _outcome(self) -> Arrays:
        """What was there in the tick that has passed, and its cost: (app, lane), lanes in the job's order."""
        found: dict[str, list[list[Any]]] = {"ready": [], "cost": [], "counts": []}
        for app in self.job.apps:
            of = [self.lanes[app, market] for market in self.job.markets]
            found["ready"].append([v for one in of for v in (one.fleet.least @ one.size).tolist()])
            found["cost"].append([v for one in of for v in (one.fleet.hours @ one.price).tolist()])
            found["counts"].append(of[0].fleet.least[0].tolist())
        widest = max(len(counts) for counts in found["counts"])
        counts = [row + [0] * (widest - len(row)) for row in found["counts"]]
        return {
            "ready": np.array(found["ready"], np.float32),
            "cost": np.array(found["cost"], np.float64),
            "counts": np.array(counts, np.int32),
        }

    def _asked(self, outcome: Arrays, said: Mapping[tuple[str, str, int], Any]) -> Arrays:
        """The outcome with what was decided at the end of the tick, and the first lane's required curves."""
        job, market = self.job, self.job.markets[0]
        asked = [[v for m in job.markets for v in self._replicas(app, m)] for app in job.apps]
        required = np.full((len(job.apps), len(job.steps), len(METRICS)), np.nan, np.float32)
        window = np.zeros((len(job.apps), 2), np.int16)
        held = np.full((len(job.apps), 3), np.nan)
        reasons = np.full(len(job.apps), "", "U240")
        for a, app in enumerate(job.apps):
            plan = said.get((app, market, 0))
            if plan is not None:
                required[a][:, [METRICS.index(m) for m in self.apps[app].metrics]] = plan.required
                window[a] = [job.steps.index(s // job.tick_s) for s in plan.window]
                held[a] = plan.confidence_planned, plan.feasible, plan.cost
                reasons[a] = ", ".join(plan.guardrails) + ("" if plan.feasible else f"; {plan.reason}")
        return outcome | {
            "asked": np.array(asked, np.float32),
            "wanted": self.wanted.astype(np.int32),
            "soon": self.soon.astype(np.int32),
            "required": required,
            "window": window,
            "plan": held,
            "reason": reasons,
        }

    def _replicas(self, app: str, market: str) -> list[int]:
        one = self.lanes[app, market]
        return (one.desired @ one.size).tolist()

    def blocks(self) -> Arrays:
        """A snapshot: all that the next tick depends on."""
        users = self.users
        found: Arrays = {
            "row": np.array(self.row),
            "wanted": self.wanted,
            "soon": self.soon,
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
        for (app, market), one in self.lanes.items():
            found |= {f"lane.{app}\n{market}\n{key}": array for key, array in one.blocks().items()}
        return found

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from one."""
        users, ids = self.users, blocks["ids"].view(NAMES)
        self.row, self.common = int(blocks["row"]), {name: blocks[f"common.{name}"] for name in self.common}
        self.wanted, self.soon = blocks["wanted"].copy(), blocks["soon"].copy()
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
        for (app, market), one in self.lanes.items():
            start = f"lane.{app}\n{market}\n"
            one.restore({k.removeprefix(start): v for k, v in blocks.items() if k.startswith(start)})


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
