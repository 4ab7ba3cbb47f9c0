"""The learner of an app: the share of time that is served, evidence, snapshots and another arm."""

from dataclasses import replace

import numpy as np
import pytest

from models.capacity import Offer, Policy
from models.learning import app_learner
from models.learning.app_learner import LEAST_S, AppLearner, Observation, Setting, Shard
from models.learning.price_tail import LOG_PRICES, PRICES
from models.learning.shadow_fleets import ShadowFleets

TICK_S = 300
DAY = 86_400 // TICK_S
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, hold_s=0.0, max=10_000)
OFFER = Offer("od", "local", "r", "z", "ON_DEMAND", {"cpu": 1.0}, 0.1, 20.0, 30.0, 60.0)


def learner(arms: int = 1) -> AppLearner:
    supply = [None] * (arms * (len(PRICES) + 1))
    fleets = ShadowFleets("shop", [OFFER], POLICY, {}, tick_s=TICK_S, seed=0, supply=supply)
    return AppLearner(fleets, arms, 0.01, 0.1)


def observations(
    ticks: int, seed: int, *, wide: float = 1.0, sharp: float | None = None
) -> list[Observation]:
    """Demand around 100 replicas, by day 40 more than by night; plans know its spread up to a factor `wide`.

    sharp: of a second arm, which knows so much of the difference between day and night; the first arm knows none.
    """
    rng = np.random.default_rng(seed)
    z = np.interp(LOG_PRICES, [LOG_PRICES[0], LOG_PRICES[-1]], [0.0, 3.5])
    made: list[Observation] = []
    for t in range(ticks):
        day = 40.0 * (t // (DAY // 2) % 2)
        known = [0.0] if sharp is None else [0.0, sharp * day]
        wanted = np.stack([np.ceil(100 + wide * 25 * z + k).astype(np.int64) for k in known])
        need = 100 + (day if sharp is not None else 0.0) + 10 * rng.standard_normal()
        made.append(Observation(t, need, np.nan, wanted, np.zeros_like(wanted)))
    return made


def served(ticks: list[Observation], subject: AppLearner) -> float:
    shard, hits = Shard(subject.arms), []
    for now in ticks:
        subject.observe(now, shard)
        if subject.fleets.fleet is not None and now.tick > 2 * DAY:
            hits.append(float(subject.fleets.fleet.least[len(PRICES), 0]) >= now.need)
    return float(np.mean(hits))


@pytest.mark.parametrize("wide", [0.8, 1.0, 2.0])
def test_the_stated_share_of_time_is_served_however_wrong_the_spread_is(wide: float) -> None:
    assert served(observations(14 * DAY, 3, wide=wide), learner()) == pytest.approx(0.99, abs=0.003)


def test_a_day_of_known_demand_is_needed_first() -> None:
    subject, shard = learner(), Shard()
    prices = [subject.observe(now, shard).price for now in observations(2 * DAY, 1)]
    assert prices[0] is None
    first = next(i for i, price in enumerate(prices) if price is not None)
    assert first == pytest.approx(LEAST_S / TICK_S, abs=1)


def test_ticks_of_unknown_demand_teach_nothing() -> None:
    subject, shard = learner(), Shard()
    for now in observations(2 * DAY, 1):
        subject.observe(Observation(now.tick, np.nan, now.ready, now.wanted, now.soon), shard)
    assert subject.known == 0
    assert subject.setting.price is None
    assert float(subject.tails["n"][0]) == 0


def test_a_restored_learner_goes_on_with_the_same_settings() -> None:
    ticks = observations(4 * DAY, 5, sharp=0.5)
    whole, shard = learner(2), Shard(2)
    halves, again, again_shard = learner(2), learner(2), Shard(2)
    for now in ticks:
        whole.observe(now, shard)
    first_shard = Shard(2)
    for now in ticks[: 2 * DAY + 17]:
        halves.observe(now, first_shard)
    again.restore(halves.blocks())
    again_shard.restore(first_shard.blocks())
    for now in ticks[2 * DAY + 17 :]:
        again.observe(now, again_shard)
    assert again.setting == whole.setting
    for name, array in whole.blocks().items():
        np.testing.assert_array_equal(array, again.blocks()[name])


def test_an_arm_that_costs_less_in_the_first_week_comes_into_force_and_one_that_costs_more_does_not() -> None:
    sharp, dull = learner(2), learner(2)
    served(observations(12 * DAY, 7, sharp=1.0), sharp)
    served(observations(12 * DAY, 7, sharp=-0.5), dull)
    assert sharp.in_force == 1
    assert "begins with same_time_25" in sharp.events[0][1]
    assert dull.in_force == 0
    assert not dull.events


def test_without_a_first_week_evidence_brings_an_arm_into_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_learner, "BEGIN_DAYS", -1)
    subject = learner(2)
    served(observations(12 * DAY, 7, sharp=1.0), subject)
    assert subject.in_force == 1
    assert [text.partition(":")[0] for _, text in subject.events] == ["promotion of same_time_25"]


def test_what_is_in_force_is_the_first_weeks_choice() -> None:
    class Last:
        def scores(self, context: np.ndarray, in_force: int, later: bool) -> np.ndarray:
            asked.append(later)
            return np.arange(len(context), dtype=float)

    asked: list[bool] = []
    subject = learner(2)
    subject.first_week = Last()
    served(observations(3 * DAY, 7, sharp=-1.5), subject)
    begin, back = (text for _, text in subject.events[:2])
    assert begin.startswith("begins with same_time_25, which cost")
    assert begin.endswith("% more so far")
    assert back.startswith("rollback of same_time_25")
    assert asked[0] is False
    assert all(asked[1:])


def test_an_older_snapshot_without_evidence_keeps_its_arm_until_a_day_is_known() -> None:
    ticks = observations(4 * DAY, 7, sharp=1.0)
    subject, again, shard = learner(2), learner(2), Shard(2)
    for now in ticks[: DAY - 20]:
        subject.observe(now, shard)
    again.restore({name: of for name, of in subject.blocks().items() if not name.startswith("week")})
    for now in ticks[DAY - 20 : 2 * DAY - 40]:
        again.observe(now, shard)
    assert again.in_force == 0
    for now in ticks[2 * DAY - 40 :]:
        again.observe(now, shard)
    assert again.in_force == 1


def test_where_what_is_ready_is_not_the_simulated_fleet_plans_are_static() -> None:
    """As where far more instances are lost than the offers say; static has what it asks for."""
    subject, shard, settings = learner(), Shard(1), list[Setting]()
    for now in observations(8 * DAY, 2):
        priced = bool(settings) and settings[-1].price is not None
        settings.append(subject.observe(replace(now, ready=now.need / 2 if priced else np.nan), shard))
    frozen = [(day, text) for day, text in subject.events if text.startswith("frozen")]
    assert [day for day, _ in frozen] == [2, 5]
    assert "served other ticks than the simulated fleet" in frozen[0][1]
    by_day = [
        {setting.price is not None for setting in settings[d * DAY : (d + 1) * DAY]} for d in range(2, 8)
    ]
    assert by_day == [{False}, {False}, {True}, {False}, {False}, {False}]
    assert settings[2 * DAY].reason.startswith("frozen")


def test_a_snapshot_of_other_arms_is_refused_and_their_shard_begins_anew() -> None:
    one, shard = learner(1), Shard(1)
    for now in observations(20, 1):
        one.observe(now, shard)
    with pytest.raises(ValueError, match="a snapshot of 1 arms, of which there are 2 now"):
        learner(2).restore(one.blocks())
    fresh = Shard(2)
    fresh.restore(shard.blocks())
    assert (fresh.moved.tolist(), fresh.tails["n"].tolist()) == ([0.0, 0.0], [0.0, 0.0])
