"""Offers that fail: not bought more of for a while, so that others stand in for them.

A pool fails when an offer of it reports more failed or interrupted instances than a tick before. For the policy's
`spot_return_wait_s` none of its offers is bought more of; then it is tried again. A provider fails when two or more of
its pools do in one tick: what is wrong is not theirs, and none of its offers is bought more of for as long.

An offer whose price is stale is not bought more of either.

Where every offer is excluded, the policy's `fallback` decides: `reactive` asks them for what the present usage needs
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
    """Why offers are not bought more of, by id; guard rails that this is; memory for the next tick (plain JSON)."""

    excluded: dict[str, str]
    guardrails: tuple[str, ...]
    memory: dict[str, Any]


def failing(
    offers: Sequence[Offer],
    observed: Mapping[str, Observed],
    policy: Policy,
    memory: Mapping[str, Any],
    now_s: float,
) -> Failing:
    """What is failing at `now_s`.

    memory: as given back the tick before, {} at first: what an app has lost before it was ever planned is no news.
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
    if policy.spot_return_wait_s > 0:
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
    """Of which provider and pool; an offer without a pool is one of its own."""
    return f"{offer.provider}/{offer.pool or offer.offer_id}"
