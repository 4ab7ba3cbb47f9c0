"""Backtest the planner on a trace or topics against baseline autoscalers at an equal hit rate.

`run` is what `leadtime backtest` calls: it prepares demand, policies and offers, simulates our plans and the
baselines' on the same supply, and returns figures and tables. It prints nothing and writes only to `out`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from models.baselines.autoscalers import registry
from models.demand import reconciliation
from models.learning.price_tail import PRICES
from pipeline.backtest import (
    baselines,
    clouds,
    comparison,
    demand,
    figures,
    observations,
    setup,
    shared_nodes,
    supply_file,
    topic_simulation,
    what_if,
)
from pipeline.backtest.comparison import Comparison
from pipeline.backtest.demand import DemandSource
from pipeline.backtest.job import Arrays, Job
from pipeline.backtest.setup import PlanningInputs
from pipeline.backtest.shared_nodes import POOL
from pipeline.backtest.supply_file import Outage, SupplyFile
from pipeline.errors import UsageError
from pipeline.inputs import model_folder
from pipeline.progress import Progress, silent
from pipeline.traces.trace_file import Panel

SWEEP: Final = (0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
"""Confidences whose replicas are compared with the baselines'; hit rates of 95 to 99.9 % lie between."""
SHORTAGES: Final = PRICES
"""Likewise prices of an hour's shortage, in those of a replica: misses fall where they save most."""
LEARNER: Final = ("off", "on", "both")
NODES: Final = ("own", "shared", "both")
FORMAT: Final = 9
"""Version of the files of days and snapshots: a run does not continue those of another version."""
SCENARIOS: Final = 1_024
"""Scenarios of a decision on a trace: 10 of them lie above 99 %."""


@dataclass(frozen=True, eq=False)
class BacktestRequest:
    """What to backtest, on which window, against which baselines.

    Attributes:
        trace: trace file or frame with its columns (docs/telemetry.md); None with `topics`.
        topics: take the frames of a cluster instead of a trace; the cluster is only read.
        bootstrap, prefix: the cluster's address and its topics' prefix; None: the settings'.
        offsets: first offset of behaviour.frames and the one after the last, in every partition; with `topics`.
        begin, until: scored window, ISO 8601.
        warm_up: duration before the window that is run and not scored, as "12h" or "8d".
        tick_s: seconds of a tick; None: the trace's interval.
        apps: apps of the trace; none: all.
        groupings: artificial apps of each size; 0: the trace's own apps.
        policy, prices: TOML files, both or neither; neither: the topics' own, else sized to the demand.
        model: folder of the behaviour model; None: the released one.
        scenarios: of each decision; None: 1,024, or the installation's setting.
        every: ticks between decisions.
        sweep: confidences to compare at; none: SWEEP and SHORTAGES.
        baselines: names of `models.baselines.autoscalers.registry.KNOBS`; none: all.
        alone: our plans at the policy's confidence only, without baselines and sweep.
        what_if: alternatives to run over the same window, see `pipeline.backtest.what_if`.
        same_time: weight of the expert "same time of the last 14 days" in every app's forecast: 0, 0.25, 0.5 or 1.
        divisible: run also with replicas and instances of a tenth of the size.
        backlog: demand that a tick's capacity lacks is added to the next tick's.
        learner: "off", "on": the learner steers our plans (docs/learner.md), or "both": also plans without it beside.
        nodes: "own": apps buy nodes of common types each for itself; "shared": together
            (`pipeline.backtest.shared_nodes`); "both": shared, and own nodes beside; None: instances that are sized for
            each app.
        supply: supply file, whose pools and prices the offers are (`pipeline.backtest.supply_file`), beside what
            `pipeline.backtest.clouds` compares with; None: the offers' own figures.
        outages: of its providers, each as `pipeline.backtest.supply_file.Outage.parse` takes it.
        seed: of scenarios, supply, groupings and the bootstrap; None: 0, or the installation's setting.
        out: folder of tables and of the days that a killed run continues from; None: nothing is kept.
        processes: at once; None: two.
    """

    trace: str | Path | pl.DataFrame | None = None
    topics: bool = False
    bootstrap: str | None = None
    prefix: str | None = None
    offsets: tuple[int, int] | None = None
    begin: str | None = None
    until: str | None = None
    warm_up: str | None = None
    tick_s: int | None = None
    apps: Sequence[str] = ()
    groupings: int = 0
    policy: Path | None = None
    prices: Path | None = None
    model: Path | None = None
    scenarios: int | None = None
    every: int = 1
    sweep: Sequence[float] = ()
    baselines: Sequence[str] = ()
    alone: bool = False
    what_if: Sequence[str] = ()
    same_time: float = 0.0
    divisible: bool = False
    backlog: bool = False
    learner: str = "off"
    nodes: str | None = None
    supply: Path | None = None
    outages: Sequence[str] = ()
    seed: int | None = None
    out: Path | None = None
    processes: int | None = None

    @property
    def names(self) -> list[str]:
        """Baselines to run."""
        return [] if self.alone or self.supply else list(dict.fromkeys(self.baselines or registry.KNOBS))

    @property
    def levels(self) -> tuple[float, ...]:
        """Confidences of the sweep, ascending."""
        return () if self.alone else tuple(sorted(set(self.sweep or SWEEP)))

    @property
    def shortages(self) -> tuple[float, ...]:
        """Prices of a shortage of the sweep."""
        return SHORTAGES if self.levels and not self.sweep else ()

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UsageError: an unknown baseline, a confidence out of range, or options that exclude each other.
        """
        for name in self.names:
            if name not in registry.KNOBS:
                raise UsageError(f"no rival {name!r}; known are {', '.join(registry.KNOBS)}")
        for level in self.levels:
            if not 0 < level < 1:
                raise UsageError(f"a confidence lies between 0 and 1, got {level}")
        for holds, message in self._rules():
            if not holds:
                raise UsageError(message)

    def _rules(self) -> list[tuple[bool, str]]:
        """Conditions on the options, each with the message where it does not hold."""
        trace_alone = self.trace is not None or self.tick_s is not None or self.apps or self.groupings
        weights = (0, *reconciliation.WEIGHTS)
        known = ", ".join(f"{weight:g}" for weight in weights)
        return [
            (
                (self.policy is None) == (self.prices is None),
                "--policy and --prices go together: replicas are sized for offers",
            ),
            (
                self.learner in LEARNER,
                f"--learner is one of {', '.join(LEARNER)}, got {self.learner!r}",
            ),
            (
                self.learner == "off" or self.every == 1,
                "--learner needs a plan in every tick: no --every",
            ),
            (
                self.learner == "off" or not self.same_time,
                "--learner chooses the experts' weights itself: no --same-time",
            ),
            (
                not (self.topics and trace_alone),
                "--topics have demand, ticks and apps of their own: no --trace, --tick, --app, --groupings",
            ),
            (
                self.same_time in weights,
                f"--same-time: the weight is one of {known}, got {self.same_time:g}",
            ),
            (
                not (self.topics and (self.same_time or self.learner != "off")),
                "--topics plan as the installation did: no --same-time, no --learner",
            ),
            (
                self.nodes in (None, *NODES),
                f"--nodes is one of {', '.join(NODES)}, got {self.nodes!r}",
            ),
            (
                not (self.nodes and (self.topics or self.divisible or self.what_if)),
                "--nodes are of a trace alone: no --topics, no --divisible, no --what-if",
            ),
            *self._supply_rules(),
            (self.topics or self.trace is not None, "give a trace file with --trace, or --topics"),
            (
                self.topics or not (self.offsets or self.bootstrap or self.prefix),
                "--offsets, --bootstrap and --prefix are of a cluster: no effect with --trace; give --topics",
            ),
            (
                not (self.alone and (self.baselines or self.sweep)),
                "--alone leaves out baselines and sweep: no --rival, no --sweep",
            ),
        ]

    def _supply_rules(self) -> list[tuple[bool, str]]:
        """Conditions on `supply`, each with the message where it does not hold."""
        others = (self.topics, self.policy, self.nodes, self.divisible, self.what_if, self.alone, self.sweep)
        return [
            (
                self.supply is None or not (any(others) or self.baselines or self.learner != "off"),
                "--supply has offers, rivals and a sweep of its own: no --topics, --policy, --prices, --nodes, "
                "--divisible, --what-if, --alone, --sweep, --rival, --learner",
            ),
            (self.supply is not None or not self.outages, "--outage is of a provider of --supply"),
        ]


@dataclass(frozen=True)
class Simulated:
    """One simulated job.

    Attributes:
        job: what was run.
        ours: our plans' outcomes, (tick from the first plan on, app, ...).
        baselines: by market, those of the baselines.
        compared: all policies compared.
        published: encoded records that the stages produced, by topic; with topics only.
    """

    job: Job
    ours: Arrays
    baselines: Mapping[str, Arrays]
    compared: Comparison
    published: Mapping[str, list[bytes]]


@dataclass(frozen=True)
class Backtest:
    """Result of a backtest.

    Attributes:
        report: figures as `leadtime backtest --json` prints them (docs/scoring.md).
        tables: frames by name: `policies`, `apps`, `ticks`, `figures` and, with alternatives, `what_if`.
        base: the simulation of the request as given.
    """

    report: dict[str, Any]
    tables: Mapping[str, pl.DataFrame]
    base: Simulated


@dataclass(frozen=True)
class Prepared:
    """A request with its demand read and its defaults resolved.

    Attributes:
        request: as given.
        source: demand over time.
        members: app -> columns of its users.
        records: policies, offers and what ran at the beginning.
        skipped: counts by what of the policies and offers is left out.
        pinned: whether topics' stages plan by the versions that the installation's own plans name.
        scenarios, seed: resolved.
        supply: of `request.supply`, read.
    """

    request: BacktestRequest
    source: DemandSource
    members: Mapping[str, np.ndarray]
    records: PlanningInputs
    skipped: Mapping[str, int]
    pinned: bool
    scenarios: int
    seed: int
    supply: SupplyFile | None = None

    def job(self, panel: Panel, records: PlanningInputs, *, alone: bool) -> Job:
        """A job of the window on a panel; alone: without sweep and without the market on demand."""
        given = self.request
        job = setup.job_of(
            panel,
            self.source.window,
            dict(self.members),
            records,
            () if alone else given.levels,
            alone=alone,
            ids=self.source.ids,
        )
        if given.nodes in ("shared", "both"):
            job = shared_nodes.with_pool(job)
        if self.supply is not None:
            outages = [Outage.parse(text) for text in given.outages]
            job = clouds.with_supply(job, self.supply, outages)
        return replace(
            job,
            shortages=() if alone or self.supply is not None else given.shortages,
            scenarios=self.scenarios,
            every=given.every,
            seed=self.seed,
            experts=dict.fromkeys(job.members, given.same_time) if given.same_time else {},
            policies={app: replace(p, learner=given.learner != "off") for app, p in job.policies.items()},
            learner=given.learner,
            lanes=[*job.lanes, *(job.lanes if given.learner == "both" else ())],
        )

    def facts(self) -> dict[str, Any]:
        """What the report says of the request."""
        window = self.source.window
        return {
            "source": self.source.name,
            "skipped": {**self.source.skipped, **self.skipped},
            "notes": list(self.source.notes),
            "tick_s": self.source.panel.tick_s,
            "users": len(self.source.panel.users),
            "apps": len(self.members),
            "ticks": window.stop - window.score,
            "warm_up_ticks": window.score - window.begin,
            "currency": self.records.currency,
            "scenarios": self.scenarios,
            "every": self.request.every,
            "seed": self.seed,
            "artificial_apps": self.request.groupings > 0,
            "backlog_carried_over": self.request.backlog,
        }

    def digest(self) -> str:
        """Key of the run's files, by content: of demand, model, policies and offers, not of the paths they have."""
        given, window = self.request, self.source.window
        digest = hashlib.blake2b(self.source.digest, digest_size=8)
        digest.update(model_folder.model_digest(self.source.model))
        digest.update(repr(self.records).encode())
        settings: list[Any] = [
            self.scenarios,
            given.every,
            self.seed,
            given.groupings,
            given.alone,
            self.pinned,
        ]
        settings += [given.same_time] if given.same_time else []
        settings += [] if given.learner == "off" else [given.learner]
        if self.supply is not None:
            settings += [self.supply.digest, list(given.outages), clouds.CONFIDENCES]
        settings += [] if given.nodes is None else [given.nodes != "own"]
        digest.update(json.dumps([FORMAT, settings, asdict(window), given.levels, given.shortages]).encode())
        return digest.hexdigest()


def run(request: BacktestRequest, progress: Progress = silent) -> Backtest:
    """Run a backtest; one that was killed goes on with the same request and the same `out`.

    Args:
        request: what to run.
        progress: called with a phase's name, how many of its ticks are done, and of how many.

    Raises:
        UsageError: the request contradicts itself, a file cannot be read, or nothing can be scored.
        Unreachable: with topics, the cluster does not answer.
    """
    request.check()
    prepared = prepare(request)
    alternatives = [
        what_if.parse(text, prepared.source, prepared.records) for text in dict.fromkeys(request.what_if)
    ]
    job = prepared.job(prepared.source.panel, prepared.records, alone=request.alone)
    digest = prepared.digest()
    with tempfile.TemporaryDirectory() as scratch:
        simulator = _Simulator(prepared, Path(scratch) if request.out is None else request.out, progress)
        base = simulator.run(prepared.source, job, digest, None if prepared.pinned else prepared.records)
        report = prepared.facts() | base.compared.report
        job = base.job
        report["figures"] = figures.stated(job, base.ours, base.baselines, request.names, base.compared)
        recorded = prepared.source.recorded
        if prepared.pinned and recorded is not None:
            last = job.first_tick + len(job.values) - 1
            report["published"] = topic_simulation.compare(recorded, base.published, job.first_tick, last)
        if request.divisible:
            report["divisible"] = simulator.divisible(f"{digest}-tenth")
        others = {other.text: simulator.alternative(other, digest) for other in alternatives}
    tables = comparison.tables(job, base.ours, base.compared) | {"figures": figures.table(report["figures"])}
    if others:
        report["what_if"] = what_if.differences(what_if.figures(job, base.ours, base.compared), others)
        tables["what_if"] = pl.DataFrame(report["what_if"], infer_schema_length=None)
    if request.out is not None:
        write(request.out, report, tables)
        if job.learner != "off":
            window = prepared.source.window
            scored = window.score - window.begin - job.plan_from
            observations.write(request.out / observations.FILE, job, base.ours, scored)
        if "published" in report and recorded is not None:
            topic_simulation.write(request.out, recorded, base.published)
    return Backtest(report, tables, base)


def prepare(request: BacktestRequest) -> Prepared:
    """Read demand, policies and offers of a request, and resolve its defaults.

    Raises:
        UsageError: what cannot be read, or nothing to score.
        Unreachable: with topics, the cluster does not answer.
    """
    if request.trace is not None:
        source = demand.of_trace(
            Path(request.trace) if isinstance(request.trace, str) else request.trace,
            request.tick_s,
            request.warm_up,
            request.begin,
            request.until,
            request.model,
            request.apps,
        )
    else:
        source = demand.of_topics(
            request.bootstrap,
            request.prefix,
            request.offsets,
            request.warm_up,
            request.begin,
            request.until,
            request.model,
        )
    settings = None if source.recorded is None else source.recorded.settings
    seed = request.seed if request.seed is not None else 0 if settings is None else settings.seed
    scenarios = request.scenarios
    if scenarios is None:
        scenarios = SCENARIOS if settings is None else settings.scenarios
    members = setup.members_of(source.panel, request.groupings, seed)
    records, skipped, pinned = _records(source, members, request)
    supply = None if request.supply is None else supply_file.read(request.supply)
    if supply is not None:
        records = clouds.records(supply, records)
    return Prepared(request, source, members, records, skipped, pinned, scenarios, seed, supply)


def _records(
    source: DemandSource, members: Mapping[str, np.ndarray], request: BacktestRequest
) -> tuple[PlanningInputs, dict[str, int], bool]:
    """Policies and offers, counts of what of them is left out, and whether the topics' own are used."""
    panel, window = source.panel, source.window
    if request.policy is not None and request.prices is not None:
        return setup.of_files(request.policy, request.prices, list(members)), {}, False
    if source.recorded is not None:
        first = int(panel.ticks[window.begin]) + setup.first_plan(window, panel.tick_s)
        inputs = source.recorded.inputs
        records = setup.of_topics(inputs, list(members), first)
        if records is not None:
            later = setup.later_versions(inputs, first, int(panel.ticks[window.stop - 1]))
            return records, later, True
    sized = setup.sized(panel, window, members)
    return sized if request.nodes is None else setup.on_nodes(sized), {}, False


@dataclass(frozen=True)
class _Simulator:
    """Runs jobs of a prepared request, each with its files in a folder below `root`."""

    prepared: Prepared
    root: Path
    progress: Progress

    def run(self, source: DemandSource, job: Job, digest: str, records: PlanningInputs | None) -> Simulated:
        """Our plans and the baselines' over one job; records: to plan by instead of the topics' own."""
        request, window = self.prepared.request, self.prepared.source.window
        folder = self.root / f"parts-{digest}"
        ours, published = source.run(job, folder, request.processes, records, self.progress)
        if job.supply is not None:
            first = next(iter(job.offers))
            bare = replace(job, levels=(), offers={first: job.offers[first]}, lanes=job.lanes[:1])
            simulated = self._scored(bare, ours, {}, published)
            compared = clouds.figures(job, ours, window.score - window.begin - job.plan_from, self.progress)
            simulated.compared.report["summary"]["clouds"] = compared.pop("summary")
            simulated.compared.report["clouds"] = compared
            return simulated
        others = baselines.simulate(job, request.names, ours, self.progress)
        if job.pool is None:
            return self._scored(job, ours, others, published)
        pool, own = (self._scored(*_some(job, ours, others, apps), {}) for apps in ([POOL], job.pool.apps))
        first = window.score - window.begin
        counts = ours["counts"][first - job.plan_from :, job.apps.index(POOL)]
        report = pool.compared.report
        report["nodes"] = {"packed": shared_nodes.packed(job, counts, first)}
        if request.nodes == "both":
            report["nodes"] |= shared_nodes.compared_with_own(report, own.compared.report)
        report["summary"]["shared"] = shared_nodes.figures(report)
        return pool

    def _scored(
        self, job: Job, ours: Arrays, others: Mapping[str, Arrays], published: Mapping[str, list[bytes]]
    ) -> Simulated:
        """All policies compared."""
        request, window = self.prepared.request, self.prepared.source.window
        compared = comparison.compare(
            job,
            ours,
            others,
            request.names if job.levels else (),
            skip=window.score - window.begin - job.plan_from,
            carry=request.backlog,
        )
        return Simulated(job, ours, others, compared, published)

    def divisible(self, digest: str) -> dict[str, Any]:
        """The same with replicas and instances of a tenth of the size: what rounding costs."""
        prepared, smaller = self.prepared, what_if.smaller(self.prepared.records, what_if.TENTH)
        job = prepared.job(prepared.source.panel, smaller, alone=prepared.request.alone)
        report = self.run(prepared.source, job, digest, smaller).compared.report
        return {"replica": what_if.TENTH} | {
            name: report[name] for name in ("policies", "policies_on_demand", "summary")
        }

    def alternative(self, other: what_if.Alternative, digest: str) -> dict[str, np.ndarray]:
        """Our figures under an alternative, (draw of the bootstrap)."""
        job = self.prepared.job(other.source.panel, other.records, alone=True)
        simulated = self.run(other.source, job, other.digest(bytes.fromhex(digest)), other.records)
        return what_if.figures(simulated.job, simulated.ours, simulated.compared)


def _some(
    job: Job, ours: Arrays, others: Mapping[str, Arrays], apps: Sequence[str]
) -> tuple[Job, Arrays, dict[str, Arrays]]:
    """Some apps of a job with their outcomes; saturated usage is taken for the demand, of the pool and of its apps."""
    of_job = job.part(apps)
    of_job = replace(of_job, saturated=np.zeros_like(of_job.saturated))
    part = {market: shared_nodes.only(of, job, apps) for market, of in others.items()}
    return of_job, shared_nodes.only(ours, job, apps), part


def write(folder: Path, report: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> None:
    """Every table as Parquet and CSV, and `report.json`."""
    for name, frame in tables.items():
        frame.write_parquet(folder / f"{name}.parquet")
        frame.write_csv(folder / f"{name}.csv")
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
