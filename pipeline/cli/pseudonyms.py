"""`leadtime pseudonyms`: list the keys that hide users, or replace the newest."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.command_line import command_group
from pipeline.errors import UsageError
from pipeline.options import AsJson

if TYPE_CHECKING:
    from pipeline.security.pseudonyms import Key

pseudonyms_app = command_group(
    no_args_is_help=True, help="List the keys that pseudonyms of users are made with, or add a new one."
)


def _shown(key: Key) -> dict[str, Any]:
    """A key without its secret."""
    return {"key_id": key.key_id, "valid_from": key.valid_from, "carry_over": key.carry_over}


def _line(key: Key) -> str:
    from pipeline.format import utc

    if not key.valid_from:
        return f"key {key.key_id}: from the beginning"
    kept = "users keep their state" if key.carry_over else "users begin anew"
    return f"key {key.key_id}: from {utc(key.valid_from)}, {kept}"


@pseudonyms_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys of this installation, without their secrets."""
    from pipeline.security.pseudonyms import KeyRing, keys_file
    from pipeline.settings import load_settings

    settings = load_settings()
    ring = KeyRing.of(settings) if settings.demo_keys else KeyRing.read(keys_file(settings))
    if as_json:
        print(json.dumps({"keys": [_shown(key) for key in ring.keys]}))
    else:
        print("\n".join(map(_line, ring.keys)))


@pseudonyms_app.command("rotate")
def rotate(
    at: Annotated[
        str,
        typer.Option(help="Event time from which the new key is used: 2026-12-01T00:00Z or Unix seconds."),
    ],
    carry_over: Annotated[
        bool,
        typer.Option(help="Users keep their state, and their pseudonyms can be linked; or all begin anew."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Add a new key to the installation's key file; each ingest must be started again with it before it is used."""
    from pipeline.format import parse_time
    from pipeline.security import pseudonyms
    from pipeline.settings import load_settings

    settings, valid_from = load_settings(), int(parse_time(at))
    if not settings.event_time and valid_from <= time.time():
        raise UsageError(f"--at {at} is past: frames of that time have the key before")
    path, key = pseudonyms.rotate(settings, valid_from, carry_over)
    if as_json:
        print(json.dumps({"file": str(path), **_shown(key)}))
    else:
        print(f"{_line(key)}\nnow in {path}: start each ingest again with it before then")
