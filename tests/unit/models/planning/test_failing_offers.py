"""What fails is left alone for a while, and others stand in for it."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.capacity import Observed, Offer, Policy, validate
from models.planning.failing_offers import Failing, failing
from tests.unit.models.planning.test_allocate import OD, POLICY, SPOT, constant, first, plan_and_memory

OTHER = replace(SPOT, offer_id="spot2")  # of the same pool p
FAR = replace(OD, offer_id="gcp", provider="gcp", price_h=1.5)
OFFERS = [OD, SPOT, OTHER, FAR]
WAIT = replace(POLICY, spot_return_wait_s=600.0)


def after(history: list[dict[str, Observed]], policy: Policy = WAIT, tick_s: float = 300.0) -> Failing:
    """What is known after these observations, a tick each from 0 on."""
    failures = Failing({}, (), {})
    for tick, observed in enumerate(history):
        failures = failing(OFFERS, observed, policy, failures.memory, tick * tick_s, tick_s)
    return failures


def test_of_a_tick_longer_than_twice_the_wait_the_wait_is_over_at_its_end():
    lost = {"spot": Observed(ready=3, interrupted=1)}
    assert after([{}, lost], tick_s=3600.0).excluded == {}
    assert set(after([{}, lost], tick_s=1200.0).excluded) == {"spot", "spot2"}
    failed = {"spot": Observed(ready=3, failed=1)}
    assert set(after([{}, failed], tick_s=3600.0).excluded) == {"spot", "spot2"}


def test_a_pool_is_not_tried_again_while_what_stands_in_for_it_is_starting():
    """Else the plan gives up the stand-in for what fails, and nothing ever runs."""
    lost, starting = {"spot": Observed(failed=3)}, {"gcp": Observed(pending=3)}
    history = [{}, lost, *[starting] * 2]
    assert after(history[:-1], tick_s=600.0).excluded["spot"] == "pool p failed, for 0 s more"
    assert after([*history[:-2], {"gcp": Observed(ready=3)}], tick_s=600.0).excluded == {}
    late = [*history, *[starting] * 3]  # a tick and its start-up time after the wait it should be ready
    assert after(late, tick_s=600.0).excluded == {}


def test_spot_of_a_pool_returns_after_the_wait():
    lost = {"spot": Observed(ready=3, interrupted=1)}
    seen = [after([{}, lost, *[lost] * more]) for more in range(3)]
    # interrupted at 300: until 900; a number that stays is no new loss
    assert seen[0].excluded == {
        "spot": "pool p failed, for 600 s more",
        "spot2": "pool p failed, for 600 s more",
    }
    assert seen[0].guardrails == ("spot_return_wait",)
    assert seen[1].excluded["spot"] == "pool p failed, for 300 s more"
    assert (seen[2].excluded, seen[2].guardrails) == ({}, ())
    again = after([{}, lost, {"spot": Observed(interrupted=2)}])
    assert again.excluded["spot"] == "pool p failed, for 600 s more"
    assert after([{}, lost], replace(WAIT, spot_return_wait_s=0.0)).excluded == {}


def test_no_more_is_bought_at_a_stale_price():
    failures = failing([replace(SPOT, stale="its price is 30.0 h old"), FAR], {}, POLICY, {}, 0.0, 300.0)
    assert failures.excluded == {"spot": "its price is 30.0 h old"}
    assert failures.guardrails == ("stale_price",)


def test_two_pools_that_fail_in_one_tick_are_their_provider():
    one = after([{}, {"od": Observed(failed=1)}])
    assert (sorted(one.excluded), one.guardrails) == (["od"], ("pool_failing",))
    both = after([{}, {"od": Observed(failed=1), "spot2": Observed(failed=2)}])
    assert both.guardrails == ("provider_failing",)
    assert both.excluded == dict.fromkeys(["od", "spot", "spot2"], "provider aws failed, for 600 s more")
    # two offers of one pool are one trouble
    assert after([{}, {"spot": Observed(failed=1), "spot2": Observed(failed=1)}]).guardrails == (
        "spot_return_wait",
    )


def test_what_was_lost_before_the_first_plan_is_no_news():
    assert after([{"spot": Observed(interrupted=7)}]).excluded == {}


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["od", "spot", "spot2", "gcp"]),
            st.builds(Observed, failed=st.integers(0, 3), interrupted=st.integers(0, 3)),
        ),
        max_size=6,
    )
)
def test_memory_is_bounded_json_and_nothing_is_excluded_for_longer_than_the_wait(
    history: list[dict[str, Observed]],
):
    failures = after(history)
    assert json.loads(json.dumps(failures.memory)) == failures.memory
    assert len(json.dumps(failures.memory)) < 500  # four offers, three pools, two providers
    assert after([*history, *[history[-1] if history else {}] * 2]).excluded == {}


def test_on_demand_stands_in_for_spot_and_spot_comes_back():
    offers, memory, bought = [OD, SPOT], {}, list[dict[str, int]]()
    for tick, seen in enumerate([{}, {"spot": Observed(ready=3, interrupted=2)}, {}, {}, {}]):
        decision, memory = plan_and_memory(
            constant(10.0), offers, WAIT, observed=seen, memory=memory, now_s=300.0 * tick
        )
        bought.append(first(decision))
        assert (decision.guardrails[:1] == ("spot_return_wait",)) == (tick in (1, 2))
    assert bought[0].keys() == {"spot"}
    # 10 replicas: at most the three spot instances that run, the rest on demand
    assert bought[1]["spot"] <= 3
    assert 2 * (bought[1]["spot"] + bought[1]["od"]) >= 10
    assert bought[2] == {"od": 5}
    assert bought[3] == bought[4] == bought[0]


def test_another_provider_stands_in_and_the_plan_says_why():
    seen = {"od": Observed(failed=2), "spot": Observed(failed=1)}
    memory = plan_and_memory(constant(10.0), OFFERS, WAIT)[1]
    failures, _ = plan_and_memory(constant(10.0), OFFERS, WAIT, observed=seen, memory=memory)
    assert first(failures) == {"gcp": 5}
    assert failures.excluded["od"] == "provider aws failed, for 600 s more"
    assert "not bought more of od: provider aws failed, for 600 s more" in failures.reason


@pytest.mark.parametrize(("fallback", "kept"), [("reactive", 4), ("hold", 2)])
def test_where_everything_fails_the_fallback_decides(fallback: str, kept: int):
    policy = replace(WAIT, fallback=fallback)
    memory = plan_and_memory(constant(10.0), [OD], policy)[1]
    # two instances run; the present usage of 8 cores needs four
    failures, _ = plan_and_memory(
        constant(10.0),
        [OD],
        policy,
        observed={"od": Observed(ready=2, failed=3)},
        memory=memory,
        usage=[8.0, 0.0],
    )
    assert first(failures) == {"od": kept}
    assert not failures.feasible
    with pytest.raises(ValueError, match="fallback must be one of reactive, hold, got 'pray'"):
        validate(replace(POLICY, fallback="pray"))


def test_offers_in_any_order_fail_alike():
    seen = {"od": Observed(failed=1), "spot": Observed(failed=1)}
    memory = failing(OFFERS, {}, WAIT, {}, 0.0, 300.0).memory

    def judged(offers: list[Offer]) -> Failing:
        return failing(offers, seen, WAIT, memory, 300.0, 300.0)

    assert judged(OFFERS) == judged(OFFERS[::-1])
    assert json.dumps(judged(OFFERS).memory) == json.dumps(judged(OFFERS[::-1]).memory)
