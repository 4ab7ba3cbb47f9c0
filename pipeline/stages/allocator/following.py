"""Which adjustment of the learner a plan follows, and why another is not followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.capacity import ROUNDING, Policy
from models.learning import price_tail, schedule
from models.learning.adjustment import Adjustment, ExpertWeights
from models.learning.app_learner import ARMS, EXPERTS
from pipeline.inputs.store import ADJUSTMENTS, SideInputs
from pipeline.logs import get_logger
from pipeline.runtime import metrics
from pipeline.wire import adjustments
from pipeline.wire.codec import Record

LEARNER_WAIT_S: Final = 300.0
"""Longest wait of a replay for an adjustment: a learner that restarts is back within a minute."""
PATIENCE_S: Final = 0.2
"""Of one wait for an adjustment: a learner answers within some milliseconds."""
TRIED: Final = 8
"""Adjustments that are looked at for a plan, newest first: those of four epochs hold at a time."""
_LOG = get_logger()


@dataclass(frozen=True)
class Followed:
    """What a plan follows.

    Attributes:
        version: of the adjustment as `app@version`; "" = static.
        experts: their weights, those in force first, then those of the other arms.
        shortage_price: of an hour's shortage in those of a replica-hour; None: the policy's confidence.
        supply: confidence with which the replicas at that price are to be there; None: the policy's.
        realised_share: of the ticks so far in which capacity sufficed; None: not measured.
    """

    version: str = ""
    experts: Sequence[ExpertWeights] = (ExpertWeights(),)
    shortage_price: float | None = None
    supply: float | None = None
    realised_share: float | None = None


STATIC: Final = Followed()


class Adjustments:
    """The adjustments of an allocator's apps.

    Args:
        inputs: have them, each signed by a trusted key.

    Attributes:
        lacking: app and version of the adjustment that the next tick of a replay waits for; None: none.
    """

    def __init__(self, inputs: SideInputs) -> None:
        self.inputs = inputs
        self.refused: dict[str, str] = {}
        self.silent: set[str] = set()
        self.lacking: tuple[str, int] | None = None
        self.since: tuple[tuple[str, int], float] | None = None

    def followed(self, app: str, policy: Policy, tick: int, pinned: str | None) -> Followed:
        """What the plan of an app follows.

        Args:
            app: its name.
            policy: in force for it.
            tick: that is planned.
            pinned: what an earlier plan of this tick followed, as `app@version`, "" = static; None: there was none.
        """
        if not policy.learner:
            return STATIC
        chosen = (
            self._newest(app, policy, tick) if pinned is None else self._pinned(app, policy, tick, pinned)
        )
        settings = Adjustment.static(policy) if chosen is None else adjustments.adjustment_of(chosen)
        weights = settings.experts
        price = settings.shortage_price if policy.confidence_of == "time" else None
        return Followed(
            "" if chosen is None else f"{app}@{chosen['version']}",
            (weights, *(other for other in EXPERTS.values() if other != weights)),
            price,
            None if price is None else settings.supply,
            None if chosen is None else chosen["realised"]["time_all"],
        )

    def _newest(self, app: str, policy: Policy, tick: int) -> Record | None:
        """The newest that may be followed; the newest one that may not is logged and counted."""
        for place, record in enumerate(self.inputs.newest(ADJUSTMENTS, app, tick, TRIED)):
            why = refusal(record, app, policy, tick)
            if why is None:
                if place == 0:
                    self.refused.pop(app, None)
                return record
            if place == 0:
                self._note(app, record, why, tick)
        return None

    def _pinned(self, app: str, policy: Policy, tick: int, pinned: str) -> Record | None:
        version = pinned.rpartition("@")[2]
        record = self.inputs.at(ADJUSTMENTS, app, tick, int(version)) if version else None
        return record if record is not None and refusal(record, app, policy, tick) is None else None

    def _note(self, app: str, record: Record, why: str, tick: int) -> None:
        """Log and count that an adjustment is refused, once for each and reason."""
        name = f"{app}@{record['version']} {why.partition(':')[0]}"
        if self.refused.get(app) != name:
            self.refused[app] = name
            metrics.ADJUSTMENTS_REFUSED.labels(app, why.partition(":")[0]).inc()
            _LOG.warning("adjustment refused", app=app, tick=tick, version=record["version"], reason=why)

    def awaited(self, since: int, tick: int, tick_s: int) -> int | None:
        """Version of the adjustment that a plan at a tick follows, of a learner that has seen plans since a tick.

        None: none can be in force yet.
        """
        every = schedule.epoch_ticks(tick_s)
        last = tick - 1 - every
        made = last - (last + 1) % every
        return made if made >= since else None

    def came(self, app: str, version: int) -> bool:
        """Whether an adjustment is there, or no longer waited for.

        A stage that waited long would hold up its worker's consumer, and with it the learner: the wait is PATIENCE_S,
        and nothing while the last one was in vain.
        """
        if self.inputs.wait_version(ADJUSTMENTS, app, version, 0.0 if self.lacking else PATIENCE_S):
            self.silent.discard(app)
            self.lacking = None
            return True
        if app in self.silent:
            return True
        self.lacking = (app, version)
        return False

    def give_up(self, now_s: float) -> None:
        """After LEARNER_WAIT_S wait for no adjustment of the app any more until one is there.

        now_s: monotonic seconds.
        """
        assert self.lacking is not None
        if self.since is None or self.since[0] != self.lacking:
            self.since = (self.lacking, now_s)
        elif now_s - self.since[1] >= LEARNER_WAIT_S:
            app, version = self.lacking
            self.silent.add(app)
            self.lacking = self.since = None
            _LOG.warning(
                "no adjustment came: plans are static", app=app, version=version, waited_s=LEARNER_WAIT_S
            )


def refusal(record: Record, app: str, policy: Policy, tick: int) -> str | None:
    """Why an adjustment with a valid signature is not followed, as `code: what is wrong`; None: it is."""
    why = adjustments.refusal(record, app=app, policy=policy, tick=tick, ring=None)
    if why is not None:
        return why
    settings = adjustments.adjustment_of(record)
    price = settings.shortage_price
    least, most = price_tail.PRICES[0], price_tail.PRICES[-1]
    rules = [
        (
            price is None or least * (1 - ROUNDING) <= price <= most * (1 + ROUNDING),
            f"shortage_price must be {least:,} to {most:,} replica-hours, got {price}",
        ),
        (
            settings.experts in EXPERTS.values(),
            f"weights of the experts must be those of an arm ({', '.join(EXPERTS)}), got {settings.experts}",
        ),
        (
            settings.confidence == policy.confidence,
            f"confidence must be the policy's, got {settings.confidence:g}",
        ),
        (settings.hold_s in (None, policy.hold_s), f"hold_s must be the policy's, got {settings.hold_s}"),
        (
            settings.supply in {arm.supply for arm in ARMS.values()},
            f"supply must be that of an arm, got {settings.supply}",
        ),
        (settings.speed == 1, f"speed must be 1, got {settings.speed:g}"),
    ]
    return next((f"out-of-range: {message}" for holds, message in rules if not holds), None)
