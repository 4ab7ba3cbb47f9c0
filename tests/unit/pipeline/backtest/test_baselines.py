"""What rivals are told, and which ticks are scored."""

from dataclasses import replace

import numpy as np
import pytest

from models.baselines.autoscalers.registry import KNOBS
from models.baselines.autoscalers.scenario_replicas import ScenarioReplicas
from models.capacity import Offer, Policy
from models.metrics import METRICS
from pipeline.backtest.baselines import SUPPLY, loads, simulate
from pipeline.backtest.comparison import compare
from pipeline.backtest.job import Job

OFFER = Offer("plain", "local", "here", "1", "ON_DEMAND", {"cpu": 1.0, "memory": 1.0}, 1.0, 30, 40, 50)


def job_of(cpu: list[float], memory: list[float], saturated: list[bool]) -> Job:
    """One app of one user in ticks of five minutes; a replica has one of each metric."""
    rows = len(cpu)
    values = np.full((rows, 1, len(METRICS)), np.nan, np.float32)
    values[:, 0, :2] = np.stack([cpu, memory], axis=1)
    held = np.zeros(values.shape, bool)
    held[:, 0, 0] = saturated
    return Job(
        values=values,
        events=np.full((rows, 1, 4), np.nan, np.float32),
        saturated=held,
        ids=[b"0" * 16],
        first_tick=1000,
        tick_s=300,
        members={"shop": np.array([0])},
        policies={"shop": Policy("shop", ("cpu", "memory"), {"cpu": 1.0, "memory": 1.0}, hold_s=0)},
        offers={"tiers": {"shop": [OFFER]}},
        terms={},
        starting={"tiers": {"shop": {"plain": 3}}},
        lanes=[("tiers", None)],
        levels=(0.5, 0.99),
        learn_from=0,
        plan_from=0,
    )


def test_what_was_wanted_is_held_for_the_hold_time() -> None:
    wanted = np.array([[[2]], [[5]], [[3]], [[1]], [[1]]])
    held = ScenarioReplicas(wanted, 2 * wanted, 7, [3])
    assert [held.decide(7 + i, np.zeros((2, 1), int)).tolist() for i in range(5)] == [
        [[n], [n]] for n in (2, 5, 5, 5, 3)
    ]
    assert held.kept(8, 2).tolist() == [[10], [10]]


def test_what_is_needed_before_something_else_serves_is_not_released() -> None:
    job = job_of([1.0] * 4, [1.0] * 4, [False] * 4)
    low = np.ones((4, 1, 2), int)
    ready = [simulate(job, [], {"wanted": low, "soon": n * low})["tiers"]["ready"][-1, 0, 0] for n in (1, 3)]
    assert ready == [1, 3]


def test_rivals_know_what_was_before_the_window() -> None:
    job = job_of([1.0] * 4, [1.0] * 4, [False] * 4)
    before = np.full((2016, 1, len(METRICS)), np.nan, np.float32)
    before[:, 0, 0] = 8.0  # a week of eight replicas, which `fixed` holds
    one = np.ones((4, 1, 2), int)
    wanted = {"wanted": one, "soon": one}
    bare, knowing = (simulate(one, ["fixed"], wanted) for one in (job, replace(job, before=before)))
    assert loads(replace(job, before=before)).shape == (2020, 1, 2)
    own = len(SUPPLY) * len(job.levels)
    assert bare["tiers"]["asked"][0, 0, own] == 1
    assert knowing["tiers"]["asked"][0, 0, own] == 8


@pytest.mark.parametrize(
    ("memory", "censored"),
    [(2.0, 1), (4.0, 0)],  # cpu may have been 1.5 × 2 = 3 replicas: below four the need is known
)
def test_a_tick_is_censored_where_what_is_at_its_limit_could_set_the_need(
    memory: float, censored: int
) -> None:
    job = job_of([2.0] * 4, [memory] * 4, [False, True, False, False])
    shape = (4, 1, 1)
    seen = {name: np.ones(shape, np.float32) for name in ("ready", "asked", "cost")}
    seen |= {"required": np.full((4, 1, 6, 5), np.nan), "window": np.zeros((4, 1, 2), int)}
    seen |= {"plan": np.full((4, 1, 3), np.nan)}
    found = compare(replace(job, levels=()), seen, {}, [], skip=0)
    assert found.report["censored_app_ticks"] == censored
    assert found.report["policies"]["leadtime"]["defaults"]["app_ticks"] == 4 - censored


def test_every_policy_is_bought_for_with_less_certain_supply_too() -> None:
    """Spot that is lost once an hour: with 99 % there are spares for it, with 90 % there are none."""
    spot = replace(OFFER, offer_id="spot", tier="SPOT", price_h=0.1, interruption_h=1.0)
    job = job_of([4.0] * 12, [1.0] * 12, [False] * 12)
    job = replace(job, offers={"tiers": {"shop": [OFFER, spot]}})
    four = np.full((12, 1, 2), 4)
    found = simulate(job, ["keda"], {"wanted": four, "soon": four})["tiers"]["cost"]
    sure, less = found[3:, 0, 0].sum(), found[3:, 0, len(job.levels)].sum()
    assert less < sure


def test_nodes_are_bought_for_placeholders_too() -> None:
    job = job_of([4.0] * 12, [1.0] * 12, [False] * 12)
    four = np.full((12, 1, 2), 4)
    outcome = simulate(job, ["hpa", "hpa_overprovisioning"], {"wanted": four, "soon": four})["tiers"]
    own, settings = len(SUPPLY) * len(job.levels), KNOBS["hpa_overprovisioning"].values
    hpa = outcome["ready"][-1, 0, own]
    first = own + len(SUPPLY) * len(KNOBS["hpa"].values)
    ready = outcome["ready"][-1, 0, first : first + len(settings)]
    assert hpa == 5  # at 80 %
    assert ready.tolist() == [hpa + np.ceil(share * hpa - 1e-6) for share in settings]
