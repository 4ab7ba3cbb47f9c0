"""The Avro schemas as data: `schemas/<record>/<version>.avsc`, every version ever published."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@cache
def versions(name: str) -> dict[int, dict[str, Any]]:
    """All published versions of a record's schema, by number, ascending."""
    files = sorted((FOLDER / name).glob("*.avsc"), key=lambda file: int(file.stem))
    return {int(file.stem): json.loads(file.read_text()) for file in files}


@cache
def names() -> tuple[str, ...]:
    """Names of all records."""
    return tuple(sorted(folder.name for folder in FOLDER.iterdir() if any(folder.glob("*.avsc"))))
