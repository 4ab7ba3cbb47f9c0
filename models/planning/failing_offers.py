"""Offers that fail or have a stale price: for a while no more of them is bought, so that others replace them.

A pool fails when one of its offers reports more failed or interrupted instances than a tick before. No more of its
offers is bought for the policy's `spot_return_wait_s`; then the pool is tried again, but not before what stands in for
it is ready or should be: else that would be given up for it. Of a tick more than twice as long as the wait
interruptions are taken to have been in its middle: by its end the wait is over. A provider fails when two or more of
its pools fail in one tick, which points to a cause that they share: no more of any of its offers is bought for the same
time.

No more is bought of an offer whose price is stale either.

Where every offer is excluded, the policy's `fallback` decides: `reactive` buys of them what the present usage needs
and no more, `hold` keeps what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.capacity import Observed, Offer, Policy
from models.supply.evidence import pool_name

TOGETHER: Final = 2  # pools of a provider that fail in one tick; one alone is that pool's own trouble


@dataclass(frozen=True)
class Failing:
    """What failed.

    excluded: why no more of an offer is bought, by offer; guardrails: names of the rules that excluded offers; memory:
    for the next tick (plain JSON).
    """

    excluded: dict[str, str]
    guardrails: tuple[str, ...]
    memory: dict[str, Any]


def failing(
    offers: Sequence[Offer],
    observed: Mapping[str, Observed],
    policy: Policy,
    memory: Mapping[str, Any],
    now_s: float,
    tick_s: float,
) -> Failing:
    """Offers to exclude at `now_s`, in seconds since 1970.

    observed: instances by offer; memory: as returned the tick before, {} at first; tick_s: length of a tick. In an
    app's first tick failures that are already reported do not count: they may be old.
    """
    known = memory.get("seen")
    states = {o.offer_id: observed.get(o.offer_id, Observed()) for o in offers}
    lost = {
        name: [one.failed, one.interrupted]
        for name, one in sorted(states.items())
        if one.failed or one.interrupted
    }
    before: Mapping[str, Sequence[int]] = lost if known is None else known
    brief = 2 * policy.spot_return_wait_s < tick_s
    hit = [
        o
        for o in sorted(offers, key=lambda o: o.offer_id)
        if _grew(lost, before, o.offer_id, failed_alone=brief)
    ]
    until: dict[str, dict[str, float]] = {
        kind: {
            name: end
            for name, end in memory.get(kind, {}).items()
            if now_s < end + _starting_s(offers, states, name, kind, tick_s)
        }
        for kind in ("pools", "providers")
    }
    if policy.spot_return_wait_s > 0:
        end_s = now_s + policy.spot_return_wait_s
        until["pools"] |= {pool_name(o): end_s for o in hit}
        providers = {
            o.provider: {pool_name(other) for other in hit if other.provider == o.provider} for o in hit
        }
        until["providers"] |= {name: end_s for name, pools in providers.items() if len(pools) >= TOGETHER}
    excluded: dict[str, str] = {}
    acted: set[str] = set()
    for o in offers:
        if (end_s := until["providers"].get(o.provider)) is not None:
            name, why = (
                "provider_failing",
                f"provider {o.provider} failed, for {max(0.0, end_s - now_s):.0f} s more",
            )
        elif (end_s := until["pools"].get(pool_name(o))) is not None:
            name = "spot_return_wait" if o.tier == "SPOT" else "pool_failing"
            why = f"pool {o.pool or o.offer_id} failed, for {max(0.0, end_s - now_s):.0f} s more"
        elif o.stale:
            name, why = "stale_price", o.stale
        else:
            continue
        excluded[o.offer_id] = why
        acted.add(name)
    order = ("spot_return_wait", "pool_failing", "provider_failing", "stale_price")
    return Failing(excluded, tuple(name for name in order if name in acted), {"seen": lost, **until})


def _grew(
    lost: Mapping[str, Sequence[int]], before: Mapping[str, Sequence[int]], offer: str, *, failed_alone: bool
) -> bool:
    """Whether more instances of an offer failed, or were interrupted (unless failed ones count alone), than before."""
    pairs = zip(lost.get(offer, (0, 0)), before.get(offer, (0, 0)), strict=True)
    return any(now > then for now, then in list(pairs)[: 1 if failed_alone else 2])


def _starting_s(
    offers: Sequence[Offer], states: Mapping[str, Observed], name: str, kind: str, tick_s: float
) -> float:
    """Seconds by which the wait for a pool or a provider is longer, while others that may stand in are starting."""
    others = [o for o in offers if name != (pool_name(o) if kind == "pools" else o.provider)]
    return starting_s(others, states, tick_s)


def starting_s(offers: Sequence[Offer], observed: Mapping[str, Observed], tick_s: float) -> float:
    """Seconds that the slowest of those offers takes to start of which instances are starting; 0: there are none."""
    starting = (o for o in offers if observed.get(o.offer_id, Observed()).pending > 0)
    return max((o.startup_p99_s + tick_s for o in starting), default=0.0)
