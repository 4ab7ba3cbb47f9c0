"""Records as lines of JSON: the same bytes for the same records."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.wire.codec import Record


def lines(path: Path, records: Iterable[Record]) -> None:
    """Records as JSON lines, the same bytes for the same records."""
    path.write_text("".join(json.dumps(record, default=_plain, sort_keys=True) + "\n" for record in records))


def _plain(value: Any) -> str:
    return (
        value.hex()
        if isinstance(value, bytes)
        else value.isoformat()
        if hasattr(value, "isoformat")
        else str(value)
    )
