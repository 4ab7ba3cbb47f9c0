"""Kubernetes as a provider: reads an object, then changes its count and leaves a mark on it in one patch.

1. the object is read; a mark with the command's id answers it again as the first time, and nothing is written;
2. a mark of the same epoch or a newer one, a pause, or somebody else who would fight refuses it;
3. one merge-patch with the version that was read sets count and mark, or fails as a whole (409: from 1 on again);
4. an Event on the object says so; it may be lost.
A kill between any two leaves the object as it was or as commanded, with the mark that says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

from pipeline.errors import Rejected, Retryable
from pipeline.logs import get_logger
from pipeline.providers.base import Observation, Provider, Record, Result
from pipeline.providers.kubernetes.api import Api, Call, Conflict
from pipeline.providers.kubernetes.checks import refuse_hindered
from pipeline.providers.kubernetes.marks import (
    MANAGER,
    State,
    annotations,
    manager,
    state_of,
    stated_count,
)
from pipeline.providers.kubernetes.observation import Cluster
from pipeline.providers.kubernetes.resources import (
    EVENT,
    Object,
    Place,
    Resource,
    most_of,
)
from pipeline.providers.marks import Epochs, Mark, result_of
from pipeline.providers.targets import named
from pipeline.wire.commands import Target

TRIES: Final = 3
"""Times that a patch is tried in one call where others change the object meanwhile."""
log = get_logger("leadtime.kubernetes")


@dataclass(frozen=True)
class Change:
    """What a command does to an object: its state and version before, and the mark that it leaves."""

    resource: Resource
    state: State
    version: str
    uid: str
    mark: Mark

    def patch(self) -> tuple[Object, str, str]:
        """Body of the merge-patch, its field manager and subresource."""
        kind, metadata = self.resource.kind, {"resourceVersion": self.version}
        spec = {kind.count: self.mark.desired}
        if self.resource.by_scale:
            return {"metadata": metadata, "spec": spec}, manager(self.mark), "scale"
        notes = {"annotations": annotations(self.mark, self.uid)}
        return {"metadata": metadata | notes, "spec": spec}, MANAGER, ""


class KubernetesProvider(Provider):
    """The targets of one cluster.

    Args:
        api: the cluster.
        resources: targets.
        dry_run: commands are tried on the API server, which checks and discards them, and rejected.
    """

    def __init__(self, api: Api, resources: Iterable[Resource], *, dry_run: bool = False) -> None:
        self.api, self.dry_run = api, dry_run
        self.resources = {resource.ref: resource for resource in resources}
        self.cluster = Cluster(api, self.resources.values()).start()
        self._epochs = Epochs()

    def close(self) -> None:
        """End the watches."""
        self.cluster.stop()
        self.api.close()

    def can_share_nodes(self) -> bool:
        """It can: the cluster's scheduler places replicas."""
        return True

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """As the watches tell; see `Cluster.observe`."""
        return self.cluster.observe(named(self.resources, target.ref), now_s)

    def apply(self, command: Record, now_s: float) -> Result:
        """Set the count of the target's object; see the module and `Provider.apply`."""
        resource = named(self.resources, Target.of(command).ref)
        self._epochs.enter(resource.ref, command)
        call = self.api.call()
        for _ in range(TRIES):
            obj = call.get(resource.place)
            state = state_of(resource, obj)
            if state.mark is not None and state.mark.command == command["id"]:
                generation = (
                    state.generation if state.ours else state.mark.generation
                )  # before the foreign edit
                return result_of(state.mark, command, generation, str(obj["metadata"]["uid"]))
            change = self._change(call, resource, obj, command, now_s)
            self._epochs.enter(resource.ref, command)
            try:
                return self._write(call, change, command)
            except Conflict:
                continue
        raise Retryable(f"{resource.place} was changed by others {TRIES} times while it was written", 1.0)

    def _change(self, call: Call, resource: Resource, obj: Object, command: Record, now_s: float) -> Change:
        """What a command does to the object that was read.

        Raises:
            Rejected: it does nothing, for its epoch, the object or somebody who would fight.
        """
        state, metadata = state_of(resource, obj), obj["metadata"]
        if state.mark is not None and command["epoch"] <= state.mark.epoch:
            raise Rejected("older-epoch")
        count = stated_count(resource, state)
        refuse_hindered(call, resource.place, obj)
        most = most_of(resource.kind, obj)
        desired = max(command["desired"], resource.kind.least)
        desired = desired if most is None else min(desired, most)
        generation = state.generation + (desired != count)
        original = state.mark.original if state.mark is not None and state.ours else count
        mark = Mark(command["id"], command["epoch"], count, desired, original, now_s, generation)
        return Change(resource, state, str(metadata["resourceVersion"]), str(metadata["uid"]), mark)

    def _write(self, call: Call, change: Change, command: Record) -> Result:
        """Write a change.

        Raises:
            Conflict: the object is not any more as it was read.
            Retryable, Rejected: as the API server answers; Rejected too where this is a dry run.
        """
        resource, mark = change.resource, change.mark
        body, name, subresource = change.patch()
        written = call.patch(
            resource.place, body, manager=name, subresource=subresource, dry_run=self.dry_run
        )
        if self.dry_run:
            raise Rejected(f"dry run: {_words(resource, mark)} would be accepted, nothing was changed")
        if subresource:  # the answer is no such object, and an observation may come before the watch
            written = call.get(resource.place)
        self.cluster.note(resource.place, written)
        if mark.desired != mark.before:
            self._tell(call, change, command)
        return result_of(mark, command, state_of(resource, written).generation, change.uid)

    def _tell(self, call: Call, change: Change, command: Record) -> None:
        """Make an Event on the object; that it cannot be made is no failure of the command."""
        place, at = change.resource.place, datetime.fromtimestamp(change.mark.accepted_s, UTC)
        stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = blake2b(command["id"].encode(), digest_size=5).hexdigest()
        plan = f"plan {command['plan_id']}, epoch {command['epoch']}"
        event = {
            "metadata": {"name": f"{place.name[:200]}.{digest}", "namespace": place.namespace or "default"},
            "involvedObject": {
                "apiVersion": place.kind.api_version,
                "kind": place.kind.name,
                "name": place.name,
                "namespace": place.namespace,
                "uid": change.uid,
            },
            "reason": "LeadtimeScaled",
            "message": f"{_words(change.resource, change.mark)}, {plan}",
            "type": "Normal",
            "source": {"component": MANAGER},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            call.create(Place(EVENT, place.namespace or "default"), event)
        except (Retryable, Rejected) as error:
            log.info("no event", of=str(place), error=str(error))


def _words(resource: Resource, mark: Mark) -> str:
    return f"{resource.kind.count} {mark.before} → {mark.desired}"
