"""`leadtime bench`: arguments, the call of a benchmark in `pipeline.bench`, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command_line import command_group
from pipeline.options import AsJson

Partitions = Annotated[int, typer.Option(min=1, help="Partitions of every topic.")]
Apps = Annotated[int, typer.Option(min=1, max=1000, help="Apps that the users are divided into.")]

bench_app = command_group(
    no_args_is_help=True, help="Measure speed and cost of the parts against baselines in the same run."
)


@bench_app.command()
def allocator(
    offers: Annotated[int, typer.Option(min=4, help="Offers to choose from.")] = 100,
    draws: Annotated[
        int, typer.Option("--scenarios", min=2, help="Scenarios of the timed purchases.")
    ] = 4_096,
    instances: Annotated[int, typer.Option(min=1, help="Simulated purchases, of small and large apps.")] = 20,
    exact_scenarios: Annotated[
        int, typer.Option(min=2, help="Scenarios of the comparison with the least cost.")
    ] = 1_024,
    limit: Annotated[float, typer.Option(min=0.1, help="Wall seconds of HiGHS per purchase.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of the first purchase.")] = 0,
    group: Annotated[
        int | None,
        typer.Option(min=1, help="Instead: what sharing nodes adds to the plans of a group of so many apps."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure a purchase's time, and its cost against HiGHS's least cost and the best pair of offers."""
    from pipeline.bench import allocator as bench
    from pipeline.bench import group as shared_nodes
    from pipeline.display import tell

    if group is not None:
        tell(shared_nodes.measured(group, offers, draws, instances, seed), json)
        return
    tell(bench.measured(offers, draws, instances, exact_scenarios, limit, seed), json)


@bench_app.command()
def backtest(
    users: Annotated[int, typer.Option(min=2, help="Simulated machines.")] = 125,
    days: Annotated[int, typer.Option(min=1, help="Length of the simulated trace.")] = 60,
    apps: Annotated[int, typer.Option(min=1, help="Apps that the users are divided into.")] = 1,
    scenarios: Annotated[int, typer.Option(min=64, help="Scenarios of each decision.")] = 256,
    every: Annotated[int, typer.Option(min=1, help="Ticks between two decisions.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the machines and the scenarios.")] = 0,
    json: AsJson = False,
) -> None:
    """Measure a backtest's wall time: simulated machines, four metrics at 5 minutes, no baselines."""
    from pipeline.bench import backtest as bench
    from pipeline.display import tell

    tell(bench.measured(users, days, apps, scenarios, every, seed), json)


@bench_app.command()
def throughput(
    users: Annotated[int, typer.Option(min=1, help="Users who report.")] = 100_000,
    records: Annotated[
        int | None,
        typer.Option(min=1, help="Records, rounded up to whole ticks.", show_default="three ticks"),
    ] = None,
    apps: Apps = 1,
    partitions: Partitions = 2,
    rival_s: Annotated[float, typer.Option(min=0, help="Seconds of the Faust baseline; 0: none.")] = 20.0,
    keep: Annotated[Path | None, typer.Option(help="Folder that keeps data and logs.")] = None,
    json: AsJson = False,
) -> None:
    """Measure records per second through all stages, with memory and processor time, against a limit and a baseline."""
    from pipeline.bench import throughput as bench
    from pipeline.bench.load import Load
    from pipeline.display import tell

    ticks = max(1, -(-records // (bench.SAMPLES * users))) if records else 3
    with bench.installation(keep, partitions=partitions, event_time=True) as settings:
        tell(bench.measured(Load(users, apps, bench.SAMPLES, settings), ticks, rival_s, settings), json)


@bench_app.command()
def latency(
    users: Annotated[int, typer.Option(min=1, help="Users who report.")] = 10_000,
    ticks: Annotated[int, typer.Option(min=1, help="Ticks that are timed, after one that is not.")] = 20,
    tick: Annotated[int, typer.Option(min=1, help="Length of a tick in seconds.")] = 10,
    apps: Apps = 1,
    partitions: Partitions = 2,
    json: AsJson = False,
) -> None:
    """Measure seconds from a tick's close to its commands (p50, p99, most), with ticks at real pace."""
    from pipeline.bench import latency as bench
    from pipeline.bench.load import Load
    from pipeline.bench.throughput import SAMPLES, installation
    from pipeline.display import tell

    with installation(None, tick_s=tick, partitions=partitions, event_time=True) as settings:
        tell(bench.measured(Load(users, apps, SAMPLES, settings), ticks, settings), json)


@bench_app.command()
def recovery(
    users: Annotated[int, typer.Option(min=1, help="Users with state.")] = 100_000,
    partitions: Annotated[int, typer.Option(min=2, help="Partitions of every topic.")] = 2,
    json: AsJson = False,
) -> None:
    """Measure seconds until a stopped worker has ended, a new one works, and a killed one is replaced."""
    from pipeline.bench.load import Load
    from pipeline.bench.recovery import Recovery
    from pipeline.bench.throughput import installation
    from pipeline.display import tell

    with installation(None, partitions=partitions, event_time=True) as settings:
        tell(Recovery(Load(users, 1, 1, settings), settings).measured(), json)


@bench_app.command()
def simulator(
    users: Annotated[int, typer.Option(min=1, help="Users of one app.")] = 100_000,
    draws: Annotated[int, typer.Option("--scenarios", min=2, help="Scenarios.")] = 4_096,
    exact_users: Annotated[
        int, typer.Option(min=1, help="Users that the exact sampler is timed on.")
    ] = 1_000,
    check_scenarios: Annotated[int, typer.Option(min=2, help="Scenarios of the comparison of quantiles.")] = 2
    ** 17,
    seed: Annotated[int, typer.Option(help="Seed of the simulated forecasts and the scenarios.")] = 0,
    json: AsJson = False,
) -> None:
    """Measure the collapsed sampler's processor time, and its 99 % quantile of the total, against the exact one."""
    from pipeline.bench import simulator as bench
    from pipeline.display import tell

    tell(bench.measured(users, draws, exact_users, check_scenarios, seed), json)


@bench_app.command()
def learner(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every shift.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Part: shifts, gate or rivals; repeat for more.", show_default="all"),
    ] = None,
    observations: Annotated[
        list[Path] | None,
        typer.Option(
            help="File observations.npz of `leadtime backtest --learner on --out`, for the rivals; repeat for more."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure the learner: after regime shifts, what its gate lets through, and beside other learners."""
    from pipeline.bench import learner as bench
    from pipeline.display import phases, tables

    with phases("seeds") as progress:
        made = bench.measured(only or (), seeds, observations or (), progress)
    tables(made if json else bench.for_people(made), json)


@bench_app.command()
def supply(
    offers: Annotated[int, typer.Option(min=1, help="Simulated offers, five a provider.")] = 200,
    launches: Annotated[int, typer.Option(min=1, help="Launches of each that were seen.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the offers and their launches.")] = 0,
    json: AsJson = False,
) -> None:
    """Measure how often the 95 % interval of a learnt start-up p99 covers the truth, on offers that state otherwise."""
    from pipeline.bench import supply as bench
    from pipeline.display import tell

    tell(bench.measured(offers, launches, seed), json)
