"""Plans and the records they refer to, read from the topics: for `leadtime explain`, `leadtime.plans`, `.decision`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import Poison, UsageError
from pipeline.format import parse_time, utc
from pipeline.kafka import reader
from pipeline.reports import decision_text, learner_state
from pipeline.reports.decision_text import Surroundings
from pipeline.settings import Settings, load_settings
from pipeline.wire import plans as wire_plans
from pipeline.wire.codec import Codec, Record
from pipeline.wire.typed import PublishedPlan


@dataclass(frozen=True)
class Decision:
    """A plan with its explanation.

    Attributes:
        plan: the record of the decision.
        text: its explanation, as `leadtime explain` prints it: lines of at most 110 columns.
    """

    plan: PublishedPlan
    text: str


def plans(
    bootstrap: str | None = None,
    app: str | None = None,
    from_: Literal["end", "start"] = "end",
    *,
    follow: bool = True,
    settings: Settings | None = None,
) -> Iterator[PublishedPlan]:
    """Plans as they are published, outside any consumer group: nothing is committed, every caller gets all of them.

    An app's plans come in the order of their ticks, each tick once; those of different apps in no certain order.
    Messages that cannot be decoded, and records of other schemas, are left out.

    Args:
        bootstrap: Kafka's address, host:port[,host:port]; None: that of `settings`.
        app: only this app's; None: all.
        from_: "end": those published after this call; "start": all that the topic keeps (90 days) first.
        follow: wait for further plans, without end; else stop at what the topic has now (with "start").
        settings: prefix of topics, schema registry, security; None: from `LEADTIME_*` in the environment.

    Raises:
        UsageError: no address, or arguments that contradict each other.
        Unreachable: Kafka does not answer, or has no such topic; also from the iterator.
    """
    if from_ not in ("end", "start"):
        raise UsageError(f"from_ is 'end' or 'start', got {from_!r}")
    if from_ == "end" and not follow:
        raise UsageError(
            "from the topic's end without following there is nothing to read: give from_='start'"
        )
    settings = _settings(bootstrap, settings)
    from_now = from_ == "end"
    messages = (
        reader.follow(settings, "plans", from_end=from_now) if follow else reader.read(settings, "plans")
    )
    codec = Codec(settings.registry_url)

    def typed() -> Iterator[PublishedPlan]:
        newest: dict[str, int] = {}
        for message in messages:
            if app is not None and (message.key() or b"") != app.encode():
                continue
            try:
                name, record = codec.decode(message.value() or b"")
            except Poison:
                continue
            if name == "plan" and record["tick"] > newest.get(record["app"], -1):
                newest[record["app"]] = record["tick"]
                yield PublishedPlan.model_validate(record)

    return typed()


def decision(
    app: str,
    tick: int | None = None,
    *,
    at: str | float | None = None,
    bootstrap: str | None = None,
    settings: Settings | None = None,
) -> Decision:
    """The decision of an app at a tick.

    Args:
        app: its name.
        tick: number of the tick; None: the newest.
        at: instead of a tick, the last decision made at this time or before: ISO 8601 (UTC without a zone) or unix
            seconds.
        bootstrap, settings: as of `plans`.

    Raises:
        UsageError: there is no such decision (the text says which there are), no address, or both `tick` and `at`.
        Unreachable: Kafka does not answer, or has no such topic.
    """
    if tick is not None and at is not None:
        raise UsageError("give tick or at, not both")
    topics = DecisionTopics(_settings(bootstrap, settings))
    record = choose(topics.plans(app), app, tick, None if at is None else parse_time(str(at)))
    return Decision(
        PublishedPlan.model_validate(record), decision_text.text(record, topics.surroundings(record))
    )


def _settings(bootstrap: str | None, settings: Settings | None) -> Settings:
    settings = settings or load_settings()
    return settings if bootstrap is None else settings.model_copy(update={"bootstrap": bootstrap})


def choose(plans_by_tick: Mapping[int, Record], app: str, tick: int | None, at_s: float | None) -> Record:
    """The plan of a tick, the last one made at a time or before, or the newest.

    Args:
        plans_by_tick: the app's plans, at least one.
        app: its name.
        tick, at_s: at most one of them.

    Raises:
        UsageError: there is no such plan; the text gives the ticks of those that exist.
    """
    first, last = min(plans_by_tick), max(plans_by_tick)
    if tick is None and at_s is None:
        return plans_by_tick[last]
    if at_s is not None:
        ends = {number: (number + 1) * plan["tick_s"] for number, plan in plans_by_tick.items()}
        tick = max((number for number, end in ends.items() if end <= at_s), default=None)
        if tick is None:
            raise UsageError(f"no plan of {app} had been made then: the first is of {utc(ends[first])}")
    if tick is None or tick not in plans_by_tick:
        raise UsageError(
            f"no plan of {app} for tick {tick}: there are {len(plans_by_tick)}, of ticks {first} to {last}"
        )
    return plans_by_tick[tick]


class DecisionTopics:
    """Reader of the topics `plans`, `policies`, `prices`, `commands`, `forecasts.apps` and `adjustments`, from their
    beginning.

    Args:
        settings: of a cluster that answers.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.codec = settings, Codec(settings.registry_url)

    def plans(self, app: str) -> dict[int, Record]:
        """An app's plans by tick.

        Raises:
            UsageError: the app has no plan; the text lists the apps that have.
        """
        apps: set[str] = set()
        plans: dict[int, Record] = {}
        for message in reader.read(self.settings, "plans"):
            key = (message.key() or b"").decode(errors="replace")
            apps.add(key)
            if key == app:
                plan = self.codec.decode(message.value() or b"")[1]
                plans[plan["tick"]] = plan
        if not plans:
            names = sorted(apps)
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            known = (
                f"there are plans of: {', '.join(names[:20])}{more}" if names else "the topic plans is empty"
            )
            raise UsageError(f"no plan of app {app!r}; {known}")
        return plans

    def surroundings(self, plan: Record) -> Surroundings:
        """Records of the policy and price versions that a plan names, and of its commands.

        A plan under version 0 of its policy was made by the default policy, which no topic has: it is built here.
        """
        policy = None
        versions = plan["versions"]
        for record in self._records("policies"):
            if f"{record['app']}@{record['version']}" == versions["policy"]:
                policy = record
        if policy is None and versions["policy"] == f"{plan['app']}@0":
            default = self.codec.encode("policy", wire_plans.default_policy(plan["app"]))
            policy = self.codec.decode(default)[1]
        prices = {
            record["offer_id"]: record
            for record in self._records("prices")
            if f"{record['offer_id']}@{record['version']}" in versions["prices"]
        }
        key_prefix = f"{plan['app']}/".encode()
        commands = [
            record
            for record in (self._records("commands", key_prefix) if plan["commands_issued"] else ())
            if record["plan_id"] == plan["plan_id"]
        ]
        if plan["level"] == "REPLICAS":
            return Surroundings(policy, prices, commands, nodes=self._nodes(plan))
        if policy is None or not (policy["learner"] or versions["adjustment"]):
            return Surroundings(policy, prices, commands)
        adjustment, unfollowed = self._adjustment(plan, policy)
        return Surroundings(policy, prices, commands, adjustment, unfollowed)

    def _nodes(self, plan: Record) -> Record | None:
        """The plan of the nodes that an app's replicas are on, of the same tick."""
        group = plan["allocation_group"]
        of = (record for record in self._records("plans", group.encode()) if record["app"] == group)
        return next((record for record in of if record["tick"] == plan["tick"]), None)

    def _adjustment(self, plan: Record, policy: Record) -> tuple[Record | None, str]:
        """The adjustment that a plan names; where it names none, why it follows none."""
        values = (
            message.value() or b""
            for message in reader.read(self.settings, "adjustments")
            if (message.key() or b"").decode(errors="replace").rpartition("@")[0] == plan["app"]
        )
        made, untrusted = learner_state.trusted(values, self.codec, learner_state.ring_of(self.settings))
        made = [record for record in made if record["valid_from_tick"] <= plan["tick"]]
        named = plan["versions"]["adjustment"]
        if named:
            return next((r for r in made if f"{plan['app']}@{r['version']}" == named), None), ""
        of_app = learner_state.AppRecords(plan["app"], [policy], plan, made, untrusted)
        return None, learner_state.unfollowed(of_app)

    def totals(self, app: str, first: int, last: int) -> dict[int, tuple[Record, int]]:
        """Records of `forecasts.apps` with the app's row in each, by tick from `first` to `last`, both included."""
        rows_by_tick: dict[int, tuple[Record, int]] = {}
        for record in self._records("forecasts.apps"):
            if first <= record["tick"] <= last and app in record["apps"]:
                rows = np.flatnonzero(np.frombuffer(record["app_index"], "<u4") == record["apps"].index(app))
                if len(rows):
                    rows_by_tick[record["tick"]] = record, int(rows[0])
        return rows_by_tick

    def _records(self, topic: str, key_prefix: bytes = b"") -> Iterator[Record]:
        for message in reader.read(self.settings, topic):
            if (message.key() or b"").startswith(key_prefix) and message.value() is not None:
                yield self.codec.decode(message.value() or b"")[1]
