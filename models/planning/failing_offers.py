"""Offers that fail or have a stale price: for a while no more of them is bought, so that others replace them.

A pool fails when one of its offers reports more failed or interrupted instances than a tick before. No more of its
offers is bought for the policy's `spot_return_wait_s`; then the pool is tried again. Of a tick more than twice as long
as that the failures are taken to have been in its middle: by its end the wait is over. A provider fails when two or
more of its pools fail in one tick, which points to a cause that they share: no more of any of its offers is bought for
the same time.

No more is bought of an offer whose price is stale either.

Where every offer is excluded, the policy's `fallback` decides: `reactive` buys of them what the present usage needs
and no more, `hold` keeps what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.capacity import Observed, Offer, Policy

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
    hit = [
        o
        for o in sorted(offers, key=lambda o: o.offer_id)
        if any(
            n > b for n, b in zip(lost.get(o.offer_id, (0, 0)), before.get(o.offer_id, (0, 0)), strict=True)
        )
    ]
    until: dict[str, dict[str, float]] = {
        kind: {name: end for name, end in memory.get(kind, {}).items() if now_s < end}
        for kind in ("pools", "providers")
    }
    if 2 * policy.spot_return_wait_s >= tick_s:
        end_s = now_s + policy.spot_return_wait_s
        until["pools"] |= {_pool(o): end_s for o in hit}
        providers = {o.provider: {_pool(other) for other in hit if other.provider == o.provider} for o in hit}
        until["providers"] |= {name: end_s for name, pools in providers.items() if len(pools) >= TOGETHER}
    excluded: dict[str, str] = {}
    acted: set[str] = set()
    for o in offers:
        if (end_s := until["providers"].get(o.provider)) is not None:
            name, why = "provider_failing", f"provider {o.provider} failed, for {end_s - now_s:.0f} s more"
        elif (end_s := until["pools"].get(_pool(o))) is not None:
            name = "spot_return_wait" if o.tier == "SPOT" else "pool_failing"
            why = f"pool {o.pool or o.offer_id} failed, for {end_s - now_s:.0f} s more"
        elif o.stale:
            name, why = "stale_price", o.stale
        else:
            continue
        excluded[o.offer_id] = why
        acted.add(name)
    order = ("spot_return_wait", "pool_failing", "provider_failing", "stale_price")
    return Failing(excluded, tuple(name for name in order if name in acted), {"seen": lost, **until})


def _pool(offer: Offer) -> str:
    """Name of the offer's pool, with the provider's; an offer without a pool is a pool of its own."""
    return f"{offer.provider}/{offer.pool or offer.offer_id}"
