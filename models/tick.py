"""A tick of event time: its number, length, bounds, and how far ahead of its end the forecast steps end."""

from dataclasses import dataclass

from models.metrics import horizon_steps


@dataclass(frozen=True)
class Tick:
    """The half-open interval [number · length_s, (number + 1) · length_s) of unix time.

    Attributes:
        number: ticks since 1970.
        length_s: seconds, positive.
    """

    number: int
    length_s: int

    @property
    def start_us(self) -> int:
        """Its start, unix microseconds."""
        return self.number * self.length_s * 1_000_000

    @property
    def end_s(self) -> float:
        """Its end, unix seconds: the moment at which it is planned."""
        return float((self.number + 1) * self.length_s)

    @property
    def steps_s(self) -> list[int]:
        """End of each forecast step, seconds after `end_s` (see `models.metrics.horizon_steps`)."""
        return [step * self.length_s for step in horizon_steps(self.length_s)]


def following(time_s: float, tick_s: int) -> int:
    """The number of the first tick of `tick_s` seconds that begins after a unix time."""
    return int(time_s // tick_s) + 1
