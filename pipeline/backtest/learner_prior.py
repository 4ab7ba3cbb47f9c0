"""Train what a new app's learner begins with on recorded episodes, and write it with its card.

Two priors: the policy of the first week (`models.learning.first_week`) and the share of critical prices above each
price (`models.learning.price_tail`). Both are validated by holding out one trace after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.learning import first_week_training as training
from models.learning import price_tail
from models.learning.app_learner import ARMS, CLEAR, CLEARER
from models.learning.episodes import Arena, Episode, arena, of_series
from models.learning.first_week import FirstWeek, thresholds
from models.learning.first_week_training import Lesson
from models.learning.recovery import POLICY, offers
from models.metrics import DAY_S
from models.purchase.table import Tiers
from models.synthetic.regimes import BURSTY, PLAIN, demand
from pipeline.backtest import observations
from pipeline.errors import UsageError
from pipeline.progress import Progress, silent

SIMULATED: Final = "simulated"
"""Name of the vote of simulated demand, which is trained on and never held out."""
SIMULATIONS: Final = (
    ("plain, 300 s", PLAIN, 300),
    ("bursts, 300 s", BURSTY, 300),
    ("rare bursts, 300 s", replace(PLAIN, bursts=3.0), 300),
    ("plain, 900 s", PLAIN, 900),
    ("bursts, 900 s", BURSTY, 900),
)
"""Names, regimes and tick lengths; each has the seed of the request and its own number."""
SIMULATED_DAYS: Final = 12
PRIOR_DAYS: Final = 4
"""Of an app, on which a prior of critical prices is judged: the three after the first."""
MIXTURES: Final = (0.0, 0.5, 1.0)
"""Shares of the apps' mean in the prior of critical prices that are tried; the rest is the one by hand."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PriorRequest:
    """What to train on.

    Attributes:
        files: observations, one a trace; a name before `=` names the trace, else the file's folder does.
        out: folder of the result; its name is the result's.
        seed: of the simulated demand.
        epochs: updates of the weights at most.
        simulated: whether to train on simulated demand too.
        judged: whether to take the real learner through every episode, trained without its trace.
    """

    files: Sequence[str]
    out: Path
    seed: int = 0
    epochs: int = 200
    simulated: bool = True
    judged: bool = False


@dataclass(frozen=True, eq=False)
class Source:
    """One trace: its name, its file, its episodes, and their tables of purchases.

    path: None of simulated demand.
    """

    name: str
    path: Path | None
    episodes: Sequence[Episode]
    tables: Sequence[dict[float, Tiers]]


def train(request: PriorRequest, progress: Progress = silent) -> FirstWeek:
    """Train, validate, and write; `facts` has all figures.

    Args:
        request: what to train on.
        progress: of the episodes, the traces held out, the updates.

    Raises:
        UsageError: a file holds no observations of today's arms, or too little; or traces have the same name.
    """
    sources = [_source(text) for text in request.files]
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1 or name == SIMULATED}):
        raise UsageError(f"{twice[0]} is the name of more than one trace: write NAME=FILE")
    if len(sources) < 2:
        raise UsageError("one trace after the other is held out: two files of observations are the least")
    every = [*sources, _simulated(request.seed)] if request.simulated else sources
    lessons = _lessons(every, progress)
    for name in names:
        if not any(lesson.trace == name for lesson in lessons):
            raise UsageError(f"{name}: no app's demand is known for a day and a half: nothing to learn from")
    checked = training.validate(lessons, names, request.epochs, progress)
    policy = training.Trainer(lessons).fit(training.votes(lessons), checked.updates, lambda done, made: None)
    facts: dict[str, Any] = {
        "name": request.out.name,
        "seed": request.seed,
        "updates": checked.updates,
        "epochs": request.epochs,
        "arms": list(ARMS),
        "trained_on": [_origin(source, lessons) for source in every],
        "held_out": checked.rows,
    }
    if request.judged:
        priors = _critical_prices(sources, progress)
        facts |= priors | {"judged": _judged(sources, checked.policies, progress)}
    policy = replace(policy, facts=facts)
    policy.save(request.out)
    (request.out / "MODEL_CARD.md").write_text(card(policy))
    return policy


def _source(text: str) -> Source:
    name, _, path = text.rpartition("=")
    file = Path(path)
    episodes = observations.read(file)
    if not episodes or min(len(of.need) for of in episodes) == 0:
        raise UsageError(f"{file} holds no app with a tick")
    return Source(name or file.resolve().parent.name, file, episodes, _tables(episodes))


def _tables(episodes: Sequence[Episode]) -> list[dict[float, Tiers]]:
    """One for each episode, the same where they buy alike."""
    known: list[tuple[Any, dict[float, Tiers]]] = []
    made: list[dict[float, Tiers]] = []
    for of in episodes:
        key = list(of.offers), of.policy, of.tick_s, of.seed
        tables = next((tables for other, tables in known if other == key), None)
        if tables is None:
            tables = {}
            known.append((key, tables))
        made.append(tables)
    return made


def _simulated(seed: int) -> Source:
    episodes = [
        of_series(
            demand([(regime, SIMULATED_DAYS * DAY_S // tick_s)], tick_s, seed + number),
            name,
            offers(1.0),
            POLICY,
            tick_s,
        )
        for number, (name, regime, tick_s) in enumerate(SIMULATIONS)
    ]
    return Source(SIMULATED, None, episodes, _tables(episodes))


def _lessons(sources: Sequence[Source], progress: Progress) -> list[Lesson]:
    each = [
        (source.name, *of) for source in sources for of in zip(source.episodes, source.tables, strict=True)
    ]
    made: list[Lesson] = []
    for number, (name, episode, tables) in enumerate(each):
        progress("episodes", number, len(each), f"{name} {episode.app}")
        made += training.lessons(name, episode, tables)
    progress("episodes", len(each), len(each), "")
    return made


def _arenas(source: Source, rows: int | None = None) -> list[Arena]:
    """Of a trace's episodes; rows: of each at most."""
    parts = [of if rows is None else training.part(of, 0, rows) for of in source.episodes]
    return [arena(of, tables) for of, tables in zip(parts, source.tables, strict=True)]


def _critical_prices(sources: Sequence[Source], progress: Progress) -> dict[str, Any]:
    """The mean share of critical prices of apps, and each mixture with the one by hand on traces held out."""
    shares: dict[str, list[Array]] = {}
    for number, source in enumerate(sources):
        progress("critical prices", number, 2 * len(sources), source.name)
        shares[source.name] = [training.critical_prices(of) for of in _arenas(source)]
    rows: list[dict[str, Any]] = []
    for number, source in enumerate(sources):
        progress("critical prices", len(sources) + number, 2 * len(sources), source.name)
        others = [of for name, each in shares.items() if name != source.name for of in each]
        day = DAY_S // source.episodes[0].tick_s
        short = [
            replace(of, episode=replace(of.episode, scored=day)) for of in _arenas(source, PRIOR_DAYS * day)
        ]
        for mixture in MIXTURES:
            prior = mixture * np.mean(others, axis=0) + (1 - mixture) * price_tail.PRIOR
            of = [training.outcome(each, training.first_arm_alone(), prior) for each in short]
            rows.append({"trace": source.name, "mixture": mixture} | _summed(of))
    progress("critical prices", 2 * len(sources), 2 * len(sources), "")
    mean = np.mean([of for each in shares.values() for of in each], axis=0)
    return {"critical_prices": mean.round(6).tolist(), "critical_prices_held_out": rows}


def _summed(of: Sequence[training.Outcome]) -> dict[str, Any]:
    ticks, misses = sum(one.judged.ticks for one in of), sum(one.judged.misses for one in of)
    return {
        "cost": round(sum(one.judged.cost for one in of), 2),
        "realised": round(1 - misses / max(1, ticks), 4),
        "cost_at": round(sum(one.cost_at for one in of), 2),
    }


def _judged(
    sources: Sequence[Source], trained: Mapping[str, FirstWeek], progress: Progress
) -> list[dict[str, Any]]:
    """A row for each trace and rule: the real learner over whole episodes from their second day on."""
    rows: list[dict[str, Any]] = []
    for number, source in enumerate(sources):
        progress("judged", number, len(sources), source.name)
        rules = {
            "first_arm": training.first_arm_alone(),
            "thresholds": thresholds(CLEAR, CLEARER),
            "trained": trained[source.name],
        }
        arenas = [
            replace(of, episode=replace(of.episode, scored=DAY_S // of.episode.tick_s))
            for of in _arenas(source)
        ]
        by_rule = {rule: [training.outcome(of, policy) for of in arenas] for rule, policy in rules.items()}
        for rule, of in by_rule.items():
            first = by_rule["first_arm"]
            worse = sum(one.cost_at > 1.005 * two.cost_at for one, two in zip(of, first, strict=True))
            rows.append({"trace": source.name, "rule": rule} | _summed(of) | {"apps_worse_than_first": worse})
    progress("judged", len(sources), len(sources), "")
    return rows


def _origin(source: Source, lessons: Sequence[Lesson]) -> dict[str, Any]:
    """What of a trace was learnt from."""
    first = min(of.first_tick * of.tick_s for of in source.episodes)
    last = max((of.first_tick + len(of.need)) * of.tick_s for of in source.episodes)
    facts: dict[str, Any] = {
        "trace": source.name,
        "apps": [of.app for of in source.episodes],
        "tick_s": source.episodes[0].tick_s,
        "lessons": sum(lesson.trace == source.name for lesson in lessons),
    }
    if source.path is None:
        return facts
    digest = hashlib.sha256(source.path.read_bytes()).hexdigest()
    return facts | {"from_s": first, "until_s": last, "sha256": digest}


def for_people(policy: FirstWeek) -> dict[str, Any]:
    """What was trained, with tables for a terminal."""
    facts = policy.facts
    shown = {"name": facts["name"], "updates": facts["updates"]}
    shown["held out"] = [dict(zip(row, _shares(row), strict=True)) for row in facts["held_out"]]
    if "judged" in facts:
        shown |= {"the real learner": facts["judged"], "critical prices": facts["critical_prices_held_out"]}
    return shown | {"weights": [{"feature": name, "weight": of} for name, of in policy.named()]}


def card(policy: FirstWeek) -> str:
    """The model card, Markdown: what was trained, on what, how to do it again, and what held-out traces say."""
    facts = policy.facts
    files = " ".join(f"{of['trace']}=observations.npz" for of in facts["trained_on"] if "sha256" in of)
    simulated = any("sha256" not in of for of in facts["trained_on"])
    weights = dict(policy.named())
    parts = [
        f"# {facts['name']}",
        "What the learner of a new app may begin with: a policy that chooses the arm in the app's first week"
        f" (`models/learning/first_week.py`, {len(weights)} weights), and the mean of apps' critical prices"
        " (`models/learning/price_tail.py`). Trained by `models/learning/first_week_training.py`.",
        "## Data",
        _table(
            ["trace", "tick", "apps", "from", "until", "lessons", "sha256 of its observations"],
            [_origin_row(of) for of in facts["trained_on"]],
        ),
        f"Arms: {', '.join(facts['arms'])}. A lesson is an app's first fortnight; one begins every day and a half.",
        "## Reproduce",
        "Record each trace with `leadtime backtest ... --learner on --out DIR`, then\n\n"
        f"    leadtime train-learner {files} --out {facts['name']} --seed {facts['seed']}"
        f" --epochs {facts['epochs']}{'' if simulated else ' --no-simulated'}"
        f"{' --judge' if 'judged' in facts else ''}",
        f"The number of updates, {facts['updates']} of {facts['epochs']}, is that of the best mean over all"
        " held-out traces, which makes their figures a little too good.",
        "## Held-out traces, by lesson",
        "Share of the first arm's spend that is saved, misses priced; *lost*: of it what the lessons lost that"
        " lost. The policy of each row is trained without that trace.",
        _table(list(facts["held_out"][0]), [_shares(row) for row in facts["held_out"]]),
    ]
    if "judged" in facts:
        parts += [
            "## Held-out traces, the real learner",
            "Whole episodes from their second day on, with gate and rollback. `cost_at`: moved to the stated share"
            " along the frontier of fixed prices. `first_arm`: no arm is chosen in the first week.",
            _table(list(facts["judged"][0]), [list(map(_cell, row.values())) for row in facts["judged"]]),
            "## Held-out traces, the prior of critical prices",
            "The three days after an app's first, the first arm alone. `mixture`: share of the apps' mean in the"
            " prior; 0 is the one by hand.",
            _table(
                list(facts["critical_prices_held_out"][0]),
                [list(map(_cell, row.values())) for row in facts["critical_prices_held_out"]],
            ),
        ]
    parts += [
        "## Weights",
        _table(["feature", "weight"], [[name, _cell(of)] for name, of in weights.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _origin_row(of: Mapping[str, Any]) -> list[str]:
    window = [
        datetime.fromtimestamp(of[name], UTC).strftime("%Y-%m-%dT%H:%MZ") if name in of else "–"
        for name in ("from_s", "until_s")
    ]
    digest = f"`{of['sha256'][:12]}…`" if "sha256" in of else "–"
    return [of["trace"], f"{of['tick_s']} s", str(len(of["apps"])), *window, str(of["lessons"]), digest]


def _shares(row: Mapping[str, Any]) -> list[str]:
    return [f"{100 * of:.1f} %" if isinstance(of, float) else str(of) for of in row.values()]


def _cell(of: Any) -> str:
    return f"{of:.6g}" if isinstance(of, float) else str(of)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
