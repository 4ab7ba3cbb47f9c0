from dataclasses import replace

import numpy as np

from models.capacity import Offer, Policy
from models.planning import sweep

PLAIN = Offer("plain", "local", "here", "1", "ON_DEMAND", {"cpu": 1.0}, 1.0, 30, 40, 50)
KEPT = replace(PLAIN, offer_id="kept", tier="RESERVED", owned_count=6, startup_p99_s=0)
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, min=1, max=100)


def demand(usage: float = 1.0, saturated: float = 0.0) -> sweep.AppDemand:
    """Demand of 1, 2, ..., 10 replicas at every step, each in a tenth of the scenarios."""
    scenarios = np.repeat(np.arange(1, 11, dtype=np.float32), 6).reshape(10, 6, 1)
    return sweep.AppDemand(
        scenarios, ["cpu"], [60 * k for k in range(1, 7)], np.array([usage]), np.array([saturated])
    )


def test_a_level_is_a_share_of_the_scenarios() -> None:
    need = sweep.needed(demand(), [PLAIN], POLICY, (0.1, 0.5, 0.95), ())
    assert need.wanted.tolist() == [1, 5, 10]
    assert need.soon.tolist() == [1, 5, 10]
    np.testing.assert_allclose(need.band, np.quantile(np.arange(1, 11), sweep.BAND), rtol=1e-6)


def test_present_usage_is_carried_and_the_limit_is_kept() -> None:
    assert sweep.needed(demand(usage=7.0), [PLAIN], POLICY, (0.1, 0.95), ()).wanted.tolist() == [7, 10]
    few = replace(POLICY, max=4)
    assert sweep.needed(demand(), [PLAIN], few, (0.1, 0.95), ()).wanted.tolist() == [1, 4]


def test_a_commitment_that_ended_owns_nothing_where_a_shortage_is_priced() -> None:
    """One replica more costs 1 and saves a tenth of 5: it pays only as far as replicas are owned."""
    ended = replace(KEPT, owned_count=0, ended="its commitment ended")
    owned, without = (
        sweep.needed(demand(), [PLAIN, kept], POLICY, (), (5.0,)).wanted.tolist() for kept in (KEPT, ended)
    )
    assert (owned, without) == ([6], [1])
