"""`leadtime backtest`: a trace through the stream's own functions, over simulated provisioning, beside rivals."""

from __future__ import annotations

import hashlib
import json as jsonlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from models import capacity, confidence, references
from models.capacity import Offer, Policy
from models.features import DAY_S, METRICS
from models.lstm import DEFAULT_MODEL
from models.provisioning import Terms
from pipeline import ranking, side_files, trace
from pipeline.actuators.simulated import LocalOffer
from pipeline.codec import DEFAULT, Record
from pipeline.display import tell
from pipeline.errors import UsageError
from pipeline.evaluate import Window, window_of
from pipeline.example.setup import Example
from pipeline.identity import DEMO_KEY, Key
from pipeline.lanes import Job
from pipeline.options import AsJson
from pipeline.rivals_run import rivals
from pipeline.shards import run
from pipeline.side_inputs import offer_of, policy_of

TIERS: Final = "tiers"
ON_DEMAND: Final = "on_demand"
SWEEP: Final = (0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
"""Confidences whose replicas are compared with the rivals'; hit rates of 95 to 99.9 % lie between."""
SHARDS: Final = 2
"""Groups of apps that learn apart, as partitions of a stream do; two, so that two cores are used. Not the machine's
number of cores: the same arguments give the same bytes anywhere."""
LEARN_S: Final = 4 * DAY_S  # before plans, in which promises are learnt from; as in `models.confidence`
HISTORY_S: Final = (
    14 * DAY_S
)  # that rivals know before the window, where the trace has it: as much as any asks for
FORMAT: Final = 2  # of days and snapshots: a run does not go on from those of another
SETTLE_S: Final = 3_600  # planned and not scored: what is started with is a guess


def backtest(
    trace_file: Annotated[Path, typer.Option("--trace", help="Trace file, Parquet or CSV.")],
    begin: Annotated[str | None, typer.Option("--from", help="Start of the scored window, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="End of it, ISO 8601.")] = None,
    warm_up: Annotated[
        str | None, typer.Option(help="Run and not scored before, as 12h or 8d; default as `evaluate`.")
    ] = None,
    some: Annotated[
        list[str] | None, typer.Option("--app", help="App of the trace; repeat for more.", show_default="all")
    ] = None,
    groupings: Annotated[
        int, typer.Option(min=0, help="Artificial apps: so many of each size; 0: the trace's own.")
    ] = 0,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file of policies; default: sized to the trace.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="TOML file of offers; with --policy, and only with it.")
    ] = None,
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = DEFAULT_MODEL,
    tick_s: Annotated[int | None, typer.Option("--tick", help="Seconds of a tick.")] = None,
    scenarios: Annotated[int, typer.Option(min=64, help="Of each decision.")] = 1_024,
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
    seed: Annotated[int, typer.Option(help="Of scenarios, supply, groupings and the bootstrap.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures, Parquet, CSV, page and what a resumed run needs.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="At once; by default two, whatever the number of apps.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Prove it on a trace: what plans would have held and cost, beside rivals at the same realised hit rate.

    Our plans come from the stream's own steps; rivals' replicas are bought by the same search from the same offers, and
    all meet the same luck. Demand does not react to shortage. A run that was killed goes on with the same arguments
    and the same --out.
    """
    read = trace.read(trace_file)
    if some:
        read = trace.of_apps(read, some)
    panel = trace.to_panel(read, tick_s)
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
    if len(panel.ticks) < 2:
        raise UsageError(f"{trace_file}: one tick alone, nothing can be planned")
    window = window_of(panel, warm_up, begin, until)
    members = _members(panel, groupings, seed)
    files = (policy, prices) if policy is not None and prices is not None else None
    job = job_of(panel, window, members, files, levels, alone=alone)
    job = replace(job, scenarios=scenarios, every=every, seed=seed)
    facts: dict[str, Any] = {
        "trace": str(trace_file),
        "skipped": {**read.skipped, "duplicates": _duplicates(read)},
        "tick_s": panel.tick_s,
        "users": len(panel.users),
        "apps": len(job.members),
        "ticks": window.stop - window.score,
        "warm_up_ticks": window.score - window.begin,
        "scenarios": scenarios,
        "every": every,
        "seed": seed,
        "artificial_apps": groupings > 0,
    }
    digest = hashlib.blake2b(digest_size=8)
    asked = [trace_file.read_bytes(), *(p.read_bytes() for p in (policy, prices) if p is not None)]
    asked.append(
        jsonlib.dumps(
            [FORMAT, facts, list(job.levels), alone, str(model), begin, until, *(some or [])]
        ).encode()
    )
    for part in asked:
        digest.update(part)
    with tempfile.TemporaryDirectory() as nowhere:
        folder = (Path(nowhere) if out is None else out) / f"parts-{digest.hexdigest()}"
        seen = run(job, model, SHARDS, folder, processes)
    ranked = ranking.rank(
        job, seen, rivals(job, names, seen), names, skip=window.score - window.begin - job.plan_from
    )
    report = facts | ranked.report
    if out is not None:
        ranking.write(out, job, seen, ranked)
        (out / "report.json").write_text(jsonlib.dumps(report, indent=1) + "\n")
        from pipeline import backtest_page  # matplotlib takes a second

        backtest_page.write(out, job, seen, ranked, report)
    tell(report if json else report["summary"], json)


def _duplicates(read: trace.Trace) -> int:
    """Rows of a user at a time that another row has as well; their mean counts."""
    return read.frame.height - read.frame.select("ts", "app", "user").unique().height


def _members(panel: trace.Panel, groupings: int, seed: int) -> dict[str, np.ndarray]:
    if groupings:
        drawn = confidence.groupings(len(panel.users), groupings, seed)
        return {f"group-{len(users):03d}-{i:02d}": users for i, users in enumerate(drawn)}
    apps = np.array(panel.apps)
    return {str(app): np.flatnonzero(apps == app) for app in dict.fromkeys(panel.apps)}


def job_of(
    panel: trace.Panel,
    window: Window,
    members: dict[str, np.ndarray],
    files: tuple[Path, Path] | None,
    levels: Sequence[float],
    *,
    alone: bool,
) -> Job:
    """A window of a panel as a job; what it is sized by was seen before the first plan.

    Args:
        panel: of the trace.
        window: of its rows.
        members: app -> columns of its users.
        files: policies and offers; none: the demo's.
        levels: confidences of the sweep.
        alone: without a market on demand.

    Raises:
        UsageError: an app without data before the window, or without policy or offer.
    """
    rows = slice(window.begin, window.stop)
    past = slice(max(0, window.score - HISTORY_S // panel.tick_s), window.begin)
    values = panel.values[rows]
    plan_from = max(1, window.score - window.begin - SETTLE_S // panel.tick_s)
    before = confidence.totals(values[:plan_from], list(members.values()))
    records = _sized(before, list(members)) if files is None else _read(*files, list(members))
    policies, prices, starting = records
    offers = {app: [offer_of(p) for p in prices[app]] for app in members}
    plain = {app: [o for o in offers[app] if o.tier == "ON_DEMAND"] for app in members}
    markets: dict[str, dict[str, list[Offer]]] = {TIERS: offers}
    starts = {TIERS: starting}
    if not alone and all(plain.values()):
        markets[ON_DEMAND] = plain
        starts[ON_DEMAND] = {app: _plain_start(policies[app], offers[app], starting[app]) for app in members}
    local = {p["offer_id"]: LocalOffer.of(p) for found in prices.values() for p in found}
    key = Key("demo", DEMO_KEY, 0)
    return Job(
        values=values,
        events=panel.events[rows],
        saturated=panel.saturated[rows],
        ids=[key.pseudonym(f"{a}/{u}") for a, u in zip(panel.apps, panel.users, strict=True)],
        first_tick=int(panel.ticks[window.begin]),
        tick_s=panel.tick_s,
        members=members,
        policies=policies,
        offers=markets,
        terms={o: Terms(one.notice_s, one.billing_min_s) for o, one in local.items()},
        starting=starts,
        lanes=[(TIERS, None)],
        levels=levels,
        learn_from=max(0, plan_from - LEARN_S // panel.tick_s),
        plan_from=plan_from,
        before=confidence.totals(panel.values[past], [members[app] for app in sorted(members)]),
    )


Records = tuple[dict[str, Policy], dict[str, list[Record]], dict[str, dict[str, int]]]


def _sized(before: np.ndarray, apps: list[str]) -> Records:
    """The demo's policies and offers, replicas sized by what was seen before the first plan."""
    medians: dict[str, dict[str, float]] = {}
    for a, app in enumerate(apps):
        known = {
            m: float(np.nanmedian(before[:, a, i]))
            for i, m in enumerate(METRICS)
            if not np.isnan(before[:, a, i]).all()
        }
        if not known:
            raise UsageError(f"nothing is known of app {app} before the window: give --policy and --prices")
        medians[app] = {m: v for m, v in known.items() if v > 0} or {next(iter(known)): 1.0}
    example = Example.of_medians(medians)
    policies = {r["app"]: policy_of(_full("policy", r)) for r in example.policies}
    full = [_full("price", r) for r in example.prices]
    return policies, {app: [p for p in full if p["commitment_id"] == app] for app in apps}, example.starting


def _read(policy_file: Path, price_file: Path, apps: list[str]) -> Records:
    """Policies by app, else of "*", and the offers that each may use; modes that only watch are taken for auto."""
    found = {r["app"]: _full("policy", r) for r in side_files.read_policies(policy_file)}
    prices = [_full("price", r) for r in side_files.read_prices(price_file)]
    policies: dict[str, Policy] = {}
    offers: dict[str, list[Record]] = {}
    for app in apps:
        record = found.get(app) or found.get("*")
        if record is None:
            raise UsageError(f"{policy_file}: no policy of app {app}, and none of '*'")
        policies[app] = replace(policy_of(record), app=app, mode="auto", promotion_gates={})
        group = (record["allocation_group"] if record["app"] == app else "") or app
        offers[app] = [p for p in prices if p["commitment_id"] in (None, "", group)]
        if not offers[app]:
            raise UsageError(f"{price_file}: no offer for app {app}")
    return policies, offers, {app: {p["offer_id"]: 0 for p in offers[app]} for app in apps}


def _full(schema: str, record: Record) -> Record:
    record = {"version": 1, "valid_from_tick": 0, **record}
    return DEFAULT.decode(DEFAULT.encode(schema, record))[1]


def _plain_start(policy: Policy, offers: Sequence[Offer], counts: dict[str, int]) -> dict[str, int]:
    """As many replicas as another start has, on demand: of the cheapest such offer."""
    size = {o.offer_id: capacity.replicas_per_instance(o, policy) for o in offers}
    wanted = sum(size[o] * n for o, n in counts.items())
    plain = [o for o in offers if o.tier == "ON_DEMAND" and size[o.offer_id] > 0]
    if not plain:
        return {}
    best = min(plain, key=lambda o: (o.price_h / size[o.offer_id], o.offer_id))
    return {best.offer_id: -(-wanted // size[best.offer_id])}
