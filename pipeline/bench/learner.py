"""The learner: regime shifts, what its gate lets through, and other learners on the same environment.

Keys of what is measured are in docs/learner.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.learning import arm_trials, recovery, rivals
from models.learning.episodes import Episode, of_series
from models.learning.recovery import Recovery
from models.learning.rivals import Result
from models.metrics import DAY_S
from models.purchase.table import Tiers
from models.synthetic.regimes import BURSTY, PLAIN, SHIFTS, Regime, demand
from pipeline.backtest import observations
from pipeline.errors import UsageError
from pipeline.progress import Progress, silent

PARTS: Final = ("shifts", "gate", "rivals")
FALSE_SEEDS: Final = 10
"""Seeds of identical arms for each seed of the other trials."""
RIVAL_SEEDS: Final = 10
TRAINING: Final = 1_000
"""First seed of what the DQN is trained on."""
UNSCORED_DAYS: Final = 2
SHIFTING: Final = (
    (PLAIN, 1 + 6),
    (replace(PLAIN, level=2 * PLAIN.level), 4),
    (replace(PLAIN, level=2 * PLAIN.level, bursts=BURSTY.bursts), 4),
    (PLAIN, 4),
    (replace(PLAIN, season_s=DAY_S / 2), 4),
)
"""Regimes of the simulated environment with shifts, and their days."""
BAD: Final = (-0.3, -1.0)
"""Shares that a Trojan arm knows once it is bad: it costs some 5 and 50 % more."""


def measured(
    parts: Sequence[str], seeds: int, files: Sequence[Path], progress: Progress = silent
) -> dict[str, Any]:
    """The parts' figures, by part.

    Args:
        parts: of PARTS; none: all.
        seeds: of each shift; identical arms have FALSE_SEEDS times as many.
        files: observations that `leadtime backtest --learner on --out` recorded, for the rivals.
        progress: of the seeds.

    Raises:
        UsageError: an unknown part, a file that holds no observations, or a rival's package that is missing.
    """
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"--only is one of {', '.join(PARTS)}, got {part!r}")
    wanted = parts or PARTS
    recorded = {str(path): observations.read(path) for path in files} if "rivals" in wanted else {}
    if "rivals" in wanted:
        _import_rivals()
    made: dict[str, Any] = {"seeds": seeds}
    if "shifts" in wanted:
        made["shifts"] = shifts(seeds, progress)
    if "gate" in wanted:
        made["gate"] = gate(seeds, progress)
    if "rivals" in wanted:
        made["rivals"] = contests(seeds, recorded, progress)
    return made


def shifts(seeds: int, progress: Progress = silent) -> list[dict[str, Any]]:
    """A row for each shift: medians over the seeds of what the learner and static take to be right again."""
    tables: recovery.Tables = {}
    by_shift: dict[str, list[Recovery]] = {name: [] for name in SHIFTS}
    for seed in range(seeds):
        progress("shifts", seed, seeds)
        for name, of in recovery.recoveries(seed, tuple(SHIFTS), 10, 7, tables).items():
            by_shift[name].append(of)
    progress("shifts", seeds, seeds)
    return [_shift(name, of) for name, of in by_shift.items()]


def _shift(name: str, of: Sequence[Recovery]) -> dict[str, Any]:
    learner, static = ([one.ticks[who] for one in of] for who in (0, 1))
    ours, other = _median(learner), _median(static)
    return {
        "shift": name,
        "learner_ticks": ours,
        "static_ticks": other,
        "static_own_ticks": _median([one.own for one in of]),
        "learner_never": learner.count(None),
        "static_never": static.count(None),
        "times_faster": None if ours is None or other is None else round(other / ours, 2),
        "learner_realised": round(float(np.mean([one.realised[0] for one in of])), 4),
        "static_realised": round(float(np.mean([one.realised[1] for one in of])), 4),
        "learner_cost_ratio": round(float(np.mean([one.cost_ratio[0] for one in of])), 3),
        "static_cost_ratio": round(float(np.mean([one.cost_ratio[1] for one in of])), 3),
        "promotions": sum(one.promotions for one in of),
        "rollbacks": sum(one.rollbacks for one in of),
    }


def _median(ticks: Sequence[int | None]) -> int | None:
    """Of the seeds; None: at least half of them are never right again."""
    middle = float(np.median([np.inf if t is None else t for t in ticks]))
    return int(middle) if np.isfinite(middle) else None


def gate(seeds: int, progress: Progress = silent) -> dict[str, Any]:
    """False promotions of identical arms, days to promote a true saving, and what a Trojan arm costs."""
    tables: dict[float, Tiers] = {}
    total = (FALSE_SEEDS + 1 + len(BAD)) * seeds
    begun, promoted = 0, 0
    for seed in range(FALSE_SEEDS * seeds):
        progress("gate", seed, total)
        of = arm_trials.identical(seed, 14, tables)
        promoted += of.proved() is not None
        begun += of.begun() is not None
    saved: list[arm_trials.Tried] = []
    for seed in range(seeds):
        progress("gate", FALSE_SEEDS * seeds + seed, total)
        saved.append(arm_trials.saving(seed, 12, tables))
    days = [of.begun() for of in saved]
    trojans: list[dict[str, Any]] = []
    for i, bad in enumerate(BAD):
        each: list[arm_trials.Trojan] = []
        for seed in range(seeds):
            progress("gate", (FALSE_SEEDS + 1 + i) * seeds + seed, total)
            trojan = arm_trials.trojan(seed, 18, bad, tables)
            each += [] if trojan is None else [trojan]
        trojans.append(_trojan(each))
    progress("gate", total, total)
    return {
        "identical_seeds": FALSE_SEEDS * seeds,
        "false_promotions": promoted,
        "false_promotions_share": round(promoted / (FALSE_SEEDS * seeds), 4),
        "false_beginnings": begun,
        "saving": round(float(np.mean([of.saving(1) for of in saved])), 4),
        "saving_in_force_days": _median(days),
        "saving_in_force_within_7": sum(day is not None and day <= 7 for day in days),
        "trojans": trojans,
    }


def _trojan(each: Sequence[arm_trials.Trojan]) -> dict[str, Any]:
    """Of the Trojan arms of one badness that came into force."""
    ticks = [np.inf if of.ticks is None else of.ticks for of in each]
    return {
        "in_force": len(each),
        "worse": round(float(np.mean([of.worse for of in each])), 3) if each else None,
        "back_after_days_p50": round(float(np.median(ticks)) / arm_trials.DAY, 2) if each else None,
        "back_after_days_max": round(max(ticks) / arm_trials.DAY, 2) if each else None,
        "lost_max": round(max(of.lost for of in each), 5) if each else None,
    }


def _import_rivals() -> None:
    """Import what the rivals need before anything is measured.

    Raises:
        UsageError: a package that is missing.
    """
    try:
        rivals.import_packages()
    except ImportError as error:
        raise UsageError(f"the rivals need more packages ({error}): uv sync --group rivals") from error


def contests(
    seeds: int, recorded: Mapping[str, Sequence[Episode]], progress: Progress = silent
) -> list[dict[str, Any]]:
    """A row for each environment and rival: simulated demand without and with shifts, and recorded observations.

    Args:
        seeds: of the shifts; the contests have a RIVAL_SEEDS-th of them, and as many to train on.
        recorded: episodes by the file that they are of; scored on the later half at most.
        progress: of the environments.
    """
    count = max(1, seeds // RIVAL_SEEDS)
    plain = [(PLAIN, 1 + 14)]
    environments: dict[str, Callable[[], dict[str, Result]]] = {
        "simulated": lambda: _simulated(plain, count),
        "simulated, shifts": lambda: _simulated(SHIFTING, count),
        **{name: partial(_recorded, of) for name, of in recorded.items()},
    }
    rows: list[dict[str, Any]] = []
    for number, (name, made) in enumerate(environments.items()):
        progress("rivals", number, len(environments))
        results = made()
        best = results["best_fixed"].cost_at
        rows += [
            {
                "environment": name,
                "rival": rival,
                "cost": round(of.cost, 2),
                "realised": round(of.realised, 4),
                "cost_at_99": round(of.cost_at, 2),
                "to_best_fixed": round(of.cost_at / best, 4),
            }
            for rival, of in results.items()
        ]
    progress("rivals", len(environments), len(environments))
    return rows


def _simulated(spans: Sequence[tuple[Regime, int]], count: int) -> dict[str, Result]:
    ticks = [(regime, days * recovery.DAY) for regime, days in spans]

    def episode(seed: int) -> Episode:
        series = demand(ticks, recovery.TICK_S, seed)
        whole = of_series(series, f"trial-{seed}", recovery.offers(1.0), recovery.POLICY, recovery.TICK_S)
        return replace(whole, scored=UNSCORED_DAYS * recovery.DAY)

    return rivals.contest(
        [episode(seed) for seed in range(count)], [episode(TRAINING + seed) for seed in range(count)]
    )


def _recorded(episodes: Sequence[Episode]) -> dict[str, Result]:
    later = [replace(of, scored=max(of.scored, len(of.need) // 2)) for of in episodes]
    return rivals.contest(later, ())


def for_people(made: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured, with tables narrow enough for a terminal."""
    shown = dict(made)
    if "shifts" in made:
        shown["shifts"] = [
            {
                "right again after, ticks": row["shift"],
                "learner": row["learner_ticks"] or "never",
                "static": row["static_ticks"] or "never",
                "of time": f"{row['learner_realised']:.2%}",
                "static's": f"{row['static_realised']:.2%}",
                "cost": f"{row['learner_cost_ratio']:.3f}",
                "static's cost": f"{row['static_cost_ratio']:.3f}",
            }
            for row in made["shifts"]
        ]
    if "rivals" in made:
        names = {"environment": "in", "rival": "rival", "cost": "cost", "realised": "of time"}
        names |= {"cost_at_99": "at the stated share", "to_best_fixed": "to best fixed"}
        shown["rivals"] = [{name: row[key] for key, name in names.items()} for row in made["rivals"]]
    return shown
