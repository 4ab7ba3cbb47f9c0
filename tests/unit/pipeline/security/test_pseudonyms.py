"""Pseudonym keys: which is used when, whose state each carries over, and how a new one is added."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import UsageError
from pipeline.security import pseudonyms
from pipeline.security.pseudonyms import CARRIED_S, FORGET_S, Key, KeyRing
from pipeline.settings import Settings

DAY_S = 86_400


def ring(*carried: bool, every_s: int = DAY_S) -> KeyRing:
    """Keys "0", "1", ... with a change every so many seconds."""
    first = Key("0", b"0", 0)
    more = [Key(str(n), bytes([n]), n * every_s, carry_over) for n, carry_over in enumerate(carried, 1)]
    return KeyRing([first, *more])


def earlier(keys: KeyRing, tick_start_s: int) -> list[str]:
    return [key.key_id for key in keys.earlier(tick_start_s)]


def test_state_is_carried_over_from_the_keys_of_the_last_week() -> None:
    keys = ring(True, True, True)
    assert earlier(keys, DAY_S - 1) == []
    assert earlier(keys, DAY_S) == ["0"]
    assert earlier(keys, 3 * DAY_S) == ["2", "1", "0"]
    assert earlier(keys, DAY_S + CARRIED_S) == ["2", "1", "0"]
    assert earlier(keys, DAY_S + CARRIED_S + 1) == ["2", "1"]
    assert earlier(keys, 3 * DAY_S + CARRIED_S + 1) == []
    assert CARRIED_S - FORGET_S >= 3_600  # the longest tick


def test_a_key_that_does_not_carry_over_ends_the_chain() -> None:
    assert earlier(ring(True, False), 2 * DAY_S) == []
    assert earlier(ring(False, True), 2 * DAY_S) == ["1"]
    assert earlier(ring(False), DAY_S) == []


def test_no_secret_is_shown() -> None:
    assert "hidden" not in repr(KeyRing([Key("1", b"hidden", 0)]).keys)


def made(tmp_path: Path) -> Path:
    KeyRing.of(Settings(data_dir=tmp_path))
    return tmp_path / "keys" / "pseudonyms.json"


def test_rotate_adds_a_key_and_leaves_the_others(tmp_path: Path) -> None:
    settings, file = Settings(data_dir=tmp_path), made(tmp_path)
    before = json.loads(file.read_bytes())
    before[0]["comment"] = "stays"
    file.write_text(json.dumps(before))
    file.chmod(0o640)
    assert pseudonyms.rotate(settings, 1_000, carry_over=True)[0] == file
    _, third = pseudonyms.rotate(settings, 2_000, carry_over=False)
    listed = json.loads(file.read_bytes())
    assert listed[:1] == before
    assert [(k["key_id"], k["valid_from"], k.get("carry_over")) for k in listed] == [
        ("1", 0, None), ("2", 1_000, True), ("3", 2_000, False),
    ]  # fmt: skip
    assert len({k["secret"] for k in listed}) == 3
    assert KeyRing.of(settings).at(2_000) == third
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_new_keys_id_is_nobody_elses(tmp_path: Path) -> None:
    settings, file = Settings(data_dir=tmp_path), made(tmp_path)
    (key,) = json.loads(file.read_bytes())
    file.write_text(json.dumps([key | {"key_id": "2"}]))
    assert pseudonyms.rotate(settings, 1, carry_over=True)[1].key_id == "3"


def test_a_key_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    file, link = made(tmp_path), tmp_path / "link.json"
    link.symlink_to(file)
    pseudonyms.rotate(Settings(pseudonym_keys_file=link), 1_000, carry_over=True)
    assert link.is_symlink()
    assert len(json.loads(file.read_bytes())) == 2


@pytest.mark.parametrize(
    "wrong", [{"carry_over": "false"}, {"carry_over": 1}, {"secret": 3}, {"valid_from": None}]
)
def test_a_key_with_a_wrong_field_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    file = made(tmp_path)
    (key,) = json.loads(file.read_bytes())
    file.write_text(json.dumps([key, key | {"key_id": "2", "valid_from": 60} | wrong]))
    with pytest.raises(UsageError, match=r"not a JSON list of \{key_id, secret, valid_from\}") as error:
        KeyRing.read(file)
    assert key["secret"] not in str(error.value)


def command(tmp_path: Path, *words: str, **more: str) -> tuple[int, str]:
    done = CliRunner(env={"LEADTIME_DATA_DIR": str(tmp_path), **more}).invoke(app, ["pseudonyms", *words])
    return done.exit_code, done.output if done.exception is None else str(done.exception)


def test_an_operator_rotates_the_key(tmp_path: Path) -> None:
    secret = json.loads(made(tmp_path).read_bytes())[0]["secret"]
    code, output = command(tmp_path, "rotate", "--at", "2126-12-01T00:00Z")
    assert (code, output.splitlines()[0]) == (
        0,
        "key 2: from 2126-12-01 00:00:00 UTC, users keep their state",
    )
    at = str(KeyRing.of(Settings(data_dir=tmp_path)).keys[-1].valid_from + 60)
    code, output = command(tmp_path, "rotate", "--at", at, "--no-carry-over", "--json")
    assert (json.loads(output)["key_id"], json.loads(output)["carry_over"]) == ("3", False)
    assert command(tmp_path, "list")[1].splitlines() == [
        "key 1: from the beginning",
        "key 2: from 2126-12-01 00:00:00 UTC, users keep their state",
        "key 3: from 2126-12-01 00:01:00 UTC, users begin anew",
    ]
    assert secret not in command(tmp_path, "list", "--json")[1]


@pytest.mark.parametrize(
    ("words", "environment", "reason"),
    [
        (["rotate", "--at", "2020-01-01"], {}, "--at 2020-01-01 is past"),
        (["rotate", "--at", "soon"], {}, "'soon' is not a time"),
        (["rotate", "--at", "0"], {"LEADTIME_EVENT_TIME": "1"}, "must be valid from a later time"),
        (["rotate", "--at", "2126-12-01"], {"LEADTIME_DEMO_KEYS": "1"}, "LEADTIME_DEMO_KEYS is set"),
        (["rotate", "--at", "2126-12-01"], {"LEADTIME_DATA_DIR": "elsewhere"}, "elsewhere/keys/pseudonyms.json: No"),
        (["list"], {"LEADTIME_DATA_DIR": "elsewhere"}, "elsewhere/keys/pseudonyms.json: No"),
    ],
)  # fmt: skip
def test_what_cannot_be_rotated_is_one_line_and_changes_nothing(
    tmp_path: Path, words: list[str], environment: dict[str, str], reason: str
) -> None:
    file = made(tmp_path)
    before = file.read_bytes()
    code, output = command(tmp_path, *words, **environment)
    assert code != 0
    assert reason in output
    assert file.read_bytes() == before
    assert not Path("elsewhere").exists()
