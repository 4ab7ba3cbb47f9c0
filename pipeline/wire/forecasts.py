"""Converts forecasts of one tick, of users or of apps' totals, to and from records that fit a message."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.behaviour.features import TRACKED
from models.metrics import EVENT_KINDS, METRIC_UNITS, METRICS, horizon_steps
from models.quantile_function import QuantileFunction, Z
from pipeline.security.pseudonyms import PSEUDONYM_BYTES
from pipeline.wire import messages
from pipeline.wire.codec import Record

_LEVELS: list[float] = Z.tolist()


@dataclass(frozen=True)
class Layout:
    """How a tick's forecasts are laid out in records of at most 512 KiB, so that they can be made some at a time.

    Attributes:
        common: what all records have.
        known: which of METRICS are in them.
        per_part: users of a record.
        order: place of each of the given apps among those of the records.
    """

    common: Record
    known: np.ndarray
    per_part: int
    order: np.ndarray

    @classmethod
    def of(
        cls,
        frame: Record,
        model_id: str,
        users: int,
        known: np.ndarray,
        apps: Sequence[str],
        *,
        renamed: bool = False,
    ) -> "Layout":
        """Layout for a number of users.

        Args:
            frame: gives shard, seq, tick, tick_start and tick_s.
            model_id: of the model.
            users: in all records together.
            known: which of METRICS somebody has: the others are left out.
            apps: of the users, each once.
            renamed: whether some have a pseudonym before.
        """
        steps = horizon_steps(frame["tick_s"])
        per_user = (
            PSEUDONYM_BYTES * (1 + renamed)
            + 5
            + 4 * len(EVENT_KINDS)
            + len(known) * (5 + 2 * len(TRACKED))
            + len(known) * len(steps) * (5 * 4 + 2 * len(_LEVELS))
        )
        per_part = messages.MESSAGE_BYTES * 9 // 10 // per_user
        common = {
            **{name: frame[name] for name in ("shard", "seq", "tick", "tick_start", "tick_s")},
            "of": max(1, -(-users // per_part)),
            "steps": [step * frame["tick_s"] for step in steps],
            "metrics": [METRICS[i] for i in known],
            "units": [METRIC_UNITS[i] for i in known],
            "model_id": model_id,
            "apps": sorted(apps),
            "levels": _LEVELS,
            "kinds": list(EVENT_KINDS),
        }
        order = np.argsort(np.argsort(np.array(apps, object)))
        return cls(common, known, per_part, order)

    def records(
        self,
        first: int,
        ids: np.ndarray,
        app: np.ndarray,
        forecast: QuantileFunction,
        flags: Mapping[str, np.ndarray],
        observed: np.ndarray,
        rates: np.ndarray,
    ) -> Iterator[Record]:
        """The records of users from `first` on, which begins a part, as many as are given.

        Args:
            first: place of the first user among all.
            ids: (user,) pseudonyms.
            app: (user,) place of each one's app in the records'.
            forecast: (user, metric, step).
            flags: cold_start (user,), censored (user, metric), and where there are any scores (user, metric,
                tracked) and previous (user,), the pseudonyms until this tick, empty where they are the same.
            observed: (user, metric) usage in the tick, NaN = absent.
            rates: (user, kind) event rates in the tick, 1/s, NaN = no event.
        """
        for begin in range(0, max(1, len(ids)), self.per_part):
            rows = slice(begin, begin + self.per_part)
            part = forecast[rows][:, self.known]
            low, high = part.interval()
            columns = {
                "location": part.location,
                "scale": part.scale,
                "mean": part.mean(),
                "lo95": low,
                "hi95": high,
                "observed": observed[rows][:, self.known],
                "rates": rates[rows],
            }
            yield (
                self.common
                | {name: array.astype("<f4").tobytes() for name, array in columns.items()}
                | {
                    "part": (first + begin) // self.per_part,
                    "users": ids[rows].tobytes(),
                    "app_index": app[rows].astype("<u4").tobytes(),
                    "offsets": part.offsets.astype("<f2").tobytes(),
                    "censored": flags["censored"][rows][:, self.known].T.astype(np.uint8).tobytes(),
                    "cold_start": flags["cold_start"][rows].astype(np.uint8).tobytes(),
                    "scores": flags["scores"][rows][:, self.known].astype("<f2").tobytes()
                    if "scores" in flags
                    else None,
                    "previous": flags["previous"][rows].tobytes() if "previous" in flags else b"",
                }
            )


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
    """A tick's forecasts as records of at most 512 KiB, all at once; metrics that nobody has are left out.

    Args:
        frame, model_id: see `Layout.of`.
        ids, apps: (user,).
        forecast, flags, observed, rates: see `Layout.records`.
    """
    known = np.flatnonzero(np.isfinite(forecast.location).any(axis=(0, 2)))
    names = sorted(set(apps))
    layout = Layout.of(frame, model_id, len(ids), known, names)
    index = {app: number for number, app in enumerate(names)}
    pseudonyms = np.array(ids, f"V{PSEUDONYM_BYTES}")
    app = np.array([index[name] for name in apps], np.int64)
    return list(layout.records(0, pseudonyms, app, forecast, flags, observed, rates))


class Gathered:
    """Arrays of a tick's forecasts, filled part by part, so that no column is in memory twice.

    Args:
        part: the first of them to come.

    Attributes:
        head: fields that all parts have.
        users: so far.
    """

    def __init__(self, part: Record) -> None:
        self.head = {name: value for name, value in part.items() if not isinstance(value, bytes)}
        self.users, self._next = 0, part["part"]
        most = len(part["users"]) // PSEUDONYM_BYTES * part["of"]
        metrics, steps, levels, kinds = (len(part[name]) for name in ("metrics", "steps", "levels", "kinds"))
        self._where = [METRICS.index(metric) for metric in part["metrics"]]
        self._arrays = {
            "users": np.empty((most, PSEUDONYM_BYTES), np.uint8),
            "app_index": np.empty(most, "<u4"),
            "location": np.empty((most, metrics, steps), "<f4"),
            "scale": np.empty((most, metrics, steps), "<f4"),
            "offsets": np.empty((most, metrics, steps, levels), "<f2"),
            "observed": np.empty((most, metrics), "<f4"),
            "rates": np.empty((most, kinds), "<f4"),
            "censored": np.empty((most, metrics), bool),
            "scores": np.full((most, len(METRICS), len(TRACKED)), np.nan, np.float32),
            "previous": np.zeros((most, PSEUDONYM_BYTES), np.uint8),
        }

    def add(self, part: Record) -> None:
        """Copy the next part into the arrays.

        Raises:
            RuntimeError: it is another one.
        """
        if part["part"] != self._next:
            raise RuntimeError(f"part {part['part']} of {part['of']} comes before part {self._next}")
        users = len(part["users"]) // PSEUDONYM_BYTES
        rows = slice(self.users, self.users + users)
        for name, array in self._arrays.items():
            if name == "censored":
                array[rows] = np.frombuffer(part[name], np.uint8).reshape(len(self._where), users).T > 0
            elif name == "previous":
                if part[name]:
                    array[rows] = np.frombuffer(part[name], np.uint8).reshape(users, PSEUDONYM_BYTES)
            elif name != "scores":
                array[rows] = np.frombuffer(part[name], array.dtype).reshape(users, *array.shape[1:])
            elif part[name] is not None:
                scores = np.frombuffer(part[name], "<f2").reshape(users, len(self._where), len(TRACKED))
                array[rows, self._where] = scores
        self.users, self._next = rows.stop, self._next + 1

    def __getitem__(self, name: str) -> np.ndarray:
        """Of the users so far: observed (user, metric) usage, censored, which of it is a lower bound, rates (user,
        kind), app_index (user,) by the head's apps, scores (user, METRICS, tracked), NaN where there is none, and
        previous (user, 16), the pseudonyms until this tick, zeros where they are the same.
        """
        return self._arrays[name][: self.users]

    @property
    def ids(self) -> np.ndarray:
        """(user,) pseudonyms."""
        return self["users"].reshape(-1).view(f"V{PSEUDONYM_BYTES}")

    @property
    def forecast(self) -> QuantileFunction:
        """(user, metric, step)."""
        return QuantileFunction(self["location"], self["scale"], self["offsets"])


def gathered(parts: list[Record]) -> Gathered:
    """Parts of a tick's forecasts that follow each other."""
    tick = Gathered(parts[0])
    for part in parts:
        tick.add(part)
    return tick


def unpack(parts: list[Record]) -> tuple[QuantileFunction, np.ndarray, np.ndarray, np.ndarray]:
    """A tick's forecasts from their parts.

    Returns:
        Forecasts (user, metric, step), usage (user, metric), which of it was saturated (user, metric), and event
        rates (user, kind).
    """
    tick = gathered(parts)
    return tick.forecast, tick["observed"], tick["censored"], tick["rates"]


def scores(parts: list[Record]) -> np.ndarray:
    """Normal scores (user, METRICS, tracked) of a tick's forecasts, NaN where there is none."""
    return gathered(parts)["scores"]
