"""The forecast steps that a promise covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer

MIN_HORIZON_S: Final = 300.0  # docs/records.md, "Steps and horizon"


@dataclass(frozen=True)
class PromiseWindow:
    """Steps that the promise covers, and the offers whose new instances serve in them.

    steps: slice of the forecast steps; late: (offer, step in window), true where a new instance serves
    """

    steps: slice
    late: NDArray[np.bool_]


def window(offers: Sequence[Offer], steps_s: Sequence[float], actuation_s: float = 0.0) -> PromiseWindow:
    """From the first step that an offer can reach, to max(300 s, slowest start + actuation + one tick).

    steps_s: end of each step, seconds from now; the first is one tick. The window has at least one step; in its last
    step the new instances of all offers serve, or a plan could never rely on the slow ones.
    """
    end_s = np.asarray(steps_s, dtype=float)
    start_s = end_s - end_s[0]
    lead_s = np.array([o.startup_p99_s + actuation_s for o in offers])
    horizon_s = max(MIN_HORIZON_S, lead_s.max(initial=0.0) + end_s[0])
    last = min(int(np.searchsorted(end_s, horizon_s)), end_s.size - 1)
    late = start_s[: last + 1] >= lead_s[:, None]
    late[:, last] = True
    first = int(late.any(axis=0).argmax())
    return PromiseWindow(slice(first, last + 1), late[:, first:])
