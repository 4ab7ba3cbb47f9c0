"""The least cost, exactly: the chance-constrained covering problem as a mixed-integer program, solved by HiGHS.

    min Σ_o price_o n_o,  n = old + new whole, old at most what is ready, n within the bounds,
    Σ_o r_o p_os (old_o + late_og (1 - f_o) new_o) + M_gs z_s ≥ need_gs,  Σ_s z_s ≤ k,

with p the survival, f the probability that a launch fails, z_s = 1 where scenario s is left unserved: the supply of
`models.purchase.market.Fluid`, which is linear. Too slow for a tick; `leadtime bench allocator` compares the search
with it. Pool loss is left out.

Most scenarios cannot be left unserved and need no z: of any k + 1 scenarios at least one is served, so the supply in
row s is at least the (k + 1)-th largest, over s', of the least supply in s that serves s' (Luedtke, Ahmed & Nemhauser
2010, doi:10.1007/s10107-008-0247-4, section 2; Luedtke 2014, doi:10.1007/s10107-013-0684-6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds as Box
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, hstack

from models.capacity import Offer
from models.purchase.constraints import Bounds, Counts
from models.purchase.market import EXACT, Fluid

FIRST: Final = 64  # rows of scenarios surely served: in the first program, and added to it at a time
TURNS: Final = 20  # programs solved at most; usually one or two
GAP: Final = 1e-4  # relative gap of a proven optimum: a hundredth of the 1 % that the search aims at


@dataclass(frozen=True)
class Exact:
    """Solution of HiGHS: counts (offer) or None, their cost, and a lower bound of every cost, both per hour.

    Reserved instances cost nothing here. proven: the cost is within the relative gap GAP of the least.
    """

    counts: Counts | None
    cost: float
    bound: float
    proven: bool


def least_cost(
    market: Fluid, offers: Sequence[Offer], limits: Bounds, k: int, limit_s: float = 60.0
) -> Exact:
    """The least cost of these offers within their bounds, with at most k scenarios unserved, within about `limit_s` s.

    Rows of scenarios that are surely served are added once a solution violates them: most follow from others.
    """
    ready = np.array([market.ready[o.offer_id] for o in offers])
    price = np.array([0.0 if o.tier == "RESERVED" else o.price_h for o in offers])
    size = np.array([[market.size[o.offer_id]] for o in offers])
    fails = np.array([[o.launch_failure] for o in offers])
    late = np.array([market.late[o.offer_id] for o in offers])
    survival = np.stack([np.broadcast_to(np.asarray(market.survival(o)), market.scenarios) for o in offers])
    old, new = size * survival, size * survival * (1 - fails)
    supply = np.concatenate([np.concatenate([old, new * g[:, None]]).T for g in late.T.astype(float)])
    need = market.need * (1 - EXACT)  # as the market judges
    spare = np.concatenate([group_need - _sure(survival, group_need, k) for group_need in need])
    need, scenario = need.ravel(), np.tile(np.arange(market.scenarios), len(need))
    n, sure, open_rows = len(offers), spare <= EXACT, np.flatnonzero(spare > EXACT)
    added = np.flatnonzero(sure & (need > 0))
    added = added[np.argsort(-need[added], kind="stable")][:FIRST]
    given, place = np.unique(scenario[open_rows], return_inverse=True)
    total = np.hstack([np.eye(n), np.eye(n)])  # old + new
    bounded = np.vstack([total, np.hstack([limits.rows, limits.rows])])
    both = hstack([csr_array(bounded), csr_array((len(bounded), given.size))])
    most = np.concatenate([np.minimum(ready, limits.upper), limits.upper, np.ones(given.size)])
    counts, bound, proven = None, 0.0, False
    rows: Any = LinearConstraint  # its stubs know no arrays
    box: Any = Box
    for _ in range(TURNS):
        kept = np.concatenate([open_rows, added])
        slack = csr_array(
            (spare[open_rows], (np.arange(open_rows.size), place)), shape=(kept.size, given.size)
        )
        answer = milp(
            np.concatenate([price, price, np.zeros(given.size)]),
            constraints=[
                rows(hstack([csr_array(supply[kept]), slack]), need[kept], np.inf),
                rows(both, -np.inf, np.concatenate([limits.upper, limits.most])),
                rows(np.repeat([0.0, 1.0], [2 * n, given.size])[None], -np.inf, k),
            ],
            integrality=np.ones(2 * n + given.size),
            bounds=box(0, most),
            options={"time_limit": limit_s, "mip_rel_gap": GAP},
        )
        bound = max(
            bound, float(answer.mip_dual_bound or 0.0)
        )  # valid with fewer rows: they only raise the cost
        if answer.x is None:
            return Exact(None, np.inf, bound, answer.status == 2)
        bought = np.rint(answer.x[: 2 * n])
        broken = np.flatnonzero(sure & (supply @ bought < need - 1e-6))
        if not broken.size:
            counts, proven = (bought[:n] + bought[n:]).astype(np.int64), answer.status == 0
            break
        added = np.union1d(
            added, broken[np.argsort(-(need - supply @ bought)[broken], kind="stable")][:FIRST]
        )
    cost = np.inf if counts is None else float(price @ counts)
    return Exact(counts, cost, bound, proven)


def _sure(survival: NDArray[np.float64], need: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Lower bound of the replicas that counts serving all but k scenarios carry in each scenario, (scenario).

    Counts that serve scenario s' carry at least need_s' × min_o p_os / p_os' in scenario s.
    """
    least = np.full((need.size, need.size), np.inf)
    for pool in np.unique(survival, axis=0):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = pool[:, None] / pool
        np.minimum(least, np.where(pool > 0, ratio, np.inf), out=least)
    served = np.where(need > 0, need * np.where(np.isfinite(least), least, 0.0), 0.0)
    return np.minimum(need, -np.partition(-served, k, axis=1)[:, k])
