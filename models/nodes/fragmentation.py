"""What packing loses: how much more than the fluid need a pool of one node type must have.

The fluid need of a scenario is what its replicas ask for in all, in nodes: the largest, over resources, of what is
asked for over what a node has. Packing takes more, as replicas do not fill nodes: how much depends on their sizes, the
node and the mix, so it is measured by packing scenarios (`packing.nodes_needed`), not taken for a constant.

The factor f is such that f times the fluid need at the asked share, in whole nodes, is enough in that share of the
scenarios. Only scenarios near that share decide it: below, a node more or less is enough, and far above it is not. So
those that are packed are spread evenly over the ranks of the fluid need from 1 - REGION (1 - share) up, REGION times as
many as may be left out; nodes suffice in the asked share of all where they do in 1 - 1 / REGION of these.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.nodes.packing import Amounts, Counts, fluid_nodes, nodes_needed
from models.random_streams import stream

SIMULATIONS: Final = (
    48  # some 20 µs each for 50 apps; of 3 % of the scenarios a third are left out: by 16 of 48
)
REGION: Final = 3.0
FEWEST: Final = 8  # scenarios of the region at least


def factor(
    counts: Counts,
    size: Amounts,
    allocatable: Amounts,
    share: float,
    key: tuple[str | int | bytes, ...] = (0,),
    simulations: int = SIMULATIONS,
) -> Amounts:
    """What the fluid need of each resource is to be multiplied by, at least 1, (resource).

    It is the same for all that replicas ask for, as a node's room is lost for all resources alike; 1 for others.

    Args:
        counts: (scenario, app) replicas.
        size: (app, resource), each of which fits an empty node.
        allocatable: (resource) of a node.
        share: of the scenarios in which the nodes are to suffice, above 0 and below 1.
        key: names the random stream; of the first rank that is packed, from which the others follow.
        simulations: scenarios that are packed at most.

    Raises:
        ValueError: a replica fits no empty node.
    """
    fluid = fluid_nodes(counts, size, allocatable)
    chosen = near(fluid, share, key, simulations)
    loss = lost(fluid[chosen], nodes_needed(counts[chosen], size, allocatable), share, len(counts))
    return np.where(size.sum(axis=0) > 0, loss, 1.0)


def near(
    fluid: Amounts, share: float, key: tuple[str | int | bytes, ...], simulations: int = SIMULATIONS
) -> NDArray[np.intp]:
    """Scenarios whose packing decides what is needed at this share, by rising fluid need, (chosen).

    fluid: (scenario) nodes; others as of `factor`.
    """
    scenarios = len(fluid)
    width = region(scenarios, share)
    number = min(simulations, width)
    start = stream(np, *key, "fragmentation").random()
    ranks = np.floor((np.arange(number) + start) * width / number).astype(np.int64)
    high = np.flatnonzero(fluid >= np.partition(fluid, scenarios - width)[scenarios - width])
    return high[np.argsort(fluid[high], kind="stable")][len(high) - width + ranks]


def lost(fluid: Amounts, needed: Counts, share: float, scenarios: int) -> float:
    """The factor, from the fluid needs of scenarios of `near` and the nodes that they take.

    Whole nodes are bought. Of the factors that lead to the same number it is that of half a node less, as what is
    bought of several types does not end at a whole node of each.

    fluid, needed: (chosen); share: as there; scenarios: of which they were chosen.
    """
    if not len(fluid):
        return 1.0
    inside = max(0.0, 1 - (1 - share) * scenarios / region(scenarios, share))
    at_share, nodes = (float(np.quantile(each, inside, method="inverted_cdf")) for each in (fluid, needed))
    return max(1.0, (nodes - 0.5) / at_share) if at_share > 0 else 1.0


def region(scenarios: int, share: float) -> int:
    """How many scenarios with the largest fluid needs decide."""
    return min(scenarios, max(FEWEST, math.ceil(REGION * (1 - share) * scenarios - 1e-9)))
