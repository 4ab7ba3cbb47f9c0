"""Turns commands into results, without Kafka: accept or refuse, apply within a timeout, retry, observe.

Statuses: REFUSED (see `pipeline.wire.commands`; the target is untouched), APPLIED or PARTIAL (the provider accepted
it, also where the target had that count already), NOOP (a dry run), RETRYING (to be applied again after
`retry_after_s`), FAILED (the provider rejected it, or it expired, was superseded or met a conflict while it was being
retried).
"""

import math
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from pipeline.errors import Exhausted, LeadtimeError, Rejected, Retryable, Throttled
from pipeline.logs import get_logger
from pipeline.providers.base import Observation, Provider, Record, Result
from pipeline.providers.bounds import OF_THE_MACHINE
from pipeline.runtime import metrics
from pipeline.security.signing_keys import Keyring
from pipeline.wire.codec import encode
from pipeline.wire.commands import Ledger, Target, refusal
from pipeline.wire.policies import OBSERVED_COUNTS, refuse_negative

T = TypeVar("T")
log = get_logger("leadtime.actuator")

Outcome = tuple[Record, Record]
"""A command and its result."""

TELLS_NOTHING = ("forged", "replayed", "older-epoch")
"""Reasons of refusals that say nothing about the newest command of a target."""
STEP_S = 0.1
"""How often a waiting call looks whether the process is being stopped: it must end within a second."""
ANSWERS = 256
"""Results kept of a target: a restarted actuator observes its last ticks again, some hundred at most."""
SHORTEST_RETRY_S = 1.0
"""A provider that asks for less would be called without a pause."""


class Stopped(Exception):
    """The process is being stopped during a provider's call, whose outcome is therefore unknown."""


class TimedOut(Retryable):
    """A provider's call was given up; it may go through after all."""


class Defect(Rejected):
    """A provider's call raised what the contract does not name."""


ERROR_CLASSES: tuple[tuple[type[LeadtimeError], str], ...] = (
    (Throttled, "throttled"),
    (TimedOut, "timeout"),
    (Retryable, "retryable"),
    (Defect, "defect"),
    (Rejected, "rejected"),
    (Exhausted, "exhausted"),
)
"""Names of failures in metrics; the first class that an error is of."""


@dataclass(frozen=True)
class Retry:
    """An accepted command that is to be applied (again) at `due_s`, event time."""

    command: Record
    due_s: float


@dataclass
class Executor:
    """Accepts or refuses commands, applies them with the providers of one actuator, and schedules retries.

    Attributes:
        providers: by the name that targets carry.
        ring: public keys whose commands are followed.
        timeout_s: longest wall-clock time of a provider's call.
        stopping: returns whether the process is being stopped.
        ledger: epochs and ids of accepted commands.
        retries: by target.
        answers: the last results of each target, the newest last, without those that do not concern it (`note`).
    """

    providers: Mapping[str, Provider]
    ring: Keyring
    timeout_s: float = 10.0
    stopping: Callable[[], bool] = lambda: False
    ledger: Ledger = field(default_factory=Ledger)
    retries: dict[str, Retry] = field(default_factory=dict[str, Retry])
    answers: dict[str, deque[Record]] = field(
        default_factory=lambda: defaultdict[str, deque[Record]](lambda: deque(maxlen=ANSWERS))
    )
    _sharing: dict[str, bool] = field(default_factory=dict[str, bool])
    _growing: dict[str, dict[int, float]] = field(
        default_factory=lambda: defaultdict[str, dict[int, float]](dict)
    )
    """By target and count that is not ready yet: event time of the first command for it."""

    def owns(self, command: Record) -> bool:
        """Whether the command's target belongs to a provider of this actuator; other actuators follow the rest."""
        return command["target"]["provider"] in self.providers

    def submit(self, command: Record, now_s: float) -> list[Outcome]:
        """Check and apply a command at event time `now_s`; returns its result, preceded by that of a retry it replaces.

        Raises:
            Stopped, Exhausted: nothing is decided; the command must be submitted again after the restart.
        """
        ref = command["target"]["ref"]
        reason = refusal(
            command,
            now_s=now_s,
            ledger=self.ledger,
            ring=self.ring,
            generation=self._foreign_generation(command, now_s),
        )
        if reason is not None:
            return [(command, result(command, "REFUSED", reason, now_s))]
        replaced = self.retries.pop(ref, None)
        outcomes: list[Outcome] = []
        if replaced is not None:
            outcomes.append((replaced.command, result(replaced.command, "FAILED", "superseded", now_s)))
        wait_s = command["not_before"].timestamp() - now_s
        if command["dry_run"]:
            settled = result(command, "NOOP", "dry-run", now_s)
        elif wait_s > 0:
            self.retries[ref] = Retry(command, now_s + wait_s)
            settled = result(command, "RETRYING", "not-before", now_s, retry_after_s=wait_s)
        else:
            settled = self._attempt(command, now_s)
        self.ledger.accept(ref, command["epoch"], command["id"])
        return [*outcomes, (command, settled)]

    def retry(self, now_s: float, apps: Collection[str] | None = None) -> list[Outcome]:
        """Apply the retries that are due by `now_s` (of these apps), each at its own due time, in that order.

        Raises:
            Stopped, Exhausted: as `submit`.
        """
        outcomes: list[Outcome] = []
        while True:
            due = [
                (retry.due_s, ref)
                for ref, retry in self.retries.items()
                if retry.due_s <= now_s and (apps is None or Target.of(retry.command).app in apps)
            ]
            if not due:
                return outcomes
            due_s, ref = min(due)
            command = self.retries[ref].command
            if due_s >= command["expires"].timestamp():
                settled = result(command, "FAILED", "expired", due_s)
            elif self._foreign_generation(command, due_s) not in (None, command["expected_generation"]):
                settled = result(command, "FAILED", "conflict", due_s)
            else:
                settled = self._attempt(command, due_s)
            if settled["status"] != "RETRYING":
                del self.retries[ref]
            outcomes.append((command, settled))

    def resume(self, command: Record, last: Record) -> None:
        """Schedule the retry of a command whose last result, before a restart, was RETRYING."""
        due_s = last["requested_ts"].timestamp() + last["retry_after_s"]
        self.retries[command["target"]["ref"]] = Retry(command, due_s)

    def observe(self, target: Target, tick: int, tick_s: int, now_s: float) -> Record | None:
        """The record `capacity_observed` of a target for a tick; None where the provider cannot tell.

        Args:
            target: of a provider of this actuator.
            tick: the last whole one.
            tick_s: its length in seconds.
            now_s: time of the observation in Unix seconds: the tick's end in a replay, in the tick after it live.

        Raises:
            Stopped: the process is being stopped.
            Exhausted: as `submit`.
        """
        try:
            observation = self._observation(target, now_s, float(tick * tick_s))
        except (Retryable, Rejected) as error:
            log.warning("no observation", target=target.ref, tick=tick, error=str(error))
            return None
        self._note_ready(target, observation.ready, now_s)
        return observed(target, tick, observation, self._answer(target.ref, now_s))

    def accepted(self, ref: str, before: int) -> int | None:
        """The count that the provider last accepted for a target by commands of epochs before `before`; None: none."""
        of = (answer for answer in reversed(self.answers[ref]) if answer["epoch"] < before)
        return next((answer["after"] for answer in of if answer["after"] is not None), None)

    def note(self, answer: Record) -> None:
        """Keep a result for the target's next observations.

        A refusal does not concern the target, and is not kept, where the command was forged, a repeat or of an older
        epoch, or was accepted before.
        """
        kept = self.answers[answer["target"]]
        refused = answer["status"] == "REFUSED"
        if refused and (answer["reason"] in TELLS_NOTHING or any(_same_command(answer, a) for a in kept)):
            return
        kept.append(answer)

    def _answer(self, ref: str, now_s: float) -> Record | None:
        """Latest result, by event time `now_s`, of the newest command: observing a tick again gives the same."""
        known = [answer for answer in self.answers[ref] if answer["requested_ts"].timestamp() <= now_s]
        newest = max((answer["epoch"] for answer in known), default=None)
        return next((answer for answer in reversed(known) if answer["epoch"] == newest), None)

    def can_share_nodes(self, provider: str) -> bool:
        """Whether a provider of this actuator follows targets of kind REPLICAS; it is asked once.

        Raises:
            Exhausted: as `submit`.
        """
        if provider not in self._sharing:
            self._sharing[provider] = _or_defect(self.providers[provider].can_share_nodes) or False
        return self._sharing[provider]

    def offered(self, price: Record) -> None:
        """Tell the offer's provider of a price; a defect of it is logged.

        Raises:
            Exhausted: as `submit`.
        """
        provider = self.providers.get(price["provider"])
        if provider is not None:
            _or_defect(lambda: provider.offered(price))

    def _check(self, target: Target) -> None:
        """Refuse a target of a kind that its provider does not follow.

        Raises:
            Rejected: it does not.
        """
        if target.is_replicas and not self.can_share_nodes(target.provider):
            raise Rejected(f"provider {target.provider!r} has no shared nodes")

    def _observation(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """What the target's provider observes; see `Provider.observe`."""
        self._check(target)
        provider = self.providers[target.provider]
        return self._called(target, "observe", lambda: _sound(provider.observe(target, now_s, since_s)))

    def _foreign_generation(self, command: Record, now_s: float) -> int | None:
        """The target's generation where neither this command nor an accepted one set it; else None.

        This command did where the process was killed after applying it; an earlier one where it was retried, and
        applied after the target was observed for the plan.
        """
        if command["expected_generation"] is None:
            return None
        target = Target.of(command)
        try:
            observation = self._observation(target, now_s)
        except (Retryable, Rejected):
            return None  # `apply` meets the same obstacle, and says so
        ours = observation.command_id == command["id"] or observation.command_id in self.ledger.ids
        return None if ours else observation.generation

    def _attempt(self, command: Record, now_s: float) -> Record:
        target = Target.of(command)
        provider = self.providers[target.provider]
        try:
            self._check(target)
            done = self._called(
                target, "apply", lambda: _done(command, provider.apply(command, now_s), now_s)
            )
        except Retryable as error:
            wait_s = _wait_s(error)
            self.retries[command["target"]["ref"]] = Retry(command, now_s + wait_s)
            return result(command, "RETRYING", str(error), now_s, retry_after_s=wait_s)
        except Rejected as error:
            return result(command, "FAILED", str(error), now_s)
        self._note_growth(target, command, done)
        return done

    def _note_growth(self, target: Target, command: Record, done: Record) -> None:
        """Begin to wait for what a command grew a target to; counts beyond it are not waited for any more."""
        counts = self._growing[target.ref]
        for count in [count for count in counts if count > done["after"]]:
            del counts[count]
        if done["after"] > done["before"]:
            counts.setdefault(done["after"], command["not_before"].timestamp())

    def _note_ready(self, target: Target, ready: int, now_s: float) -> None:
        counts = self._growing[target.ref]
        for count in [count for count in counts if count <= ready]:
            metrics.PROVIDER_READY_SECONDS.labels(target.provider).observe(now_s - counts.pop(count))

    def _called(self, target: Target, name: str, call: Callable[[], T]) -> T:
        """Make a call of the target's provider and count it; as `_bounded`."""
        try:
            with metrics.PROVIDER_CALL_SECONDS.labels(target.provider, name).time():
                return self._bounded(call)
        except (Retryable, Rejected, Exhausted) as error:
            of = next(label for kind, label in ERROR_CLASSES if isinstance(error, kind))
            metrics.PROVIDER_ERRORS.labels(target.provider, name, of).inc()
            raise

    def _bounded(self, call: Callable[[], T]) -> T:
        """Make a provider's call in a daemon thread, which is abandoned after the timeout.

        Raises:
            Retryable, Rejected: of the call, for a defect, or for the timeout.
            Exhausted: the machine lacks disk or file handles.
            Stopped: the process is being stopped.
        """
        outcome: list[T] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                outcome.append(call())
            except BaseException as error:
                errors.append(error)

        # A daemon: one that hangs must not hold up the exit.
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        waited_s = 0.0
        while thread.is_alive() and waited_s < self.timeout_s:
            thread.join(min(STEP_S, self.timeout_s - waited_s))
            waited_s += STEP_S
            if thread.is_alive() and self.stopping():
                raise Stopped
        if errors:
            raise _known(errors[0])
        if not outcome:
            raise TimedOut(f"no answer within {self.timeout_s:g} s", self.timeout_s)
        return outcome[0]


def _or_defect(call: Callable[[], T]) -> T | None:
    """What a provider's call without a result of its own returns; None where it has a defect, which is logged.

    Raises:
        Exhausted: the machine lacks disk or file handles.
    """
    try:
        return call()
    except Exception as error:
        known = _known(error)
        if isinstance(known, Exhausted):
            raise known from None
        return None


def _known(error: BaseException) -> BaseException:
    """An error of a provider's call as the contract names it.

    What every target would meet (OF_THE_MACHINE) becomes `Exhausted`: it passes, and a command that FAILED for it would
    not be applied again. Any other exception concerns one target: it is logged and becomes `Rejected`.
    """
    if isinstance(error, Retryable | Rejected | Exhausted) or not isinstance(error, Exception):
        return error
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        return Exhausted(f"the machine of the actuator: {error}: no command is decided until this has passed")
    log.error("defect of a provider", error=repr(error), exc_info=error)
    return Defect(f"defect of the provider: {type(error).__name__}: {error}")


def _wait_s(error: Retryable) -> float:
    """Seconds until the next try; a pause that is no number is the shortest."""
    try:
        wait_s = float(error.retry_after)
    except (TypeError, ValueError):
        return SHORTEST_RETRY_S
    return max(wait_s, SHORTEST_RETRY_S) if math.isfinite(wait_s) else SHORTEST_RETRY_S


def _sound(observation: Observation) -> Observation:
    """The observation, if a record can be made of it.

    Raises:
        Exception: a field is missing, of another type or a count below 0: a defect of the provider.
    """
    record = observed(Target("", ""), 0, observation)
    encode("capacity_observed", record)
    refuse_negative(record, OBSERVED_COUNTS)
    return observation


def _done(command: Record, done: Result, now_s: float) -> Record:
    """The record `command_result` of what a provider accepted.

    Raises:
        Exception: as `_sound`.
    """
    settled = result(
        command,
        "PARTIAL" if done.partial else "APPLIED",
        "",
        now_s,
        before=done.before,
        after=done.after,
        accepted_ts=datetime.fromtimestamp(done.accepted_s, UTC),
        provider_request_id=done.request_id,
        generation=done.generation,
    )
    encode("command_result", settled)
    refuse_negative(settled, ("before", "after"))
    return settled


def result(command: Record, status: str, reason: str, now_s: float, **more: Any) -> Record:
    """The record `command_result`; more: fields that replace the defaults."""
    return {
        "schema_version": 1,
        "command_id": command["id"],
        "target": command["target"]["ref"],
        "epoch": command["epoch"],
        "status": status,
        "reason": reason.encode(errors="replace").decode(),  # a provider may quote bytes that are no text
        "before": None,
        "after": None,
        "requested_ts": datetime.fromtimestamp(now_s, UTC),
        "accepted_ts": None,
        "ready_ts": None,
        "retry_after_s": None,
        "provider_request_id": None,
        "generation": None,
    } | more


def _same_command(one: Record, other: Record) -> bool:
    return one["command_id"] == other["command_id"] and other["status"] != "REFUSED"


def observed(target: Target, tick: int, observation: Observation, answer: Record | None = None) -> Record:
    """The record `capacity_observed`; answer: the newest result of a command for the target, None without."""
    return {
        "schema_version": 4,
        "tick": tick,
        "target": target.ref,
        "app": target.app,
        "offer_id": target.offer_id,
        "ready": observation.ready,
        "pending": observation.pending,
        "draining": observation.draining,
        "failed": observation.failed,
        "interrupted": observation.interrupted,
        "least_ready": observation.least_ready,
        "pending_ready_s": list(observation.pending_ready_s),
        "allocatable": [
            {"metric": metric, "value": value} for metric, value in observation.allocatable.items()
        ],
        "generation": observation.generation,
        "managed_by": observation.managed_by,
        "billed_h": observation.billed_h,
        "command_id": observation.command_id,
        "reason": observation.reason,
        "autoscaled": observation.autoscaled,
        "answer": None
        if answer is None
        else {name: answer[name] for name in ("epoch", "status", "reason", "after", "generation")},
    }
