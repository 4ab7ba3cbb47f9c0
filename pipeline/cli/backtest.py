"""`leadtime backtest`: a trace or topics through the stream's own functions, on simulated supply, beside rivals."""

from __future__ import annotations

import hashlib
import json as jsonlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from models.baselines.autoscalers import registry
from pipeline.backtest import comparison, demand, figures, setup, topic_simulation, what_if
from pipeline.backtest.baselines import rivals
from pipeline.backtest.demand import Source
from pipeline.backtest.job import Arrays, Job
from pipeline.backtest.setup import Records
from pipeline.display import tell
from pipeline.errors import UsageError
from pipeline.options import AsJson, Bootstrap, Prefix, span_of
from pipeline.traces.trace_file import Panel

SWEEP: Final = (0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
"""Confidences whose replicas are compared with the rivals'; hit rates of 95 to 99.9 % lie between."""
SHORTAGES: Final = (5, 10, 20, 40, 70, 100, 150, 200, 300, 450, 700, 1_000, 2_000, 5_000)
"""Likewise, the price of an hour's shortage in those of a replica: misses fall where they save most."""
FORMAT: Final = 4  # of days and snapshots: a run does not go on from those of another
SCENARIOS: Final = 1_024  # of a decision on a trace: 10 lie above 99 %


def backtest(
    trace_file: Annotated[Path | None, typer.Option("--trace", help="Trace file, Parquet or CSV.")] = None,
    topics: Annotated[
        bool, typer.Option("--topics", help="Instead of a trace the frames of a cluster, which is only read.")
    ] = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    offsets: Annotated[
        str | None, typer.Option(help="With --topics: FROM:TO of behaviour.frames, in every partition.")
    ] = None,
    begin: Annotated[str | None, typer.Option("--from", help="Start of the scored window, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="End of it, ISO 8601.")] = None,
    warm_up: Annotated[
        str | None,
        typer.Option(
            help="Run and not scored before, as 12h or 8d; default as `evaluate`, of topics all there is."
        ),
    ] = None,
    some: Annotated[
        list[str] | None, typer.Option("--app", help="App of the trace; repeat for more.", show_default="all")
    ] = None,
    groupings: Annotated[
        int, typer.Option(min=0, help="Artificial apps: so many of each size; 0: the trace's own.")
    ] = 0,
    policy: Annotated[
        Path | None,
        typer.Option(help="TOML file of policies; default: of topics theirs, else sized to the demand."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="TOML file of offers; with --policy, and only with it.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of the model.", show_default="the released one")
    ] = None,
    tick_s: Annotated[int | None, typer.Option("--tick", help="Seconds of a tick.")] = None,
    scenarios: Annotated[
        int | None,
        typer.Option(
            min=64, help="Of each decision.", show_default="1024; of topics the installation's setting"
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Decide every so many ticks.")] = 1,
    sweep: Annotated[
        list[float] | None,
        typer.Option(
            help="Confidence to compare at, beside the policy's, and no prices of a shortage; repeat.",
            show_default=f"{len(SWEEP)} confidences and {len(SHORTAGES)} prices",
        ),
    ] = None,
    rival: Annotated[
        list[str] | None, typer.Option(help="Rival; repeat for more.", show_default="all")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Neither rivals nor a sweep: our plans alone.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            help="The same window again and set beside: settings as confidence=0.999 startup=2 price.spot=1.5"
            " policy.hold_s=0 policies=FILE prices=FILE replica=0.1 campaign=APP@TIME/2h/x3; repeat for more.",
        ),
    ] = None,
    divisible: Annotated[
        bool, typer.Option("--divisible", help="Also with replicas and instances of a tenth of the size.")
    ] = False,
    backlog: Annotated[
        bool,
        typer.Option(
            "--backlog",
            help="What capacity lacked in a tick is demand of the next as well; plans do not see it.",
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of scenarios, supply, groupings and the bootstrap.",
            show_default="0; of topics the installation's setting",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures, Parquet, CSV, page and what a resumed run needs.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="At once; by default two, whatever the number of apps.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Prove it on a trace or on topics: what plans would have held and cost, beside rivals at the same hit rate.

    Our plans come from the stream's own steps; rivals' replicas are bought by the same search from the same offers, and
    all meet the same luck. With --topics the stages themselves run again: where the window begins with the
    installation's first frame, plans and commands are what it published, byte for byte (`published`). A run that was
    killed goes on with the same arguments and the same --out.
    """
    names = [] if alone else list(dict.fromkeys(rival or registry.KNOBS))
    for name in names:
        if name not in registry.KNOBS:
            raise UsageError(f"no rival {name!r}; known are {', '.join(registry.KNOBS)}")
    if (policy is None) != (prices is None):
        raise UsageError("--policy and --prices go together: replicas are sized for offers")
    levels = () if alone else tuple(sorted(set(sweep or SWEEP)))
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"a confidence lies between 0 and 1, got {level}")
    if topics:
        if trace_file is not None or tick_s is not None or some or groupings:
            raise UsageError(
                "--topics have demand, ticks and apps of their own: no --trace, --tick, --app, --groupings"
            )
        found = demand.of_topics(bootstrap, prefix, span_of(offsets), warm_up, begin, until, model)
    elif trace_file is None:
        raise UsageError("give a trace file with --trace, or --topics")
    else:
        found = demand.of_trace(trace_file, tick_s, warm_up, begin, until, model, some or ())
    there = found.recorded
    seed = seed if seed is not None else 0 if there is None else there.settings.seed
    if scenarios is None:
        scenarios = SCENARIOS if there is None else there.settings.scenarios
    panel, window = found.panel, found.window
    members = setup.members_of(panel, groupings, seed)
    records, skipped, theirs = _records(found, members, policy, prices)
    alternatives = [what_if.parse(text, found, records) for text in dict.fromkeys(changes or ())]
    more: dict[str, Any] = {"scenarios": scenarios, "every": every, "seed": seed}

    def job_of(panel: Panel, records: Records, levels: Sequence[float], *, alone: bool) -> Job:
        return replace(
            setup.job_of(panel, window, members, records, levels, alone=alone, ids=found.ids),
            shortages=SHORTAGES if levels and not sweep else (),
            **more,
        )

    job = job_of(panel, records, levels, alone=alone)
    facts: dict[str, Any] = {
        "source": found.name,
        "skipped": {**found.skipped, **skipped},
        "tick_s": panel.tick_s,
        "users": len(panel.users),
        "apps": len(job.members),
        "ticks": window.stop - window.score,
        "warm_up_ticks": window.score - window.begin,
        "scenarios": scenarios,
        "every": every,
        "seed": seed,
        "artificial_apps": groupings > 0,
        "backlog_carried_over": backlog,
    }
    digest = hashlib.blake2b(found.digest, digest_size=8)
    for path in (policy, prices):
        digest.update(b"" if path is None else path.read_bytes())
    digest.update(
        jsonlib.dumps(
            [FORMAT, facts, job.levels, job.shortages, alone, str(found.model), begin, until, some]
        ).encode()
    )
    skip = window.score - window.begin - job.plan_from
    with tempfile.TemporaryDirectory() as nowhere:
        root = Path(nowhere) if out is None else out

        def go(source: Source, job: Job, name: str, records: Records | None) -> Run:
            seen, made = source.run(job, root / f"parts-{name}", processes, records)
            beside = rivals(job, names, seen)
            ranked = comparison.rank(job, seen, beside, names if job.levels else (), skip=skip, carry=backlog)
            return Run(job, seen, beside, ranked, made)

        base = go(found, job, digest.hexdigest(), None if theirs else records)
        report = facts | base.ranked.report
        report["figures"] = figures.stated(job, base.seen, base.beside, names, base.ranked)
        if theirs and there is not None:
            last = job.first_tick + len(job.values) - 1
            report["published"] = topic_simulation.compare(there, base.made, job.first_tick, last)
        if divisible:
            tenth = what_if.smaller(records, what_if.TENTH)
            run = go(found, job_of(panel, tenth, levels, alone=alone), f"{digest.hexdigest()}-tenth", tenth)
            report["divisible"] = {"replica": what_if.TENTH} | {
                name: run.ranked.report[name] for name in ("policies", "policies_on_demand", "summary")
            }
        others: dict[str, Any] = {}
        for other in alternatives:
            run = go(
                other.source,
                job_of(other.source.panel, other.records, (), alone=True),
                other.digest(digest.digest()),
                other.records,
            )
            others[other.text] = what_if.figures(run.job, run.seen, run.ranked)
        if others:
            report["what_if"] = what_if.differences(what_if.figures(job, base.seen, base.ranked), others)
    if out is not None:
        comparison.write(out, job, base.seen, base.ranked)
        figures.write(out, report["figures"])
        if others:
            what_if.write(out, report["what_if"])
        if "published" in report and there is not None:
            topic_simulation.write(out, there, base.made)
        (out / "report.json").write_text(jsonlib.dumps(report, indent=1) + "\n")
        from pipeline.reports import backtest_page  # matplotlib takes a second

        backtest_page.write(out, job, base.seen, base.ranked, report)
    tell(report if json else _told(report), json)


@dataclass(frozen=True)
class Run:
    """One job, what came of it and of its rivals, and the records that its stages published."""

    job: Job
    seen: Arrays
    beside: Mapping[str, Arrays]
    ranked: comparison.Ranked
    made: Mapping[str, list[bytes]]


def _told(report: Mapping[str, Any]) -> dict[str, Any]:
    """For people: the summary, how many of the topics' records came out the same, and alternatives."""
    told: dict[str, Any] = {"summary": report["summary"]}
    told |= {f"skipped, {name}": count for name, count in report["skipped"].items() if count}
    if "divisible" in report:
        told |= {f"divisible, {k}": v for k, v in report["divisible"]["summary"].items()}
    if "what_if" in report:
        told["what_if"] = what_if.table(report["what_if"])
    for topic, counts in report.get("published", {}).items():
        if isinstance(counts, dict):
            of = counts["same"] + counts["different"] + counts["published_only"]
            told[f"{topic} as published"] = f"{counts['same']:,} of {of:,}"
    return told


def _records(
    found: Source, members: Mapping[str, Any], policy: Path | None, prices: Path | None
) -> tuple[Records, dict[str, int], bool]:
    """Policies and offers, what of them is left out, and whether the stages plan by their source's own."""
    panel, window = found.panel, found.window
    if policy is not None and prices is not None:
        return setup.of_files(policy, prices, list(members)), {}, False
    if found.recorded is not None:
        first = int(panel.ticks[window.begin]) + setup.first_plan(window, panel.tick_s)
        inputs = found.recorded.inputs
        records = setup.of_topics(inputs, list(members), first)
        if records is not None:
            later = setup.later_versions(inputs, first, int(panel.ticks[window.stop - 1]))
            return records, later, True
    return setup.sized(panel, window, members), {}, False
