"""Bounds of a raw record's fields, and the reasons for which a record beyond them is refused.

Ingest refuses messages by them, traces are read by them, and producers check their records before sending.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import METRICS

MOST: Final = {"cpu": 1e5, "memory": 1e15, "network": 1e13, "disk": 1e13, "requests": 1e10}
"""Greatest believable usage by metric, in models.metrics.METRIC_UNITS: 100,000 cores, 1 PB of memory, 10 TB/s, 10 G
requests/s. More is a mistaken unit."""
LEAST_MEANT: Final = {"cpu": 1e-3, "memory": 2.0**20, "network": 1e4, "disk": 1e4}
"""Sizes of a replica or an instance below which a unit was probably mistaken: 0.001 cores, 1 MiB, 10 kB/s."""
MOST_CORES: Final = {"unit": 64.0, "capacity": 1000.0}
"""Cores of a replica, and of an instance, above which thousandths of a core were probably meant."""
DOUBTFUL: Final = {"memory": ((0.0, 2.0**20), "MiB, GiB or per cent"), "cpu": ((32.0, 100.0), "per cent")}
"""By metric, within which the largest sample of an app's users is as likely of another unit, exclusive of the lower
end, and of which."""
MAX_ID_BYTES: Final = 1024
"""Most bytes of an app's, a user's or an offer's name in UTF-8."""
CONTROL: Final = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
"""Characters that an app's or an offer's name must not have: control characters, ends of lines and paragraphs."""
MAX_INTERVAL_S: Final = 86_400.0
"""Longest time that a sample covers, in seconds."""
MAX_COUNT: Final = 1e9
"""Of the events that one record stands for."""
OTHERS_MOST: Final = 1e9
"""Greatest believable figure of what is neither usage nor a share: seconds, requests in a queue, replicas."""
DETAILS_MOST: Final = {"throttled": 1.0, "queue": OTHERS_MOST, "rejected": 1e10} | dict.fromkeys(
    ("latency_p99", "replicas", "duration"), OTHERS_MOST
)
"""Greatest believable figure of a record's other fields: a share, requests, requests/s, seconds, replicas, seconds."""

Faults = list[tuple[str, NDArray[np.bool_]]]
"""Reasons, each with the rows (row,) to which it applies, in the order of precedence."""


def identity_faults(
    app_bytes: NDArray[np.integer[Any]],
    user_bytes: NDArray[np.integer[Any]],
    user_needed: NDArray[np.bool_] | bool,
    app_control: NDArray[np.bool_] | None = None,
) -> Faults:
    """What is wrong with the names of apps and users.

    Args:
        app_bytes, user_bytes: (row,) lengths in UTF-8, -1 where a name is absent.
        user_needed: (row,) whether the record must name a user.
        app_control: (row,) whether an app's name has one of CONTROL.
    """
    return [
        ("empty-app", app_bytes <= 0),
        ("empty-user", (user_bytes == 0) | (user_needed & (user_bytes < 0))),
        ("long-id", np.maximum(app_bytes, user_bytes) > MAX_ID_BYTES),
        ("control-character", np.zeros(len(app_bytes), bool) if app_control is None else app_control),
    ]


def usage_faults(
    values: NDArray[np.floating[Any]], absent: NDArray[np.bool_], interval_s: NDArray[np.floating[Any]]
) -> Faults:
    """What is wrong with samples of usage.

    Args:
        values: (row, METRICS) usage; NaN where it is absent.
        absent: (row, METRICS) which values the records do not have.
        interval_s: (row,) seconds that each sample stands for.
    """
    return [
        *figure_faults(values, absent, np.array([MOST[metric] for metric in METRICS])),
        ("bad-interval", _outside(interval_s, MAX_INTERVAL_S) | (interval_s == 0)),
    ]


def figure_faults(
    values: NDArray[np.floating[Any]], absent: NDArray[np.bool_], most: NDArray[np.floating[Any]]
) -> Faults:
    """What is wrong with figures (row, field), NaN where a record has none (`absent`); most: (field)."""
    return [
        ("nan", np.any(np.isnan(values) & ~absent, axis=1)),
        ("infinite", np.any(np.isinf(values), axis=1)),
        ("negative", np.any(values < 0, axis=1)),
        ("absurd", np.any(values > most, axis=1)),
    ]


def count_faults(counts: NDArray[np.floating[Any]]) -> Faults:
    """What is wrong with the number of events (row,) that records stand for."""
    return [("bad-count", _outside(counts, MAX_COUNT))]


def first_reasons(faults: Faults, rows: int) -> NDArray[np.object_]:
    """(row,) the first reason that applies to each row, "" where none does."""
    reasons = np.full(rows, "", object)  # fixed-width text took 96 bytes a record to fill and compare
    for reason, wrong in reversed(faults):
        reasons[wrong] = reason
    return reasons


def _outside(values: NDArray[np.floating[Any]], most: float) -> NDArray[np.bool_]:
    return ~((values >= 0) & (values <= most))  # NaN is neither
