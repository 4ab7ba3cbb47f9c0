"""Interface of a provider: observe the instances of a target, and set the target's desired count.

Instances are of an app, or of a group whose apps share them (target `group/offer`); a provider that packs apps onto
shared nodes also has targets of replicas (`Provider.can_share_nodes`).

To write an actuator, subclass `Provider` and hand it to
`pipeline.stages.actuator.service.run`; `local.py` is a complete one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.wire.commands import Target

Record = dict[str, Any]


@dataclass(frozen=True)
class Observation:
    """State of a target at one event time. Counts are instances; each is in at most one of the five states.

    Attributes:
        ready: serving, and not known to go away.
        pending: launched, not yet ready.
        draining: told to go; finishing its work, not to be counted on.
        failed: could not be launched.
        interrupted: taken back by the provider: under notice, not to be counted on.
        allocatable: of one instance, by metric: what is left after the system and daemons.
        generation: grows with each change of the desired count, whoever makes it.
        command_id: of the command that set the present generation; "" when somebody else did.
        pending_ready_s: for each pending instance, seconds from now at which it can be expected.
        least_ready: least `ready` in the asked interval; None where the provider does not know.
        billed_h: instance-hours billed so far; None where the provider does not know.
        managed_by: who set the present generation.
        reason: why what is pending waits, where the provider knows.
        autoscaled: of the ready and pending ones, those beyond the desired count that an autoscaler holds.
    """

    ready: int
    pending: int
    allocatable: Mapping[str, float]
    generation: int
    draining: int = 0
    failed: int = 0
    interrupted: int = 0
    command_id: str = ""
    pending_ready_s: tuple[float, ...] = ()
    least_ready: int | None = None
    billed_h: float | None = None
    managed_by: str = "leadtime"
    reason: str = ""
    autoscaled: int = 0


@dataclass(frozen=True)
class Result:
    """A command that the provider accepted.

    Attributes:
        before, after: desired counts; `after` differs from the command's where only a part was granted.
        accepted_s: event time at which it was, unix seconds.
        generation: of the target since then.
        request_id: the provider's own, for its support.
        partial: only a part was granted, and the rest will not come by itself.
    """

    before: int
    after: int
    accepted_s: float
    generation: int
    request_id: str | None = None
    partial: bool = field(default=False)


class Provider(ABC):
    """Base class of the adapter of a cloud, cluster or simulator.

    The retry contract:
    - `apply` is called for commands that were accepted (signed, in time, of a new epoch), one at a time per
      target, and is *idempotent*: a command id that was applied before returns the result of the first time
      and changes nothing. An actuator that is killed between `apply` and publishing its result calls it
      again.
    - It is *absolute*: it sets the desired count and returns; it does not wait for instances to be ready.
      Reaching the count (failed launches, interrupted instances) is the provider's business, and `observe`
      tells how far it is.
    - It raises `Retryable(message, retry_after)` where trying again can help (throttled, unavailable, no
      capacity now): the same command comes again after `retry_after` seconds until it expires or a newer one
      replaces it. It raises `Rejected(message)` where trying again cannot (no such target, not allowed,
      beyond a quota). An `OSError` of the machine (disk full or read-only, no file handles)
      ends the actuator, which decides the command after its restart. Anything else is a defect: it is logged
      with its traceback, and the command has failed, as if it had been `Rejected`; other targets go on.
    - A call that takes longer than the actuator's timeout is given up and comes again as if it had been
      `Retryable`; should it go through after all, the repeat must find that out (idempotence).
    - A command older than the newest applied one (by epoch) must not be applied.
    """

    @abstractmethod
    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """What the target has at event time `now_s`; `least_ready` is over [since_s, now_s).

        Raises:
            Retryable, Rejected: as above.
        """

    @abstractmethod
    def apply(self, command: Record, now_s: float) -> Result:
        """Set the target's desired count at event time `now_s`.

        Raises:
            Retryable, Rejected: as above.
        """

    def can_share_nodes(self) -> bool:
        """Whether the provider follows targets of kind REPLICAS; an actuator refuses them for one that does not.

        Such a target is `app/replicas`: the app's replicas, each of the command's `resources`, on the nodes of all
        targets `group/offer` of the command's `group` at this provider, placed by `priority`, the higher first. The
        provider has no offer of that name. `apply` sets the count, priority and size, which only concern what has to
        be placed, and never waits for room. An observation's counts are of replicas: `ready` are on a node and serve,
        all others of the desired count are `pending`, with `reason` where some have no node, and `pending_ready_s` of
        those that have one; `allocatable` is the size of one; nothing is billed.

        It is called once, before the first such target, and without a timeout: what takes long to load belongs here.
        """
        return False

    def offered(self, price: Record) -> None:  # noqa: B027 - most providers know their own offers
        """Take note of an offer of this provider: called with each `price` record before it is used."""
