"""An installation's allocator and an actuator in event time, without Kafka: constant demand, a provider that can fail.

A tick is 10 s. At its end the plan is made from the observation of the tick before, its commands are followed by the
actuator's own executor, and what then is there is observed; so a replay goes, and live ticks alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from models.behaviour.lstm import BehaviourModel
from models.demand.scenarios import pack
from models.metrics import EVENT_KINDS, METRICS, horizon_steps
from models.planning.groups import Decision
from pipeline.inputs.store import SideInputs
from pipeline.providers.base import Observation, Provider, Result
from pipeline.security import signing_keys
from pipeline.settings import Settings
from pipeline.stages.actuator.executor import Executor
from pipeline.stages.allocator.agent import Allocator
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.commands import Target

TICK_S, FIRST = 10, 178_000_000
START_S = float((FIRST + 1) * TICK_S)
"""End of the first tick that is planned."""
CORES = 4.0
"""That the app uses in every tick; a replica is one core, an instance carries two."""


@dataclass
class Group:
    """A scaling group: `launched` are the times at which its instances were asked for."""

    launched: list[float] = field(default_factory=list[float])
    generation: int = 0
    command: str = ""
    epoch: int = -1


class Fleet(Provider):
    """Scaling groups whose faults are functions of the event time.

    Args:
        fault: raises what `apply` shall raise.
        startup_s: from launch to ready.
        grants: how many of the asked instances are granted.

    Attributes:
        crashed: how many of the instances that started are not ready, by the seconds since the start.
    """

    def __init__(
        self,
        fault: Callable[[Record, float], None] = lambda command, now_s: None,
        startup_s: float = 5.0,
        grants: Callable[[int], int] = lambda count: count,
    ) -> None:
        self.fault, self.startup_s, self.grants = fault, startup_s, grants
        self.groups: dict[str, Group] = {}
        self.shows_pending = True
        self.crashed: Callable[[float], int] = lambda at_s: 0
        self.calls: list[tuple[float, int]] = []

    def group(self, ref: str = "shop/node") -> Group:
        return self.groups.setdefault(ref, Group())

    def resize(self, count: int, now_s: float, command: str = "", ref: str = "shop/node") -> None:
        """Set the size, without a command: somebody else does."""
        group = self.group(ref)
        group.launched = group.launched[:count] + [now_s] * max(0, count - len(group.launched))
        group.generation, group.command = group.generation + 1, command

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        group = self.group(target.ref)
        ready = sum(now_s >= at_s + self.startup_s for at_s in group.launched)
        ready = max(0, ready - self.crashed(now_s - START_S))
        return Observation(
            ready=ready,
            pending=len(group.launched) - ready if self.shows_pending else 0,
            allocatable={"cpu": 2.0},
            generation=group.generation,
            command_id=group.command,
            managed_by="leadtime" if group.command else "kubectl",
        )

    def apply(self, command: Record, now_s: float) -> Result:
        self.calls.append((now_s - START_S, command["desired"]))
        self.fault(command, now_s - START_S)
        ref = command["target"]["ref"]
        before, granted = len(self.group(ref).launched), self.grants(command["desired"])
        self.resize(granted, now_s, command["id"], ref)
        generation = self.group(ref).generation
        return Result(before, granted, now_s, generation, partial=granted != command["desired"])


class Inputs(SideInputs):
    """Side inputs without Kafka, which wait for nothing."""

    def wait_observed(self, app: str, tick: int, wait_s: float, expected: Iterable[str] = ()) -> bool:
        return True

    def put(self, topic: str, name: str, record: Record) -> None:
        self._take(topic, DEFAULT.encode(name, record))


def policy(**fields: Any) -> Record:
    return {
        "app": "shop", "version": 1, "valid_from_tick": 0, "mode": "auto", "allocation_group": "shop",
        "governed": ["cpu"], "unit": [{"metric": "cpu", "value": 1.0}], "min": 1, "max": 50, "hold_s": 0.0,
    } | fields  # fmt: skip


def price(offer: str = "node", amount: str = "0.10", **fields: Any) -> Record:
    return {
        "offer_id": offer, "version": 1, "valid_from_tick": 0, "provider": "fleet", "tier": "ON_DEMAND",
        "instance_type": "m", "price": Decimal(amount), "pool": offer, "region": "r", "zone": "z",
        "capacity": [{"metric": "cpu", "value": 2.0}],
        "startup_p50_s": 5.0, "startup_p90_s": 8.0, "startup_p99_s": 10.0,
    } | fields  # fmt: skip


class Installation:
    """Allocator, actuator and provider, a tick after the other.

    Attributes:
        plans, commands: published, by tick.
        lost: whether a command of so many seconds after the start never reaches the actuator.
        down: whether the actuator is down then: commands wait until it is back, nothing is observed.
    """

    def __init__(
        self,
        model: BehaviourModel,
        settings: Settings,
        fleet: Fleet,
        policies: Iterable[Record] = (),
        prices: Iterable[Record] = (),
    ) -> None:
        self.settings, self.fleet = settings, fleet
        self.inputs = Inputs(settings)
        for record in policies or [policy()]:
            self.inputs.put("policies", "policy", record)
        self.offers = [*(prices or [price()])]
        for record in self.offers:
            self.inputs.put("prices", "price", record)
        self.model, self.key = model, signing_keys.signing_key(settings)
        self.plans: list[Record] = []
        self.commands: list[Record] = []
        self.results: list[Record] = []
        self.decided: list[Decision] = []
        self.lost: Callable[[float], bool] = lambda at_s: False
        self.down: Callable[[float], bool] = lambda at_s: False
        self.actuator_starts()
        self.waiting: list[Record] = []
        self.scenarios: list[bytes] = []
        self.allocator = self.allocators()
        self.observe(FIRST - 1)

    def actuator_starts(self) -> None:
        """With an empty ledger."""
        self.executor = Executor({"fleet": self.fleet}, signing_keys.keyring(self.settings))

    def allocators(self) -> Allocator:
        return Allocator(0, self.model, self.inputs, DEFAULT, self._publish, self.key, self.settings)

    def _publish(self, topic: str, name: str, record: Record, **_: Any) -> None:
        decoded = DEFAULT.decode(DEFAULT.encode(name, record))[1]
        if topic == "plans":
            self.plans.append(decoded)
        elif topic == "commands":
            self.commands.append(decoded)
            self.waiting.append(decoded)

    def observe(self, tick: int) -> None:
        now_s = float((tick + 1) * TICK_S)
        for offer in self.offers:
            target = Target("fleet", f"shop/{offer['offer_id']}", region="r")
            record = self.executor.observe(target, tick, TICK_S, now_s)
            if record is not None:
                self.inputs.put("capacity.observed", "capacity_observed", record)

    def tick(self, number: int, cores: float = CORES) -> Record:
        """Plan a tick and follow its commands; returns the plan."""
        now_s = float((FIRST + number + 1) * TICK_S)
        for value in scenario(self.model, self.settings, FIRST + number, cores):
            self.scenarios.append(value)
            self.allocator.fold(value)
        self.follow(now_s)
        return self.plans[-1]

    def follow(self, now_s: float) -> None:
        at_s = now_s - START_S
        if self.down(at_s):
            return
        outcomes = self.executor.retry(now_s)
        for command in self.waiting:
            if not self.lost(command["not_before"].timestamp() - START_S):
                outcomes += self.executor.submit(command, now_s)
        self.waiting = []
        for _, result in outcomes:
            self.executor.note(result)
            self.results.append(result)
        self.observe(int(now_s / TICK_S) - 1)

    def run(self, ticks: int, before: Callable[[float], None] = lambda at_s: None) -> list[Record]:
        """So many ticks; `before` each is told the seconds since the start."""
        for _ in range(ticks):
            number = len(self.plans)
            before(float(number * TICK_S))
            self.tick(number)
        return self.plans

    def issued(self) -> list[tuple[int, int]]:
        """Seconds after the start at which each command was sent, and its count."""
        return [((command["epoch"] - FIRST) * TICK_S, command["desired"]) for command in self.commands]

    def state(self, plan: Record, offer: str = "node") -> Record:
        return next(row for row in plan["capacity"] if row["offer_id"] == offer)


def scenario(model: BehaviourModel, settings: Settings, tick: int, cores: float) -> list[bytes]:
    """Scenarios of one shard in which the app uses so many cores, give or take 5 %, and the shard's marker."""
    steps = [step * TICK_S for step in horizon_steps(TICK_S)]
    factor = np.random.default_rng(tick).normal(1.0, 0.05, (settings.scenarios, len(steps), 1))
    packed, scale = pack((cores * factor).astype(np.float32))
    usage = np.full(len(METRICS), np.nan)
    usage[METRICS.index("cpu")] = cores
    record = {
        "app": "shop", "allocation_group": "shop", "shard": 0, "seq": tick - FIRST, "tick": tick, "tick_s": TICK_S,
        "steps": steps, "metrics": ["cpu"], "users": 4, "reporting": 4, "scenarios": settings.scenarios,
        "scale": scale.tobytes(), "demand": packed.tobytes(), "observed": usage[[METRICS.index("cpu")]].tobytes(),
        "saturated": np.zeros(1).tobytes(), "user_quantiles": None, "kinds": list(EVENT_KINDS),
        "rates": np.full(len(EVENT_KINDS), np.nan).tobytes(), "model_id": model.model_id,
    }  # fmt: skip
    marker = {"shard": 0, "seq": tick - FIRST, "tick": tick, "tick_s": TICK_S, "apps": ["shop"]}
    return [DEFAULT.encode("scenario", record), DEFAULT.encode("marker", marker)]
