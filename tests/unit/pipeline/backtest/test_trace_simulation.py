import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.behaviour.lstm import DEFAULT_MODEL, BehaviourModel
from models.capacity import Offer, Policy
from models.evaluation import promise
from models.learning import app_learner, schedule
from models.metrics import DAY_S, EVENT_KINDS, METRICS
from pipeline.backtest.forecast_process import ForecastProcess
from pipeline.backtest.forecasts import ForecastPass
from pipeline.backtest.job import Job
from pipeline.backtest.trace_simulation import TraceSimulation
from pipeline.security.pseudonyms import PSEUDONYM_BYTES
from pipeline.settings import Settings
from pipeline.stages.profiler.agent import Profiler
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.policies import offer_of, policy_of
from tests.unit.pipeline.stages import driving
from tests.unit.pipeline.stages.driving import PRICES, TICKS, USERS, allocator, drive, policy, simulator

LEVELS = (0.9, 0.99)


def full(name: str, record: Record) -> Record:
    return DEFAULT.decode(DEFAULT.encode(name, record))[1]


def job_of(frames: list[Record], **changes: Any) -> Job:
    """What is in frames of one shard, as a job."""
    ids = sorted({f["users"][i : i + PSEUDONYM_BYTES] for f in frames for i in range(0, len(f["users"]), 16)})
    members: dict[str, set[int]] = {}
    values = np.full((len(frames), len(ids), len(METRICS)), np.nan, np.float32)
    events = np.full((len(frames), len(ids), len(EVENT_KINDS)), np.nan, np.float32)
    for t, frame in enumerate(frames):
        users = [ids.index(frame["users"][i : i + 16]) for i in range(0, len(frame["users"]), 16)]
        for user, app in zip(users, np.frombuffer(frame["app_index"], "<u4"), strict=True):
            members.setdefault(frame["apps"][app], set()).add(user)
        for array, column, axis, names in (
            (values, "values", "metrics", METRICS),
            (events, "rates", "kinds", EVENT_KINDS),
        ):
            block = np.frombuffer(frame[column], "<f4").reshape(len(frame[axis]), -1)
            for name, row in zip(frame[axis], block, strict=True):
                array[t, users, names.index(name)] = row
    offers: list[Offer] = [offer_of(full("price", price)) for price in PRICES]
    policies: dict[str, Policy] = {app: policy_of(full("policy", policy(app))) for app in members}
    job = Job(
        values=values,
        events=events,
        saturated=np.zeros(values.shape, bool),
        ids=ids,
        first_tick=frames[0]["tick"],
        tick_s=frames[0]["tick_s"],
        members={app: np.array(sorted(users)) for app, users in members.items()},
        policies=policies,
        offers={"tiers": dict.fromkeys(members, offers)},
        terms={},
        starting={"tiers": {app: {"plain": 2} for app in members}},
        lanes=[("tiers", None)],
        levels=LEVELS,
        learn_from=0,
        plan_from=0,
        scenarios=256,
    )
    return replace(job, **changes)


@pytest.fixture
def frames(installation: Settings) -> list[Record]:
    one = installation.model_copy(update={"partitions": 1})
    return [DEFAULT.decode(frame)[1] for frame in driving.frames(one, 0, USERS)]


def whole(days: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    found = list(days)
    return {name: np.concatenate([day[name] for day in found]) for name in found[0]}


def test_plans_are_for_the_demand_that_the_stages_plan_for(
    model: BehaviourModel,
    installation: Settings,
    frames: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = installation.model_copy(update={"partitions": 1})
    monkeypatch.setattr(driving, "GROUPS", ["shop", "blog"])
    raw = [DEFAULT.encode("frame", frame) for frame in frames]
    forecast = drive(lambda publish: Profiler(0, model, DEFAULT, publish, 100), raw, None)
    said = [DEFAULT.encode(name, record) for _, name, record, _ in forecast]

    def make(publish: Any) -> Any:
        one = simulator(settings, 0)(publish)
        one.dependence_table.prior = model.dependence
        return one

    scenarios = [DEFAULT.encode(name, record) for _, name, record, _ in drive(make, said, None)]
    policies = [policy("shop"), policy("blog")]
    published = drive(allocator(model, settings, monkeypatch, policies), scenarios, None)
    plans = {(r["app"], r["tick"]): r for _, name, r, _ in published if name == "plan"}
    job = job_of(frames)
    seen = whole(TraceSimulation(job, ForecastPass(job, model)).run())
    assert len(plans) == len(job.apps) * TICKS
    for (app, tick), plan in plans.items():
        got = seen["required"][tick - job.first_tick, job.apps.index(app)]
        known = [METRICS.index(m) for m in plan["metrics"]]
        np.testing.assert_array_equal(got[:, known], np.array(plan["required"], np.float32))


def test_nothing_is_known_before_it_has_happened(model: BehaviourModel, frames: list[Record]) -> None:
    job = job_of(frames)
    later = job.values.copy()
    later[4:] *= 7
    one, other = (
        whole(TraceSimulation(j, ForecastPass(j, model)).run()) for j in (job, replace(job, values=later))
    )
    for name in ("ready", "cost", "asked", "wanted", "required"):
        # what was asked at the end of row 3 serves in rows 4 and 5, whatever demand did there
        until = 5 if name in ("ready", "cost") else 4
        np.testing.assert_array_equal(one[name][:until], other[name][:until], err_msg=name)
    assert (one["wanted"][4:] != other["wanted"][4:]).any()


def experienced(frames: list[Record], weight: float) -> Job:
    """With the expert, and with 14 days of a tenfold usage before the first row."""
    job = job_of(frames)
    apps = [job.members[app] for app in job.apps]
    usage = 10 * np.fmax.reduce(promise.totals(job.values, apps), axis=0)
    before = np.broadcast_to(usage, (14 * DAY_S // job.tick_s, *usage.shape)).astype(np.float32)
    return replace(job, experts=dict.fromkeys(job.members, weight) if weight else {}, before=before)


def test_an_expert_knows_the_days_before_the_first_row(model: BehaviourModel, frames: list[Record]) -> None:
    none, half = (
        whole(TraceSimulation(job, ForecastPass(job, model)).run())
        for job in (experienced(frames, 0), experienced(frames, 0.5))
    )
    assert (half["wanted"] >= none["wanted"]).all()
    assert (half["wanted"] > none["wanted"]).any(axis=(0, 2)).all()


def learning(frames: list[Record], monkeypatch: pytest.MonkeyPatch, mode: str) -> Job:
    """With a learner that steers from the first adjustment on."""
    monkeypatch.setattr(app_learner, "LEAST_S", 0.0)
    monkeypatch.setattr(schedule, "EPOCH_S", 1)
    job = experienced(frames, 0)
    policies = {app: replace(of, learner=True) for app, of in job.policies.items()}
    return replace(job, policies=policies, learner=mode, lanes=[*job.lanes] * (2 if mode == "both" else 1))


def test_plans_beside_the_learner_are_those_without_it(
    model: BehaviourModel, frames: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    both, alone = learning(frames, monkeypatch, "both"), experienced(frames, 0)
    beside, without = (whole(TraceSimulation(job, ForecastPass(job, model)).run()) for job in (both, alone))
    for name in ("ready", "cost"):
        np.testing.assert_array_equal(beside[name][..., 1], without[name][..., 0])
    assert np.isfinite(beside["steered"][..., 0]).any()
    assert (beside["required"] != without["required"]).any()


def test_the_learner_knows_nothing_before_it_has_happened(
    model: BehaviourModel, frames: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = learning(frames, monkeypatch, "on")
    later = job.values.copy()
    later[4:] *= 7
    one, other = (
        whole(TraceSimulation(j, ForecastPass(j, model)).run()) for j in (job, replace(job, values=later))
    )
    for name, until in (("steered", 5), ("ready", 5), ("cost", 5), ("asked", 4)):
        np.testing.assert_array_equal(one[name][:until], other[name][:until], err_msg=name)


@pytest.mark.parametrize("weight", [0.0, 0.5, None])
def test_a_run_that_goes_on_from_a_snapshot_is_the_same(
    model: BehaviourModel, frames: list[Record], monkeypatch: pytest.MonkeyPatch, weight: float | None
) -> None:
    """weight: of the expert; None: the learner chooses."""
    job = learning(frames, monkeypatch, "both") if weight is None else experienced(frames, weight)
    unbroken = whole(TraceSimulation(job, ForecastPass(job, model)).run())
    first = TraceSimulation(job, ForecastPass(job, model))
    before: list[dict[str, np.ndarray]] = []
    for row in range(3):
        before.append(first._tick(row))
        first.row += 1
    second = TraceSimulation(job, ForecastPass(job, model))
    second.restore({name: array.copy() for name, array in first.blocks().items()})
    after = whole(second.run())
    for name, array in unbroken.items():
        np.testing.assert_array_equal(array[3:], after[name], err_msg=name)
        np.testing.assert_array_equal(array[:3], np.stack([one[name] for one in before]), err_msg=name)


@pytest.mark.slow
def test_forecasts_and_scenarios_from_another_process_are_the_same(
    model: BehaviourModel, frames: list[Record]
) -> None:
    """From a snapshot on, as a run that was killed."""
    job = job_of(frames, every=2)
    unbroken, first = (
        TraceSimulation(job, ForecastPass(job, model)),
        TraceSimulation(job, ForecastPass(job, model)),
    )
    rows = whole(unbroken.run())
    for row in range(3):
        first._tick(row)
        first.row += 1
    ahead = TraceSimulation(job, ForecastProcess(job, DEFAULT_MODEL))
    ahead.restore(first.blocks())
    after = whole(ahead.run())
    for name, array in rows.items():
        np.testing.assert_array_equal(array[3:], after[name], err_msg=name)
    assert ahead.blocks().keys() == unbroken.blocks().keys()
    for name, array in unbroken.blocks().items():
        np.testing.assert_array_equal(array, ahead.blocks()[name], err_msg=name)


def test_what_draws_scenarios_carries_nothing_of_the_trace_to_another_process(
    model: BehaviourModel, frames: list[Record]
) -> None:
    job = job_of(frames)
    row = ForecastPass(job, model).row(0)
    assert all(callable(one.scenarios) for one in row.values())
    assert b"pipeline.backtest.job" not in pickle.dumps(row)  # where Job is, which has the whole trace
    for name, one in pickle.loads(pickle.dumps(row)).items():
        np.testing.assert_array_equal(one.drawn().scenarios, row[name].drawn().scenarios)


def test_a_process_that_ends_is_said(model: BehaviourModel, frames: list[Record], tmp_path: Path) -> None:
    job = job_of(frames)
    with pytest.raises(RuntimeError, match="has ended"):
        whole(TraceSimulation(job, ForecastProcess(job, tmp_path / "no model")).run())


def test_an_app_alone_is_the_same_as_beside_another_that_shares_its_users(
    model: BehaviourModel, frames: list[Record]
) -> None:
    job = job_of(frames)
    shared = {app: array for app, array in job.members.items() if app == "shop"}
    twice = replace(
        job,
        members={**shared, "shop-again": shared["shop"]},
        policies={**job.policies, "shop-again": replace(job.policies["shop"], app="shop-again")},
        offers={"tiers": {**job.offers["tiers"], "shop-again": job.offers["tiers"]["shop"]}},
        starting={"tiers": {**job.starting["tiers"], "shop-again": {"plain": 2}}},
    )
    seen = whole(TraceSimulation(twice, ForecastPass(twice, model)).run())
    # other scenarios of the same demand: the required curves differ by Monte Carlo error alone
    first, again = (np.nanmax(seen["required"][:, a, 0], axis=-1) for a in (0, 1))
    np.testing.assert_allclose(first, again, rtol=0.3)
