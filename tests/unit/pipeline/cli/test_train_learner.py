"""`leadtime train-learner`: a policy and its card from tiny observations, and input that it cannot use."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from models.learning.app_learner import ARMS
from models.learning.first_week import FirstWeek
from models.learning.price_tail import PRICES
from models.learning.recovery import OFFER, POLICY
from pipeline.cli.train_learner import train_learner
from pipeline.errors import UsageError

TICK_S = 3600
DAY = 86_400 // TICK_S


@pytest.fixture(scope="module")
def command() -> typer.Typer:
    app = typer.Typer()
    app.command("train-learner")(train_learner)
    app.callback()(lambda: None)  # one command alone would have no name
    return app


def arrays(seed: int, days: int, **changed: Any) -> dict[str, np.ndarray]:
    """Observations of one app whose arms want more or less; `changed` facts."""
    rng = np.random.default_rng(seed)
    ticks = days * DAY
    wanted = 20 + 2 * np.arange(len(PRICES)) + rng.integers(0, 4, (ticks, 1 + len(ARMS), 1))
    facts = {
        "format": 1,
        "offers": [asdict(OFFER)],
        "policy": asdict(POLICY),
        "terms": {},
        "tick_s": TICK_S,
        "seed": 0,
        "first_tick": 480_000,
        "scored": 0,
    } | changed
    return {
        "arms": np.array(list(ARMS)),
        "prices": np.array(PRICES),
        "shop\nneed": rng.integers(18, 40, ticks).astype(float),
        "shop\ncurve": np.stack([wanted, np.zeros_like(wanted)], axis=1).astype(np.int32),
        "shop\nfacts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
    }


def written(path: Path, of: Mapping[str, np.ndarray]) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **of)
    return path


def run(command: typer.Typer, *arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(
        command, ["train-learner", *map(str, arguments), "--no-simulated", "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_a_policy_and_its_card_say_where_they_come_from(command: typer.Typer, tmp_path: Path) -> None:
    files = [written(tmp_path / name / "observations.npz", arrays(seed, 4)) for seed, name in enumerate("ab")]
    out = tmp_path / "tiny"
    facts = run(command, files[0], f"shop={files[1]}", "--out", out, "--epochs", "20", "--judge")
    assert facts["name"] == "tiny"
    assert [of["trace"] for of in facts["trained_on"]] == ["a", "shop"]
    assert {row["rule"] for row in facts["judged"]} == {"first_arm", "thresholds", "trained"}
    assert len(facts["critical_prices"]) == 80
    policy = FirstWeek.load(out)
    assert policy.facts["held_out"] == facts["held_out"]
    text = (out / "MODEL_CARD.md").read_text()
    assert "leadtime train-learner a=observations.npz shop=observations.npz --out tiny --seed 0" in text
    assert facts["trained_on"][0]["sha256"][:12] in text


def test_equal_commands_give_equal_bytes(command: typer.Typer, tmp_path: Path) -> None:
    files = [written(tmp_path / name / "observations.npz", arrays(seed, 4)) for seed, name in enumerate("ab")]
    made: list[bytes] = []
    for folder in ("first", "second"):
        out = tmp_path / folder / "tiny"
        run(command, *files, "--out", out, "--epochs", "20")
        made.append((out / "first_week.json").read_bytes() + (out / "MODEL_CARD.md").read_bytes())
    assert made[0] == made[1]


def refused(command: typer.Typer, message: str, *arguments: str | Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run(command, *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"a text", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00"])
def test_a_file_of_something_else_is_refused(command: typer.Typer, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "observations.npz"
    path.write_bytes(content)
    refused(command, "observations.npz holds no observations", path, path, "--out", tmp_path / "out")


def test_an_array_alone_is_refused(command: typer.Typer, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    refused(command, "it is not an npz", tmp_path / "one.npy", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (arrays(0, 4) | {"arms": np.array(["network"])}, "observations of the arms network at 14 prices"),
        ({name: of for name, of in arrays(0, 4).items() if "\n" not in name}, "holds no app with a tick"),
        (arrays(0, 0), "holds no app with a tick"),
        (arrays(0, 1), "no app's demand is known for a day and a half"),
        (arrays(0, 4) | {"shop\nneed": np.full(4 * DAY, np.nan)}, "no app's demand is known"),
        ({name: of for name, of in arrays(0, 4).items() if name != "shop\nneed"}, "of another version"),
        (arrays(0, 4, offers=[{"name": "od"}]), "of another version"),
    ],
)
def test_observations_that_teach_nothing_are_refused(
    command: typer.Typer, tmp_path: Path, of: dict[str, np.ndarray], message: str
) -> None:
    good = written(tmp_path / "good" / "observations.npz", arrays(1, 4))
    bad = written(tmp_path / "bad" / "observations.npz", of)
    refused(command, message, good, bad, "--out", tmp_path / "out")


def test_two_traces_with_names_of_their_own_are_needed(command: typer.Typer, tmp_path: Path) -> None:
    path = written(tmp_path / "observations.npz", arrays(1, 4))
    refused(command, "two files of observations are the least", path, "--out", tmp_path / "out")
    same = f"a={path}"
    refused(command, "a is the name of more than one trace", same, same, "--out", tmp_path / "out")
