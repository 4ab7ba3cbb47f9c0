"""HPAs with placeholder pods beside them."""

import numpy as np

from models.baselines.autoscalers.hpa import HorizontalPodAutoscaler
from models.baselines.autoscalers.overprovisioning import TARGET, Overprovisioning, with_headroom
from tests.unit.models.baselines.autoscalers.fleet import facts_of


def test_placeholders_leave_what_the_hpas_ask_for_as_it_is() -> None:
    load = np.concatenate([np.full(20, 4.0), np.full(20, 9.0), np.full(20, 2.0)])
    headroom = np.array([0.0, 0.5, 2.0])
    policy = Overprovisioning(facts_of(load, tick_s=300), headroom)
    alone = HorizontalPodAutoscaler(facts_of(load, tick_s=300), np.array([TARGET]))
    ready, of_alone = np.full((3, 1), 5), np.full((1, 1), 5)
    for row in range(len(load)):
        desired, of_alone = policy.decide(row, ready), alone.decide(row, of_alone)
        ready = with_headroom(desired, headroom)  # nodes are there a tick later
        assert desired[:, 0].tolist() == [of_alone[0, 0]] * 3, row
    assert ready[:, 0].tolist() == [3, 5, 9]


def test_room_is_kept_free_in_whole_replicas() -> None:
    desired = np.array([[3, 10], [3, 10], [3, 10]])
    assert with_headroom(desired, np.array([0.0, 0.1, 1.0])).tolist() == [[3, 10], [4, 11], [6, 20]]
