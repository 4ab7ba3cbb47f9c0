"""Azure as a provider: `two_writes` on virtual machine scale sets, both in one request where that can be.

Capacity and tag are written together, where the set still is as it was read (its etag); where it is not, the command
comes again at once. A read that is refused, also by throttling, refuses the command: nothing is written on a guess.

A shrink reads the instances too. Where some were evicted or have failed, the tag is written alone, and then the victims
are deleted by name, each with its place in the capacity.

Azure answers before instances come, and the operation can fail later: `observation` tells.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from pipeline.providers.azure.api import Answer, Api, Call, Unanswered, connect
from pipeline.providers.azure.checks import refuse_described, refuse_scaled
from pipeline.providers.azure.marks import mark_of, marked, state_of
from pipeline.providers.azure.observation import ResourceGroup, candidates
from pipeline.providers.azure.resources import (
    Account,
    Described,
    ScaleSet,
    capacity,
    is_protected,
    properties,
    uid_of,
    zone_of,
)
from pipeline.providers.base import Observation, Record
from pipeline.providers.bounds import WAIT_S, Lately
from pipeline.providers.marks import Mark
from pipeline.providers.two_writes import Read, TwoWrites
from pipeline.providers.victims import victims
from pipeline.wire.commands import Target

CHECKED_S: Final = 300.0
"""For how long a set is known to have no autoscale setting."""
ONE_PLACEMENT: Final = 100
MOST: Final = 1000
"""Most instances of a set in one placement group, and of any."""
SetRead = Read[ScaleSet, Call]


class AzureProvider(TwoWrites[ScaleSet, Call]):
    """Virtual machine scale sets of any number of subscriptions and resource groups.

    Args:
        scale_sets: targets.
        connected: makes the client of an account.
        dry_run: as `TwoWrites`.
    """

    count = "capacity"

    def __init__(
        self,
        scale_sets: Iterable[ScaleSet],
        connected: Callable[[Account], Api] = connect,
        *,
        dry_run: bool = False,
    ) -> None:
        super().__init__(scale_sets, dry_run=dry_run)
        targets = list(self.groups.values())
        self.apis = {of: connected(of) for of in dict.fromkeys(target.account for target in targets)}
        self.pollers = {
            group: ResourceGroup(self.apis[group[0]], [target for target in targets if target.group == group])
            for group in dict.fromkeys(target.group for target in targets)
        }
        self._checked = Lately(CHECKED_S)
        self._listed: dict[str, tuple[SetRead, Sequence[Described]]] = {}
        for poller in self.pollers.values():
            poller.start()

    def close(self) -> None:
        """End the polling."""
        for poller in self.pollers.values():
            poller.stop()
        for api in self.apis.values():
            api.close()

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """As the last polls tell; see `ResourceGroup.observe`."""
        of = self.group(target.ref)
        return self.pollers[of.group].observe(of, self.memory[of.ref], now_s)

    def read(self, group: ScaleSet) -> SetRead:
        """Read a set."""
        call = self.apis[group.account].call()
        described = call.scale_set(group.place)
        state = state_of(self.memory[group.ref], described, call.api.clock())
        return Read(group, call, described, uid_of(described), mark_of(described), state)

    def granted(self, read: SetRead, command: Record) -> int:
        """As many as the set's placement groups take, and no fewer than are protected.

        Raises:
            Rejected: as `TwoWrites.granted`.
        """
        target, call, described = read.group, read.call, read.described
        refuse_described(target.place, described)
        self._checked.check(target.ref, call.api.clock, lambda: refuse_scaled(call, target.place))
        count, desired = read.state.count, command["desired"]
        if desired < count:
            protected = sum(1 for instance in self._instances(read) if is_protected(instance))
            return max(desired, min(protected, count))
        most = ONE_PLACEMENT if properties(described).get("singlePlacementGroup") else MOST
        return min(desired, max(most, count))

    def leave(self, read: SetRead, mark: Mark) -> None:
        """Write tag and capacity; the tag alone where victims are to be named.

        Raises:
            Changed: the set is not as it was read any more.
            Retryable, Rejected: as Azure answers.
        """
        self._patch(read, mark, names_victims=bool(self._victims(read, mark)))

    def write(self, read: SetRead, mark: Mark, command: Record) -> None:
        """Delete victims where they are to be named; a capacity that was not written with the tag is written.

        Raises:
            Changed: the set is not as it was read any more.
            Retryable, Rejected: as Azure answers.
        """
        target = read.group
        going = self._victims(read, mark, oldest=command["victim_rule"] == "OLDEST")
        if going:
            path = f"{target.place.path}/delete"
            answer = read.call.request("POST", path, body={"instanceIds": going})
            tags = marked(read.described, mark, names_victims=True)
            sku = {**read.described["sku"], "capacity": mark.desired}
            self._left(read, mark, replace(answer, body={**read.described, "sku": sku, "tags": tags}))
        elif read.noted == mark:
            self._patch(read, mark, names_victims=False)

    def _patch(self, read: SetRead, mark: Mark, *, names_victims: bool) -> None:
        described, place = read.described, read.group.place
        count = capacity(described) if names_victims else mark.desired
        body: Described = {"tags": marked(described, mark, names_victims=names_victims)}
        if not names_victims:
            body["sku"] = {"capacity": count}
        answer = read.call.request("PATCH", place.path, body=body, etag=str(described["etag"]))
        if capacity(answer.body) != count or mark_of(answer.body) != mark:
            raise Unanswered(f"the answer to a change of {place} does not have it", WAIT_S)
        self._left(read, mark, answer)

    def _left(self, read: SetRead, mark: Mark, answer: Answer) -> None:
        """Keep what a command left."""
        memory = self.memory[read.group.ref]
        memory.wrote(read.uid, mark)
        if capacity(answer.body) == mark.desired:
            memory.settled = mark.command
        self.pollers[read.group.group].left(read.group, answer)

    def _victims(self, read: SetRead, mark: Mark, *, oldest: bool = False) -> list[str]:
        """Instances that a shrink names, since some do not serve; none: the set's own choice will do."""
        count = read.state.count - mark.desired
        if count <= 0:
            return []
        instances = self._instances(read)
        free = candidates(read.described, instances)
        if not any(of.leaves for of in free) or len(free) < count:
            return []
        return victims(free, Counter(zone_of(instance) for instance in instances), count, oldest=oldest)

    def _instances(self, read: SetRead) -> Sequence[Described]:
        """Instances of a set, listed once for what was read."""
        ref = read.group.ref
        if ref not in self._listed or self._listed[ref][0] is not read:
            poller = self.pollers[read.group.group]
            self._listed[ref] = read, poller.list_instances(read.call, read.group, read.described)
        return self._listed[ref][1]
