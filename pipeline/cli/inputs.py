"""`leadtime topics`, `policies`, `prices`, `calendar` and `models`: look at the side inputs, and change them."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import Unreachable, UsageError
from pipeline.inputs.files import read_calendar, read_policies, read_prices
from pipeline.inputs.publish import publish, published
from pipeline.inputs.store import VERSIONED
from pipeline.kafka import reader, topics
from pipeline.kafka.connection import connection, quiet_admin, reachable
from pipeline.options import AsJson, Bootstrap, Prefix
from pipeline.settings import load
from pipeline.wire.codec import Record

__all__ = ["publish", "read_calendar", "read_policies", "read_prices"]

FromTick = Annotated[
    int | None,
    typer.Option(
        help="Tick from which it holds, where the file does not say.",
        show_default="0 at first, then the next",
    ),
]
COLUMNS = {
    "policies": "app version valid_from_tick mode confidence governed unit min max allocation_group",
    "prices": "offer_id version valid_from_tick provider region tier capacity price currency owned_count startup_p99_s",
    "calendar": "id version valid_from_tick kind start end apps lift_mean cancelled",
    "models": "model_id version valid_from_tick uri parent",
}
"""What `list` shows of each record; `--json` has all fields."""


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)  # decimals: exact, as text


def _json(value: object) -> None:
    print(json.dumps(value, default=_plain))


def _text(value: Any) -> str:
    """A field for people: amounts as `cpu 2, memory 4 GiB`."""
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        amount = value["value"]
        is_memory = value.get("metric") == "memory" and amount >= 1024**2
        return f"{value.get('metric', value.get('name'))} " + (
            f"{amount / 1024**3:.6g} GiB" if is_memory else f"{amount:g}"
        )
    return "" if value is None else _plain(value)


def _table(rows: Sequence[Record], columns: Sequence[str]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # into a pipe, whole lines; on a terminal, what fits
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_text(row[name])) for name in columns))  # Text: names may hold [markup]
    console.print(table)


def _lister(topic: str) -> Callable[..., None]:
    def listed(as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
        found = published(load(bootstrap=bootstrap, prefix=prefix), topic)
        newest = [versions[max(versions)] for _, versions in sorted(found.items())]
        if as_json:
            _json({topic: newest})
        else:
            _table(newest, COLUMNS[topic].split())

    return listed


def _setter(topic: str, schema_name: str, read: Callable[[Path], list[Record]]) -> Callable[..., None]:
    def put(
        file: Path,
        from_tick: FromTick = None,
        as_json: AsJson = False,
        bootstrap: Bootstrap = None,
        prefix: Prefix = None,
    ) -> None:
        records = read(file)
        done = publish(
            load(bootstrap=bootstrap, prefix=prefix), topic, schema_name, records, from_tick=from_tick
        )
        said = [
            {name: row[name] for name in (VERSIONED[topic], "version", "valid_from_tick")} for row in done
        ]
        if as_json:
            _json({topic: said})
        else:
            _table(said, list(said[0]))

    return put


topics_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The topics: which there are, and make them."
)
policies_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="How each app's capacity is decided."
)
prices_app = typer.Typer(no_args_is_help=True, add_completion=False, help="What can be bought.")
calendar_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Campaigns, seasons and maintenance known ahead."
)
models_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Released models.")
for _app, _topic, _what in (
    (policies_app, "policies", "each policy"),
    (prices_app, "prices", "each offer"),
    (calendar_app, "calendar", "each event"),
    (models_app, "models", "each model"),
):
    _app.command("list", help=f"The newest version of {_what}.")(_lister(_topic))
policies_app.command("set", help="Check a file of [[policy]] tables and publish them.")(
    _setter("policies", "policy", read_policies)
)
prices_app.command("set", help="Check a file of [[price]] tables and publish them.")(
    _setter("prices", "price", read_prices)
)
calendar_app.command("set", help="Check a file of [[event]] tables and publish them.")(
    _setter("calendar", "calendar", read_calendar)
)


@policies_app.command("check")
def check(file: Path, as_json: AsJson = False) -> None:
    """Check a file of [[policy]] tables; publish nothing."""
    apps = [record["app"] for record in read_policies(file)]
    if as_json:
        _json({"policies": apps})
    else:
        print(f"{file}: {len(apps)} good: {', '.join(apps)}")


@policies_app.command("show")
def show(
    app: str,
    version: Annotated[int | None, typer.Option(help="Which.", show_default="the newest")] = None,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """One policy with all its fields."""
    versions = published(load(bootstrap=bootstrap, prefix=prefix), "policies").get(app, {})
    number = max(versions, default=0) if version is None else version
    if number not in versions:
        which = "is no policy" if version is None else f"is no version {version} of the policy"
        raise UsageError(f"there {which} of app {app}")
    if as_json:
        _json(versions[number])
    else:
        _table([{"field": n, "value": v} for n, v in versions[number].items()], ["field", "value"])


@policies_app.command("history")
def history(app: str, as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """Every version of an app's policy: whose it is, from when it is valid, and what it changed."""
    versions = published(load(bootstrap=bootstrap, prefix=prefix), "policies").get(app, {})
    if not versions:
        raise UsageError(f"there is no policy of app {app}")
    rows = changes([versions[number] for number in sorted(versions)])
    if as_json:
        _json({"policies": rows})
    else:
        shown = [
            row | {"changed": "; ".join(_change(*change) for change in row["changed"].items())}
            for row in rows
        ]
        _table(shown, list(shown[0]))


def changes(versions: Sequence[Record]) -> list[Record]:
    """For each version its author and validity, and by field [before, after] of what differs from the one before."""
    apart = {"version", "valid_from_tick", "author", "schema_version"}
    rows: list[Record] = []
    for before, after in zip((None, *versions), versions, strict=False):
        changed = {
            n: [before[n], v] for n, v in after.items() if before and n not in apart and before[n] != v
        }
        rows.append({n: after[n] for n in ("version", "valid_from_tick", "author")} | {"changed": changed})
    return rows


def _change(name: str, values: Sequence[Any]) -> str:
    before, after = (_text(value) or "none" for value in values)
    return f"{name} {before} → {after}"


@topics_app.command("create")
def create(as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """Make the topics that are missing."""
    settings = load(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    made = topics.create(settings)
    if as_json:
        _json({"created": made})
    else:
        print(f"created: {', '.join(made)}" if made else "all topics are there")


@topics_app.command("list")
def list_topics(as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """Every topic, whether it is there, and with what it is made."""
    settings = load(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    try:
        there = quiet_admin(connection(settings)).list_topics(timeout=reader.POLL_S).topics
    except KafkaException as error:
        raise Unreachable(f"Kafka at {settings.bootstrap}: {error.args[0].str()}") from None
    rows = topics.describe(settings)
    for row in rows:
        found = there.get(row["name"])
        row |= {"exists": found is not None, "partitions": len(found.partitions if found else ())}
    if as_json:
        _json({"topics": rows})
    else:
        _table(rows, ["name", "exists", "partitions", "key", "schemas", "cleanup.policy"])
