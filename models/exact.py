"""The least cost, exactly: the chance-constrained covering problem as a mixed-integer program, solved by HiGHS.

    min Σ_o price_o n_o,  n = old + new whole, old at most what is ready, n within the bounds,
    Σ_o r_o p_os (old_o + late_og (1 - f_o) new_o) + M_gs z_s ≥ need_gs,  Σ_s z_s ≤ k,

with p the survival, f launch failures, z_s = 1 where scenario s is given up: the supply of `models.market.Fluid`,
which is linear. Too slow for a tick; the search is judged by it. Pool loss is left out.

Most scenarios need no z: of any k + 1 scenarios at least one is served, so the supply in row s is at least the
(k + 1)-th largest, over s', of the least supply in s that serves s' (Luedtke, Ahmed & Nemhauser 2010,
doi:10.1007/s10107-008-0247-4, section 2; Luedtke 2014, doi:10.1007/s10107-013-0684-6).
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

from models.bounds import Bounds, Counts
from models.capacity import Offer
from models.market import Fluid

GAP: Final = 1e-4  # relative; a hundredth of the per cent that the search is held to


@dataclass(frozen=True)
class Exact:
    """What HiGHS knows: counts (offer) or None, their cost and a bound below which no cost is, both per hour.

    Reserved instances cost nothing here. proven: no cost is less than this by more than the relative gap of 1e-4.
    """

    counts: Counts | None
    cost: float
    bound: float
    proven: bool


def least_cost(
    market: Fluid, offers: Sequence[Offer], limits: Bounds, k: int, limit_s: float = 60.0
) -> Exact:
    """Solve for these offers within their bounds, k scenarios given up at most, in `limit_s` seconds at most."""
    ready = np.array([market.ready[o.offer_id] for o in offers])
    price = np.array([0.0 if o.tier == "RESERVED" else o.price_h for o in offers])
    size = np.array([[market.size[o.offer_id]] for o in offers])
    fails = np.array([[o.launch_failure] for o in offers])
    late = np.array([market.late[o.offer_id] for o in offers])
    survival = np.stack([np.broadcast_to(np.asarray(market.survival(o)), market.scenarios) for o in offers])
    old, new = size * survival, size * survival * (1 - fails)
    cover, need, scenario, spare = [], [], [], []
    for group, asked in enumerate(market.need.astype(float)):
        sure = _sure(survival, asked, k)
        rows = np.flatnonzero(asked > sure + 1e-9)
        cover.append(np.concatenate([old, new * late[:, group, None]]).T[rows])
        need.append(asked[rows])
        scenario.append(rows)
        spare.append(asked[rows] - sure[rows])
    given, place = np.unique(np.concatenate(scenario), return_inverse=True)
    many, n = len(place), len(offers)
    slack = csr_array((np.concatenate(spare), (np.arange(many), place)), shape=(many, given.size))
    one = csr_array(np.hstack([np.eye(n), np.eye(n)]))
    none = csr_array((n + len(limits.names), given.size))
    both = hstack([csr_array(np.vstack([one.toarray(), np.hstack([limits.rows] * 2)])), none])
    rows: Any = LinearConstraint  # its stubs know no arrays
    box: Any = Box
    answer = milp(
        np.concatenate([price, price, np.zeros(given.size)]),
        constraints=[
            rows(hstack([csr_array(np.concatenate(cover)), slack]), np.concatenate(need), np.inf),
            rows(both, -np.inf, np.concatenate([limits.upper, limits.most])),
            rows(np.repeat([0.0, 1.0], [2 * n, given.size])[None], -np.inf, k),
        ],
        integrality=np.ones(2 * n + given.size),
        bounds=box(0, np.concatenate([np.minimum(ready, limits.upper), limits.upper, np.ones(given.size)])),
        options={"time_limit": limit_s, "mip_rel_gap": GAP},
    )
    bound = 0.0 if answer.mip_dual_bound is None else float(answer.mip_dual_bound)
    if answer.x is None:
        return Exact(None, np.inf, bound, answer.status == 2)
    counts = np.rint(answer.x[:n] + answer.x[n : 2 * n]).astype(np.int64)
    return Exact(counts, float(price @ counts), bound, answer.status == 0)


def _sure(survival: NDArray[np.float64], need: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Replicas that any counts that serve all but k scenarios carry in each scenario, (scenario), at least.

    To serve s' costs s at least need_s' × min_o p_os / p_os'.
    """
    least = np.full((need.size, need.size), np.inf)
    for pool in np.unique(survival, axis=0):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = pool[:, None] / pool
        np.minimum(least, np.where(pool > 0, ratio, np.inf), out=least)
    served = np.where(need > 0, need * np.where(np.isfinite(least), least, 0.0), 0.0)
    return np.minimum(need, -np.partition(-served, k, axis=1)[:, k])
