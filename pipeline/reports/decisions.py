"""Plans and decisions as the topics have them: for `leadtime explain`, and typed for programs (`leadtime.plans`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import Poison, UsageError
from pipeline.format import parse_time, utc
from pipeline.kafka import reader
from pipeline.reports import decision_text
from pipeline.reports.decision_text import Surroundings
from pipeline.settings import Settings, load
from pipeline.wire import plans as wire_plans
from pipeline.wire.codec import Codec, Record
from pipeline.wire.typed import PublishedPlan


@dataclass(frozen=True)
class Decision:
    """Why an app has the instances that it has.

    Attributes:
        plan: the record of the decision.
        text: the same for people, as `leadtime explain` prints it: lines of at most 110 columns.
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

    An app's plans come in the order of their ticks, each tick once; those of different apps in no certain order. What
    cannot be read as a plan is left out.

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
    return Decision(PublishedPlan.model_validate(record), decision_text.text(record, topics.around(record)))


def _settings(bootstrap: str | None, settings: Settings | None) -> Settings:
    settings = settings or load()
    return settings if bootstrap is None else settings.model_copy(update={"bootstrap": bootstrap})


def choose(found: Mapping[int, Record], app: str, tick: int | None, at_s: float | None) -> Record:
    """The plan of a tick, the last one made at a time or before, or the newest.

    Args:
        found: the app's plans by tick, at least one.
        app: its name.
        tick, at_s: at most one of them.

    Raises:
        UsageError: there is none; the line says which there are.
    """
    first, last = min(found), max(found)
    if tick is None and at_s is None:
        return found[last]
    if at_s is not None:
        ends = {number: (number + 1) * plan["tick_s"] for number, plan in found.items()}
        tick = max((number for number, end in ends.items() if end <= at_s), default=None)
        if tick is None:
            raise UsageError(f"no plan of {app} had been made then: the first is of {utc(ends[first])}")
    if tick is None or tick not in found:
        raise UsageError(
            f"no plan of {app} for tick {tick}: there are {len(found)}, of ticks {first} to {last}"
        )
    return found[tick]


class DecisionTopics:
    """The topics that a decision is in, read whole.

    Args:
        settings: of a cluster that answers.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.codec = settings, Codec(settings.registry_url)

    def plans(self, app: str) -> dict[int, Record]:
        """An app's plans by tick.

        Raises:
            UsageError: there is none of this app; the line says of which apps there are.
        """
        apps: set[str] = set()
        found: dict[int, Record] = {}
        for message in reader.read(self.settings, "plans"):
            key = (message.key() or b"").decode(errors="replace")
            apps.add(key)
            if key == app:
                plan = self.codec.decode(message.value() or b"")[1]
                found[plan["tick"]] = plan
        if not found:
            names = sorted(apps)
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            there = (
                f"there are plans of: {', '.join(names[:20])}{more}" if names else "the topic plans is empty"
            )
            raise UsageError(f"no plan of app {app!r}; {there}")
        return found

    def around(self, plan: Record) -> Surroundings:
        """Policy, prices and commands of a plan."""
        policy = None
        wanted = plan["versions"]
        for record in self._records("policies"):
            if f"{record['app']}@{record['version']}" == wanted["policy"]:
                policy = record
        if policy is None and wanted["policy"] == f"{plan['app']}@0":
            default = self.codec.encode("policy", wire_plans.default_policy(plan["app"]))
            policy = self.codec.decode(default)[1]
        prices = {
            record["offer_id"]: record
            for record in self._records("prices")
            if f"{record['offer_id']}@{record['version']}" in wanted["prices"]
        }
        start = f"{plan['app']}/".encode()
        commands = [
            record
            for record in (self._records("commands", start) if plan["commands_issued"] else ())
            if record["plan_id"] == plan["plan_id"]
        ]
        return Surroundings(policy, prices, commands)

    def totals(self, app: str, first: int, last: int) -> dict[int, tuple[Record, int]]:
        """Forecast records with an app's total, and its row in them, by tick from `first` to `last`."""
        found: dict[int, tuple[Record, int]] = {}
        for record in self._records("forecasts.apps"):
            if first <= record["tick"] <= last and app in record["apps"]:
                rows = np.flatnonzero(np.frombuffer(record["app_index"], "<u4") == record["apps"].index(app))
                if len(rows):
                    found[record["tick"]] = record, int(rows[0])
        return found

    def _records(self, logical: str, start: bytes = b"") -> Iterator[Record]:
        for message in reader.read(self.settings, logical):
            if (message.key() or b"").startswith(start) and message.value() is not None:
                yield self.codec.decode(message.value() or b"")[1]
