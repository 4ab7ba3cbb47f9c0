"""Publishing versions of side inputs: policies, prices, calendar and models."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.errors import UsageError
from pipeline.inputs.store import VERSIONED
from pipeline.kafka import reader
from pipeline.kafka.connection import reachable
from pipeline.kafka.installation import Progress, progress
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT, Record

YEAR_S = 365 * 86_400
_LEFT = "not commanded any more, released neither; give the offer an offer_id of its own"
CHANGES = {
    "provider": ("of provider", f"what runs there is {_LEFT}"),
    "region": ("of region", f"where a provider keeps regions apart, what runs there is {_LEFT}"),
    "currency": ("in", "budget and shortage_price_h of policies are amounts of the offers' currency"),
}
"""Fields of an offer that concern what is there already: how a change is said, and what it does."""
RENEWED = "prices"
"""Topic of which the same again is a new version all the same: it says that a price is not stale."""


def published(settings: Settings, topic: str) -> dict[str, dict[int, Record]]:
    """All published versions of a side input: by name, by version.

    Raises:
        UsageError, Unreachable: Kafka does not answer, or there is no such topic.
    """
    reachable(settings)
    versions: dict[str, dict[int, Record]] = {}
    for _, record in reader.records(settings, topic):
        versions.setdefault(record[VERSIONED[topic]], {})[record["version"]] = record
    return versions


def publish(
    settings: Settings,
    topic: str,
    schema_name: str,
    records: Iterable[Record],
    *,
    from_tick: int | None = None,
    clock: Callable[[], float] = time.time,
    outputs: Outputs | None = None,
) -> list[Record]:
    """Publish versions of a side input; all of them, or none where one is refused. Twice is as good as once: what says
    neither version nor tick and is as the version that holds from the next tick on stays that version, but for prices.

    A record without `version` becomes the one after the newest. One without `valid_from_tick` is valid from
    `from_tick`; without that, a first version from tick 0 and a later one from the installation's next tick, as its
    topics tell it, whatever is set here. Before its first tick a later version holds from where the earlier one does.

    Args:
        settings: where.
        topic, schema_name: of the side input, such as "policies" and "policy".
        records: as `read_policies` gives them.
        from_tick: where a record has no tick of its own.
        clock: wall clock in unix seconds.
        outputs: in whose transaction they are sent; None: they are sent, and there when it returns.

    Returns:
        The records as they are on the topic.

    Raises:
        UsageError: a version is there already, with other values (a replay must find what it was).
        Unreachable: Kafka does not answer, or there is no such topic.
    """
    known, whole, new = published(settings, topic), list[Record](), list[Record]()
    following = progress(settings).next_tick(clock())
    for given in records:
        name = given[VERSIONED[topic]]
        versions = known.setdefault(name, {})
        number = given.get("version", max(versions, default=0) + 1)
        earlier = max((record["valid_from_tick"] for record in versions.values()), default=0)
        default = following if versions and following is not None else earlier
        if number in versions:
            default = versions[number]["valid_from_tick"]
        stated = from_tick is not None or not {"version", "valid_from_tick"}.isdisjoint(given)
        if not stated and topic != RENEWED and (holding := _holding(versions, default)) is not None:
            of_holding = {name: holding[name] for name in ("version", "valid_from_tick")}
            if DEFAULT.with_defaults(schema_name, of_holding | given) == holding:
                whole.append(holding)
                continue
        valid = {"version": number, "valid_from_tick": default if from_tick is None else from_tick}
        record = DEFAULT.with_defaults(schema_name, valid | given)
        if versions.get(number, record) != record:
            raise UsageError(f"{schema_name} {name}: version {number} is published with other values")
        if number not in versions:
            new.append(record)
        versions[number] = record
        whole.append(record)
    producer = outputs or Outputs(settings)
    for record in new:
        key = f"{record[VERSIONED[topic]]}@{record['version']}"
        producer.publish(topic, schema_name, record, key=key)
    if outputs is None:
        producer.flush()
    return whole


def valid_at(versions: Mapping[int, Record], tick: float) -> Record | None:
    """The version that holds at a tick; None where none does yet."""
    valid = [record for record in versions.values() if record["valid_from_tick"] <= tick]
    return max(valid, key=lambda record: (record["valid_from_tick"], record["version"]), default=None)


def _holding(versions: Mapping[int, Record], tick: int) -> Record | None:
    """The newest version, where it is the one that holds at a tick; else None."""
    newest = valid_at(versions, tick)
    return newest if newest is not None and newest["version"] == max(versions) else None


def moved(known: Mapping[str, Mapping[int, Record]], records: Sequence[Record]) -> list[str]:
    """Of new versions of offers, which are somewhere else or in another currency than before, each with what that does.

    Args:
        known: as `published` gave it before them.
        records: as `publish` gives them.
    """
    warnings: list[str] = []
    for record in records:
        versions = known.get(record["offer_id"], {})
        before = max((number for number in versions if number < record["version"]), default=None)
        if before is None or record["version"] in versions:
            continue
        warnings += [
            f"{record['offer_id']}@{record['version']} is {what} {record[name]}, and was {what} "
            f"{versions[before][name]}: {effect}"
            for name, (what, effect) in CHANGES.items()
            if record[name] != versions[before][name]
        ]
    return warnings


def doubtful_validity(
    progress: Progress,
    topic: str,
    known: Mapping[str, Mapping[int, Record]],
    records: Sequence[Record],
    now_s: float,
) -> list[str]:
    """Of new versions, which do not act from the next tick on until a later one, each with the reason.

    Args:
        progress: of the installation.
        topic: of the side input.
        known: as `published` gave it before them.
        records: as `publish` gives them.
        now_s: wall clock, unix seconds.
    """
    following, doubts = progress.next_tick(now_s), list[str]()
    for record in records:
        number, tick, versions = (
            record["version"],
            record["valid_from_tick"],
            known.get(record[VERSIONED[topic]], {}),
        )
        if number in versions:
            continue
        name = f"{record[VERSIONED[topic]]}@{number}"
        if following is not None and progress.tick_s is not None:
            if versions and tick < following:  # a first version may hold from the beginning
                doubts.append(f"{name} is valid from tick {tick}, which is over: the next is {following}")
            if tick > following + YEAR_S // progress.tick_s:
                years = (tick - following) * progress.tick_s / YEAR_S
                doubts.append(
                    f"{name} is valid from tick {tick}, in {years:.0f} years: the next is {following}, a tick is "
                    f"{progress.tick_s} s"
                )
        doubts += [
            f"{name} is replaced from tick {other['valid_from_tick']} on by version {other['version']}"
            for _, other in sorted(versions.items())
            if other["valid_from_tick"] > tick and other["version"] < number
        ]
    return doubts


def changes(versions: Sequence[Record]) -> list[Record]:
    """For each version its author and validity, and by field [before, after] of what differs from the one before."""
    excluded = {"version", "valid_from_tick", "author", "schema_version"}
    rows: list[Record] = []
    for before, after in zip((None, *versions), versions, strict=False):
        changed = {
            name: [before[name], value]
            for name, value in after.items()
            if before and name not in excluded and before[name] != value
        }
        rows.append(
            {name: after[name] for name in ("version", "valid_from_tick", "author")} | {"changed": changed}
        )
    return rows
