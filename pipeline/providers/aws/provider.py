"""AWS as a provider: reads a group, then leaves a tag with the command on it, then sets its desired capacity.

1. the group is read; a tag with the command's id answers it again as the first time, or, where a kill or fault came
   between tag and count, goes on with 4;
2. a tag of the same epoch or a newer one, a pause, or somebody else who would fight refuses it;
3. the tag is written;
4. the count is set, or, where some instances are protected or under notice, victims are terminated one by one in one
   request, each with its place in the count.

Nothing makes 4 depend on 1: a request that was given up can land late. Requests of a target wait for each other, none
leaves after its call's deadline, and one that lands all the same is recognised by its count (`marks`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.errors import Rejected
from pipeline.providers.aws.api import Api, Call, Unanswered, connect
from pipeline.providers.aws.checks import refuse_described, refuse_scaled
from pipeline.providers.aws.marks import TAG, mark_of, state_of
from pipeline.providers.aws.observation import Region
from pipeline.providers.aws.resources import Account, Described, Group, uid_of
from pipeline.providers.aws.victims import BATCH, launch_times, protected, victims
from pipeline.providers.base import Observation, Provider, Record, Result
from pipeline.providers.bounds import Lately, Turns
from pipeline.providers.marks import Epochs, Mark, Memory, State, Whose, change_of, result_of, text_of
from pipeline.wire.commands import Target

CHECKED_S: Final = 300.0
"""For how long a group is known to have no policies or schedules of others."""


@dataclass(frozen=True)
class Change:
    """What a command does to a group that was read, and the tag that it leaves."""

    group: Group
    described: Described
    mark: Mark


class AwsProvider(Provider):
    """Auto scaling groups of any number of accounts and regions.

    Args:
        groups: targets.
        connected: makes the clients of an account and region.
        dry_run: commands are judged by what is there, and rejected: the API itself cannot try them.
    """

    def __init__(
        self, groups: Iterable[Group], connected: Callable[[Account], Api] = connect, *, dry_run: bool = False
    ) -> None:
        self.groups, self.dry_run = {group.ref: group for group in groups}, dry_run
        accounts = dict.fromkeys(group.account for group in self.groups.values())
        self.apis = {account: connected(account) for account in accounts}
        self.memory = {group.ref: Memory() for group in self.groups.values()}
        self.regions = {
            account: Region(api, [g for g in self.groups.values() if g.account == account])
            for account, api in self.apis.items()
        }
        for region in self.regions.values():
            region.start()
        self._epochs = Epochs()
        self._checked = Lately(CHECKED_S)
        self._turns = Turns(self.groups)

    def close(self) -> None:
        """End the polling."""
        for region in self.regions.values():
            region.stop()
        for api in self.apis.values():
            api.close()

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """As the last polls tell; see `Region.observe`."""
        group = self._group(target.ref)
        return self.regions[group.account].observe(group, self.memory[group.ref], now_s)

    def apply(self, command: Record, now_s: float) -> Result:
        """Set the desired capacity of the target's group; see the module and `Provider.apply`."""
        group = self._group(Target.of(command).ref)
        self._epochs.enter(group.ref, command)
        with self._turns.turn(group.ref, group.place):
            call = self.apis[group.account].call()
            described = call.group(group.place)
            state = state_of(self.memory[group.ref], described, call.api.clock())
            if state.mark is not None and state.mark.command == command["id"]:
                if state.whose is not Whose.UNWRITTEN:
                    return result_of(state.mark, command, state.mark.generation, uid_of(described))
                change = Change(group, described, state.mark)
            else:
                change = self._change(call, group, described, state, command, now_s)
            if self.dry_run:
                words = f"desired capacity {change.mark.before} → {change.mark.desired}"
                raise Rejected(f"dry run: {words} of {group.place} would be set, nothing was changed")
            if mark_of(described) != change.mark:
                self._tag(call, change)
            self._epochs.enter(group.ref, command)
            self._set(call, change, oldest=command["victim_rule"] == "OLDEST")
            return result_of(change.mark, command, change.mark.generation, uid_of(described))

    def _change(
        self, call: Call, group: Group, described: Described, state: State, command: Record, now_s: float
    ) -> Change:
        """What a command does to the group that was read.

        Raises:
            Rejected: it does nothing, for its epoch, the group, or somebody who would fight.
        """
        if state.mark is not None and command["epoch"] <= state.mark.epoch:
            raise Rejected("older-epoch")
        refuse_described(group.place, described)
        self._checked.check(group.ref, call.api.clock, lambda: refuse_scaled(call, group.place))
        desired = min(max(command["desired"], int(described["MinSize"])), int(described["MaxSize"]))
        if desired < state.count:
            desired = min(state.count, max(desired, protected(described)))
        return Change(group, described, change_of(state, command, desired, now_s))

    def _tag(self, call: Call, change: Change) -> None:
        """Leave the command on the group."""
        uid, name = uid_of(change.described), change.group.place.name
        self.memory[change.group.ref].wrote(uid, change.mark)
        tag = {
            "ResourceId": name,
            "ResourceType": "auto-scaling-group",
            "Key": TAG,
            "Value": text_of(change.mark, uid),
            "PropagateAtLaunch": False,
        }
        call.request("CreateOrUpdateTags", Tags=[tag])

    def _set(self, call: Call, change: Change, *, oldest: bool) -> None:
        """Write the count of a change whose tag is written.

        Raises:
            Retryable, Rejected: as AWS answers.
        """
        group, mark, memory = change.group, change.mark, self.memory[change.group.ref]
        count = int(change.described["DesiredCapacity"])
        try:
            if mark.desired != count:
                self._write(call, change, count, oldest=oldest)
        except Unanswered:
            memory.unknown(mark, call.api.clock())
            raise
        memory.settled = mark.command
        self.regions[group.account].left(group, change.described, mark)

    def _write(self, call: Call, change: Change, count: int, *, oldest: bool) -> None:
        name, desired = change.group.place.name, change.mark.desired
        noticed = self.regions[change.group.account].noticed(change.described)
        going: list[str] = []
        if desired < count and (noticed or protected(change.described)):
            launched = launch_times(call, change.described)
            going = victims(change.described, count - desired, noticed, launched, oldest=oldest)
        for first in range(0, len(going), BATCH):
            call.request(
                "TerminateInstanceInAutoScalingGroup",
                InstanceIds=going[first : first + BATCH],
                AutoScalingGroupName=name,
                ShouldDecrementDesiredCapacity=True,
            )
        if count - len(going) != desired:  # a rest was never launched
            call.request("SetDesiredCapacity", AutoScalingGroupName=name, DesiredCapacity=desired)

    def _group(self, ref: str) -> Group:
        if ref not in self.groups:
            raise Rejected(f"the targets file has no {ref}")
        return self.groups[ref]
