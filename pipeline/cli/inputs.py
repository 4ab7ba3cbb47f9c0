"""`leadtime topics`, `policies`, `prices`, `calendar` and `models`: list, check and publish the versioned inputs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipeline.command_line import command_group
from pipeline.errors import USAGE_EXIT, UsageError
from pipeline.options import AsJson, Bootstrap, Prefix

if TYPE_CHECKING:
    from pipeline.wire.codec import Record

FromTick = Annotated[
    int | None,
    typer.Option(
        help="Tick from which it is valid, where the file does not say.",
        min=0,
        show_default="0 for a first version, else the next tick",
    ),
]
COLUMNS: Final = {
    "policies": "app version valid_from_tick mode confidence governed unit min max allocation_group",
    "prices": "offer_id version valid_from_tick provider region tier capacity price currency owned_count startup_p99_s",
    "calendar": "id version valid_from_tick kind start end apps lift_mean cancelled",
    "models": "model_id version valid_from_tick uri parent",
}
"""The fields that `list` shows of each record; `--json` has all of them."""
TOPIC_COLUMNS: Final = ("name", "exists", "partitions", "key", "schemas", "cleanup.policy")


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)  # decimals: exact, as text


def _print_json(value: object) -> None:
    print(json.dumps(value, default=_plain))


def _text(value: Any) -> str:
    """A field for people: lists by comma, amounts as `cpu 2, memory 4 GiB`."""
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        amount = value["value"]
        is_memory = value.get("metric") == "memory" and amount >= 1024**2
        return f"{value.get('metric', value.get('name'))} " + (
            f"{amount / 1024**3:.6g} GiB" if is_memory else f"{amount:g}"
        )
    return "" if value is None else _plain(value)


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # into a pipe, whole lines; on a terminal, what fits
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_text(row[name])) for name in columns))  # Text: names may hold [markup]
    console.print(table)


def _published(topic: str, bootstrap: str | None, prefix: str | None) -> dict[str, dict[int, Record]]:
    """All versions on a topic, by name and number."""
    from pipeline.inputs.publish import published
    from pipeline.settings import load_settings

    return published(load_settings(bootstrap=bootstrap, prefix=prefix), topic)


def _lister(topic: str) -> Callable[..., None]:
    """The command that lists the newest version of every record of a topic."""

    def list_newest(as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
        by_name = _published(topic, bootstrap, prefix)
        newest = [versions[max(versions)] for _, versions in sorted(by_name.items())]
        if as_json:
            _print_json({topic: newest})
        else:
            _print_table(newest, COLUMNS[topic].split())

    return list_newest


def _setter(topic: str, schema_name: str) -> Callable[..., None]:
    """The command that checks a file and publishes its records to a topic."""

    def set_versions(
        file: Annotated[Path, typer.Argument(help="TOML file.")],
        from_tick: FromTick = None,
        as_json: AsJson = False,
        bootstrap: Bootstrap = None,
        prefix: Prefix = None,
    ) -> None:
        from pipeline.inputs.files import READERS
        from pipeline.inputs.publish import doubtful_validity, publish
        from pipeline.inputs.store import VERSIONED
        from pipeline.kafka.installation import progress
        from pipeline.settings import load_settings

        records = READERS[topic](file)
        _warn_of_amounts(records, VERSIONED[topic])
        if topic == "prices":
            _refuse_mixed(file, records, bootstrap, prefix)
        settings = load_settings(bootstrap=bootstrap, prefix=prefix)
        known = _published(topic, bootstrap, prefix)
        done = publish(settings, topic, schema_name, records, from_tick=from_tick)
        for doubt in doubtful_validity(progress(settings), topic, known, done, time.time()):
            print(f"warning: {doubt}", file=sys.stderr)
        for record in done:
            if record["version"] in known.get(record[VERSIONED[topic]], {}):
                name = f"{record[VERSIONED[topic]]}@{record['version']}"
                print(f"note: unchanged, nothing was published: {name}", file=sys.stderr)
        _warn_of_effects(topic, known, done)
        if topic in ("policies", "prices"):
            _warn_of_contradictions(bootstrap, prefix)
        columns = (VERSIONED[topic], "version", "valid_from_tick")
        rows = [{name: row[name] for name in columns} for row in done]
        if as_json:
            _print_json({topic: rows})
        else:
            _print_table(rows, columns)

    return set_versions


def _warn_of_effects(topic: str, known: Mapping[str, Mapping[int, Record]], done: Sequence[Record]) -> None:
    """Print to stderr what published versions do to what is there, and which do nothing; known: those before."""
    from pipeline.inputs.publish import moved

    if topic == "calendar":
        print(
            "warning: events are kept and change no plan yet: no capacity is bought for them", file=sys.stderr
        )
    for warning in moved(known, done) if topic == "prices" else ():
        print(f"warning: {warning}", file=sys.stderr)


def _refuse_mixed(file: Path, records: Sequence[Record], bootstrap: str | None, prefix: str | None) -> None:
    """Refuse prices that, beside those that are published, would be in several currencies.

    Raises:
        UsageError: they would.
    """
    from pipeline.wire.currencies import mixed

    newest = {
        offer: versions[max(versions)] for offer, versions in _published("prices", bootstrap, prefix).items()
    }
    fault = mixed((newest | {record["offer_id"]: record for record in records}).values())
    if fault is not None:
        raise UsageError(f"{file}: with the prices that are published, {fault}")


def _warn_of_amounts(records: Sequence[Record], identity: str) -> None:
    """Print to stderr which sizes can hardly be meant; identity: the field that names a record."""
    from pipeline.inputs.files import doubtful_amounts

    for record in records:
        for doubt in doubtful_amounts(record):
            print(f"warning: {record[identity]}: {doubt}", file=sys.stderr)


def _warn_of_contradictions(bootstrap: str | None, prefix: str | None) -> None:
    """Print to stderr which of the newest policies cannot be kept by the newest prices, and what these leave out."""
    from pipeline.inputs.files import contradictions

    newest = {
        topic: [versions[max(versions)] for versions in _published(topic, bootstrap, prefix).values()]
        for topic in ("policies", "prices")
    }
    for app, reason in contradictions(newest["policies"], newest["prices"]).items():
        print(f"warning: policy {app}: {reason}", file=sys.stderr)
    _warn_of_offers(newest["policies"], newest["prices"])


def _warn_of_offers(policies: Sequence[Record], prices: Sequence[Record]) -> None:
    """Print to stderr what offers leave out, and what of them several allocation groups count each for itself."""
    from pipeline.inputs.files import far_prices, undivided, unshared, unstated

    for app, doubt in unshared(policies).items():
        print(f"warning: policy {app}: {doubt}", file=sys.stderr)
    for app, doubt in unstated(policies, prices).items():
        print(f"warning: policy {app}: {doubt}", file=sys.stderr)
    for offer, doubt in [*far_prices(prices).items(), *undivided(policies, prices).items()]:
        print(f"warning: offer {offer}: {doubt}", file=sys.stderr)


topics_app = command_group(no_args_is_help=True, help="List or create the topics of an installation.")
policies_app = command_group(
    no_args_is_help=True, help="List, check or publish policies: how each app's capacity is decided."
)
prices_app = command_group(no_args_is_help=True, help="List, publish or pull the offers that can be bought.")
calendar_app = command_group(
    no_args_is_help=True, help="List or publish events that change demand: campaigns, seasons, maintenance."
)
models_app = command_group(no_args_is_help=True, help="List the released models.")
for _app, _topic, _what in (
    (policies_app, "policies", "each policy"),
    (prices_app, "prices", "each offer"),
    (calendar_app, "calendar", "each event"),
    (models_app, "models", "each model"),
):
    _app.command("list", help=f"List the newest version of {_what}.")(_lister(_topic))
for _app, _topic, _schema in (
    (policies_app, "policies", "policy"),
    (prices_app, "prices", "price"),
    (calendar_app, "calendar", "calendar"),
):
    _table = {"calendar": "event"}.get(_schema, _schema)
    _app.command("set", help=f"Check a TOML file of [[{_table}]] tables and publish them as new versions.")(
        _setter(_topic, _schema)
    )


@policies_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="TOML file of [[policy]] tables.")],
    prices: Annotated[
        Path | None,
        typer.Option(help="TOML file of [[price]] tables: what the policies are to be kept with."),
    ] = None,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Check a TOML file of [[policy]] tables; publish nothing.

    With --prices, or with --bootstrap the prices that are published there, a minimum or maximum that no offer can keep
    is refused as well.
    """
    from pipeline.inputs.files import contradictions, read_policies, read_prices

    records = read_policies(file)
    offers = read_prices(prices) if prices is not None else []
    if prices is None and bootstrap is not None:
        offers = [newest[max(newest)] for newest in _published("prices", bootstrap, prefix).values()]
    _warn_of_amounts(records, "app")
    _warn_of_amounts(offers, "offer_id")
    _warn_of_offers(records, offers)
    for app, reason in contradictions(records, offers).items():
        raise UsageError(f"{file}: policy {app}: {reason}")
    apps = [record["app"] for record in records]
    if as_json:
        _print_json({"policies": apps})
    else:
        print(f"{file}: {len(apps)} good: {', '.join(apps)}")


@policies_app.command("show")
def show(
    app: Annotated[str, typer.Argument(help="Name of the app.")],
    version: Annotated[int | None, typer.Option(help="Version to show.", show_default="the newest")] = None,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Show one policy with all its fields."""
    from pipeline.wire.policies import in_words

    versions = _published("policies", bootstrap, prefix).get(app, {})
    number = max(versions, default=0) if version is None else version
    if number not in versions:
        which = "is no policy" if version is None else f"is no version {version} of the policy"
        raise UsageError(f"there {which} of app {app}")
    if as_json:
        _print_json(versions[number])
    else:
        rows = [{"field": name, "value": value} for name, value in in_words(versions[number]).items()]
        _print_table(rows, ("field", "value"))


@policies_app.command("history")
def history(
    app: Annotated[str, typer.Argument(help="Name of the app.")],
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """List every version of an app's policy: its author, from when it is valid, and what it changed."""
    from pipeline.inputs.publish import changes
    from pipeline.wire.policies import in_words

    versions = _published("policies", bootstrap, prefix).get(app, {})
    if not versions:
        raise UsageError(f"there is no policy of app {app}")
    published = [versions[number] for number in sorted(versions)]
    if as_json:
        _print_json({"policies": changes(published)})
        return
    rows = changes([in_words(policy) for policy in published])
    shown = [
        row | {"changed": "; ".join(_change(*change) for change in row["changed"].items())} for row in rows
    ]
    _print_table(shown, list(shown[0]))


def _change(name: str, values: Sequence[Any]) -> str:
    before, after = (_text(value) or "none" for value in values)
    return f"{name} {before} → {after}"


@prices_app.command("pull")
def pull_prices(
    file: Annotated[Path, typer.Argument(help="TOML file of [[feed]] tables.")],
    once: Annotated[bool, typer.Option("--once", help="Pull once, and end: the default.")] = False,
    every: Annotated[
        str | None, typer.Option(help="Go on, and pull every so often, as 30m or 1h.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be, and publish nothing.")
    ] = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Publish new versions of the prices that their feeds changed.

    A feed that does not answer, and an offer that it has no good price of, is one line on stderr, and the exit status
    is then 2: that price stands.
    """
    import signal
    import threading

    from pipeline import format as fmt
    from pipeline.inputs.feeds import service
    from pipeline.inputs.feeds.files import read_feeds
    from pipeline.inputs.feeds.pull import Pulled, pull
    from pipeline.options import refuse_unused
    from pipeline.settings import load_settings

    def show(pulled: Pulled) -> None:
        summary = pulled.as_json()
        if as_json:
            _print_json(summary | {"dry_run": dry_run})
        elif summary["prices"]:
            _print_table(summary["prices"], list(summary["prices"][0]))
        else:
            print(f"nothing to publish, {len(summary['unchanged'])} prices unchanged")
        sys.stdout.flush()

    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    if every is not None:
        refuse_unused({"--once": once, "--dry-run": dry_run}, "with --every")
        stop, every_s = threading.Event(), fmt.parse_duration(every)
        if not 1 <= every_s <= service.MOST_EVERY_S:
            raise UsageError(f"--every {every}: prices are pulled every second at most, once a day at least")
        read_feeds(file, settings.gcp_api_key)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        service.run(settings, file, every_s, stop, show)
        return
    pulled = pull(settings, read_feeds(file, settings.gcp_api_key), dry_run=dry_run)
    show(pulled)
    for offer, fault in pulled.changes.faults.items():
        print(f"warning: {offer}: {fault}", file=sys.stderr)
    if pulled.changes.faults:
        raise typer.Exit(USAGE_EXIT)


@topics_app.command("create")
def create(as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """Create the topics that are missing."""
    from pipeline.kafka import topics
    from pipeline.kafka.connection import reachable
    from pipeline.settings import load_settings

    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    made = topics.create(settings)
    if as_json:
        _print_json({"created": made})
    else:
        print(f"created: {', '.join(made)}" if made else "all topics exist")


@topics_app.command("list")
def list_topics(as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """List every topic: whether it exists, its partitions, key, schemas and clean-up policy."""
    from pipeline.kafka import topics
    from pipeline.kafka.connection import reachable
    from pipeline.settings import load_settings

    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    rows = topics.existing(settings)
    if as_json:
        _print_json({"topics": rows})
    else:
        _print_table(rows, TOPIC_COLUMNS)
