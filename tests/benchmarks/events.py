"""What events are worth: the same network trained and scored with them and without, on a population that they lead.

    python -m tests.benchmarks.events [--updates 1000] [--rows 64] [--json]

Nothing but simulated populations is learnt from; the population that is scored has a seed that neither has seen.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np

from models.behaviour import training
from models.behaviour.training_series import Series
from models.evaluation import forecast_pass
from models.evaluation.trace_window import TraceWindow
from models.synthetic import population as synthetic
from models.synthetic.series import population_series

TRAINED = tuple((seed, 60, 2880) for seed in (101, 102, 103, 104))  # seed, tick_s, ticks
CHECKED = (105, 60, 1440)
SCORED: Any = {"seed": 77, "tick_s": 60, "ticks": 2880, "apps": 2, "users_per_app": 15}


def without(series: list[Series]) -> list[Series]:
    """The series with their events hidden."""
    return [replace(one, events=np.full_like(one.events, np.nan)) for one in series]


def ablation(updates: int, rows: int, *, hidden: bool, seed: int = 0) -> dict[str, Any]:
    """Train and score one network; `hidden`: neither training nor scoring sees an event."""
    shown = without if hidden else list
    fit = shown([one for population in TRAINED for one in population_series(*population)])
    check = [(one, len(one.values) // 2) for one in shown(population_series(*CHECKED))]
    model = training.fit(
        fit,
        check,
        training.FitSettings(seed, updates, check_every=max(1, updates // 10), rows=rows),
        model_id="without-events" if hidden else "with-events",
    )
    people = synthetic.population(**SCORED)
    events = np.full_like(people.events, np.nan) if hidden else people.events
    summary = forecast_pass.evaluate(
        model,
        TraceWindow(
            people.values,
            events,
            people.saturated,
            first_tick=int(people.ticks[0]),
            tick_s=people.tick_s,
            score_from=len(people.ticks) // 2,
        ),
        people.users,
        seed=seed,
    ).summary(seed)
    kept = ("coverage_95", "bound_99")
    return {name: round(summary[name], 4) for name in kept} | {
        "crps_ratio": round(summary["crps_ratio"]["persistence"], 4),
        "slack_99_ratio": round(summary["slack_99_ratio"], 4),
    }


def main() -> None:
    """Print the figures of both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    found = {
        name: ablation(given.updates, given.rows, hidden=hidden)
        for name, hidden in (("with events", False), ("without events", True))
    }
    if given.json:
        print(json.dumps({"updates": given.updates, "rows": given.rows, **found}))
        return
    for name, row in found.items():
        print(f"{name:>14}: {', '.join(f'{key} {value}' for key, value in row.items())}")


if __name__ == "__main__":
    main()
