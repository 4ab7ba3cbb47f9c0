"""Commitments that end within a backtest's window."""

from dataclasses import replace

import numpy as np

from pipeline.backtest.baselines import simulate
from pipeline.backtest.job import AppLanes, Job
from tests.unit.pipeline.backtest.test_baselines import OFFER, job_of

ROWS = 12
KEPT = replace(OFFER, offer_id="kept", tier="RESERVED", owned_count=4, price_h=0.5, startup_p99_s=0)


def ending(row: int) -> Job:
    """Four replicas are needed in every row, and owned until the commitment ends at a row's start."""
    job = job_of([4.0] * ROWS, [1.0] * ROWS, [False] * ROWS)
    return replace(
        job,
        offers={"tiers": {"shop": [OFFER, KEPT]}},
        starting={"tiers": {"shop": {"plain": 0, "kept": 4}}},
        ends={"kept": float(job.start_s(row))},
    )


def test_offers_are_those_of_a_time() -> None:
    job = ending(5)
    before, after = (job.offers_at("tiers", "shop", job.start_s(5) - wait) for wait in (1, 0))
    assert before == [OFFER, KEPT]
    assert after[0] == OFFER
    assert (after[1].owned_count, after[1].ended) == (0, "its commitment ended")


def test_what_has_ended_is_neither_kept_nor_billed() -> None:
    job = ending(1)
    lanes = AppLanes(job, "shop", "tiers", [None])
    lanes.cloud.live(lanes.fleet, job.first_tick)
    assert lanes.fleet.hours[0, 1] == 4 * job.tick_s / 3600
    lanes.end_commitments(job.start_s(1))
    lanes.desired = np.array([[0, 4]])
    lanes.follow(job.first_tick + 1)
    lanes.cloud.live(lanes.fleet, job.first_tick + 1)
    assert lanes.fleet.ready.tolist() == [[0, 0]]
    assert lanes.fleet.hours[0, 1] == 0
    assert AppLanes(ending(0), "shop", "tiers", [None]).offers[1].owned_count == 0


def test_baselines_buy_anew_when_a_commitment_ends() -> None:
    four = np.full((ROWS, 1, 2), 4)
    never, halfway = (
        simulate(job, ["keda"], {"wanted": four, "soon": four})["tiers"]
        for job in (ending(10 * ROWS), ending(ROWS // 2))
    )
    kept, lost = (
        made["tiers"][:, 0, 0] for made in (never, halfway)
    )  # cost by tier: reserved, on demand, spot
    assert (kept[:, 0] > 0).all()
    assert (lost[: ROWS // 2] == kept[: ROWS // 2]).all()
    assert (lost[ROWS // 2 + 1 :, 0] == 0).all()
    assert (
        lost[ROWS // 2 + 1 :, 1] > 4 * kept[ROWS // 2 + 1 :, 1]
    ).all()  # one replica of five was bought before
