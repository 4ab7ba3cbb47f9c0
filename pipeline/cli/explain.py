"""`leadtime explain`: arguments, the decision that they name, and its text, JSON or picture."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from pipeline.format import parse_time
from pipeline.options import AsJson, Bootstrap, Prefix


def explain(
    app: Annotated[str, typer.Argument(help="Name of the app.")],
    tick: Annotated[
        int | None, typer.Option(help="Explain the plan of this tick.", show_default="the newest plan")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Explain the last plan made at or before this time: ISO 8601 (UTC without a zone), or Unix seconds."
        ),
    ] = None,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also write a PNG file with usage so far, forecast and planned capacity."),
    ] = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Explain one decision: why an app has its instances.

    Prints demand, binding metric, purchase, guard rails, the cost of more confidence, rejected alternatives and the
    versions of all inputs. With --json: the plan's record as it is on the topic.
    """
    if tick is not None and at is not None:
        raise UsageError("give --tick or --at, not both")
    at_s = None if at is None else parse_time(at)

    from pipeline.reports import decision_picture, decision_text, decisions
    from pipeline.runtime.cluster import cluster
    from pipeline.settings import load_settings

    with cluster(load_settings(bootstrap=bootstrap, prefix=prefix)) as settings:
        topics = decisions.DecisionTopics(settings)
        by_tick = topics.plans(app)
        plan = decisions.choose(by_tick, app, tick, at_s)
        around = (
            topics.surroundings(plan) if plot is not None or not as_json else decision_text.Surroundings()
        )
        if plot is not None:
            first = plan["tick"] - decision_picture.PAST_TICKS + 1
            decision_picture.draw(plot, by_tick, plan, around, topics.totals(app, first, plan["tick"]))
            print(f"wrote {plot}", file=sys.stderr)
    if as_json:
        print(json.dumps(decision_text.plain(plan)))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(decision_text.document(plan, around))
    else:
        print(decision_text.text(plan, around), end="")
