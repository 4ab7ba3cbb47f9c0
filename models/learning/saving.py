"""What an app's plans saved beside static, with its interval, from the costs of whole days.

With f_d the cost of the settings in force on day d and s_d static's, on the same demand with the same luck,

    saving = 1 - r,   r = sum f / sum s,   var r = n / (n - 1) * sum (f_d - r s_d)^2 / (sum s)^2

a ratio estimator (Cochran, Sampling Techniques, 3rd ed., 6.4), with Student's t of n - 1 days. Days are the blocks, as
at the gate. Only sums are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from scipy.special import stdtrit

LEVEL: Final = 0.95


@dataclass(frozen=True)
class Saving:
    """Sums over days.

    Attributes:
        days: on which static cost anything.
        ours, static: cost of the settings in force, and of static.
        ours_2, static_2, both: sums of squares and of products of the two.
    """

    days: int = 0
    ours: float = 0.0
    static: float = 0.0
    ours_2: float = 0.0
    static_2: float = 0.0
    both: float = 0.0

    def after(self, ours: float, static: float) -> Saving:
        """With one more day; one on which static cost nothing does not count."""
        if static <= 0:
            return self
        return Saving(
            self.days + 1,
            self.ours + ours,
            self.static + static,
            self.ours_2 + ours * ours,
            self.static_2 + static * static,
            self.both + ours * static,
        )

    @property
    def share(self) -> float | None:
        """Saved of static's cost; None before the first day."""
        return 1 - self.ours / self.static if self.days else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of the share, low and high; None before the second day."""
        if self.days < 2:
            return None
        ratio = self.ours / self.static
        squares = max(0.0, self.ours_2 - 2 * ratio * self.both + ratio * ratio * self.static_2)
        deviation = math.sqrt(self.days / (self.days - 1) * squares) / self.static
        half = float(stdtrit(self.days - 1, (1 + LEVEL) / 2)) * deviation
        return 1 - ratio - half, 1 - ratio + half
