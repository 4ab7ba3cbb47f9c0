"""Scores of forecasts summed by day, user, metric and step, and the figures of docs/scoring.md computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import METRICS, STEPS

CRPS_LEVELS: Final = np.arange(1, 100) / 100
RELIABILITY: Final = np.array([0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99])
# levels swept for slack at the same realised rate
BOUND_LEVELS: Final = np.array(
    [0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.9875, 0.99, 0.9925, 0.995, 0.997, 0.998, 0.999, 0.9995]
)
HELD_LEVELS: Final = np.unique(np.concatenate([RELIABILITY, BOUND_LEVELS]))
LEVELS: Final = np.unique(np.concatenate([CRPS_LEVELS, HELD_LEVELS, [0.025]]))
BOUND: Final = 0.99
RIVAL_FLOOR: Final = 1e-3  # of the user's mean |y|
REPEATS: Final = 0.95  # users with a larger share of exact repeats have no upper limit on coverage
MAIN_METRICS: Final = ("cpu", "memory", "network", "disk")
MAIN_STEPS: Final = (1, 3, 6)
DRAWS: Final = 200  # of the bootstrap

Array = NDArray[np.float64]
Figures = dict[str, Array]


def _at(levels: NDArray[Any], level: float) -> int:
    return int(np.flatnonzero(levels == level)[0])


@dataclass(frozen=True)
class Sums:
    """One forecaster's sums over the ticks scored, (block, user, metric, step).

    crps, covered (randomised PIT within 95 %), inside (closed 95 % interval); held at HELD_LEVELS and slack at
    BOUND_LEVELS, each (block, level, user, metric, step); and of the censored ticks alone censored_crps and
    censored_held at 99 %.
    """

    crps: NDArray[np.float32]
    covered: NDArray[np.float32]
    inside: NDArray[np.float32]
    held: NDArray[np.float32]
    slack: NDArray[np.float32]
    censored_crps: NDArray[np.float32]
    censored_held: NDArray[np.float32]

    @classmethod
    def zeros(cls, blocks: int, *shape: int) -> Sums:
        """Sums of no ticks, of shape (block, user, metric, step)."""

        def none(*levels: int) -> NDArray[np.float32]:
            return np.zeros((blocks, *levels, *shape), np.float32)

        return cls(none(), none(), none(), none(len(HELD_LEVELS)), none(len(BOUND_LEVELS)), none(), none())


@dataclass(frozen=True)
class Scores:
    """Sums over scored ticks of a model and its rivals, (block, user, metric, step); a block is a day.

    users: names. count: ticks scored; sum_y: of |y|; repeats: ticks with the value of the tick before; censored: ticks
    that are in no other sum. rivals: by name.
    """

    users: list[str]
    ticks: NDArray[np.int64]
    count: NDArray[np.float32]
    sum_y: NDArray[np.float32]
    repeats: NDArray[np.float32]
    censored: NDArray[np.float32]
    model: Sums
    rivals: dict[str, Sums]

    @classmethod
    def zeros(cls, users: list[str], blocks: int, rivals: list[str]) -> Scores:
        """Scores of no ticks."""
        shape = (blocks, len(users), len(METRICS), STEPS)
        return cls(
            users,
            np.zeros(blocks, np.int64),
            *(np.zeros(shape, np.float32) for _ in range(4)),
            model=Sums.zeros(*shape),
            rivals={name: Sums.zeros(*shape) for name in rivals},
        )

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(user, metric, step): a tick was scored, and its values are not all zero."""
        return self.sum_y.sum(0) > 0

    def crps_ratio(self, rival: str, weights: Array | None = None) -> Array:
        """CRPS over the rival's, (draw, user, metric, step); NaN where not scored."""
        weights = self._once() if weights is None else weights
        size = _pooled(weights, self.sum_y)
        theirs = np.maximum(_pooled(weights, self.rivals[rival].crps), RIVAL_FLOOR * size)
        return np.where(size > 0, _pooled(weights, self.model.crps) / np.where(size > 0, theirs, 1), np.nan)

    def _once(self) -> Array:
        return np.ones((1, len(self.count)))

    def curves(self, sums: Sums, weights: Array | None = None) -> tuple[Array, Array]:
        """Realised rate at HELD_LEVELS and slack at BOUND_LEVELS, each (draw, level, metric, step)."""
        weights = self._once() if weights is None else weights
        n, size = _pooled(weights, self.count.sum(1)), _pooled(weights, self.sum_y.sum(1))
        return (
            _pooled(weights, sums.held.sum(2)) / _positive(n)[:, None],
            _pooled(weights, sums.slack.sum(2)) / _positive(size)[:, None],
        )

    def slack_matched(self, sums: Sums, weights: Array | None = None) -> Array:
        """Slack at a realised rate of 99 %, (draw, metric, step); NaN where no swept level holds it."""
        held, slack = self.curves(sums, weights)
        return matched(held[:, np.isin(HELD_LEVELS, BOUND_LEVELS)], slack)

    def shares(self, of: NDArray[np.float32], weights: Array | None = None) -> Array:
        """A sum as a share of the ticks scored, (draw, metric, step); NaN where none was scored."""
        weights = self._once() if weights is None else weights
        return _pooled(weights, of.sum(1)) / _positive(_pooled(weights, self.count.sum(1)))

    def users_within(self, of: tuple[Any, ...] = ()) -> float:
        """Share of users whose 95 % interval covers 92 to 98 %, or more if they repeat; `of` selects (metric, step)."""
        select = (slice(None), *of)
        n, covered, repeats = (
            x.sum(0)[select].reshape(len(self.users), -1).sum(1)
            for x in (self.count, self.model.covered, self.repeats)
        )
        share, scored = covered / np.maximum(n, 1), n > 0
        fine = (share >= 0.92) & ((share <= 0.98) | (repeats > REPEATS * n))
        return float(fine[scored].mean()) if scored.any() else float("nan")

    def main(self) -> tuple[Any, ...]:
        """Index (metric, step) of the summary's cells: MAIN_METRICS, or the metrics scored, at MAIN_STEPS."""
        counted = self.count.sum((0, 1, 3)) > 0
        main = np.array([metric in MAIN_METRICS for metric in METRICS])
        chosen = np.flatnonzero(counted & main if (counted & main).any() else counted)
        return np.ix_(chosen, np.array(MAIN_STEPS) - 1)

    def figures(self, weights: Array | None = None) -> Figures:
        """The main figures, each (draw, metric, step), of blocks that count `weights` (draw, block) times; once."""
        bound = _at(HELD_LEVELS, BOUND)
        m, k = self.main()
        out: Figures = {
            "coverage_95": self.shares(self.model.covered, weights)[:, m, k],
            "inside_95": self.shares(self.model.inside, weights)[:, m, k],
            "bound_99": self.shares(self.model.held[:, bound], weights)[:, m, k],
        }
        mine = self.slack_matched(self.model, weights)[:, m, k]
        for name, sums in self.rivals.items():
            out[f"crps_ratio {name}"] = geometric_mean(self.crps_ratio(name, weights), axis=1)[:, m, k]
            out[f"slack_99_ratio {name}"] = mine / self.slack_matched(sums, weights)[:, m, k]
        return out

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures of docs/scoring.md over MAIN_METRICS and MAIN_STEPS together; see `main`.

        NaN is None; `intervals_95` come from a bootstrap of days.
        """
        scored = self.scored.any((1, 2))
        out: dict[str, Any] = {
            "users": int(scored.sum()),
            "ticks": int(self.ticks.sum()),
            "excluded": int((~scored).sum()),
        }
        if not scored.any():
            return out
        figures = {name: value[0] for name, value in self.figures().items()}
        blocks = len(self.count)
        weights = np.random.default_rng(seed).multinomial(blocks, [1 / blocks] * blocks, DRAWS)
        drawn = self.figures(weights.astype(np.float64)) if blocks > 1 else {}
        first = next(iter(self.rivals))
        slack = figures[f"slack_99_ratio {first}"]
        return out | {
            "crps_ratio": {name: mean(figures[f"crps_ratio {name}"]) for name in self.rivals},
            "coverage_95": mean(figures["coverage_95"]),
            "coverage_95_min": _number(figures["coverage_95"].min()),
            "coverage_95_max": _number(figures["coverage_95"].max()),
            "inside_95": mean(figures["inside_95"]),
            "users_within_92_98": self.users_within(self.main()),
            "bound_99": mean(figures["bound_99"]),
            "bound_99_min": _number(figures["bound_99"].min()),
            "bound_99_max": _number(figures["bound_99"].max()),
            "slack_99_ratio": mean(slack),
            "slack_99_ratio_max": None if np.isnan(slack).all() else _number(np.nanmax(slack)),
            "slack_99_ratio_by_rival": {
                name: mean(figures[f"slack_99_ratio {name}"]) for name in self.rivals
            },
            "slack_99_unmatched": int(np.isnan(slack).sum()),
            "excluded_by_metric": {
                metric: int((~self.scored[:, m].any(1)).sum())
                for m, metric in enumerate(METRICS)
                if self.scored[:, m].any()
            },
            "censored": int(self.censored.sum(0).max(-1).sum()),
            "metrics": [METRICS[m] for m in self.main()[0].ravel()],
            "steps": list(MAIN_STEPS),
            "intervals_95": {
                name: [_number(x) for x in np.nanquantile(_mean_of(value), [0.025, 0.975])]
                for name, value in drawn.items()
                if not np.isnan(_mean_of(value)).all()
            },
        }

    def table(self) -> list[dict[str, Any]]:
        """One row per metric and step that was scored; a figure that is not known is None."""
        return [
            self._row(m, k) for m in range(len(METRICS)) for k in range(STEPS) if self.scored[:, m, k].any()
        ]

    def _row(self, m: int, k: int) -> dict[str, Any]:
        count, censored = self.count[..., m, k].sum(), self.censored[..., m, k].sum()
        row: dict[str, Any] = {
            "metric": METRICS[m],
            "step": k + 1,
            "users": int(self.scored[:, m, k].sum()),
            "excluded": int((~self.scored[:, m, k]).sum()),
            "samples": int(count),
            "censored": int(censored),
            "crps_ratio": {},
            "users_worse": {},
            **self._forecaster(self.model, m, k),
            "users_within_92_98": self.users_within((m, k)),
            "reliability": {
                "nominal": RELIABILITY.tolist(),
                "realised": self.reliability(m, k)[0].tolist(),
            },
            "slack_ratio": {},
            "rivals": {},
        }
        for name, sums in self.rivals.items():
            ratio = self.crps_ratio(name)[0, :, m, k]
            row["crps_ratio"][name] = _number(geometric_mean(ratio, axis=0))
            row["users_worse"][name] = float((ratio > 1).sum() / (~np.isnan(ratio)).sum())
            theirs = self._forecaster(sums, m, k)
            row["rivals"][name] = theirs
            pair = row["slack_99_matched"], theirs["slack_99_matched"]
            row["slack_ratio"][name] = None if None in pair or not pair[1] else pair[0] / pair[1]
        return row

    def _forecaster(self, sums: Sums, m: int, k: int) -> dict[str, Any]:
        held, slack = self.curves(sums)
        censored = self.censored[..., m, k].sum()
        return {
            "crps": float(sums.crps[..., m, k].sum() / self.count[..., m, k].sum()),
            "coverage_95": float(self.shares(sums.covered)[0, m, k]),
            "inside_95": float(self.shares(sums.inside)[0, m, k]),
            "bound_99": float(held[0, _at(HELD_LEVELS, BOUND), m, k]),
            "slack_99": float(slack[0, _at(BOUND_LEVELS, BOUND), m, k]),
            "slack_99_matched": _number(self.slack_matched(sums)[0, m, k]),
            "censored_crps": float(sums.censored_crps[..., m, k].sum() / censored) if censored else None,
            "censored_bound_99": float(sums.censored_held[..., m, k].sum() / censored) if censored else None,
        }

    def reliability(self, m: int, k: int) -> Array:
        """Realised share at RELIABILITY, (1 + user, level): all together, then each user (NaN: not scored)."""
        held = self.model.held[..., m, k][:, np.isin(HELD_LEVELS, RELIABILITY)].sum(0)  # (level, user)
        n = self.count[..., m, k].sum(0)
        whole = held.sum(1) / max(n.sum(), 1)
        return np.vstack([whole, (held / _positive(n)).T])


def matched(held: Array, slack: Array, rate: float = BOUND) -> Array:
    """Slack where the realised rate is `rate`, of curves (draw, level, ...); NaN where they do not reach it.

    Between two levels slack is linear in the log of the share of misses.
    """
    x = np.moveaxis(-np.log(np.maximum(1 - held, 1e-9)), 1, -1)
    y = np.moveaxis(slack, 1, -1)
    at, out = -np.log(1 - rate), np.full(x.shape[:-1], np.nan)
    for i in np.ndindex(out.shape):
        if x[i][0] <= at <= x[i][-1]:
            out[i] = np.interp(at, x[i], y[i])
    return out


def geometric_mean(ratio: Array, axis: int) -> Array:
    """Over an axis without its NaN, a ratio counting as 1e-9 at least; NaN where there is none."""
    known = ~np.isnan(ratio)
    logs = np.where(known, np.log(np.maximum(np.where(known, ratio, 1), 1e-9)), 0).sum(axis)
    return np.where(known.any(axis), np.exp(logs / np.maximum(known.sum(axis), 1)), np.nan)


def mean(figure: Array) -> float | None:
    """Mean of the values that are not NaN; None without any."""
    return None if np.isnan(figure).all() else float(np.nanmean(figure))


def _mean_of(drawn: Array) -> Array:
    """Mean over metric and step of each draw, without NaN."""
    flat = drawn.reshape(len(drawn), -1)
    known = ~np.isnan(flat)
    return np.where(known.any(1), np.where(known, flat, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)


def _pooled(weights: Array, sums: NDArray[np.float32]) -> Array:
    """(block, ...) weighted (draw, block) and summed over its blocks, (draw, ...)."""
    return np.tensordot(weights, sums.astype(np.float64), 1)


def _positive(n: Array) -> Array:
    """N as a divisor: NaN where it is zero."""
    return np.where(n > 0, n, np.nan)


def _number(x: Any) -> float | None:
    return None if np.isnan(x) else float(x)
