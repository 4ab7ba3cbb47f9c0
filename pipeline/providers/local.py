"""Simulated cloud in this process: start-up times, failed launches, spot interruptions, draining, billing.

Nothing happens by itself: a target's life is a discrete-event simulation on event time. Each instance draws
its whole fate when it is launched (when it is ready or fails, when it is interrupted), from its serial number
and the seed alone, so that the answer at a moment does not depend on how often, or in which steps, was asked
before. An instance that fails or is interrupted is followed by a successor, so that the desired count is
reached again.

State is one JSON file a target, replaced whole, after each change: killed between any two lines it is as it
was before the command or after it, and the repeated command is answered with the stored result.

Targets of a group are nodes that its apps share, where apps have replicas on them (`local_pool`).
"""

import fcntl
import time
from collections.abc import Callable
from dataclasses import asdict
from math import inf
from pathlib import Path

from models.evaluation.instance_life import billed_s, interruption_after_s, remaining_s, startup_s
from models.random_streams import uniform
from pipeline import folders
from pipeline.errors import Rejected, Retryable, UsageError
from pipeline.providers.base import Observation, Provider, Record, Result
from pipeline.providers.local_instances import (
    KEPT_RESULTS,
    KEPT_S,
    Faults,
    Instance,
    LocalOffer,
    State,
    file_of,
)
from pipeline.providers.local_pool import Node, Pools
from pipeline.providers.local_replicas import ReplicaSet
from pipeline.settings import Settings
from pipeline.wire.commands import Target


class LocalProvider(Provider):
    """Simulated cloud with its state in one folder.

    Args:
        folder: of its state; one process at a time uses it.
        tick_s: for the ticks from which an offer's versions are valid.
        seed: of every draw.
        faults: what goes wrong.
        sleep: how a hanging call spends its time.

    Raises:
        UsageError: another process uses the folder, or it cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tick_s: int,
        seed: int = 0,
        faults: Faults | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder, self.tick_s, self.seed, self.sleep = folder, tick_s, seed, sleep
        self.faults = faults or Faults()
        folders.make(folder, "data folder")
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UsageError(f"another actuator uses {folder}: stop it first") from None
        self._offers: dict[str, list[LocalOffer]] = {}
        self._saved: dict[str, State | None] = {}
        self._views: dict[str, State] = {}
        self._pools = Pools(folder, self._nodes, lambda: self.faults.replica_startup_s)

    def close(self) -> None:
        """Release the lock of the folder."""
        self._lock.close()

    def offered(self, price: Record) -> None:
        """Keep every version of an offer; the newest that is valid at a launch decides its fate."""
        versions = self._offers.setdefault(price["offer_id"], [])
        offer = LocalOffer.of(price)
        versions[:] = sorted(
            [*(known for known in versions if known.version != offer.version), offer],
            key=lambda known: (known.valid_from_tick, known.version),
        )

    def start(self, target: Target, count: int, at_s: float) -> None:
        """Begin with so many ready instances at `at_s`; a target that is known already stays as it is."""
        if self._load(target.ref) is not None:
            return
        state = State(started_s=at_s, clock_s=at_s, desired=count, changes=[(at_s, 1, "")])
        for _ in range(count):
            self._launch(state, target, at_s, running=True)
        self._save(target.ref, state)
        self._pools.changed(target.app, at_s)

    def start_replicas(self, target: Target, wanted: ReplicaSet, at_s: float) -> None:
        """Begin with replicas that serve at `at_s`, as far as nodes that are there have room; likewise."""
        self._pools.start(target, wanted, at_s)

    def can_share_nodes(self) -> bool:
        """It can: loads what places replicas, which may take some seconds."""
        self._pools.load()
        return True

    def apply(self, command: Record, now_s: float) -> Result:
        """Grow by launching, shrink by draining, of shared nodes the emptiest first; see `Provider.apply`."""
        target = Target.of(command)
        if target.is_replicas:
            return self._apply_replicas(target, command, now_s)
        stored = self._load(target.ref)
        if stored is not None and command["id"] in stored.results:
            return Result(**stored.results[command["id"]])
        offer = self._offer(target, now_s)
        self._misbehave(target, command, now_s)
        if stored is not None and command["epoch"] < stored.epoch:
            raise Rejected("older-epoch")
        if (
            offer.tier == "RESERVED"
            and offer.owned_count is not None
            and command["desired"] > offer.owned_count
        ):
            raise Rejected(f"only {offer.owned_count} are reserved")
        state = self._at(target, now_s)
        state = State(started_s=now_s, clock_s=now_s) if state is None else state.copy()
        now_s = max(now_s, state.clock_s)
        state.clock_s, state.epoch = now_s, command["epoch"]
        before, generation = state.desired, state.changes[-1][1] if state.changes else 0
        state.desired = command["desired"]
        if partial := self._uniform(command["id"], "partial") < self.faults.partial:
            state.desired = before + (state.desired - before) // 2
        for _ in range(before, state.desired):
            self._launch(state, target, now_s)
        self._release(state, target, now_s, before - state.desired, command)
        if state.desired != before or not state.changes:
            state.changes.append((now_s, generation + 1, command["id"]))
        request_id = f"local-{command['id'][:8]}"
        result = Result(before, state.desired, now_s, state.changes[-1][1], request_id, partial)
        state.results[command["id"]] = asdict(result)
        self._forget(state, target, offer)
        self._save(target.ref, state)
        self._pools.changed(target.app, now_s)
        return result

    def _apply_replicas(self, target: Target, command: Record, now_s: float) -> Result:
        stored = self._pools.result(target.ref, command["id"])
        if stored is not None:
            return stored
        self._misbehave(target, command, now_s)
        partial = self._uniform(command["id"], "partial") < self.faults.partial
        return self._pools.apply(command, now_s, partial=partial)

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """Any moment from a day before the last change on."""
        if target.is_replicas:
            return self._pools.observe(target.ref, now_s, since_s)
        offer = self._offer(target, now_s)
        state = self._at(target, now_s)
        if state is None:
            return Observation(0, 0, offer.allocatable, generation=0, least_ready=0, billed_h=0.0)
        states = [instance.state(now_s) for instance in state.instances]
        current = next((change for change in reversed(state.changes) if change[0] <= now_s), (now_s, 0, ""))
        return Observation(
            ready=states.count("ready"),
            pending=states.count("pending"),
            draining=states.count("draining"),
            failed=states.count("failed"),
            interrupted=states.count("interrupted"),
            allocatable=offer.allocatable,
            generation=current[1],
            command_id=current[2],
            pending_ready_s=tuple(
                sorted(
                    remaining_s(offer.startup(), now_s - instance.requested_s, self.faults.startup)
                    for instance, what in zip(state.instances, states, strict=True)
                    if what == "pending"
                )
            ),
            least_ready=None if since_s is None else self.least_ready(target, since_s, now_s),
            billed_h=self._billed_s(state, offer, now_s) / 3600,
        )

    def least_ready(self, target: Target, from_s: float, to_s: float) -> int:
        """The least number of ready instances at any moment of [from_s, to_s)."""
        state = self._at(target, to_s)
        if state is None:
            return 0
        # The number falls only where an instance leaves, so the least is at the start or at such a moment.
        moments = {from_s}
        for instance in state.instances:
            moments.update(at_s for at_s in (instance.leaves_s, instance.released_s) if from_s < at_s < to_s)
        return min(sum(instance.state(at_s) == "ready" for instance in state.instances) for at_s in moments)

    def billed_h(self, target: Target, now_s: float) -> float:
        """Instance-hours billed up to `now_s`.

        On-demand and spot: from the launch request to the end, each at least the offer's billing minimum.
        Reserved: all that is owned, since the target's start, used or not.
        """
        return self.observe(target, now_s).billed_h or 0.0

    # The simulation.

    def _at(self, target: Target, now_s: float) -> State | None:
        """The target's state with all that has happened up to `now_s`; None before its start."""
        view = self._views.get(target.ref)
        if view is None or view.clock_s > now_s:
            saved = self._load(target.ref)
            if saved is None:
                return None
            view = self._views[target.ref] = saved.copy()
        while True:
            leaving = [
                instance
                for instance in view.instances
                if instance.leaves_s <= now_s
                and instance.leaves_s < instance.released_s
                and not instance.succeeded
            ]
            if not leaving:
                break
            first = min(leaving, key=lambda instance: (instance.leaves_s, instance.serial))
            first.succeeded = True
            self._launch(view, target, first.leaves_s)
        view.clock_s = max(view.clock_s, now_s)
        return view

    def _launch(self, state: State, target: Target, at_s: float, *, running: bool = False) -> None:
        """Add one instance; `running`: it is ready at once."""
        offer, faults = self._offer(target, at_s), self.faults
        state.serial += 1

        def draw(what: str) -> float:
            return self._uniform(target.ref, str(state.serial), what)

        pending_s = startup_s(offer.startup(), draw("startup")) * faults.startup
        failure = offer.launch_failure if faults.launch_failure is None else faults.launch_failure
        lasting = target.ref in faults.permanent
        ready_s = at_s if running else at_s + pending_s
        if not running and (lasting or draw("failure") < failure):
            given_up_s = inf if lasting else ready_s + faults.launch_retry_s
            state.instances.append(Instance(state.serial, at_s, inf, leaves_s=given_up_s, ends_s=ready_s))
            return
        rate = faults.interruption_h if faults.interruption_h is not None and offer.tier == "SPOT" else None
        rate = offer.interruption_h if rate is None else rate
        notice_s = ready_s + interruption_after_s(rate, draw("interruption"))
        state.instances.append(
            Instance(state.serial, at_s, ready_s, leaves_s=notice_s, ends_s=notice_s + offer.notice_s)
        )

    def _release(self, state: State, target: Target, now_s: float, count: int, command: Record) -> None:
        """Let `count` go: what does not serve (failed, pending), then the emptiest shared nodes, by the victim rule."""
        rank = {"failed": 0, "pending": 1, "ready": 2}
        age = 1 if command["victim_rule"] == "OLDEST" else -1
        live = [instance for instance in state.instances if instance.state(now_s) in rank]
        use = self._pools.use(target.app, now_s) if count > 0 and self._pools.has(target.app) else {}

        def order(instance: Instance) -> tuple[int, float, int]:
            used = use.get(_node_name(target.offer_id, instance), 0.0)
            return rank[instance.state(now_s)], used, age * instance.serial

        for instance in sorted(live, key=order)[: max(count, 0)]:
            instance.drain_s = command["drain_s"] if instance.state(now_s) == "ready" else 0.0
            instance.released_s = now_s

    def _nodes(self, group: str, to_s: float) -> list[Node]:
        """A group's nodes that were launched by `to_s`, the oldest first, which are filled first."""
        nodes: list[tuple[float, str, int, Node]] = []
        for offer_id in self._offers:
            target = Target("local", f"{group}/{offer_id}")
            state = self._at(target, to_s)
            for instance in state.instances if state else ():
                offer = self._offer(target, instance.requested_s)
                node = Node(_node_name(offer_id, instance), offer.allocatable, instance, offer.zone)
                nodes.append((instance.requested_s, offer_id, instance.serial, node))
        return [of[-1] for of in sorted(nodes, key=lambda of: of[:-1])]

    def _billed_s(self, state: State, offer: LocalOffer, now_s: float) -> float:
        if offer.tier == "RESERVED":
            return (offer.owned_count or 0) * max(now_s - state.started_s, 0.0)
        lives = ((instance.requested_s, instance.end_s) for instance in state.instances)
        return state.billed_s + billed_s(lives, now_s, offer.billing_min_s)

    def _forget(self, state: State, target: Target, offer: LocalOffer) -> None:
        """Drop instances that ended long ago; their billed seconds stay in `billed_s`."""
        horizon_s = state.clock_s - KEPT_S
        if self._pools.has(target.app):
            horizon_s = min(horizon_s, self._pools.needed_from(target.app, state.clock_s))
        kept: list[Instance] = []
        for instance in state.instances:
            if max(instance.end_s, min(instance.leaves_s, instance.released_s)) < horizon_s:
                life = (instance.requested_s, instance.end_s)
                state.billed_s += billed_s([life], inf, offer.billing_min_s)
            else:
                kept.append(instance)
        state.instances = kept
        recent = [change for change in state.changes[:-1] if change[0] >= horizon_s]
        state.changes = [*recent, state.changes[-1]]
        state.results = dict(list(state.results.items())[-KEPT_RESULTS:])

    def _misbehave(self, target: Target, command: Record, now_s: float) -> None:
        """Fail as configured: Rejected, or Retryable by a draw per command and time, so that retries draw anew."""
        if target.ref in self.faults.rejected:
            raise Rejected("rejected by configuration")
        if self._uniform(command["id"], repr(now_s), "hang") < self.faults.hang:
            self.sleep(self.faults.hang_s)
            raise Retryable("gave no answer", self.faults.retry_after_s)
        if self._uniform(command["id"], repr(now_s), "unavailable") < self.faults.unavailable:
            raise Retryable("unavailable", self.faults.retry_after_s)

    def _uniform(self, *key: str) -> float:
        """A number in (0, 1) that is a function of the seed and the key alone."""
        return uniform(self.seed, *key)

    def _offer(self, target: Target, at_s: float) -> LocalOffer:
        versions = self._offers.get(target.offer_id)
        if not versions:
            raise Rejected(f"no offer {target.offer_id!r}")
        valid = [offer for offer in versions if offer.valid_from_tick * self.tick_s <= at_s]
        return valid[-1] if valid else versions[0]

    # The files.

    def _path(self, ref: str) -> Path:
        return file_of(self.folder, ref)

    def _load(self, ref: str) -> State | None:
        if ref not in self._saved:
            path = self._path(ref)
            self._saved[ref] = State.read(path) if path.exists() else None
        return self._saved[ref]

    def _save(self, ref: str, state: State) -> None:
        state.write(self._path(ref))
        self._saved[ref], self._views[ref] = state, state.copy()


def _node_name(offer_id: str, instance: Instance) -> str:
    return f"{offer_id}#{instance.serial}"


def local_provider(settings: Settings) -> LocalProvider:
    """The simulated cloud of the data folder; what goes wrong is in its `faults.json` (see `Faults`).

    Raises:
        UsageError: another process uses it, or the faults cannot be read.
    """
    folder = settings.data_dir / "local"
    return LocalProvider(
        folder, tick_s=settings.tick_s, seed=settings.seed, faults=Faults.read(folder / "faults.json")
    )
