"""`leadtime backtest`: a trace or topics through the stream's own functions, on simulated supply, beside rivals."""

from __future__ import annotations

import hashlib
import json as jsonlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from models import references
from pipeline import figures, jobs, ranking, replayed, source
from pipeline.display import tell
from pipeline.errors import UsageError
from pipeline.jobs import Records
from pipeline.options import AsJson, Bootstrap, Prefix
from pipeline.rivals_run import rivals
from pipeline.source import Source

SWEEP: Final = (0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
"""Confidences whose replicas are compared with the rivals'; hit rates of 95 to 99.9 % lie between."""
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
        typer.Option(help="Confidence to compare at, beside the policy's; repeat.", show_default=str(SWEEP)),
    ] = None,
    rival: Annotated[
        list[str] | None, typer.Option(help="Rival; repeat for more.", show_default="all")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Neither rivals nor a sweep: our plans alone.")
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
    names = [] if alone else list(dict.fromkeys(rival or references.KNOBS))
    for name in names:
        if name not in references.KNOBS:
            raise UsageError(f"no rival {name!r}; known are {', '.join(references.KNOBS)}")
    if (policy is None) != (prices is None):
        raise UsageError("--policy and --prices go together: replicas are sized for offers")
    levels = () if alone else tuple(sorted(set(sweep or SWEEP)))
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"a confidence lies between 0 and 1, got {level}")
    if topics:
        if trace_file is not None or tick_s is not None or groupings:
            raise UsageError(
                "--topics have demand, ticks and apps of their own: no --trace, --tick, --groupings"
            )
        found = source.of_topics(bootstrap, prefix, span_of(offsets), warm_up, begin, until, model)
    elif trace_file is None:
        raise UsageError("give a trace file with --trace, or --topics")
    else:
        found = source.of_trace(trace_file, tick_s, warm_up, begin, until, model)
    there = found.recorded
    seed = seed if seed is not None else 0 if there is None else there.settings.seed
    if scenarios is None:
        scenarios = SCENARIOS if there is None else there.settings.scenarios
    panel, window = found.panel, found.window
    members = jobs.members_of(panel, groupings, seed)
    records, skipped = _records(found, members, policy, prices)
    job = jobs.job_of(panel, window, members, records, levels, alone=alone, ids=found.ids)
    job = replace(job, scenarios=scenarios, every=every, seed=seed)
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
    digest.update(jsonlib.dumps([facts, list(job.levels), alone, str(found.model), begin, until]).encode())
    with tempfile.TemporaryDirectory() as nowhere:
        folder = (Path(nowhere) if out is None else out) / f"parts-{digest.hexdigest()}"
        seen, made = found.run(job, folder, processes)
    beside = rivals(job, names, seen["wanted"])
    skip = window.score - window.begin - job.plan_from
    ranked = ranking.rank(job, seen, beside, names, skip=skip, carry=backlog)
    stated = figures.stated(job, seen, beside, names, ranked)
    report = facts | ranked.report | {"figures": stated}
    if there is not None:
        first, last = job.first_tick, job.first_tick + len(job.values) - 1
        report["published"] = replayed.compare(there, made, first, last)
    if out is not None:
        ranking.write(out, job, seen, ranked)
        figures.write(out, stated)
        if there is not None:
            replayed.write(out, there, made)
        (out / "report.json").write_text(jsonlib.dumps(report, indent=1) + "\n")
        from pipeline import backtest_page  # matplotlib takes a second

        backtest_page.write(out, job, seen, ranked, report)
    tell(report if json else report["summary"] | _published(report), json)


def _published(report: Mapping[str, Any]) -> dict[str, Any]:
    """How many of the records that topics hold came out the same, for people."""
    told: dict[str, Any] = {}
    for topic, counts in report.get("published", {}).items():
        if isinstance(counts, dict):
            of = counts["same"] + counts["different"] + counts["published_only"]
            told[f"{topic} as published"] = f"{counts['same']:,} of {of:,}"
    return told


def _records(
    found: Source, members: Mapping[str, Any], policy: Path | None, prices: Path | None
) -> tuple[Records, dict[str, int]]:
    """Policies and offers, and what of them is left out."""
    panel, window = found.panel, found.window
    if policy is not None and prices is not None:
        return jobs.of_files(policy, prices, list(members)), {}
    if found.recorded is not None:
        first = int(panel.ticks[window.begin]) + jobs.first_plan(window, panel.tick_s)
        inputs = found.recorded.inputs
        records = jobs.of_topics(inputs, list(members), first)
        if records is not None:
            return records, jobs.later_versions(inputs, first, int(panel.ticks[window.stop - 1]))
    return jobs.sized(panel, window, members), {}


def span_of(text: str | None) -> tuple[int, int] | None:
    """FROM:TO of offsets.

    Raises:
        UsageError: not such a text.
    """
    if text is None:
        return None
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--offsets {text}: not FROM:TO") from None
    return first, last
