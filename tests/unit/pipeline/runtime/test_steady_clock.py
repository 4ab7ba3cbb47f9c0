"""A clock that jumps and comes back is not followed; one that drifts, or stays where it jumped to, is."""

from pipeline.runtime.steady_clock import SETTLED_S, Steady


class Clocks:
    wall_s, now_s = 1_700_000_000.0, 50.0

    def after(self, seconds: float, jump_s: float = 0.0) -> None:
        self.now_s += seconds
        self.wall_s += seconds + jump_s


def test_a_jump_that_is_taken_back_never_was() -> None:
    clocks = Clocks()
    steady = Steady(lambda: clocks.wall_s, lambda: clocks.now_s)
    clocks.after(10, jump_s=3600)
    assert steady() == 1_700_000_010
    clocks.after(SETTLED_S - 1)
    assert steady() == 1_700_000_069
    clocks.after(5, jump_s=-3600)
    assert steady() == 1_700_000_074


def test_a_drift_and_a_correction_are_followed() -> None:
    clocks = Clocks()
    steady = Steady(lambda: clocks.wall_s, lambda: clocks.now_s)
    for _ in range(5):
        clocks.after(10, jump_s=0.5)
        assert steady() == clocks.wall_s
    clocks.after(10, jump_s=-7200)
    assert steady() == clocks.wall_s + 7200
    clocks.after(SETTLED_S)
    assert steady() == clocks.wall_s
