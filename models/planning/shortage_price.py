"""Confidence of least expected cost where a shortage has a price: the newsvendor problem over scenarios.

One more replica costs its price whether it is needed or not; too few replicas cost the price of a shortage times its
probability. The confidence with the least sum is low where the tail of demand is long, and high where little more
capacity covers it (Arrow, Harris and Marschak, "Optimal inventory policy", Econometrica 19, 1951).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.purchase.market import Market

MOST: Final = 0.999  # thousands of scenarios do not know what lies beyond


def confidence(need: NDArray[np.integer[Any]], owned: int, price: float, shortage: float) -> float:
    """Share of the scenarios whose need is to be served, at least expected cost; of equal costs the largest share.

    Args:
        need: (scenario) replicas.
        owned: replicas that are paid for whether they are used or not.
        price: of one more replica, per hour.
        shortage: price of an hour in which capacity does not suffice.
    """
    rising = np.sort(need)
    served = np.arange(1, len(rising) + 1) / len(rising)
    cost = price * np.maximum(rising - owned, 0) - shortage * served
    return min(float(served[len(cost) - 1 - np.argmin(cost[::-1])]), MOST)  # of equal ones the surest


def confidences(
    rising: NDArray[np.integer[Any]], owned: int, shortages: Sequence[float]
) -> NDArray[np.float64]:
    """`confidence` of sorted needs at many prices of a shortage, in units of a replica's price, (price)."""
    served = np.arange(1, len(rising) + 1) / len(rising)
    bought = np.maximum(rising - owned, 0)
    cost = bought - np.multiply.outer(np.asarray(shortages, np.float64), served)
    cheapest = len(served) - 1 - np.argmin(cost[:, ::-1], axis=1)
    return np.minimum(served[cheapest], MOST)


def prices(market: Market) -> tuple[int, float]:
    """Replicas that are owned, and the least price per hour of one more, for the share of it that serves.

    Where nothing but owned instances is on offer the price is 0, so that all of these are wanted.
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
