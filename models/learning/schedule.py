"""When an adjustment is made, from which tick it holds, and when it ends if no other follows.

Adjustments are made at the end of each epoch of `EPOCH_S`, for the epoch after the next, so that no stage waits for
them live. A learner that is dead, or late by more than an epoch, leaves what the policy itself asks for.
"""

from __future__ import annotations

from typing import Final

EPOCH_S: Final = 300
STALE_EPOCHS: Final = 2
"""Epochs for which an adjustment holds beyond its own."""


def epoch_ticks(tick_s: int) -> int:
    """Ticks of an epoch, at least one."""
    return max(1, EPOCH_S // tick_s)


def ends_epoch(tick: int, tick_s: int) -> bool:
    """Whether an epoch ends with a tick."""
    return (tick + 1) % epoch_ticks(tick_s) == 0


def valid_from(tick: int, tick_s: int) -> int:
    """First tick whose plan uses the adjustment made at a tick's end."""
    return tick + 1 + epoch_ticks(tick_s)


def expires(tick: int, tick_s: int) -> int:
    """First tick whose plan does not use the adjustment made at a tick's end any more."""
    return valid_from(tick, tick_s) + (1 + STALE_EPOCHS) * epoch_ticks(tick_s)
