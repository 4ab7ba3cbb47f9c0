"""AWS as a provider: `two_writes` on auto scaling groups, with a tag as the mark.

The count is set, or, where some instances are protected or under notice, victims are terminated one by one in one
request, each with its place in the count.
"""

from collections.abc import Callable, Iterable
from typing import Final

from pipeline.providers.aws.api import Api, Call, Unanswered, connect
from pipeline.providers.aws.checks import refuse_described, refuse_scaled
from pipeline.providers.aws.marks import TAG, mark_of, state_of
from pipeline.providers.aws.observation import Region
from pipeline.providers.aws.resources import Account, Group, uid_of
from pipeline.providers.aws.victims import BATCH, launch_times, protected, victims
from pipeline.providers.base import Observation, Record
from pipeline.providers.bounds import Lately
from pipeline.providers.marks import Mark, text_of
from pipeline.providers.two_writes import Read, TwoWrites
from pipeline.wire.commands import Target

CHECKED_S: Final = 300.0
"""For how long a group is known to have no policies or schedules of others."""


class AwsProvider(TwoWrites[Group, Call]):
    """Auto scaling groups of any number of accounts and regions.

    Args:
        groups: targets.
        connected: makes the clients of an account and region.
        dry_run: as `TwoWrites`.
    """

    count = "desired capacity"

    def __init__(
        self, groups: Iterable[Group], connected: Callable[[Account], Api] = connect, *, dry_run: bool = False
    ) -> None:
        super().__init__(groups, dry_run=dry_run)
        accounts = dict.fromkeys(group.account for group in self.groups.values())
        self.apis = {account: connected(account) for account in accounts}
        self.regions = {
            account: Region(api, [g for g in self.groups.values() if g.account == account])
            for account, api in self.apis.items()
        }
        for region in self.regions.values():
            region.start()
        self._checked = Lately(CHECKED_S)

    def close(self) -> None:
        """End the polling."""
        for region in self.regions.values():
            region.stop()
        for api in self.apis.values():
            api.close()

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """As the last polls tell; see `Region.observe`."""
        group = self.group(target.ref)
        return self.regions[group.account].observe(group, self.memory[group.ref], now_s)

    def read(self, group: Group) -> Read[Group, Call]:
        """Read a group."""
        call = self.apis[group.account].call()
        described = call.group(group.place)
        state = state_of(self.memory[group.ref], described, call.api.clock())
        return Read(group, call, described, uid_of(described), mark_of(described), state)

    def granted(self, read: Read[Group, Call], command: Record) -> int:
        """Within the group's bounds, and no fewer than are protected.

        Raises:
            Rejected: as `TwoWrites.granted`.
        """
        group, call, described = read.group, read.call, read.described
        refuse_described(group.place, described)
        self._checked.check(group.ref, call.api.clock, lambda: refuse_scaled(call, group.place))
        desired = min(max(command["desired"], int(described["MinSize"])), int(described["MaxSize"]))
        if desired < read.state.count:
            desired = min(read.state.count, max(desired, protected(described)))
        return desired

    def leave(self, read: Read[Group, Call], mark: Mark) -> None:
        """Leave the command on the group, as a tag."""
        self.memory[read.group.ref].wrote(read.uid, mark)
        tag = {
            "ResourceId": read.group.place.name,
            "ResourceType": "auto-scaling-group",
            "Key": TAG,
            "Value": text_of(mark, read.uid),
            "PropagateAtLaunch": False,
        }
        read.call.request("CreateOrUpdateTags", Tags=[tag])

    def write(self, read: Read[Group, Call], mark: Mark, command: Record) -> None:
        """Set the desired capacity.

        Raises:
            Retryable, Rejected: as AWS answers.
        """
        group, memory = read.group, self.memory[read.group.ref]
        count = int(read.described["DesiredCapacity"])
        try:
            if mark.desired != count:
                self._set(read, mark.desired, count, oldest=command["victim_rule"] == "OLDEST")
        except Unanswered:
            memory.unknown(mark, read.call.api.clock())
            raise
        memory.settled = mark.command
        self.regions[group.account].left(group, read.described, mark)

    def _set(self, read: Read[Group, Call], desired: int, count: int, *, oldest: bool) -> None:
        call, described, name = read.call, read.described, read.group.place.name
        noticed = self.regions[read.group.account].noticed(described)
        going: list[str] = []
        if desired < count and (noticed or protected(described)):
            launched = launch_times(call, described)
            going = victims(described, count - desired, noticed, launched, oldest=oldest)
        for first in range(0, len(going), BATCH):
            call.request(
                "TerminateInstanceInAutoScalingGroup",
                InstanceIds=going[first : first + BATCH],
                AutoScalingGroupName=name,
                ShouldDecrementDesiredCapacity=True,
            )
        if count - len(going) != desired:  # a rest was never launched
            call.request("SetDesiredCapacity", AutoScalingGroupName=name, DesiredCapacity=desired)
