"""Purchases for numbers of replicas that a baseline decided."""

import numpy as np

from models.capacity import Offer, Policy
from models.purchase.table import Tiers


def test_what_carries_no_replica_or_is_not_allowed_is_not_bought() -> None:
    offers = [
        Offer(name, provider, "here", "a", "ON_DEMAND", {"cpu": cores}, price, 60.0, 60.0, 60.0)
        for name, provider, cores, price in (
            ("too small", "ours", 1.0, 0.1),
            ("another's", "theirs", 8.0, 0.1),
            ("large", "ours", 8.0, 4.0),
        )
    ]
    policy = Policy("shop", ("cpu",), {"cpu": 2.0}, providers=("ours",))
    table = Tiers(offers, policy, tick_s=60, seed=0, confidence=0.99)
    assert table.counts(np.array([0, 1, 9])).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 3]]
