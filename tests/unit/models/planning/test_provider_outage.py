"""A provider that is out for an hour, in a closed loop of plans and a simulated cloud."""

from typing import Any

import numpy as np

from models.capacity import Answer, Observed, Offer, Policy
from models.evaluation.supplied_cloud import UNLIMITED, SuppliedCloud, Supply
from models.planning.allocate import DecisionContext, allocate
from models.planning.guardrails import Telemetry
from models.random_streams import stream

TICK_S, TICKS, STEPS = 300, 60, (300, 600, 900)
OUT = range(20, 32)


def offer(name: str, provider: str, tier: str, price: float) -> Offer:
    return Offer(
        name, provider, "r", f"{provider}-z", "SPOT" if tier == "SPOT" else "ON_DEMAND", {"cpu": 1.0}, price,
        60.0, 90.0, 150.0, interruption_h=0.02 if tier == "SPOT" else 0.0, pool=name,
    )  # fmt: skip


OFFERS = [
    offer("a.spot", "a", "SPOT", 0.2), offer("a.on-demand", "a", "ON_DEMAND", 1.0),
    offer("b.spot", "b", "SPOT", 0.3), offer("b.on-demand", "b", "ON_DEMAND", 1.1),
]  # fmt: skip
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto", min=1, max=200, hold_s=600.0)


def need(tick: int) -> float:
    """Rises by a half during the outage, as demand does."""
    return 20.0 + 10.0 * (tick >= 20) * min(1.0, (tick - 20) / 8)


def run(out: range) -> tuple[list[tuple[float, int]], list[str], dict[str, Any]]:
    """Need and least ready by tick, the plans' reasons, and the last memory."""
    gone = np.zeros(TICKS, bool)
    gone[list(out)] = True
    supply = Supply(0, {"a.spot": np.full(TICKS, UNLIMITED)}, {}, {"a": gone})
    cloud = SuppliedCloud(OFFERS, {}, supply, tick_s=TICK_S, seed=0, app="shop")
    fleet, memory = cloud.start({"a.spot": 30, "b.spot": 5}, 1), dict[str, Any]()
    served: list[tuple[float, int]] = []
    reasons: list[str] = []
    observed = {o.offer_id: Observed(int(n), at_s=0.0) for o, n in zip(OFFERS, fleet.ready[0], strict=True)}
    for tick in range(TICKS):
        cloud.live(fleet, tick)
        served.append((need(tick), int(fleet.least.sum())))
        ahead = [need(tick + s // TICK_S) for s in STEPS]
        noise = stream(np, "outage", tick).normal(1.0, 0.03, (256, 1))
        context = DecisionContext(
            (np.array(ahead) * noise)[..., None].astype(np.float32),
            metrics=("cpu",),
            steps_s=STEPS,
            usage=np.array([need(tick)]),
            saturated=np.array([0.0]),
            telemetry=Telemetry(1, 1),
            now_s=float((tick + 1) * TICK_S),
            seed=0,
            app=b"shop",
            tick=tick,
        )
        plan, memory = allocate(
            context, offers=OFFERS, observed=observed, policy=POLICY, memory=memory, draft=True
        )
        reasons.append(plan.reason)
        desired = np.array([[plan.counts[o.offer_id][0] for o in OFFERS]])
        cloud.apply(fleet, desired, tick + 1)
        observed = {}
        for o, one in enumerate(OFFERS):
            sent = memory.get("orders", {}).get(one.offer_id, {}).get("sent")
            away = supply.is_out(one.provider, tick + 1) and sent
            observed[one.offer_id] = Observed(
                int(fleet.ready[0, o]),
                int(fleet.pending[0, o].sum() - fleet.failed[0, o]),
                failed=int(fleet.failed[0, o]),
                at_s=float((tick + 1) * TICK_S),
                answer=Answer(sent[-1][0], "RETRYING", "no answer") if away else None,
            )
    return served, reasons, memory


def test_the_promise_holds_through_an_outage_and_the_provider_returns() -> None:
    served, reasons, memory = run(OUT)
    missed = [tick for tick, (needed, ready) in enumerate(served) if ready < needed]
    assert missed == []
    during = [
        reason for reason in reasons[OUT.start + 2 : OUT.stop] if "provider a has not answered" in reason
    ]
    assert len(during) >= 6, reasons[OUT.start : OUT.stop]
    assert not any("provider a has not answered" in reason for reason in reasons[OUT.stop + 13 :])
    assert memory["supply"]["providers"]["a"]["outages"] == 1


def test_without_an_outage_nobody_is_left_out() -> None:
    served, reasons, memory = run(range(0))
    assert all(ready >= needed for needed, ready in served)
    assert not any("has not answered" in reason for reason in reasons)
    assert "outages" not in memory["supply"]["providers"]["a"]
