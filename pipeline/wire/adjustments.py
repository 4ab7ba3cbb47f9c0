"""Makes, signs and judges adjustments: what the learner changes of an app's plans, within bounds, for a while.

An adjustment is the record `adjustment`, signed as a command is (`pipeline.wire.signatures`). Whoever would follow it
judges, in this order (the first that fails is the code before the colon of `refusal`):
1. `older-schema`   it was written before adjustments were signed;
2. `forged`         no signature, a key that is not trusted, or a signature that does not fit;
3. `unknown-app`    it is for another app;
4. `not-yet-valid`  the tick is before `valid_from_tick`;
5. `expired`        the tick is after `expires_tick`: a learner that died leaves no setting behind;
6. `other-policy`   it was made for another version of the policy, which somebody has edited since;
7. `out-of-range`   a setting is beyond its range or the policy's bounds, or a figure is not finite.
What is refused leaves static: the plan is as the policy asks.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from models.capacity import Policy
from models.learning.adjustment import Adjustment, ExpertWeights
from pipeline.security.signing_keys import Keyring, SigningKey
from pipeline.wire import signatures
from pipeline.wire.codec import Record

SCHEMA_VERSION = 2
ALLOCATOR = ("confidence", "shortage_price", "hold_s", "supply")
"""Settings in the record's part `allocator`."""


@dataclass(frozen=True)
class GateEvidence:
    """Evidence for an adjustment at the gate.

    Attributes:
        e_value: of the arm against static, on paired blocks.
        n: blocks.
        bound: e-value from which the arm is promoted.
        promoted: whether it is.
    """

    e_value: float = 1.0
    n: int = 0
    bound: float = 0.0
    promoted: bool = False


@dataclass(frozen=True)
class ArmEvidence:
    """What is known of an arm.

    Attributes:
        arm: its name.
        price: of an hour's shortage, at which it is compared, in prices of a replica-hour.
        better, worse: e-values that it costs less than the first arm, and that it costs more.
        breach: e-value that it misses more than is allowed.
        days: that were judged.
        paused_until: Unix day before which it is not tried again; -1 = it may be.
    """

    arm: str
    price: float = 0.0
    better: float = 1.0
    worse: float = 1.0
    breach: float = 1.0
    days: int = 0
    paused_until: int = -1


class LearnerEvent(NamedTuple):
    """A change of arm: when it was decided, and what in words."""

    tick: int
    text: str


@dataclass(frozen=True)
class RealisedShares:
    """Shares of time and of plans that were kept as promised, of the last day and of all; None = none was judged.

    ticks, plans: judged in all.
    """

    time_day: float | None = None
    time_all: float | None = None
    ticks: int = 0
    plans_day: float | None = None
    plans_all: float | None = None
    plans: int = 0


@dataclass(frozen=True)
class AdjustmentSpec:
    """What an adjustment says, before it is signed.

    Attributes:
        app: name of the app.
        version: tick at which it was made.
        valid_from_tick, expires_tick: first and last tick that may follow it.
        base_model: behaviour model that it was made for.
        policy: `app@version` of the policy that it was made for; the app of a default policy is `*`.
        adjustment: the settings.
        gate: evidence for them.
        model: version of a fine-tuned head; "" = none.
        arms: what the learner tries, the first arm first.
        events: since the adjustment before.
        realised: shares that were kept as promised.
        saving: share of static's cost that was saved so far, None = not known; saving_95: its 95 % interval.
        reason: in words.
        reward: as `saving`, with misses priced.
        safe: whether the learner holds it to be within its budget of harm.
    """

    app: str
    version: int
    valid_from_tick: int
    expires_tick: int
    base_model: str
    policy: str
    adjustment: Adjustment
    gate: GateEvidence = field(default_factory=GateEvidence)
    model: str = ""
    arms: tuple[ArmEvidence, ...] = ()
    events: tuple[LearnerEvent, ...] = ()
    realised: RealisedShares = field(default_factory=RealisedShares)
    saving: float | None = None
    saving_95: tuple[float, float] | None = None
    reason: str = ""
    reward: float | None = None
    safe: bool = True


def build(spec: AdjustmentSpec, key: SigningKey) -> Record:
    """The record `adjustment` of a specification, signed with a key; the parts that are left alone have defaults."""
    settings = spec.adjustment
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "app": spec.app,
        "version": spec.version,
        "valid_from_tick": spec.valid_from_tick,
        "base_model": spec.base_model,
        "expires_tick": spec.expires_tick,
        "policy": spec.policy,
        "arm": settings.arm,
        "allocator": {name: getattr(settings, name) for name in ALLOCATOR},
        "experts": settings.experts._asdict(),
        "speed": settings.speed,
        "profiler": {"scale": 1.0, "speed": 1.0, "weights": []},
        "simulator": {"margin": 1.0, "correlation": 1.0},
        "model": spec.model,
        "gate": asdict(spec.gate),
        "arms": [asdict(arm) for arm in spec.arms],
        "events": [event._asdict() for event in spec.events],
        "realised": asdict(spec.realised),
        "saving": spec.saving,
        "saving_95": None if spec.saving_95 is None else list(spec.saving_95),
        "reason": spec.reason,
        "reward": spec.reward,
        "safe": spec.safe,
    }
    return sign(record, key)


def spec_of(record: Record) -> AdjustmentSpec:
    """The specification that a record was built from."""
    plain = ("app", "version", "valid_from_tick", "expires_tick", "base_model", "policy", "model", "saving")
    interval = record["saving_95"]
    return AdjustmentSpec(
        **{name: record[name] for name in (*plain, "reason", "reward", "safe")},
        adjustment=adjustment_of(record),
        gate=GateEvidence(**record["gate"]),
        arms=tuple(ArmEvidence(**arm) for arm in record["arms"]),
        events=tuple(LearnerEvent(**event) for event in record["events"]),
        realised=RealisedShares(**record["realised"]),
        saving_95=None if interval is None else (interval[0], interval[1]),
    )


def adjustment_of(record: Record) -> Adjustment:
    """The settings in a record `adjustment`."""
    return Adjustment(
        arm=record["arm"],
        experts=ExpertWeights(**record["experts"]),
        speed=record["speed"],
        **record["allocator"],
    )


def sign(record: Record, key: SigningKey) -> Record:
    """The adjustment with that key's id and signature."""
    return signatures.sign("adjustment", record, key)


def verify(record: Record, ring: Keyring) -> bool:
    """Whether the signature is valid and by a key of the ring; False also for an unknown schema version."""
    return signatures.verify("adjustment", record, ring)


def untrusted(record: Record, ring: Keyring) -> str | None:
    """Why an adjustment is not to be read at all, as `refusal` says it: its schema or its signature; None: it is."""
    if record["schema_version"] < SCHEMA_VERSION:
        return f"older-schema: version {record['schema_version']}, {SCHEMA_VERSION} or newer is wanted"
    if not verify(record, ring):
        return f"forged: no signature by a trusted key fits (key {record['key_id'] or 'not named'})"
    return None


def refusal(record: Record, *, app: str, policy: Policy, tick: int, ring: Keyring | None) -> str | None:
    """Why an adjustment is not followed, as `code: what is wrong`, or None when it is. Pure.

    Args:
        record: as decoded from the topic `adjustments`.
        app: that is planned.
        policy: that is in force for it: the app's own, or a default one.
        tick: that is planned.
        ring: public keys by id, of whoever may adjust; None: `untrusted` was asked when the record came.
    """
    made_for, in_force = record["policy"], f"{policy.app}@{policy.version}"
    first, last = record["valid_from_tick"], record["expires_tick"]
    why = None if ring is None else untrusted(record, ring)
    if why is not None:
        return why
    if record["app"] != app:
        return f"unknown-app: it is for {record['app']}, {app} is planned"
    if tick < first:
        return f"not-yet-valid: from tick {first} on, tick {tick} is planned"
    if tick > last:
        return f"expired: held to tick {last}, tick {tick} is planned"
    if made_for != in_force:
        return f"other-policy: it was made for {made_for or 'none'}, {in_force} is in force"
    fault = next(_figure_faults(record), None) or adjustment_of(record).fault(policy)
    return None if fault is None else f"out-of-range: {fault}"


def _figure_faults(record: Record) -> Iterator[str]:
    """What is wrong with the figures that back the settings up."""
    gate, interval = record["gate"], record["saving_95"]
    if interval is not None and len(interval) != 2:
        yield f"saving_95 must be two numbers, got {len(interval)}"
    figures = [(name, record[name]) for name in ("saving", "reward") if record[name] is not None]
    figures += [(name, gate[name]) for name in ("e_value", "bound")]
    figures += [
        (f"{name} of arm {arm['arm']}", arm[name])
        for arm in record["arms"]
        for name in ("price", "better", "worse", "breach")
    ]
    shares = {name: share for name, share in record["realised"].items() if isinstance(share, float)}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            yield f"{name} must be in 0 to 1, got {share}"
    for name, value in [*figures, *(("saving_95", end) for end in interval or ())]:
        if not math.isfinite(value):
            yield f"{name} must be a finite number, got {value}"
