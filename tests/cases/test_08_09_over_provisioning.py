"""Case 8 and 9: capacity that people call a bug, of an app in its first hour."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from models.behaviour.lstm import DEFAULT_MODEL, BehaviourModel
from models.demand import extremes, reconciliation
from models.demand.scenarios import required
from models.metrics import METRICS, STEPS
from models.quantile_function import LEVELS, QuantileFunction, Z
from pipeline.backtest import setup
from pipeline.backtest.forecasts import ForecastPass
from pipeline.backtest.trace_simulation import TraceSimulation
from pipeline.inputs.example import Example
from pipeline.traces import trace_file
from pipeline.traces.trace_file import Panel
from pipeline.traces.window import ScoringWindow
from pipeline.wire.codec import DEFAULT, Record

MINUTE_S = 60
FIRST = 28_000_000
WINDOW = slice(1, 4)


def wide(level: float, rng: np.random.Generator, scenarios: int = 512) -> tuple[np.ndarray, QuantileFunction]:
    """What a network that knows bursts says of any level, zero too: half above 6 cores, one in a hundred above 40."""
    middle = 6 + level / 2
    steps = np.exp(rng.standard_normal((scenarios, STEPS, 1)))
    shape, offsets = (1, STEPS), (middle * (np.exp(Z) - 1)).astype(np.float16)
    total = QuantileFunction(
        np.full(shape, middle, np.float32),
        np.ones(shape, np.float32),
        np.broadcast_to(offsets, (*shape, LEVELS)),
    )
    return (middle * steps).astype(np.float32), total


def needs(cores: Sequence[float], scenarios: int = 512) -> np.ndarray:
    """Demand at 99 % (minute) that an app of one metric is planned for at the end of each minute."""
    rng, needs = np.random.default_rng(0), list[float]()
    state, common = reconciliation.initial_state(), reconciliation.initial_common()
    for tick, level in enumerate(cores, FIRST):
        usage = np.array([level, *[np.nan] * (len(METRICS) - 1)])
        state, common = reconciliation.observe(state, common, usage, usage, tick, MINUTE_S)
        decision = reconciliation.Decision([0], [0], WINDOW, 0.99, tick, MINUTE_S)
        demand, state = reconciliation.reconcile(*wide(level, rng, scenarios), state, common, decision)
        needs.append(float(required(demand, 0.99, WINDOW, [0])[0][WINDOW].max()))
    return np.array(needs)


def noise(minutes: int, seed: int) -> np.ndarray:
    """Of six users' sum, each of 3 %."""
    return 1 + 0.03 / np.sqrt(6) * np.random.default_rng(seed).standard_normal(minutes)


@pytest.mark.parametrize("seed", range(3))
def test_a_steady_app_is_planned_for_what_it_uses_whatever_its_forecast(seed: int):
    need = needs((6 * noise(60, seed)).tolist())
    assert need[15:].mean() < 1.25 * 6
    assert need[30:].mean() < 1.2 * 6


@pytest.mark.parametrize("every", [2, 3, 5])
def test_an_app_that_alternates_costs_what_its_upper_level_needs(every: int):
    level = np.where(np.arange(60) % every, 6.0, 12.0)
    need = needs((level * noise(60, every)).tolist())
    assert (need[20:] > 12).all()
    assert need[30:].mean() < 1.4 * 12
    assert need[-1] < 1.25 * 12


@pytest.mark.parametrize("every", [12, 20])
@pytest.mark.parametrize("times", [1.5, 4.0])
def test_a_job_that_comes_again_and_again_is_no_heavy_tail(every: int, times: float):
    """It was planned for 4 to 28 times its largest demand: the gap between its two levels was taken for a tail's."""
    level = np.where(np.arange(90) % every, 6.0, 6 * times)
    need = needs((level * noise(90, every)).tolist())
    assert (need[20:] > 6 * times).all()
    assert need[60:].mean() < 2.2 * 6 * times


@pytest.mark.parametrize("scenarios", [64, 128, 256])
def test_few_scenarios_bound_an_app_that_is_on_and_off_as_many_do(scenarios: int):
    """The last scenario is the level of 99 and of 99.9 %: it is bounded as the confidence that is asked for."""
    level = np.where(np.arange(60) % 2, 10.0, 0.0)
    need = needs((level * noise(60, 0)).tolist(), scenarios)
    assert (need[20:] > 10).all()
    assert need[30:].mean() < 1.5 * 10


def test_after_explicit_zeros_the_need_never_rises_and_ends_within_a_horizon():
    need = needs([*(6 * noise(15, 0)), *[0.0] * 20])
    assert (np.diff(need[14:]) <= 0).all()
    assert need[15] < 6
    assert (need[15 + STEPS :] == 0).all()


def test_a_rise_is_followed_at_once():
    """The bound is no brake: it moves with the first tick that passes it."""
    need = needs([*(6 * noise(40, 0)), *(18 * noise(3, 1))])
    assert (need[40:] > 18).all()


@pytest.mark.parametrize("days", [0, 2])
@pytest.mark.parametrize("before", [6.0, 0.0])
def test_what_is_estimated_is_never_bounded_below_it_and_is_forgotten(days: int, before: float):
    """An app that users left, or that ended in zeros: what is not measured passes what was."""
    state = extremes.initial_state()
    first = FIRST - days * 1440
    for tick in range(first, FIRST + 60):
        level = before if tick >= FIRST else 6.0
        state = extremes.observe(state, np.full(len(METRICS), level), tick, MINUTE_S)
    state = extremes.observe(state, np.full(len(METRICS), np.nan), FIRST + 60, MINUTE_S)
    kept = {name: array.copy() for name, array in state.items()}
    estimated = np.array([15.0, *[np.nan] * (len(METRICS) - 1)])
    likely = np.array([0.5, 0.01, 1e-4])

    def bound(of: extremes.State) -> np.ndarray:
        rare = extremes.most(of, likely, MINUTE_S, reconciliation.INDEX)
        return np.minimum(rare, extremes.horizon_most(of, likely, MINUTE_S))

    raised = bound(extremes.raised(state, estimated))
    assert (raised[0] >= 15).all()
    if before:  # what was zero has ended for the metrics that nobody reports too, but not where one is used
        np.testing.assert_array_equal(raised[1:], bound(state)[1:])
    for name, array in kept.items():
        np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_pods_that_are_all_renamed_are_planned_for_once_also_after_a_gap(
    shop: Callable[..., list[Record]], gap: int
):
    """Six cores of three pods, which all end at minute 8; the new ones report after so many minutes without any."""
    samples = [
        (tick, f"{'old' if tick < 8 else 'new'}-{pod}", {"cpu": 2.0})
        for tick in range(14)
        for pod in range(3)
        if not 8 <= tick < 8 + gap
    ]
    plans = shop(samples)
    need = [max(amounts[0] for amounts in plan["required"]) for plan in plans]
    assert max(need[8 + gap :]) < 1.25 * need[7]
    assert [plan["completeness"] for plan in plans[8 + gap :]] == [1.0] * (6 - gap)


MINUTES = 60
APPS = ("calm", "churn", "flap", "rollout", "zero")


def five_apps() -> Panel:
    """Six users of a core each for an hour: steady; every one renamed at minute 30; each for six minutes; 6 and 12
    cores in turn; explicit zeros from minute 15."""
    rng, start = np.random.default_rng(7), FIRST * MINUTE_S
    rows: list[dict[str, object]] = []
    for k in range(MINUTES):
        for u in range(6):
            users = {
                "calm": (f"u{u}", 1.0),
                "rollout": (f"{'old' if k < 30 else 'new'}-{u}", 1.0),
                "churn": (f"pod-{u}-{(k + u) // 6}", 1.0),
                "flap": (f"u{u}", 1.0 + k % 2),
                "zero": (f"u{u}", 1.0 if k < 15 else 0.0),
            }
            for app, (user, cpu) in users.items():
                usage = cpu * float(1 + 0.03 * rng.standard_normal())
                rows.append({"ts": start + MINUTE_S * k, "app": app, "user": user, "cpu": usage})
    frame = pl.DataFrame(rows).with_columns(pl.from_epoch("ts", time_unit="s"))
    return trace_file.to_panel(trace_file.of_frame(frame), MINUTE_S)


def full(name: str, record: Record) -> Record:
    return DEFAULT.decode(DEFAULT.encode(name, record))[1]


@pytest.mark.slow
def test_five_apps_of_six_cores_cost_what_they_need():
    """Through the stream's own functions, and offers of the demo: two replicas of half a core an instance."""
    panel = five_apps()
    members = setup.members_of(panel, 0, 0)
    example = Example.of_medians({app: {"cpu": 6.0} for app in members})
    prices = [full("price", price) for price in example.prices]
    inputs = setup.PlanningInputs(
        {policy["app"]: full("policy", policy) for policy in example.policies},
        {app: [price for price in prices if price["commitment_id"] == app] for app in members},
        example.starting,
    )
    window = ScoringWindow(0, 1, MINUTES)
    job = setup.job_of(panel, window, members, inputs, [0.99], alone=True)
    job = replace(job, learn_from=0, plan_from=1, scenarios=1024)
    [outcome] = list(
        TraceSimulation(job, ForecastPass(job, BehaviourModel.load(DEFAULT_MODEL, block=64))).run()
    )
    need = outcome["required"][:, :, 1:4, 0].max(axis=2)  # (minute, app)
    mean = dict(zip(APPS, need[14:].mean(axis=0).tolist(), strict=True))
    assert job.apps == list(APPS)
    assert all(mean[app] < 1.25 * 6 for app in ("calm", "churn", "rollout")), mean
    assert mean["flap"] < 1.25 * 12, mean
    assert mean["zero"] < 1, mean
    assert (need[21:, APPS.index("zero")] == 0).all()
    demand = np.stack([np.nansum(panel.values[:, members[app], 0], axis=1) for app in APPS], axis=1)
    replicas = np.ceil(demand[16:] / 0.5)
    assert (outcome["ready"][15:, :, 0] >= replicas).all()  # every tick is served
