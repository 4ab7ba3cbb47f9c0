"""Simulated purchases to measure the search by: many offers of several clouds' shapes, apps of many sizes."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.capacity import Offer
from models.purchase.market import IntArray
from models.random_streams import stream

STEPS_S: Final = (60, 120, 180, 240, 300, 360)  # minutes: starts of 90 to 240 s give three groups of steps
MEANS: Final = (8, 40, 200, 1000, 4000)  # replicas; in turn, so that small and large apps are measured alike


def instance(seed: int, offers: int, scenarios: int) -> tuple[list[Offer], IntArray]:
    """Offers, and the replicas needed, (scenario, step); seeds in turn give apps of 8 to 4,000 replicas.

    Of the offers 2 % are reserved, 28 % on demand, 70 % spot at 0.4 of the price. Prices per core differ by a few
    per cent, as those of one cloud's families and zones do, and interruptions from 2 % to once an hour, so that what
    is cheapest depends on the mix. Demand is lognormal, of 25 % spread, and drifts by 6 % a step.
    """
    rng = stream(np, seed, "instance")
    mean = MEANS[seed % len(MEANS)]
    reserved, stable = max(1, offers // 50), max(1, offers * 28 // 100)
    offers_made = list[Offer]()
    for i in range(offers):
        size = int(rng.choice([1, 2, 4, 8, 16]))
        tier = "RESERVED" if i < reserved else "ON_DEMAND" if i < reserved + stable else "SPOT"
        price = size * rng.normal(1.1, 0.05) * (rng.normal(0.4, 0.04) if tier == "SPOT" else 1.0)
        offers_made.append(
            Offer(
                offer_id=f"{tier.lower()}-{i:03d}",
                provider=("aws", "gcp")[i % 2],
                region="eu",
                zone="abc"[i % 3],
                tier=tier,
                allocatable={"cpu": float(size)},
                price_h=round(float(price), 4),
                startup_p50_s=40.0,
                startup_p90_s=60.0,
                startup_p99_s=float(rng.choice([90, 150, 240])),
                launch_failure=float(rng.choice([0.0, 0.01, 0.05])),
                interruption_h=float(rng.choice([0.02, 0.1, 0.3, 1.0])) if tier == "SPOT" else 0.0,
                pool=f"pool-{i // 2 if i % 4 else i}" if tier == "SPOT" else "",
                owned_count=mean // 40 // size if tier == "RESERVED" else 0,
            )
        )
    level = mean * rng.lognormal(0, 0.25, (scenarios, 1))
    path = level * np.exp(np.cumsum(rng.normal(0, 0.06, (scenarios, len(STEPS_S))), axis=1))
    return offers_made, np.ceil(path).astype(np.int32)
