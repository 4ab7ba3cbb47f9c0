"""What the learners of a backtest observed, as a file: NumPy's npz, an app's arrays by `app\\nname`.

| name | what it is |
|---|---|
| `need` | (tick) replicas that demand filled, NaN = not known |
| `curve` | (tick, 2, 1 + arm, price) replicas wanted, and soon: at the policy's confidence, then of each arm |
| `facts` | JSON: offers, policy, terms, tick length, seed, first tick, and the row from which on the backtest scored |

`arms` and `prices` are those of the curves: what other arms recorded is not read.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy
from models.evaluation.simulated_cloud import Terms
from models.learning.app_learner import ARMS
from models.learning.episodes import Episode
from models.learning.price_tail import PRICES
from pipeline.backtest.job import Arrays, Job
from pipeline.errors import UsageError

FILE: Final = "observations.npz"
FORMAT: Final = 1


def write(path: Path, job: Job, ours: Arrays, scored: int) -> None:
    """Write the observations of all apps.

    Args:
        path: of the file.
        job: what was simulated.
        ours: outcomes, (tick from the first plan on, app, ...), with `filled` and `curve`.
        scored: row of `ours` from which on the backtest scored.
    """
    arrays: dict[str, NDArray[Any]] = {"arms": np.array(list(ARMS)), "prices": np.array(PRICES)}
    for a, app in enumerate(job.apps):
        facts = {
            "format": FORMAT,
            "offers": [asdict(offer) for offer in job.offers[job.markets[0]][app]],
            "policy": asdict(job.policies[app]),
            "terms": {name: asdict(of) for name, of in job.terms.items()},
            "tick_s": job.tick_s,
            "seed": job.seed,
            "first_tick": job.first_tick + job.plan_from,
            "scored": scored,
        }
        arrays[f"{app}\nneed"] = ours["filled"][:, a]
        arrays[f"{app}\ncurve"] = _continued(ours["curve"][:, a])
        arrays[f"{app}\nfacts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _continued(curve: NDArray[np.int32]) -> NDArray[np.int32]:
    """The curve with that of the tick before where an app had no users, which is 0."""
    known = curve.any(axis=(1, 2, 3))
    last = np.maximum.accumulate(np.where(known, np.arange(len(curve)), 0))
    return curve[last]


def read(path: Path) -> list[Episode]:
    """The episodes of a file, by app.

    Raises:
        UsageError: no such file, or one of something else or of other arms.
    """
    try:
        with path.open("rb") as stream:  # np.load leaves a file open that it refuses
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is not an npz")
            stream.seek(0)
            arrays = dict(np.load(stream))
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} holds no observations: {error}") from error
    arms, prices = (tuple(arrays.get(name, np.array([])).tolist()) for name in ("arms", "prices"))
    if arms != tuple(ARMS) or prices != PRICES:
        raise UsageError(
            f"{path} holds observations of the arms {', '.join(map(str, arms)) or '(none)'} at {len(prices)} prices;"
            f" today's are {', '.join(ARMS)} at {len(PRICES)}: run the backtest again"
        )
    apps = [name.removesuffix("\nfacts") for name in arrays if name.endswith("\nfacts")]
    try:
        return [_episode(app, arrays) for app in sorted(apps)]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} holds observations of another version: {error!r}") from error


def _episode(app: str, arrays: Mapping[str, NDArray[Any]]) -> Episode:
    facts = json.loads(arrays[f"{app}\nfacts"].tobytes())
    curve = arrays[f"{app}\ncurve"].astype(np.int64)
    policy: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts["policy"].items()
    }
    return Episode(
        app,
        [Offer(**offer) for offer in facts["offers"]],
        Policy(**policy),
        {name: Terms(**of) for name, of in facts["terms"].items()},
        facts["tick_s"],
        facts["seed"],
        facts["first_tick"],
        arrays[f"{app}\nneed"],
        curve[:, 0],
        curve[:, 1],
        facts["scored"],
    )
