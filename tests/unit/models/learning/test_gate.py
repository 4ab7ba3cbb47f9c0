"""The gate: identical and equal arms are not promoted, savings are, and what turns bad is taken back in time."""

import numpy as np
import pytest

from models.learning.gate import BUDGET, COOL_DAYS, LEVEL, Day, Gate

SPEND = 100.0


def day(cost: float, misses: int = 3) -> Day:
    return Day(cost=cost, loss=cost, misses=misses, ticks=288)


def test_an_identical_arm_is_never_promoted() -> None:
    gate = Gate()
    for _ in range(1000):
        gate = gate.judged(day(SPEND), day(SPEND))
    assert gate.better.value == 1.0
    assert not gate.may_begin(1000, 1)


def test_of_equal_arms_with_other_luck_at_most_one_in_twenty_is_promoted() -> None:
    """A/A over 200 seeds and 60 days; daily luck of 4 % of the spend."""
    promoted = 0
    for seed in range(200):
        rng, gates = np.random.default_rng(seed), [Gate(), Gate()]
        for now in range(60):
            first, *others = (day(SPEND * (1 + 0.04 * rng.standard_normal())) for _ in range(3))
            gates = [gate.judged(other, first) for gate, other in zip(gates, others, strict=True)]
            if any(gate.may_begin(now, 2) for gate in gates):
                promoted += 1
                break
    assert promoted <= LEVEL * 200


@pytest.mark.parametrize("candidates", [1, 4])
def test_a_true_saving_of_five_percent_is_promoted_within_seven_days(candidates: int) -> None:
    gate = Gate()
    for _ in range(7):
        gate = gate.judged(day(0.95 * SPEND), day(SPEND))
    assert gate.may_begin(6, candidates)


def test_what_was_saved_before_and_the_day_that_is_not_over_do_not_hide_a_loss() -> None:
    gate = Gate().begun(0)
    for _ in range(20):
        gate = gate.judged(day(0.9 * SPEND), day(SPEND))
    assert gate.lost == 0
    assert not gate.must_end(30 * SPEND, today=BUDGET * 30 * SPEND)
    assert "it lost" in gate.must_end(30 * SPEND, today=1.01 * BUDGET * 30 * SPEND)


def test_an_arm_that_misses_more_than_is_allowed_is_not_promoted() -> None:
    gate = Gate()
    for _ in range(14):
        gate = gate.judged(day(0.9 * SPEND, misses=15), day(SPEND))
    assert gate.better.value > 40
    assert not gate.may_begin(14, 1)


@pytest.mark.parametrize("worse", [1.02, 1.1, 1.5])
def test_a_trojan_arm_is_back_before_it_has_lost_more_than_the_budget_and_a_day(worse: float) -> None:
    """Three good days more after its promotion, then bad: taken back by the budget of 0.5 % of 30 days."""
    gate = Gate().begun(0)
    for _ in range(3):
        gate = gate.judged(day(0.95 * SPEND), day(SPEND))
    lost, now = gate.lost, 3
    while not gate.must_end(30 * SPEND):
        gate, now = gate.judged(day(worse * SPEND), day(SPEND)), now + 1
    assert gate.lost - lost <= 0.005 * 30 * SPEND - lost + (worse - 1) * SPEND
    after = gate.ended(now)
    assert after.barred_until == now + COOL_DAYS
    assert after.cool_days == 2 * COOL_DAYS
    assert not after.may_begin(now + 1, 1)


def test_a_day_without_spend_is_no_evidence() -> None:
    assert Gate().judged(Day(), Day()).better.days == 0
