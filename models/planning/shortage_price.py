"""How sure to be where a shortage has a price: the newsvendor's question, asked of scenarios.

One more replica costs its price whether it is needed or not; too few cost the price of a shortage, with the
probability that they are too few. The confidence that costs least in all is low where the tail of demand is far, and
high where a little more covers it, so that misses fall where they save most (Arrow, Harris and Marschak, "Optimal
inventory policy", Econometrica 19, 1951).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.purchase.market import Market

MOST: Final = 0.999  # thousands of scenarios do not know what lies beyond


def confidence(need: NDArray[np.integer[Any]], owned: int, price: float, shortage: float) -> float:
    """Share of the scenarios to be served at least cost.

    Args:
        need: (scenario) replicas.
        owned: replicas that are paid for whether they are used or not.
        price: of a replica more, per hour.
        shortage: price of an hour in which capacity does not suffice.
    """
    rising = np.sort(need)
    served = np.arange(1, len(rising) + 1) / len(rising)
    cost = price * np.maximum(rising - owned, 0) - shortage * served
    return min(float(served[len(cost) - 1 - np.argmin(cost[::-1])]), MOST)  # of equal ones the surest


def prices(market: Market) -> tuple[int, float]:
    """Replicas that are paid for already, and the least price of one more that serves, per hour.

    Without an offer to buy from a replica costs nothing: all that can be had is wanted.
    """
    owned, least = 0, np.inf
    for offer in market.offers:
        size = market.size[offer.offer_id]
        if offer.tier == "RESERVED":
            owned += offer.owned_count * size
        else:
            serving = size * market.mean_survival(offer) * (1 - offer.launch_failure)
            least = min(least, offer.price_h / serving if serving > 0 else np.inf)
    return owned, least if np.isfinite(least) else 0.0
