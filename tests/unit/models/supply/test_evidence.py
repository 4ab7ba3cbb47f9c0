import json
import math
from typing import Any

from models.capacity import Offer
from models.supply.evidence import Sighting, observe
from models.supply.offers import closed, learnt, unproven

TICK = 60.0


def offer(name: str, provider: str = "a", tier: str = "SPOT", **fields: object) -> Offer:
    plain: dict[str, object] = {
        "region": "r", "zone": "z", "allocatable": {"cpu": 1.0}, "price_h": 1.0, "interruption_h": 0.05,
        "startup_p50_s": 60.0, "startup_p90_s": 90.0, "startup_p99_s": 120.0, "pool": name, "launch_failure": 0.01,
    }  # fmt: skip
    return Offer(offer_id=name, provider=provider, tier=tier, **plain | fields)  # pyright: ignore[reportArgumentType]


def run(offers: list[Offer], ticks: list[dict[str, Sighting]], memory: dict[str, Any] | None = None) -> Any:
    memory = memory or {}
    for tick in ticks:
        now_s = max(seen.at_s for seen in tick.values())
        memory = observe(json.loads(json.dumps(memory)), offers, tick, now_s, 600.0)
    return memory


def test_what_is_as_stated_stays_as_stated() -> None:
    offers = [offer("x"), offer("y", tier="ON_DEMAND")]
    steady = [
        {o.offer_id: Sighting(t * TICK, 10, 10, came=[(0.0, 120.0, 2.0)] if t < 5 else ()) for o in offers}
        for t in range(200)
    ]
    memory = run(offers, steady)
    assert learnt(offers, memory) == offers
    assert closed(offers, memory, 0.0).excluded == {}
    assert learnt(offers, {}) == offers


def test_an_offer_that_starts_slowly_says_so() -> None:
    offers = [offer("azure-east", tier="ON_DEMAND")]
    slow = [{"azure-east": Sighting(t * TICK, t, 40, came=[(120.0, 180.0, 1.0)])} for t in range(37)]
    (after,) = learnt(offers, run(offers, slow))
    assert after.learnt.startswith("stated 60 s, was 1")
    assert after.learnt.endswith(" s in 37 launches")
    assert 130 < after.startup_p50_s < 170 < after.startup_p99_s


def test_a_wait_for_a_pool_that_gives_nothing_is_no_slow_start() -> None:
    offers = [offer("x")]
    came = [{"x": Sighting(t * TICK, 10, 10, came=[(0.0, 120.0, 1.0)])} for t in range(30)]
    waits = [
        {"x": Sighting((30 + t) * TICK, 0, 10, failed=10, waits=[(t * TICK, math.inf, 10.0)])}
        for t in range(1, 100)
    ]
    returned = [{"x": Sighting(130 * TICK, 10, 10, came=[(99 * TICK, 100 * TICK, 10.0)])}]
    memory = run(offers, came + waits)
    assert memory["offers"]["x"]["waits"] == []
    (after,) = learnt(offers, run(offers, returned, memory))
    assert after.startup_p99_s == 120.0


def test_failed_launches_are_learnt_by_the_batch() -> None:
    offers = [offer("x", tier="ON_DEMAND")]
    failing = [
        {"x": Sighting(t * TICK, 1, 9, failed=8 if t % 2 else 0, came=[] if t % 2 else [(0, 60, 8)])}
        for t in range(40)
    ]
    (after,) = learnt(offers, run(offers, failing))
    assert 0.3 < after.launch_failure < 0.55
    assert "failed launches" in after.learnt


def test_losses_of_a_pool_raise_its_rate_and_its_correlation() -> None:
    offers = [offer("x"), offer("y")]
    ticks = [
        {"x": Sighting(t * TICK, 0 if t % 60 == 30 else 10, 10), "y": Sighting(t * TICK, 10, 10)}
        for t in range(1200)
    ]
    memory = run(offers, ticks)
    x, y = learnt(offers, memory)
    assert 0.6 < x.interruption_h < 1.2
    assert x.loss_correlation is not None
    assert x.loss_correlation >= 0.9
    assert y.interruption_h < x.interruption_h


def test_a_smaller_goal_is_no_loss() -> None:
    offers = [offer("x")]
    memory = run(offers, [{"x": Sighting(t * TICK, 10 - t, 10 - t)} for t in range(10)])
    assert memory["pools"]["a/x"]["lost"] == 0


def test_a_pool_that_gives_nothing_is_closed_until_it_gives_some() -> None:
    offers = [offer("x"), offer("y"), offer("z", "b", "ON_DEMAND")]
    none = {"x": Sighting(0, 0, 5, failed=5), "y": Sighting(0, 3, 3), "z": Sighting(0, 1, 1)}
    later = {name: Sighting(TICK, s.ready, s.goal, failed=s.failed) for name, s in none.items()}
    memory = run(offers, [none])
    assert closed(offers, memory, 0.0).excluded == {}
    memory = run(offers, [later], memory)
    assert closed(offers, memory, TICK).excluded.keys() == {"x"}
    assert closed(offers, memory, TICK).empty == ("x",)
    assert closed(offers[:1], memory, TICK).excluded == {}, "nothing else is left"
    memory = run(offers, [{"x": Sighting(2 * TICK, 1, 1)}], memory)
    assert closed(offers, memory, 2 * TICK).excluded == {}


def test_a_provider_that_does_not_answer_is_out_for_all_its_offers_and_returns() -> None:
    offers = [offer("x"), offer("y"), offer("z", "b")]

    def tick(at_s: float, attempts: int, issued_s: float, *, accepted: bool = False) -> dict[str, Sighting]:
        return {
            "x": Sighting(at_s, 1, 2, attempts=attempts, issued_s=issued_s, accepted=accepted),
            "z": Sighting(at_s, 1, 1, issued_s=at_s, accepted=True),
        }

    memory = run(offers, [tick(0.0, 1, 0.0)])
    assert closed(offers, memory, 0.0).excluded == {}, "one call may fail"
    memory = run(offers, [tick(60.0, 2, 60.0)], memory)
    assert closed(offers, memory, 60.0).excluded.keys() == {"x", "y"}
    assert "provider a has not answered" in closed(offers, memory, 60.0).excluded["y"]
    assert closed(offers, memory, 661.0).excluded == {}, "it is tried again after the wait"
    memory = run(offers, [tick(720.0, 1, 670.0)], memory)
    assert closed(offers, memory, 1900.0).excluded.keys() == {"x", "y"}, "and then waits twice as long"
    memory = run(offers, [tick(2000.0, 0, 1940.0, accepted=True)], memory)
    assert closed(offers, memory, 2000.0).excluded == {}
    assert memory["providers"]["a"] == memory["providers"]["a"] | {"outages": 1, "out_s": 610.0}


def test_an_unknown_version_is_forgotten() -> None:
    offers = [offer("x")]
    memory = run(offers, [{"x": Sighting(0.0, 1, 1)}], {"version": 99, "offers": 7})
    assert memory["version"] == 1


def test_first_launches_that_were_refused_make_untried_pools_doubtful() -> None:
    offers = [
        offer(name, tier="ON_DEMAND" if name == "od" else "SPOT") for name in ("w", "x", "y", "z", "od")
    ]
    refused = [
        {o.offer_id: Sighting(t * TICK, 1 if o.offer_id == "od" else 0, 1) for o in offers} for t in range(8)
    ]
    assert unproven(offers, run(offers, refused)) == frozenset(), "nothing was launched there yet"
    for t, name in ((1, "w"), (3, "x"), (5, "y")):
        refused[t][name] = Sighting(t * TICK, 0, 3, failed=3)
    assert unproven(offers, run(offers, refused)) == {"w", "x", "y", "z"}
    came = {o.offer_id: Sighting(8 * TICK, 1, 1) for o in offers}
    assert unproven(offers, run(offers, [came], run(offers, refused))) == frozenset(), "all have ready ones"


def test_a_pool_is_doubted_for_what_other_providers_pools_showed() -> None:
    offers = [offer("x"), offer("y"), offer("z", provider="b")]
    ticks = [
        {name: Sighting(t * TICK, 0 if t % 60 == 30 + i else 10, 10) for i, name in enumerate(("x", "y"))}
        for t in range(1200)
    ]
    *_, z = learnt(offers, run(offers, ticks))
    assert 0.05 < z.interruption_h < 1.0
    assert z.loss_correlation is not None
    assert "in its own and other pools" in z.learnt
