"""What a purchase may not exceed, inside the search; bad input; offers not to be bought more of."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.capacity import Observed, Offer, Policy, why_unusable
from models.purchase.choose import choose
from models.purchase.constraints import bounds, zone_note, zone_of
from models.purchase.market import Market
from models.random_streams import stream

S = 1000
TICKS = (300, 600, 900, 1200, 1500, 1800)
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto")
OD = Offer("od", "aws", "eu", "a", "ON_DEMAND", {"cpu": 2.0}, 1.0, 60, 90, 120)
DEAR = replace(OD, offer_id="dear", price_h=1.5, zone="b")
SPOT = replace(OD, offer_id="spot", tier="SPOT", price_h=0.3, interruption_h=0.02, pool="p")
OTHER = replace(SPOT, offer_id="other", price_h=0.35, pool="q", zone="b")


def market(
    offers: list[Offer], need: Any, policy: Policy = POLICY, observed: dict[str, Observed] | None = None
) -> Market:
    replicas = np.repeat(np.broadcast_to(np.asarray(need, np.int32), (S,))[:, None], 6, axis=1)
    return Market(offers, observed or {}, policy, replicas, TICKS, (1, b"shop", 2))


def test_a_quota_is_shared_by_the_offers_of_its_group():
    grouped = [
        replace(o, quota_group="g", quota_limit=4) for o in (OD, replace(OD, offer_id="od2", price_h=1.1))
    ]
    best = choose(market([*grouped, DEAR], 20), POLICY, 0.99).best
    # ten instances; four at 1.0 from the group and six at 1.5
    assert (best.counts, best.cost, best.feasible) == ({"od": 4, "dear": 6}, 4 + 6 * 1.5, True)
    alone = choose(market(grouped, 20), POLICY, 0.99).best
    assert (alone.counts, alone.feasible) == ({"od": 4}, False)
    assert alone.short == "the quota g drops 6 of 10 instances"


def test_the_least_limit_of_a_group_counts_and_a_group_without_one_is_free():
    two = [replace(OD, quota_group="g", quota_limit=7), replace(DEAR, quota_group="g", quota_limit=3)]
    assert sum(choose(market(two, 20), POLICY, 0.99).best.counts.values()) == 3
    assert choose(market([replace(OD, quota_group="g")], 20), POLICY, 0.99).best.counts == {"od": 10}


def test_no_zone_carries_more_than_its_share():
    policy = replace(POLICY, zone_share=0.5)
    best = choose(market([OD, DEAR], 20, policy), policy, 0.99)
    assert (best.best.counts, best.notes) == ({"od": 5, "dear": 5}, ())
    assert choose(market([OD], 20, policy), policy, 0.99).best.counts == {"od": 10}  # one zone on offer


def test_a_zone_share_that_cannot_be_met_is_set_aside_and_said():
    third = replace(POLICY, zone_share=0.3)
    choice = choose(market([OD, DEAR], 20, third), third, 0.99)
    assert choice.notes == ("a zone share of 0.3 cannot be met with 2 zones",)
    assert choice.best.counts == {"od": 5, "dear": 5}  # as even as it can be
    half, few = replace(POLICY, zone_share=0.5), replace(DEAR, quota_group="g", quota_limit=2)
    choice = choose(market([OD, few], 20, half), half, 0.99)
    assert choice.notes == ("the zone share is set aside, or the purchase would not hold",)
    assert (choice.best.counts, choice.best.feasible) == ({"od": 10}, True)
    assert zone_note([OD, DEAR], half) == ""


def test_excluded_offers_are_kept_and_not_bought_more_of():
    why = {"spot": "interrupted 60 s ago"}
    running = {"spot": Observed(ready=3)}
    found = market([SPOT, OD], 20, observed=running)
    assert choose(found, POLICY, 0.99).best.counts["spot"] > 3
    # 20 replicas: 3 × 2 of spot at most, the other 14 on demand, and one more for what spot may lose
    best = choose(market([SPOT, OD], 20, observed=running), POLICY, 0.99, excluded=why).best
    assert best.feasible
    assert best.counts["spot"] == 3
    assert 7 <= best.counts["od"] <= 8
    alone = choose(market([SPOT], 20, observed=running), POLICY, 0.99, excluded=why).best
    assert (alone.counts, alone.feasible) == ({"spot": 3}, False)
    assert "not buying more of some offers now (spot: interrupted 60 s ago) drops" in alone.short


def test_what_runs_is_kept_where_the_bounds_leave_nothing():
    policy = replace(POLICY, budget=0.0, min=3)
    best = choose(market([OD], 20, policy, {"od": Observed(ready=4)}), policy, 0.99).best
    assert (best.counts, best.feasible) == ({"od": 4}, False)
    assert best.short == "the budget drops 10 of 10 instances; what runs is kept"
    below = choose(
        market([OD], 20, replace(policy, max=5), {"od": Observed(ready=4)}), replace(policy, max=5), 0.99
    )
    assert below.best.counts == {"od": 2}  # the maximum of five replicas is kept to


def test_a_minimum_above_the_maximum_says_so():
    policy = replace(POLICY, min=9, max=4)
    best = choose(market([OD], 9, policy), policy, 0.99).best
    assert (best.counts, best.feasible) == ({"od": 2}, False)
    assert best.short == "9 replicas are needed, the maximum is 4"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"price_h": math.nan}, "price nan"),
        ({"allocatable": {"cpu": 0.0}}, "a replica does not fit"),
        ({"interruption_h": math.nan}, "interruptions nan"),
        ({"interruption_h": -1.0}, "interruptions -1.0"),
        ({"startup_p99_s": math.inf}, "start-up time inf"),
        ({"launch_failure": 1.0}, "launch failure 1.0"),
    ],
)
def test_offers_that_cannot_be_reckoned_with_are_not_usable(change: dict[str, Any], said: str):
    assert said in (why_unusable(replace(OD, **change), POLICY) or "")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40),
    st.lists(
        st.builds(
            replace,
            st.sampled_from(
                [OD, DEAR, SPOT, OTHER, replace(OD, offer_id="own", tier="RESERVED", owned_count=2)]
            ),
            quota_group=st.sampled_from(["", "g", "h"]),
            quota_limit=st.none() | st.integers(0, 6),
        ),
        unique_by=lambda o: o.offer_id,
    ),
    st.builds(
        replace,
        st.just(POLICY),
        max=st.integers(0, 60),
        budget=st.none() | st.floats(0, 12),
        min_on_demand=st.sampled_from([0.0, 0.3, 1.0]),
        zone_share=st.sampled_from([None, 0.5, 0.7]),
        pool_loss=st.sampled_from([0.0, 0.9]),
    ),
    st.dictionaries(st.sampled_from(["od", "spot", "own"]), st.builds(Observed, ready=st.integers(0, 9))),
    st.sampled_from([{}, {"spot": "lost"}, {"od": "failing", "other": "lost"}]),
)
def test_every_purchase_is_within_its_bounds_and_says_what_it_lacks(
    mean: int, offers: list[Offer], policy: Policy, observed: dict[str, Observed], excluded: dict[str, str]
):
    need = stream(np, 3).poisson(mean, S)
    found = market(offers, need, policy, observed)
    choice = choose(found, policy, 0.95, (0.9, 0.95), excluded)
    best = choice.best
    limits = bounds(found, offers, policy, excluded) if offers else None
    counts = np.array([best.counts.get(o.offer_id, 0) for o in offers], dtype=np.int64)
    kept = "what runs is kept" in best.short
    if limits is not None and not kept:
        aside = limits.without("zone share") if choice.notes else limits
        assert aside.excess(counts) <= 1e-9
        assert (counts <= limits.upper).all()
    assert best.feasible or best.short
    assert best.feasible == (found.holds(best.counts) >= 0.95 and best.short == "")
    assert best.risk == 1 - found.holds(best.counts)
    if not best.feasible and any(n.ready for o, n in observed.items() if o in {x.offer_id for x in offers}):
        assert best.counts or policy.limit < 18 or not need.any()
    assert all(other.counts.keys() <= {o.offer_id for o in offers} for other in choice.others)
    again = choose(market(offers, need, policy, observed), policy, 0.95, (0.9, 0.95), excluded)
    assert repr(again) == repr(choice)
    assert len({zone_of(o) for o in offers}) <= 2
