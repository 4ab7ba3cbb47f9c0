"""`leadtime learner`: what the learner does for the apps, from the topics."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.command_line import command_group
from pipeline.options import AsJson, Bootstrap, Prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

App = Annotated[str, typer.Argument(help="Name of the app.")]

learner_app = command_group(
    no_args_is_help=True, help="Show what the learner does: arms, evidence, promotions and savings."
)


def _topics(bootstrap: str | None, prefix: str | None, app: str | None = None) -> Any:
    """The topics' records; see `pipeline.reports.learner_state.LearnerTopics`."""
    from pipeline.reports.learner_state import LearnerTopics
    from pipeline.runtime.cluster import cluster
    from pipeline.settings import load_settings

    with cluster(load_settings(bootstrap=bootstrap, prefix=prefix)) as settings:
        topics = LearnerTopics(settings, app)
    if not topics.checked:
        print(
            "warning: signatures are not checked, there is no key to verify them with on this machine "
            "(LEADTIME_SIGNING_KEY_FILE, LEADTIME_DATA_DIR)",
            file=sys.stderr,
        )
    return topics


def _print(value: object, as_json: bool, shown: Callable[[], RenderableType]) -> None:
    if as_json:
        from pipeline.reports.decision_text import plain

        print(json.dumps(plain(value)))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # into a pipe, whole lines; on a terminal, what fits
    console.print(shown())


@learner_app.command("status")
def status(as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """List the apps whose policy has the learner on: what is in force and why, what was kept, what was saved.

    Realised shares are of the last day and of all, of time and of plans; the saving is a share of static's cost.
    """
    from pipeline.errors import UsageError
    from pipeline.reports import learner_state, learner_text

    topics = _topics(bootstrap, prefix)
    rows = [learner_state.row(topics.records(app)) for app in topics.apps()]
    if not rows and not as_json:
        raise UsageError(f"no app has the learner on: {learner_state.SWITCH}")
    _print({"apps": rows, "signatures_checked": topics.checked}, as_json, lambda: learner_text.status(rows))


@learner_app.command("explain")
def explain(app: App, as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """Explain what the learner does for an app: the arms that it tries, their evidence, what is in force and why."""
    from pipeline.reports import learner_state, learner_text

    topics = _topics(bootstrap, prefix, app)
    row = learner_state.explained(topics.learnt(app))
    _print(row | {"signatures_checked": topics.checked}, as_json, lambda: learner_text.explained(row))


@learner_app.command("history")
def history(app: App, as_json: AsJson = False, bootstrap: Bootstrap = None, prefix: Prefix = None) -> None:
    """List an app's promotions, rollbacks, beginnings and edits of its policy, in the order of time.

    The topic of adjustments keeps 30 days.
    """
    from pipeline.reports import learner_state, learner_text

    topics = _topics(bootstrap, prefix, app)
    rows = learner_state.history(topics.learnt(app))
    shown = {"app": app, "history": rows, "signatures_checked": topics.checked}
    _print(shown, as_json, lambda: learner_text.history(rows))
