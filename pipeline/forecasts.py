"""Forecasts as records: a tick's users, or an app's totals, split into parts that fit a message."""

from collections.abc import Mapping

import numpy as np

from models.distribution import QuantileFunction, Z
from models.features import EVENT_KINDS, METRIC_UNITS, METRICS, TRACKED, horizon_steps
from pipeline import topics
from pipeline.codec import Record
from pipeline.identity import PSEUDONYM_BYTES

_LEVELS: list[float] = Z.tolist()


def forecast_records(
    frame: Record,
    model_id: str,
    ids: list[bytes],
    apps: list[str],
    forecast: QuantileFunction,
    flags: Mapping[str, np.ndarray],
    observed: np.ndarray,
    rates: np.ndarray,
) -> list[Record]:
    """A tick's forecasts as records of at most 512 KiB; metrics that nobody has are left out.

    Args:
        frame: gives shard, seq, tick, tick_start and tick_s.
        model_id: of the model.
        ids, apps: (user,).
        forecast: (user, metric, step).
        flags: cold_start (user,), censored (user, metric), and where there are any scores (user, metric, tracked).
        observed: (user, metric) usage in the tick, NaN = absent.
        rates: (user, kind) event rates in the tick, 1/s, NaN = no event.
    """
    steps = horizon_steps(frame["tick_s"])
    known = np.flatnonzero(np.isfinite(forecast.location).any(axis=(0, 2)))
    cells = len(known) * len(steps)
    per_user = (
        PSEUDONYM_BYTES
        + 5
        + 4 * len(EVENT_KINDS)
        + len(known) * (5 + 2 * len(TRACKED))
        + cells * (5 * 4 + 2 * len(_LEVELS))
    )
    per_part = topics.MESSAGE_BYTES * 9 // 10 // per_user
    of = max(1, -(-len(ids) // per_part))
    names = sorted(set(apps))
    index = {app: number for number, app in enumerate(names)}
    low, high = forecast.interval()
    columns = {
        "location": forecast.location,
        "scale": forecast.scale,
        "mean": forecast.mean(),
        "lo95": low,
        "hi95": high,
    }
    common = {
        **{name: frame[name] for name in ("shard", "seq", "tick", "tick_start", "tick_s")},
        "of": of,
        "steps": [step * frame["tick_s"] for step in steps],
        "metrics": [METRICS[i] for i in known],
        "units": [METRIC_UNITS[i] for i in known],
        "model_id": model_id,
        "apps": names,
        "levels": _LEVELS,
        "kinds": list(EVENT_KINDS),
    }
    records: list[Record] = []
    for part in range(of):
        rows = slice(part * per_part, (part + 1) * per_part)
        records.append(
            common
            | {name: array[rows][:, known].astype("<f4").tobytes() for name, array in columns.items()}
            | {
                "part": part,
                "users": b"".join(ids[rows]),
                "app_index": np.fromiter((index[app] for app in apps[rows]), "<u4").tobytes(),
                "offsets": forecast.offsets[rows][:, known].astype("<f2").tobytes(),
                "censored": flags["censored"][rows][:, known].T.astype(np.uint8).tobytes(),
                "cold_start": flags["cold_start"][rows].astype(np.uint8).tobytes(),
                "observed": observed[rows][:, known].astype("<f4").tobytes(),
                "rates": rates[rows].astype("<f4").tobytes(),
                "scores": flags["scores"][rows][:, known].astype("<f2").tobytes()
                if "scores" in flags
                else None,
            }
        )
    return records


def unpack(parts: list[Record]) -> tuple[QuantileFunction, np.ndarray, np.ndarray, np.ndarray]:
    """A tick's forecasts from their parts.

    Returns:
        Forecasts (user, metric, step), usage (user, metric), which of it was saturated (user, metric), and event
        rates (user, kind).
    """
    metrics, steps, levels, kinds = (len(parts[0][name]) for name in ("metrics", "steps", "levels", "kinds"))

    def joined(column: str, kind: str, *shape: int) -> np.ndarray:
        # -1 cannot be inferred from nothing: a forecast of no user, or of no metric
        return np.concatenate(
            [
                np.frombuffer(p[column], kind).reshape(len(p["users"]) // PSEUDONYM_BYTES, *shape)
                for p in parts
            ]
        )

    censored = [
        np.frombuffer(p["censored"], np.uint8).reshape(metrics, -1 if metrics else 0).T for p in parts
    ]
    quantiles = QuantileFunction(
        joined("location", "<f4", metrics, steps),
        joined("scale", "<f4", metrics, steps),
        joined("offsets", "<f2", metrics, steps, levels),
    )
    usage = joined("observed", "<f4", metrics)
    saturated = np.concatenate(censored).reshape(usage.shape) > 0
    return quantiles, usage, saturated, joined("rates", "<f4", kinds)


def scores(parts: list[Record]) -> np.ndarray:
    """Normal scores (user, METRICS, tracked) of a tick's forecasts, NaN where there is none."""
    where = [METRICS.index(metric) for metric in parts[0]["metrics"]]
    users = sum(len(p["users"]) for p in parts) // PSEUDONYM_BYTES
    found = np.full((users, len(METRICS), len(TRACKED)), np.nan, np.float32)
    if all(p["scores"] is not None for p in parts):
        columns = [np.frombuffer(p["scores"], "<f2") for p in parts]
        found[:, where] = np.concatenate(columns).reshape(users, len(where), len(TRACKED))
    return found
