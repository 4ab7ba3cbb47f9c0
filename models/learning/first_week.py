"""Which arm an app is planned with in its first week: a policy that is trained on the first weeks of other apps.

A gate (`models.learning.gate`) needs days of evidence to bring an arm into force. Until then an arm is chosen by what
this app has shown so far, and by which arms went on to save in training. With f(a) what is known of an arm (FEATURES),
g(a) = (1, [later than the first choice]) for the arm in force and 0 for the others, and weights u and v,

    score(a) = u . f(a) + v . g(a),        pi(a) = exp score(a) / sum over b of exp score(b)

is the policy that `models.learning.first_week_training` trains; the arm in force is that of the largest score. v is its
hysteresis. With saving as the only feature it is a threshold: an arm replaces another when it has saved v / u more.

What an arm saves is the first arm's loss less its own, of the first arm's spend, where a loss is spend and priced
misses. Over blocks of BLOCK_S with x the difference of a block and s the first arm's spend in it, the saving is
r = sum x / sum s, and its standard error that of a ratio (Cochran, Sampling Techniques, 3rd ed., 6.4), as in
`models.learning.saving`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.metrics import DAY_S, HOUR_S

BLOCK_S: Final = 6 * HOUR_S
"""Differences of ticks depend on each other, those of blocks little."""
RECENT: Final = 0.5 ** (BLOCK_S / DAY_S)
"""Share of older blocks that counts as recent after one more: half in a day."""
SPREAD: Final = 0.05
"""Standard deviation of what arms save in truth, of the first arm's spend: a saving of standard error e is shrunk by
SPREAD^2 / (SPREAD^2 + e^2)."""
UNKNOWN: Final = 0.1
"""Standard error before two blocks have ended."""
FEATURES: Final = (
    "saving",
    "shrunk",
    "young_saving",
    "error",
    "recent",
    "first",
    "supply",
    "same_time",
    "windows",
    "persistence",
)
"""saving: r. shrunk: r by SPREAD. young_saving: r by a day of the days known. error: standard error of r. recent: r
with older blocks faded. first: 1 for the first arm. supply: 1 for an arm with a supply of its own. The rest: weights of
the experts same time, windows of the last day, and present need with changes."""
STAYING: Final = ("stay", "stay_later")
PRIOR_FILE: Final = "first_week.json"
RELEASED_PRIOR: Final = Path(__file__).parents[1] / "released" / "first-week-2026-11a"

Array = NDArray[np.float64]


class Evidence:
    """What an app's arms have cost beside the first since the learner began.

    Args:
        kinds: (arm, 4) supply, same_time, windows and persistence of FEATURES.
        tick_s: tick length.

    Attributes:
        sums: (row, arm) of ROWS; what concerns the first arm alone is the same for all.
        block: number of the block that is not over; -1 before the first.
    """

    ROWS = ("open_x", "open_s", "blocks", "x", "s", "xx", "xs", "ss", "recent_x", "recent_s", "known")

    def __init__(self, kinds: Array, tick_s: int) -> None:
        self.kinds, self.tick_s = kinds, tick_s
        self.sums = np.zeros((len(self.ROWS), len(kinds)))
        self.block = -1

    def count(self, tick: int, spend: float, loss: Array, known: bool) -> None:
        """Add a tick; spend: of the first arm, loss: (arm), known: whether the tick's demand is."""
        block = tick * self.tick_s // BLOCK_S
        if block != self.block:
            self._end(max(1, block - self.block) if self.block >= 0 else 0)
            self.block = block
        self.sums[0] += loss - loss[0]
        self.sums[1] += spend
        self.sums[-1] += known

    def _end(self, blocks: int) -> None:
        """End the block; blocks: that have passed since it began."""
        x, s = self.sums[:2].copy()
        if s[0] > 0:
            self.sums[2:8] += np.stack([np.ones_like(x), x, s, x * x, x * s, s * s])
        self.sums[8:10] = (self.sums[8:10] + self.sums[:2]) * RECENT**blocks
        self.sums[:2] = 0.0

    @property
    def known_s(self) -> float:
        """Time with known demand."""
        return float(self.sums[-1, 0]) * self.tick_s

    def context(self) -> Array:
        """f of the module, (arm, FEATURES)."""
        open_x, open_s, blocks, x, s, xx, xs, ss, recent_x, recent_s, _ = self.sums
        saving = -(x + open_x) / np.maximum(s + open_s, 1e-12)
        error = np.full(len(x), UNKNOWN)
        if blocks[0] > 1:
            ratio = x / s
            squares = np.maximum(0.0, xx - 2 * ratio * xs + ratio * ratio * ss)
            error = np.sqrt(blocks / (blocks - 1) * squares) / s
        error[0] = 0.0
        recent = -(recent_x + open_x) / np.maximum(recent_s + open_s, 1e-12)
        young = min(1.0, DAY_S / max(self.known_s, 1.0))
        first = np.arange(len(x)) == 0
        shrunk = saving * SPREAD**2 / (SPREAD**2 + error**2)
        own = [saving, shrunk, saving * young, error, recent, first]
        return np.column_stack([*own, self.kinds])

    def blocks(self) -> dict[str, NDArray[Any]]:
        """For a snapshot."""
        return {"week": self.sums, "week_block": np.array(self.block)}

    def restore(self, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a snapshot; one from before there was any evidence begins anew."""
        if "week" in blocks:
            self.sums, self.block = blocks["week"].copy(), int(blocks["week_block"])


class Scores(Protocol):
    """What an app's learner asks which arm is to be in force."""

    def scores(self, context: Array, in_force: int, later: bool) -> Array:
        """(arm) of which the largest is; see `FirstWeek.scores`."""
        ...


@dataclass(frozen=True, eq=False)
class FirstWeek:
    """The policy.

    Attributes:
        weights: u of the module, by FEATURES.
        staying: v, by STAYING.
        facts: where it comes from, plain JSON.
    """

    weights: Array
    staying: Array
    facts: Mapping[str, Any]

    def scores(self, context: Array, in_force: int, later: bool) -> Array:
        """(arm) of the module; context: f; later: than the first choice."""
        made = (context * self.weights).sum(axis=1)
        made[in_force] += self.staying[0] + later * self.staying[1]
        return made

    def named(self) -> list[tuple[str, float]]:
        """Weights with their names."""
        names, weights = (*FEATURES, *STAYING), np.append(self.weights, self.staying)
        return list(zip(names, weights.tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Write PRIOR_FILE into a folder, which is made if absent.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            "weights": dict(zip(FEATURES, self.weights.tolist(), strict=True)),
            "staying": dict(zip(STAYING, self.staying.tolist(), strict=True)),
        }
        facts = {**self.facts, **weights, "weights_sha256": _digest(weights)}
        lines = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in facts.items())
        (folder / PRIOR_FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def load(cls, folder: Path) -> FirstWeek:
        """From a folder.

        Raises:
            ValueError: it holds no policy, or one of other features, or not the weights that it names.
        """
        try:
            facts = json.loads((folder / PRIOR_FILE).read_text())
            weights = {name: facts[name] for name in ("weights", "staying")}
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder} holds no policy of the first week: {error}") from error
        for name, expected in (("weights", FEATURES), ("staying", STAYING)):
            if tuple(weights[name]) != expected:
                raise ValueError(f"{folder / PRIOR_FILE}: {name} are not {', '.join(expected)}")
        if facts.get("weights_sha256") != _digest(weights):
            raise ValueError(f"{folder / PRIOR_FILE}: its weights are not those of weights_sha256")
        return cls(*(np.array(list(of.values()), np.float64) for of in weights.values()), facts=facts)


def thresholds(first: float, later: float, sharpness: float = 100.0) -> FirstWeek:
    """The policy by saving alone: an arm that has saved more than `first` begins, and later one that saved `later`.

    sharpness: of pi, which what is in force does not depend on.
    """
    weights = np.zeros(len(FEATURES))
    weights[0] = sharpness
    return FirstWeek(weights, sharpness * np.array([first, later - first]), {})


def _digest(weights: Mapping[str, Any]) -> str:
    """Of the weights as JSON: floats have their shortest text there."""
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()


def kinds(supply: Sequence[bool], experts: Sequence[Sequence[float]]) -> Array:
    """(arm, 4) of `Evidence`.

    Args:
        supply: whether an arm has a supply of its own.
        experts: weights of same time, windows and persistence of each arm.
    """
    return np.column_stack([np.array(supply, np.float64), np.array(experts, np.float64)])
