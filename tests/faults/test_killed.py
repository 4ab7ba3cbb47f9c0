"""Stages killed with SIGKILL at seeded random moments: what is published and done is the unbroken run's."""

import pytest

from pipeline.settings import Settings
from tests.faults import replaying
from tests.faults.replaying import Killer, Outcome

WITHIN_S = {"ingest": 4.0, "worker": 14.0, "actuator": 4.0}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1])
def test_stages_killed_at_random_moments(settings: Settings, whole: Outcome, seed: int) -> None:
    killer = Killer(seed, {"ingest": 3, "worker": 2, "actuator": 3}, WITHIN_S)
    folder = settings.data_dir / f"killed-{seed}"
    broken = replaying.run(settings, folder, killer, ticks_per_s=3)
    print(f"seed {seed}: killed {killer.done}")
    assert sorted(killer.done) == ["actuator"] * 3 + ["ingest"] * 3 + ["worker"] * 2
    replaying.assert_same(broken, whole)
