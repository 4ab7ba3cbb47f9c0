"""What the learner does for an app (`pipeline.reports.learner_state`) as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from models.learning.gate import LEVEL
from pipeline import format as fmt
from pipeline.reports.learner_state import STEERED, Row

COLUMNS: Final = (
    "app", "state", "arm", "price", "time: day", "time: all", "plans: day", "plans: all", "saving (95 %)", "why",
)  # fmt: skip
"""Of `status`."""


def status(rows: Sequence[Row]) -> Table:
    """A line an app."""
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows:
        realised = row.get("realised", {})
        shares = (
            fmt.percent(realised.get(f"{of}_{over}")) for of in ("time", "plans") for over in ("day", "all")
        )
        price = "" if row["shortage_price"] is None else f"{row['shortage_price']:.4g}"
        cells = (row["app"], row["state"], row["arm"], price, *shares, saving(row), row["why"])
        table.add_row(*(Text(cell) for cell in cells))
    return table


def explained(row: Row) -> RenderableType:
    """Everything about one app."""
    parts: list[RenderableType] = [
        Text(f"{row['app']}: {headline(row)}", "bold"),
        Text(
            f"as of plan {row['plan'] or 'none'}, policy {row['policy'] or 'none'}, made {row['time'] or 'never'}"
        ),
    ]
    for title, content in (
        ("Why", _why(row)),
        ("What it tries", _arms(row)),
        ("What was kept", kept(row)),
        ("What it saved", _saved(row)),
        *((("Refused", _refused(row)),) if row["refused"] else ()),
    ):
        parts += [Text(""), Text(title, "bold"), *(Padding(item, (0, 0, 0, 2)) for item in content)]
    return Group(*parts)


def headline(row: Row) -> str:
    """Arm and price in force, or static."""
    if row["state"] == STEERED:
        return f"steered, arm {row['arm']}, an hour's shortage is worth {row['shortage_price']:.4g} replica-hours"
    return f"{row['state']}, arm {row['arm']}"


def _why(row: Row) -> Iterator[Text]:
    yield Text(f"{row['why'][:1].upper()}{row['why'][1:]}.")
    if newest := row.get("newest"):
        yield Text(
            f"The newest adjustment is {row['app']}@{newest['version']}, for policy {newest['policy']}, ticks "
            f"{newest['valid_from_tick']} to {newest['expires_tick']}: {newest['reason']}."
        )


def _arms(row: Row) -> Iterator[RenderableType]:
    arms = row.get("arms", [])
    if not arms:
        yield Text("Nothing yet.")
        return
    bound = row["gate"]["bound"]
    in_force = row["newest"]["arm"]
    table = Table(box=None, pad_edge=False)
    for name in ("arm", "price", "days", "costs less", "costs more", "misses more", ""):
        table.add_column(name, justify="left" if name in ("arm", "") else "right")
    for number, arm in enumerate(arms):
        paused = f"paused until {arm['paused_until']}" if arm["paused_until"] else ""
        state = "in force" if arm["arm"] == in_force else paused
        figures = [f"{arm[name]:.3g}" for name in ("better", "worse", "breach")] if number else ["", "", ""]
        table.add_row(
            *(Text(cell) for cell in (arm["arm"], f"{arm['price']:.4g}", str(arm["days"]), *figures, state))
        )
    yield table
    yield Text(
        f'E-values against {arms[0]["arm"]} on whole days: {bound:g} for "costs less" promotes an arm, {1 / LEVEL:g} '
        f"for one of the others takes it back."
    )


def kept(row: Mapping[str, Any]) -> Iterator[Text]:
    """Both realised shares."""
    realised = row.get("realised")
    if realised is None or not (realised["ticks"] or realised["plans"]):
        yield Text("Nothing was measured yet.")
        return
    goal = f", asked {fmt.level(row['asked'])} of {row['confidence_of']}" if row["asked"] else ""
    for of, what, count in (("time", "ticks", "ticks"), ("plans", "plans", "plans")):
        yield Text(
            f"Of {of}: {fmt.percent(realised[f'{of}_day'])} of the last day, "
            f"{fmt.percent(realised[f'{of}_all'])} of all {realised[count]:,} {what}"
            f"{goal if of.startswith(row['confidence_of'] or '-') else ''}."
        )


def saving(row: Mapping[str, Any]) -> str:
    """Saving with its interval; MISSING where it was not measured."""
    share, interval = row.get("saving"), row.get("saving_95")
    if share is None:
        return fmt.MISSING
    return f"{share:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")


def _saved(row: Row) -> Iterator[Text]:
    if row.get("saving") is None:
        yield Text("Not measured yet: whole days with a price in force are compared with static's.")
        return
    yield Text(f"{saving(row)} of static's cost, by simulated fleets on the same demand.")
    if row.get("reward") is not None:
        yield Text(f"With misses priced: {row['reward']:.1%}.")


def _refused(row: Row) -> Iterator[Text]:
    for refused in row["refused"]:
        yield Text(f"{row['app']}@{refused['version']}: {refused['reason']}")


def history(rows: Sequence[Row]) -> Table:
    """A line a change."""
    table = Table("time", "tick", "change", "what", box=None, pad_edge=False)
    for row in rows:
        time = (row["time"] or "").replace("T", " ").replace("+00:00", " UTC")
        table.add_row(*(Text(cell) for cell in (time, str(row["tick"]), row["change"], row["text"])))
    return table
