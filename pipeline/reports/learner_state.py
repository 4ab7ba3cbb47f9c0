"""What the learner does for each app, from the topics `adjustments`, `plans` and `policies`: for `leadtime learner`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from models.learning import schedule
from models.learning.adjustment import STATIC
from models.metrics import DAY_S
from pipeline import format as fmt
from pipeline.errors import Poison, UsageError
from pipeline.inputs import publish
from pipeline.kafka import reader
from pipeline.security.signing_keys import Keyring, keyring
from pipeline.settings import Settings
from pipeline.stages.allocator import following
from pipeline.wire import adjustments, policies
from pipeline.wire.codec import Codec, Record
from pipeline.wire.plans import DEFAULT_POLICY

SWITCH: Final = (
    'set `learner = true` in its policy, and `confidence_of = "time"` where the price of a shortage is to be steered '
    "too (`leadtime policies set`)"
)
"""What turns the learner on."""
STEERED, WEIGHTS, AS_ASKED = "steered", "weights", "static"
"""States of an app: price and weights are the learner's, weights alone, or what the policy asks for."""
Row = dict[str, Any]


@dataclass(frozen=True)
class AppRecords:
    """The topics' records about one app.

    Attributes:
        app: its name.
        policies: versions of its policy, or of the default policy where it has none, in their order.
        plan: the newest; None: there is none.
        made: adjustments with a valid signature, in the order of their versions.
        untrusted: adjustments that are not read, as version and reason.
    """

    app: str
    policies: Sequence[Record] = ()
    plan: Record | None = None
    made: Sequence[Record] = ()
    untrusted: Sequence[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    @property
    def tick(self) -> int:
        """Of the newest plan; without one that at which the newest adjustment begins to hold."""
        if self.plan is not None:
            return self.plan["tick"]
        return self.made[-1]["valid_from_tick"] if self.made else 0

    @property
    def policy(self) -> Record | None:
        """In force at `tick`; None: there is none, the built-in one has no learner."""
        valid = [record for record in self.policies if record["valid_from_tick"] <= self.tick]
        return max(valid, key=lambda record: (record["valid_from_tick"], record["version"]), default=None)


class LearnerTopics:
    """Reads the topics once.

    Args:
        settings: of a cluster that answers.
        app: whose adjustments are read whole; None: the newest ones of each app.

    Attributes:
        checked: whether there is a key to verify signatures with.
    """

    def __init__(self, settings: Settings, app: str | None = None) -> None:
        self.codec = Codec(settings.registry_url)
        self.policies = publish.published(settings, "policies")
        self.plans = {
            key: message
            for message in reader.read(settings, "plans")
            if app in (None, key := (message.key() or b"").decode(errors="replace"))
        }
        self.values: dict[str, list[bytes]] = {}
        for message in reader.read(settings, "adjustments"):
            name = (message.key() or b"").decode(errors="replace").rpartition("@")[0]
            if message.value() is not None and app in (None, name):
                kept = self.values.setdefault(name, [])
                kept.append(message.value() or b"")
                if app is None:
                    del kept[: -following.TRIED]
        self.ring = ring_of(settings)
        self.checked = self.ring is not None

    def apps(self) -> list[str]:
        """Names of the apps with the learner on, by name."""
        names = {*self.plans, *self.values, *self.policies} - {DEFAULT_POLICY}
        return sorted(app for app in names if is_on(self.records(app).policy))

    def records(self, app: str) -> AppRecords:
        """The records about an app; of a name that no topic has they are empty."""
        made, untrusted = trusted(self.values.get(app, []), self.codec, self.ring)
        versions = self.policies.get(app) or self.policies.get(DEFAULT_POLICY, {})
        message = self.plans.get(app)
        plan = None if message is None else self.codec.decode(message.value() or b"")[1]
        return AppRecords(app, [versions[number] for number in sorted(versions)], plan, made, untrusted)

    def learnt(self, app: str) -> AppRecords:
        """The records about an app that has an adjustment, or had one.

        Raises:
            UsageError: the app is not known, its learner is off, or no adjustment was made yet.
        """
        of_app = self.records(app)
        names = sorted({*self.plans, *self.values, *self.policies} - {DEFAULT_POLICY})
        if app not in names and of_app.plan is None:
            raise UsageError(
                f"no app {app!r} has a policy, a plan or an adjustment; there are: {', '.join(names[:20]) or 'none'}"
            )
        if not of_app.made and not of_app.untrusted:
            if not is_on(of_app.policy):
                raise UsageError(f"the learner of app {app} is off: {SWITCH}")
            raise UsageError(f"no adjustment of app {app} yet: {_none_yet(of_app)}")
        return of_app


def trusted(
    values: Iterable[bytes], codec: Codec, ring: Keyring | None
) -> tuple[list[Record], list[tuple[int, str]]]:
    """Adjustments whose signature is valid in the order of their versions, and version and reason of the others.

    Args:
        values: messages of the topic `adjustments`.
        codec: decodes them.
        ring: keys of whoever may adjust; None: no signature is checked.
    """
    made: dict[int, Record] = {}
    untrusted: list[tuple[int, str]] = []
    for value in values:
        try:
            record = codec.decode(value)[1]
        except Poison as error:
            untrusted.append((-1, str(error)))
            continue
        why = None if ring is None else adjustments.untrusted(record, ring)
        if why is None:
            made[record["version"]] = record
        else:
            untrusted.append((record["version"], why))
    return [made[version] for version in sorted(made)], untrusted


def is_on(policy: Record | None) -> bool:
    """Whether a policy has the learner on."""
    return policy is not None and policy["learner"]


def ring_of(settings: Settings) -> Keyring | None:
    """The keys of whoever may adjust; None where this machine has none."""
    try:
        return keyring(settings)
    except UsageError:
        return None


def _none_yet(of_app: AppRecords) -> str:
    plan = of_app.plan
    if plan is None:
        return "it has no plan either, and the learner learns from plans"
    every = schedule.epoch_ticks(plan["tick_s"]) * plan["tick_s"]
    return (
        f"the worker's learner makes one every {fmt.duration(every)} from plans under a policy with the learner on; "
        f"the newest is of {fmt.utc((plan['tick'] + 1) * plan['tick_s'])}"
    )


def refusals(of_app: AppRecords) -> list[tuple[int, str]]:
    """Adjustments that a plan at `of_app.tick` would not follow though nothing newer is followed, newest first.

    As version and reason; those that do not hold yet are left out.
    """
    policy = of_app.policy
    refused: list[tuple[int, str]] = []
    last = following.TRIED
    for record in reversed(of_app.made[-last:]):
        if record["valid_from_tick"] > of_app.tick:
            continue
        why = (
            "other-policy: no policy with the learner on is in force"
            if policy is None or not is_on(policy)
            else following.refusal(record, of_app.app, policies.policy_of(policy), of_app.tick)
        )
        if why is None:
            break
        refused.append((record["version"], why))
    newest = of_app.made[-1]["version"] if of_app.made else -1
    return [*((version, why) for version, why in of_app.untrusted if version >= newest), *refused]


def unfollowed(of_app: AppRecords) -> str:
    """Why the plan of an app with the learner on follows no adjustment."""
    return _state(of_app, None, refusals(of_app))[1]


def row(of_app: AppRecords) -> Row:
    """What the learner does for an app, as plain JSON; see docs/learner.md."""
    policy, plan = of_app.policy, of_app.plan
    named = "" if plan is None else plan["versions"]["adjustment"]
    followed = next((made for made in of_app.made if f"{of_app.app}@{made['version']}" == named), None)
    newest = followed or (of_app.made[-1] if of_app.made else None)
    refused = refusals(of_app)
    state, why = _state(of_app, followed, refused)
    result: Row = {
        "app": of_app.app,
        "learner": is_on(policy),
        "policy": None if policy is None else f"{policy['app']}@{policy['version']}",
        "confidence_of": None if policy is None else policy["confidence_of"].lower(),
        "asked": None if policy is None else policy["confidence"],
        "state": state,
        "why": why,
        "arm": STATIC if followed is None else followed["arm"],
        "shortage_price": followed["allocator"]["shortage_price"] if followed and state == STEERED else None,
        "adjustment": named or None,
        "plan": None if plan is None else plan["plan_id"],
        "time": None if plan is None else fmt.iso((plan["tick"] + 1) * plan["tick_s"]),
        "refused": [{"version": version, "reason": reason} for version, reason in refused],
    }
    known = () if newest is None else ("realised", "saving", "saving_95", "reward", "gate")
    return result | {name: (newest or {})[name] for name in known}


def _state(
    of_app: AppRecords, followed: Record | None, refused: Sequence[tuple[int, str]]
) -> tuple[str, str]:
    """What the newest plan does, and why."""
    policy, plan = of_app.policy, of_app.plan
    if not is_on(policy):
        return AS_ASKED, f"the learner is off: {SWITCH}"
    if plan is None:
        return AS_ASKED, "there is no plan yet"
    if followed is not None and followed["arm"] != STATIC:
        if plan["confidence_of"] == "time":
            return STEERED, followed["reason"]
        return (
            WEIGHTS,
            f'confidence_of is "plan": the arm alone is followed, the price is not. {followed["reason"]}',
        )
    if followed is not None:
        return AS_ASKED, followed["reason"]
    if refused:
        version, reason = refused[0]
        return AS_ASKED, f"adjustment {version} is refused, {reason}"
    if plan["versions"]["adjustment"]:
        return AS_ASKED, f"adjustment {plan['versions']['adjustment']} is not on the topic any more (30 days)"
    waiting = [made["valid_from_tick"] for made in of_app.made if made["valid_from_tick"] > plan["tick"]]
    if waiting:
        return AS_ASKED, f"the first adjustment holds from tick {min(waiting)} on"
    return AS_ASKED, f"no adjustment yet: {_none_yet(of_app)}"


def explained(of_app: AppRecords) -> Row:
    """`row` with what the learner tries, as plain JSON."""
    newest = of_app.made[-1] if of_app.made else None
    made: Row = {}
    if newest is not None:
        made = {
            "newest": {
                name: newest[name]
                for name in (
                    "version",
                    "valid_from_tick",
                    "expires_tick",
                    "policy",
                    "arm",
                    "reason",
                    "base_model",
                )
            },
            "arms": [
                {name: arm[name] for name in ("arm", "price", "better", "worse", "breach", "days")}
                | {"paused_until": _day(arm["paused_until"])}
                for arm in newest["arms"]
            ],
        }
    return row(of_app) | made


def _day(number: int) -> str | None:
    """The date of a Unix day; None for none."""
    return None if number < 0 else fmt.iso(number * DAY_S)[:10]


def history(of_app: AppRecords) -> list[Row]:
    """Promotions, rollbacks, beginnings and edits of the policy, in the order of time, as plain JSON.

    Of each `tick`, `time`, `change` (policy, beginning, promotion, rollback, static, silence, refused) and `text`.
    """
    tick_s = None if of_app.plan is None else of_app.plan["tick_s"]
    rows: list[tuple[int, str, str]] = []
    for change in publish.changes(of_app.policies):
        fields = "; ".join(f"{name} {a} → {b}" for name, (a, b) in change["changed"].items())
        text = f"version {change['version']} by {change['author'] or 'nobody named'}: {fields or 'published'}"
        rows.append((change["valid_from_tick"], "policy", text))
    before: Record | None = None
    for record in of_app.made:
        rows += _since(before, record)
        before = record
    for version, why in of_app.untrusted:
        rows.append((version, "refused", why))
    order = sorted(enumerate(rows), key=lambda numbered: (numbered[1][0], numbered[0]))
    return [
        {
            "tick": tick,
            "time": None if tick_s is None or tick <= 0 else fmt.iso((tick + 1) * tick_s),
            "change": change,
            "text": text,
        }
        for _, (tick, change, text) in order
    ]


def _since(before: Record | None, record: Record) -> list[tuple[int, str, str]]:
    """What happened between an adjustment and the one before it, as tick, change and text."""
    version = record["version"]
    rows: list[tuple[int, str, str]] = []
    if before is not None and before["expires_tick"] < record["valid_from_tick"] - 1:
        first, last = before["expires_tick"] + 1, record["valid_from_tick"] - 1
        rows.append((first, "silence", f"no adjustment holds for ticks {first} to {last}: plans are static"))
    events = [(event["tick"], event["text"]) for event in record["events"]]
    rows += [(tick, CHANGES.get(text.partition(" ")[0], "beginning"), text) for tick, text in events]
    if before is None or before["policy"] != record["policy"]:
        rows.append((version, "beginning", f"learns under policy {record['policy']}: {record['reason']}"))
    elif before["arm"] == STATIC != record["arm"]:
        rows.append((version, "beginning", f"steers for the first time, {record['reason']}"))
    elif before["arm"] != STATIC == record["arm"]:
        rows.append((version, "static", record["reason"]))
    return rows


CHANGES: Final[Mapping[str, str]] = {
    "promotion": "promotion",
    "rollback": "rollback",
    "begins": "beginning",
    "frozen": "freeze",
}
"""Kinds of a learner's events by their first word."""
