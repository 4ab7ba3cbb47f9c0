"""How long work tells its caller what it has done, without knowing how that is shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called while work goes on; `pipeline.display.phases` draws it as bars."""

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Report progress.

        Args:
            phase: name of a part of the work.
            done: its ticks, or other units, that are done.
            total: all of them.
            note: a remark, as a present loss.
        """
        ...


def silent(phase: str, done: int, total: int, note: str = "") -> None:
    """A `Progress` that shows nothing."""
