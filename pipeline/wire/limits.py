"""Bounds of a raw record's fields: ingest refuses records beyond them, and producers check them before sending."""

from typing import Final

MOST: Final = {"cpu": 1e5, "memory": 1e15, "network": 1e13, "disk": 1e13, "requests": 1e10}
"""Greatest believable usage by metric, in models.metrics.METRIC_UNITS: 100,000 cores, 1 PB of memory, 10 TB/s, 10 G
requests/s. More is a mistaken unit."""
MAX_ID_BYTES: Final = 1024
"""Most bytes of an app's or a user's name in UTF-8."""
MAX_INTERVAL_S: Final = 86_400.0
"""Longest time that a sample covers, in seconds."""
MAX_COUNT: Final = 1e9
"""Of the events that one record stands for."""
