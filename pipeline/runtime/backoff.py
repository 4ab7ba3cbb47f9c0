"""Back-off before a process that ended is started again."""

from dataclasses import dataclass

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
STEADY_S = 60.0
"""What ran for longer starts again at the first back-off."""


@dataclass
class Backoff:
    """Doubling waits between starts; next_s: the next one, seconds."""

    next_s: float = FIRST_BACKOFF_S

    def after(self, ran_s: float) -> float:
        """Seconds to wait after a run of `ran_s` seconds; the wait after the next run is twice as long, to a bound."""
        wait_s = FIRST_BACKOFF_S if ran_s > STEADY_S else self.next_s
        self.next_s = min(2 * wait_s, LONGEST_BACKOFF_S)
        return wait_s
