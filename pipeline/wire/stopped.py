"""Columns of a frame for series that stopped: `models.demand.stopped_series.Stopped`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.demand.stopped_series import NAMES, Stopped
from models.metrics import METRICS


def stopped_columns(stopped: Stopped) -> dict[str, bytes]:
    """The field `stopped` of one part of a frame."""
    return {
        "users": stopped.name.tobytes(),
        "ticks": stopped.tick.astype("<i8").tobytes(),
        "series": stopped.series.astype("<i4").tobytes(),
        "used": stopped.used.T.astype("<f4").tobytes(),
        "whole": stopped.whole.T.astype("<f4").tobytes(),
    }


def stopped_of(parts: Sequence[Mapping[str, Any]]) -> Stopped:
    """Entries of a frame, from its parts in any order; without numbers of users."""
    entries = Stopped.none()
    for part in sorted(parts, key=lambda part: part["part"]):
        columns, count = part["stopped"], len(part["stopped"]["ticks"]) // 8
        if count:
            used, whole = (np.zeros((count, len(METRICS)), np.float32) for _ in range(2))
            for amounts, name in ((used, "used"), (whole, "whole")):
                given = np.frombuffer(columns[name], "<f4").reshape(len(part["metrics"]), count)
                for metric, row in zip(part["metrics"], given, strict=True):
                    if metric in METRICS:
                        amounts[:, METRICS.index(metric)] = row
            entries = entries.joined(
                Stopped(
                    np.frombuffer(columns["users"], NAMES),
                    np.full(count, -1),
                    np.frombuffer(columns["ticks"], "<i8"),
                    np.frombuffer(columns["series"], "<i4"),
                    used,
                    whole,
                )
            )
    return entries
