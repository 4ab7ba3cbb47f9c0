"""`leadtime backtest`: arguments, the call of `pipeline.backtest.run`, and what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import folders
from pipeline.display import phases, tell
from pipeline.options import (
    AsJson,
    Bootstrap,
    Model,
    Prefix,
    ScoredFrom,
    ScoredUntil,
    TickLength,
    span_of,
)

if TYPE_CHECKING:
    from pipeline.backtest.run import BacktestRequest

Trace = Annotated[Path | None, typer.Option("--trace", help="Trace file, Parquet or CSV.")]
Topics = Annotated[
    bool,
    typer.Option(
        "--topics", help="Backtest on the frames of a cluster, which is only read, instead of a trace."
    ),
]
Offsets = Annotated[
    str | None, typer.Option(help="With --topics: offsets FROM:TO of behaviour.frames, in every partition.")
]
WarmUp = Annotated[
    str | None,
    typer.Option(
        help="Duration before the scored window that is run and not scored, as 12h or 8d; default: as `evaluate`;"
        " with --topics all that they hold."
    ),
]
Apps = Annotated[
    list[str] | None,
    typer.Option("--app", help="App of the trace to plan; repeat for more.", show_default="all"),
]
Groupings = Annotated[
    int, typer.Option(min=0, help="Number of artificial apps of each size; 0: the trace's own apps.")
]
Policies = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of policies; default: with --topics the topics' own, else sized to the demand."
    ),
]
Prices = Annotated[
    Path | None, typer.Option(help="TOML file of offers; required with --policy, and not without it.")
]
Scenarios = Annotated[
    int | None,
    typer.Option(
        min=64,
        help="Scenarios of each decision.",
        show_default="1024; with --topics the installation's setting",
    ),
]
Every = Annotated[int, typer.Option(min=1, help="Ticks between decisions.")]
Sweep = Annotated[
    list[float] | None,
    typer.Option(
        help="Confidence to compare at, beside the policy's and instead of shortage prices; repeat for more.",
        show_default="a range of confidences and of shortage prices",
    ),
]
Rivals = Annotated[
    list[str] | None, typer.Option(help="Baseline autoscaler; repeat for more.", show_default="all")
]
Alone = Annotated[bool, typer.Option("--alone", help="Our plans only, without baselines and sweep.")]
WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        "--what-if",
        help="Backtest the same window again with changed settings: confidence=0.999 startup=2 price.spot=1.5"
        " policy.hold_s=0 policies=FILE prices=FILE replica=0.1 campaign=APP@TIME/2h/x3; repeat for more.",
    ),
]
Divisible = Annotated[
    bool,
    typer.Option("--divisible", help="Backtest also with replicas and instances of a tenth of the size."),
]
SameTime = Annotated[
    float,
    typer.Option(
        "--same-time",
        help="Weight of the usage at the same time of the last 14 days in every app's forecast: 0, 0.25, 0.5 or 1.",
    ),
]
Backlog = Annotated[
    bool,
    typer.Option(
        "--backlog",
        help="Add demand that a tick's capacity lacked to the next tick's; plans do not see it.",
    ),
]
Learner = Annotated[
    str,
    typer.Option(
        help="Plan with the learner: off, on, or both: our plans with it, and beside them those without."
    ),
]
Nodes = Annotated[
    str | None,
    typer.Option(
        help="Nodes of common types instead of instances sized for each app: own, shared by all apps, or both.",
        show_default="instances of each app's own",
    ),
]
Supply = Annotated[
    Path | None,
    typer.Option(
        help="Supply file: what spot pools of several providers gave and cost, beside clouds and policies of its own."
    ),
]
Outages = Annotated[
    list[str] | None,
    typer.Option(
        "--outage", help="Provider of --supply that is out, PROVIDER@TIME/DURATION; repeat for more."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Seed of scenarios, supply, groupings and the bootstrap.",
        show_default="0; with --topics the installation's setting",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for figures, tables, the page, and the state from which a killed run goes on."),
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes at once; default: two, whatever the number of apps.")
]


def backtest(
    trace: Trace = None,
    topics: Topics = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    offsets: Offsets = None,
    begin: ScoredFrom = None,
    until: ScoredUntil = None,
    warm_up: WarmUp = None,
    apps: Apps = None,
    groupings: Groupings = 0,
    policy: Policies = None,
    prices: Prices = None,
    model: Model = None,
    tick_s: TickLength = None,
    scenarios: Scenarios = None,
    every: Every = 1,
    sweep: Sweep = None,
    rival: Rivals = None,
    alone: Alone = False,
    changes: WhatIf = None,
    same_time: SameTime = 0.0,
    divisible: Divisible = False,
    backlog: Backlog = False,
    learner: Learner = "off",
    nodes: Nodes = None,
    supply: Supply = None,
    outage: Outages = None,
    seed: Seed = None,
    out: Out = None,
    processes: Processes = None,
    json: AsJson = False,
) -> None:
    """Backtest the planner on a trace or topics against baseline autoscalers at an equal hit rate.

    Our plans come from the functions that the stages call; the baselines' replicas are bought by the same search from
    the same offers, and all policies meet the same simulated supply. With --topics the stages themselves run again:
    where the window begins with the installation's first frame, plans and commands are the published ones, byte for
    byte (`published`). A run that was killed goes on with the same arguments and the same --out.
    """
    from pipeline.backtest.run import BacktestRequest  # seconds of imports, which --help does without

    request = BacktestRequest(
        trace=trace,
        topics=topics,
        bootstrap=bootstrap,
        prefix=prefix,
        offsets=span_of(offsets),
        begin=begin,
        until=until,
        warm_up=warm_up,
        tick_s=tick_s,
        apps=apps or (),
        groupings=groupings,
        policy=policy,
        prices=prices,
        model=model,
        scenarios=scenarios,
        every=every,
        sweep=sweep or (),
        baselines=rival or (),
        alone=alone,
        what_if=changes or (),
        same_time=same_time,
        divisible=divisible,
        backlog=backlog,
        learner=learner,
        nodes=nodes,
        supply=supply,
        outages=outage or (),
        seed=seed,
        out=out,
        processes=processes,
    )
    _run(request, json)


def _run(request: BacktestRequest, json: bool) -> None:
    """Run a backtest with progress on stderr, write its page into `request.out`, and print its report."""
    if request.out is not None:
        folders.make(request.out, "--out")

    from pipeline.backtest.run import run

    with phases("ticks") as progress:
        done = run(request, progress)
    if request.out is not None:
        from pipeline.reports import backtest_page  # matplotlib takes a second

        backtest_page.write(request.out, done.base.job, done.base.ours, done.base.compared, done.report)
    tell(done.report if json else _for_people(done.report), json)


def _for_people(report: Mapping[str, Any]) -> dict[str, Any]:
    """The summary, how many of the topics' records came out the same, and alternatives."""
    from pipeline.backtest import what_if

    shown: dict[str, Any] = {"summary": report["summary"]}
    shown |= {"skipped": report["skipped"], "notes": report["notes"]}
    if "divisible" in report:
        shown |= {f"divisible, {k}": v for k, v in report["divisible"]["summary"].items()}
    if "what_if" in report:
        shown["what_if"] = what_if.table(report["what_if"])
    if "nodes" in report:
        shown["share of ticks in which all replicas were packed"] = report["nodes"]["packed"]["all"]
        ratios = report["nodes"].get("cost_to_own_at_99", {})
        shown |= {f"cost on shared to own nodes at 99 %, {name}": ratio for name, ratio in ratios.items()}
    for topic, counts in report.get("published", {}).items():
        if isinstance(counts, dict):
            total = counts["same"] + counts["different"] + counts["published_only"]
            shown[f"{topic} as published"] = f"{counts['same']:,} of {total:,}"
    return shown
