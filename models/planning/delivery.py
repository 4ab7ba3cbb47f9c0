"""Closes the loop: what became of the commands for an app's offers, what of it counts as served, what is sent again.

A command is a wish. What counts is what the observation shows, and the answer to the newest command that it carries:

1. a command is accepted when it was answered so, when the target's generation is its own, or when so many run;
2. it failed when it was refused or granted in part, is still being tried again, or had no answer for `ANSWER_S`;
3. what was accepted is waited for: an instance that is not ready a tick after the offer's 99 % start-up time does not
   count as served; a command whose instances take twice as long, and a failed launch's pause, has not delivered;
4. where instances are lost as often as they come (`models.planning.crash_loops`), only those that stay ready count;
5. a generation that none of our commands set is somebody else's (`conflict`), one that went back is a new target
   (`gone`): what runs is then what there is to start from;
6. replicas that ask for another amount than the policy says (`resized`) count as so many of those as they make up;
7. a target of which nothing is reported any more (`unobserved`) may have changed without our knowing.

While the need lasts, what failed is sent again: after a tick, then after twice as long each time, up to `BACKOFF_S` or
two ticks. For as long as other offers can stand in, an offer that fails is not bought more of; after the policy's
`spot_return_wait_s` it is tried again. Of an offer that failed, only what is observed counts as served.

Observations without a time (`Observed.at_s` None: a replay without an actuator) are not followed: every command
counts as done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from models.capacity import Observed, Offer, Policy
from models.planning.crash_loops import RELAUNCH_S, Losses, Times
from models.planning.failing_offers import starting_s
from models.supply.evidence import Sighting
from models.supply.startup import Interval

ANSWER_S: Final = 30.0  # a provider's call may take the actuator's 10 s, and others wait in front of it
BACKOFF_S: Final = (
    60.0  # a command a minute and target is no load, and a quota that was raised is used within one
)
REMEMBERED: Final = 8  # commands of a target, and reasons to wait, that are kept
NOT_DELIVERED: Final = ("refused", "partly", "retrying", "unanswered", "late", "unstable", "unobserved")
"""States in which no more of an offer counts as served than is observed, and others stand in."""
UNDONE: Final = ("conflict", "gone", "resized")
"""States in which what is there is not what was commanded, and is commanded again."""
BY_COMMAND: Final = ("refused", "partly", "retrying", "unanswered")
"""Of these, the ones that a command brought about, and that the next accepted one ends."""

Counts = Mapping[str, int]


@dataclass(frozen=True)
class _Pause:
    """Now (unix seconds), the tick's length, how long others stand in for what fails, and what an answer takes."""

    now_s: float
    tick_s: float
    wait_s: float
    answer_s: float = 0.0


@dataclass
class Order:
    """What was commanded of an offer and what came of it; plain JSON as a dictionary.

    Attributes:
        in_force: count that the provider last accepted; before the first command what runs.
        sent: [tick, count] of the last commands, the newest last.
        issued_s: event time of the newest; grew: whether it asked for more; generation: observed when it was sent.
        accepted: whether the provider accepted it.
        known: whether any command was ever accepted.
        ours: newest generation that a command of ours set; None: not known.
        goal: count that is waited for.
        waiting: [time, instances] that are waited for since then, the oldest first; of what was lost also by how many
            seconds that may have been earlier.
        late: of these, the ones that should be ready.
        state, detail: what is wrong; empty where nothing is.
        attempts: failures in a row; blamed: what they were counted for; failed_s: event time of the last.
        avoid_s: event time until which others stand in for it; avoided: whether they did at the last plan.
        held: whether somebody else's change is left alone.
        unseen: whether reports of what was commanded have stopped; followed: whether they carry their time.
        losses: how its ready instances came and went.
        came: start-up times of launches that are ready since the observation before, or were given up by then; of this
            observation alone, not kept.
    """

    in_force: int = 0
    sent: list[list[int]] = field(default_factory=list[list[int]])
    issued_s: float = 0.0
    grew: bool = False
    generation: int = 0
    accepted: bool = True
    known: bool = False
    ours: int | None = None
    goal: int = 0
    waiting: list[list[float]] = field(default_factory=list[list[float]])
    late: int = 0
    state: str = ""
    detail: str = ""
    attempts: int = 0
    failed_s: float = 0.0
    blamed: list[str] = field(default_factory=list[str])
    avoid_s: float = 0.0
    avoided: bool = False
    held: bool = False
    unseen: bool = False
    followed: bool = True
    losses: Losses = field(default_factory=Losses)
    came: list[Interval] = field(default_factory=list[Interval])

    @property
    def trusted(self) -> bool:
        """Whether a launch that is asked for now counts as served from its start-up time on."""
        if self.state in UNDONE:
            return self.attempts <= 1 and not self.held
        return self.state not in NOT_DELIVERED and not self.losses.loop

    def again_s(self, tick_s: float) -> float:
        """Event time from which a command that failed may be sent again."""
        return self.issued_s + _backoff_s(self.attempts, tick_s) if self.attempts else 0.0

    def blame(self, state: str, detail: str, cause: str, avoid: _Pause) -> None:
        """Note a failure; the same cause counts once."""
        self.state, self.detail = state, detail
        if cause not in self.blamed:
            self.attempts += 1
            self.failed_s = avoid.now_s
            self.avoid_s = avoid.now_s + max(avoid.wait_s, _backoff_s(self.attempts, avoid.tick_s))
            self.blamed = [*self.blamed, cause][-REMEMBERED:]

    def accept(self, count: int, generation: int | None) -> None:
        """The provider has accepted the newest command."""
        self.in_force, self.accepted, self.known = count, True, True
        self.ours = generation
        if self.state not in ("late", "unstable"):  # what did not come may still not come
            self.avoid_s = 0.0
        self.state = self.detail = ""


def _backoff_s(attempts: int, tick_s: float) -> float:
    return min(tick_s * 2.0 ** min(attempts - 1, 30), max(BACKOFF_S, 2 * tick_s))


@dataclass(frozen=True)
class Clock:
    """When a tick's commands are sent (unix seconds), its number and length, and how long after its end that is."""

    now_s: float
    tick: int
    tick_s: float
    delay_s: float = 0.0


@dataclass(frozen=True)
class Delivery:
    """An app's orders at a tick, before anything new is decided.

    Attributes:
        orders: by offer; observed: as reported; avoided: offers of which no more is bought now, with why.
        clock: of the plan; paused: whether nothing is commanded.
    """

    orders: Mapping[str, Order]
    observed: Mapping[str, Observed]
    avoided: Mapping[str, str]
    clock: Clock
    paused: bool = False

    @property
    def credible(self) -> dict[str, Observed]:
        """What was observed, without instances of offers that do not deliver."""
        return {o: self._credible(o, seen) for o, seen in self.observed.items()}

    def _credible(self, offer: str, seen: Observed) -> Observed:
        order = self._order(offer)
        if order.losses.loop:
            return replace(seen, ready=order.losses.steady, pending=0)
        late = order.late if order.state == "late" else 0
        return replace(seen, pending=max(0, seen.pending - late))

    def served(self, counts: Counts) -> dict[str, int]:
        """Of planned counts, the instances that serve or are credibly on their way."""
        return {o: self._served(o, n) for o, n in counts.items()}

    def _served(self, offer: str, count: int) -> int:
        order, seen = self._order(offer), self.observed.get(offer, Observed())
        if order.losses.loop:
            return min(count, order.losses.steady)
        undone = order.state in UNDONE  # served if commanded again, which a pause does not
        if order.trusted and not (undone and self.paused):
            return count - max(0, min(order.late, count - seen.ready))
        return min(count, seen.ready + max(0, seen.pending - order.late))

    def _order(self, offer: str) -> Order:
        return self.orders.get(offer, Order(followed=False))

    @property
    def unobserved(self) -> list[str]:
        """Offers of which reports have stopped, by id."""
        return sorted(o for o, order in self.orders.items() if order.unseen)

    def kept(self, counts: Counts) -> dict[str, int]:
        """Counts with what somebody else has set left alone, where the policy says so."""
        return {
            o: self.observed.get(o, Observed()).running if self._order(o).held else n
            for o, n in counts.items()
        }

    @property
    def notes(self) -> dict[str, str]:
        """By offer, a line where something is wrong."""
        wrong = {
            o: order for o, order in sorted(self.orders.items()) if order.state or order.late or order.unseen
        }
        other = {
            o: "reports of it have stopped" if order.unseen else f"{order.late} instances are late"
            for o, order in wrong.items()
        }
        return {o: f"{o}: {order.detail or other[o]}" for o, order in wrong.items()}

    @property
    def sightings(self) -> dict[str, Sighting]:
        """By offer, what its observation and the answers to its commands say of the offer itself."""
        return {
            name: self._sighting(order, self.observed[name])
            for name, order in self.orders.items()
            if name in self.observed and order.followed and not self.observed[name].silent
        }

    def _sighting(self, order: Order, seen: Observed) -> Sighting:
        at_s, failing = seen.at_s or 0.0, order.state in ("retrying", "unanswered")
        waits = [(at_s - since, math.inf, n) for since, n, *_ in order.waiting if at_s > since]
        restarts = order.losses.loop  # what comes back in a crash loop was not launched
        return Sighting(
            at_s,
            seen.ready,
            order.goal,
            delay_s=max(0.0, self.clock.now_s - self.clock.delay_s - self.clock.tick_s - at_s),
            failed=seen.failed,
            interrupted=seen.interrupted,
            came=() if restarts else order.came,
            waits=() if restarts else waits,
            refused=order.state == "partly" and order.failed_s == self.clock.now_s,
            stuck=order.state in ("partly", "late"),
            attempts=max(1, order.attempts) if failing else 0,
            issued_s=order.issued_s,
            accepted=order.accepted and order.known,
        )

    @property
    def guardrails(self) -> tuple[str, ...]:
        """Names for the plan: what did not come, and what somebody else changed."""
        states = {order.state for order in self.orders.values()} - {""}
        names = ("undelivered", states - {"conflict"}), ("conflict", states & {"conflict"})
        return tuple(name for name, some in names if some)

    def issued(self, counts: Counts) -> tuple[dict[str, int], dict[str, Order]]:
        """Commands to be sent: by offer the count before; and the orders after it."""
        before: dict[str, int] = {}
        after = {o: replace(order) for o, order in self.orders.items()}
        for offer, count in counts.items():
            seen = self.observed.get(offer, Observed())
            order = after.setdefault(offer, Order(seen.running, goal=seen.running, followed=False))
            if order.state in BY_COMMAND and count == order.in_force and offer not in self.avoided:
                order.state = order.detail = ""  # what failed is not wanted any more: what is in force counts
                order.accepted = True
            if not self._due(order, count):
                continue
            before[offer] = order.in_force
            order.grew, order.generation = count > order.in_force, seen.generation
            order.issued_s, order.accepted = self.clock.now_s, not order.followed
            order.sent = [*order.sent, [self.clock.tick, count]][-REMEMBERED:]
            if not order.followed:
                order.in_force = order.goal = count
        return before, after

    def _due(self, order: Order, count: int) -> bool:
        """Whether a command is sent: the count is not in force, or is not there, and no pause is under way."""
        if order.held:
            return False
        failed = not order.accepted and f"command {order.sent[-1][0]}" in order.blamed
        if not order.accepted and not failed:  # the answer may still come
            return count != order.sent[-1][1] and self._pause_over(order, count)
        lacking = order.unseen or order.state in ("late", "unstable", "unreleased", "conflict", "resized")
        return (count != order.in_force or lacking) and self._pause_over(order, count)

    def _pause_over(self, order: Order, count: int) -> bool:
        turned = order.grew and count < order.in_force  # less is wanted where more was refused
        return turned or self.clock.now_s >= order.again_s(self.clock.tick_s)


def follow(
    offers: Sequence[Offer],
    observed: Mapping[str, Observed],
    policy: Policy,
    memory: Mapping[str, Any],
    clock: Clock,
    excluded: Iterable[str] = (),
) -> Delivery:
    """What became of an app's commands.

    Args:
        offers: usable ones.
        observed: by offer, as last reported.
        memory: orders as `issued` returned them, as dictionaries.
        excluded: offers that others stand in for already.
    """
    orders: dict[str, Order] = {}
    by_id = {offer.offer_id: offer for offer in offers}
    for name in sorted({*memory, *observed}):
        seen = observed.get(name, Observed())
        order = _stored(memory[name]) if name in memory else Order(seen.running, goal=seen.running)
        order.followed = seen.at_s is not None
        orders[name] = _followed(order, seen, by_id.get(name), policy, clock) if order.followed else order
    avoided = _avoided(offers, observed, orders, clock, excluded)
    for name, order in orders.items():
        order.avoided = name in avoided
    return Delivery(orders, observed, avoided, clock, policy.mode == "paused")


def memory_of(orders: Mapping[str, Order]) -> dict[str, Any]:
    """The orders as plain JSON."""
    kept = {name: asdict(order) for name, order in sorted(orders.items())}
    return {name: {k: v for k, v in order.items() if k != "came"} for name, order in kept.items()}


def _stored(memory: Mapping[str, Any]) -> Order:
    """An order of `memory_of`, with lists of its own."""
    order = Order(**{name: value for name, value in memory.items() if name != "losses"})
    order.losses = Losses(**memory.get("losses", {}))
    order.waiting = [list(entry) for entry in order.waiting]
    return order


def _followed(order: Order, seen: Observed, offer: Offer | None, policy: Policy, clock: Clock) -> Order:
    """The order after an observation."""
    answer_s = max(ANSWER_S, 2 * clock.tick_s) + clock.delay_s
    unreleased = order.state == "unreleased"
    pause = _Pause(clock.now_s, clock.tick_s, policy.spot_return_wait_s, answer_s)
    _settle(order, seen, pause)
    _owned(order, seen, policy, pause)
    lead_s = offer.startup_p99_s if offer is not None and math.isfinite(offer.startup_p99_s) else 0.0
    overdue = _waited(order, seen, lead_s, clock)
    order.losses.follow(seen, order.goal, Times(lead_s, clock.tick_s))
    if order.losses.loop:
        order.late = max(order.late, order.goal - order.losses.steady)
    order.unseen = seen.silent and order.known
    epoch = order.sent[-1][0] if order.sent else -1
    if order.accepted and order.state in ("late", "unstable", "unreleased", "unobserved", "resized"):
        order.state = order.detail = ""
    if order.state == "" and order.accepted:
        late = (overdue, lead_s)
        state, detail = _lacking(order, seen, late, unreleased=unreleased, clock=clock)
        if state:
            order.blame(state, detail, f"{state} {epoch}", pause)
    if order.avoided and order.state in BY_COMMAND and clock.now_s >= order.avoid_s:
        order.state = order.detail = ""  # others have stood in for it long enough
    if not order.state and clock.now_s - order.failed_s > 2 * max(BACKOFF_S, 2 * clock.tick_s):
        order.attempts = 0
    return order


def _lacking(
    order: Order, seen: Observed, late: tuple[int, float], *, unreleased: bool, clock: Clock
) -> tuple[str, str]:
    """State and detail of an accepted order of which not what was commanded is there; empty where it is.

    late: instances that are overdue, and the start-up time; unreleased: whether that was its state.
    """
    observed_s, (overdue, lead_s) = seen.at_s or 0.0, late
    if order.unseen:
        return "unobserved", f"nothing was reported of it since tick {int(observed_s / clock.tick_s) - 1}"
    if seen.resized and order.known:
        return "resized", seen.resized
    if order.losses.loop and order.goal:
        return "unstable", (
            f"instances are lost as often as they come: {order.losses.steady} of {order.goal} stayed ready "
            f"for the start-up time of {lead_s:.0f} s"
        )
    if overdue:
        return (
            "late",
            f"{overdue} of {order.in_force} instances did not come in {lead_s:.0f} s, nor in twice as long",
        )
    more = order.known and seen.running - seen.autoscaled > order.in_force
    if more and (unreleased or observed_s > order.issued_s + clock.tick_s):
        return "unreleased", f"{seen.running} instances run where {order.in_force} were commanded"
    return "", ""


def _settle(order: Order, seen: Observed, pause: _Pause) -> None:
    """Accept the newest command, or note why it failed."""
    if not order.known:
        order.in_force = seen.running
    if order.accepted:
        return
    epoch, count = order.sent[-1]
    answer = seen.answer if seen.answer is not None and seen.answer.epoch == epoch else None
    cause, status = f"command {epoch}", answer.status if answer is not None else ""
    there = seen.running + seen.failed + seen.interrupted
    as_asked = there >= count if order.grew else seen.running <= count
    grown = seen.set_by is None and seen.managed_by == "leadtime" and seen.generation > order.generation
    if answer is not None and status in ("APPLIED", "NOOP"):
        order.accept(count, answer.generation if answer.generation is not None else seen.generation)
    elif answer is not None and status == "PARTIAL":
        granted = seen.running if answer.after is None else answer.after
        order.accept(
            min(granted, count), answer.generation if answer.generation is not None else seen.generation
        )
        if granted < count:  # of more than was asked for the rest is `unreleased` where it runs
            order.blame("partly", f"{granted} of {count} instances were granted", cause, pause)
    elif answer is not None and status == "RETRYING":
        order.blame("retrying", f"the provider does not take the command yet: {answer.reason}", cause, pause)
    elif answer is not None:
        order.blame("refused", f"the command was refused: {answer.reason}", cause, pause)
    elif seen.set_by == epoch or grown or (not seen.silent and as_asked and seen.set_by in (None, epoch)):
        order.accept(count, seen.generation)
    elif pause.now_s - order.issued_s > pause.answer_s:
        order.blame("unanswered", "no actuator answered the command", cause, pause)


def _owned(order: Order, seen: Observed, policy: Policy, pause: _Pause) -> None:
    """Whether the target is as our commands left it."""
    hold = policy.on_conflict == "hold"
    order.held = order.held and hold
    if not order.known or order.ours is None or seen.silent:
        return
    ours = seen.set_by >= 0 if seen.set_by is not None else seen.managed_by == "leadtime"
    if seen.generation < order.ours:
        wanted, order.in_force, order.ours = order.in_force, seen.running, seen.generation
        if wanted == order.in_force == 0:  # nothing of it is lost
            return
        detail = "the target was deleted, or made anew by somebody else"
        order.blame("gone", detail, f"gone {seen.generation} {order.sent[-1][0]}", pause)
    elif ours:
        order.ours, order.held = max(order.ours, seen.generation), False
        if order.state == "conflict" and order.accepted:
            order.state = order.detail = ""
    elif seen.generation > order.ours:
        who = seen.managed_by if seen.managed_by != "leadtime" else "somebody else"
        order.in_force, order.held = seen.running, hold
        held = ": it is left alone (on_conflict hold)" if order.held else ""
        detail = f"{who} set its size, {seen.running} instances run{held}"
        order.blame("conflict", detail, f"generation {seen.generation}", pause)


def _waited(order: Order, seen: Observed, lead_s: float, clock: Clock) -> int:
    """Bring `waiting` up to date; returns how many instances came neither in time nor in twice the time."""
    failed = not order.accepted and f"command {order.sent[-1][0]}" in order.blamed
    goal = order.in_force if order.accepted or failed else order.sent[-1][1]
    missing = max(0, goal - seen.ready)
    grown = max(0, goal - order.goal)
    launched = min(grown, missing)  # those asked for first come first
    given_up = _taken(order.waiting, order.goal - goal, newest=True)
    order.goal = goal
    lost = missing - launched - sum(int(entry[1]) for entry in order.waiting)
    came = [*_taken(order.waiting, -lost, newest=False), [order.issued_s, grown - launched]]
    at_s = seen.at_s or order.issued_s
    before_s = order.losses.lows[-1][0] if order.losses.lows else at_s - clock.tick_s
    order.came = [
        *((max(0.0, before_s - since), at_s - since + sum(slack), n) for since, n, *slack in came),
        *((before_s - since, math.inf, n) for since, n, *_ in given_up),
    ]
    order.came = [(low, high, n) for low, high, n in order.came if n and high > low >= 0 and at_s > before_s]
    since = [order.issued_s, launched], [at_s, lost, at_s - before_s]
    order.waiting = [*order.waiting, *(entry for entry in since if entry[1] > 0)]
    waited = [((seen.at_s or 0.0) - entry[0], int(entry[1])) for entry in order.waiting]
    order.late = sum(n for age_s, n in waited if age_s > lead_s + clock.tick_s)
    return sum(n for age_s, n in waited if age_s > 2 * lead_s + RELAUNCH_S + clock.tick_s)


def _taken(waiting: list[list[float]], count: int, *, newest: bool) -> list[list[float]]:
    """Take so many instances out of those that are waited for; returns these."""
    taken: list[list[float]] = []
    while count > 0 and waiting:
        entry = waiting[-1 if newest else 0]
        some = min(count, int(entry[1]))
        taken.append([entry[0], some, *entry[2:]])
        entry[1] -= some
        count -= some
        if not entry[1]:
            waiting.remove(entry)
    return taken


def _avoided(
    offers: Sequence[Offer],
    observed: Mapping[str, Observed],
    orders: Mapping[str, Order],
    clock: Clock,
    excluded: Iterable[str],
) -> dict[str, str]:
    """Offers not to be bought more of, with why: those that do not deliver, where others can stand in for them.

    A provider whose actuator is silent delivers nothing of its other offers either.
    """
    silent = {
        o.provider
        for o in offers
        if observed.get(o.offer_id, Observed()).silent
        and o.offer_id in orders
        and orders[o.offer_id].state in ("unanswered", "unobserved")
    }
    avoided: dict[str, str] = {}
    held: dict[str, str] = {}
    for offer in offers:
        name, order = offer.offer_id, orders.get(offer.offer_id)
        if offer.provider in silent:
            avoided[name] = f"no actuator of provider {offer.provider} answers"
        elif order is not None and order.held:
            held[name] = order.detail
        elif order is not None and order.state in NOT_DELIVERED:
            avoided[name] = order.detail
        elif order is not None and order.followed:
            others = [other for other in offers if other.offer_id != name]
            if clock.now_s < order.avoid_s + starting_s(others, observed, clock.tick_s):
                left_s = max(0.0, order.avoid_s - clock.now_s)
                avoided[name] = f"what was commanded did not come, for {left_s:.0f} s more"
    left = {o.offer_id for o in offers} - avoided.keys() - held.keys() - set(excluded)
    return held | (avoided if left else {})
