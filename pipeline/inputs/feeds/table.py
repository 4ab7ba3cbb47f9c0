"""A CSV of prices, a file or an address: columns offer_id and price, perhaps currency and interruption.

Lines are read each by itself, so that one that is broken leaves the others.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.inputs.feeds.feed import Answers, Feed, FeedFault, Quote, amount, each, only
from pipeline.inputs.feeds.web import MOST_BYTES, get
from pipeline.wire.currencies import DEFAULT

COLUMNS: Final = frozenset({"offer_id", "price", "currency", "interruption"})
LONGEST_LINE: Final = 4096
"""Bytes: an offer's id has some hundreds at most."""
MOST_INTERRUPTIONS_H: Final = 3600.0
"""As `pipeline.inputs.files` takes it: more than one a second is a unit mistaken."""


def read(feeds: Sequence[Feed], until_s: float) -> Answers:
    """Prices of one CSV, as `Reader`."""
    place = feeds[0].fields
    data = get(place["url"], until_s) if place["url"] else _file(Path(place["file"]))
    lines = parsed(data)
    return each(feeds, lambda feed: _quote(lines.get(feed.offer_id, [])))


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise FeedFault(f"{path}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise FeedFault(f"{path}: more than {MOST_BYTES // 1024**2} MiB")
    return data


def parsed(data: bytes) -> dict[str, list[dict[str, str]]]:
    """Rows by offer; a line that is no row, and one of more than LONGEST_LINE bytes, is left out.

    Raises:
        FeedFault: the first line does not name the columns.
    """
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").splitlines() if len(line) <= LONGEST_LINE]
    header = [name.strip() for name in _cells(lines[0])] if lines else []
    if not {"offer_id", "price"} <= set(header) <= COLUMNS or len(set(header)) < len(header):
        raise FeedFault("its first line must name offer_id and price, may name currency and interruption")
    by_offer: dict[str, list[dict[str, str]]] = {}
    for line in lines[1:]:
        cells = [cell.strip() for cell in _cells(line)]
        if len(cells) == len(header):
            row = dict(zip(header, cells, strict=True))
            by_offer.setdefault(row["offer_id"], []).append(row)
    return by_offer


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line.decode()), strict=True), [])
    except (csv.Error, UnicodeDecodeError):
        return []


def _quote(lines: Sequence[dict[str, str]]) -> Quote:
    row = only(lines, lambda row: row["price"])
    stated = row.get("interruption")
    if not stated:
        return Quote(amount(row["price"]), row.get("currency") or DEFAULT)
    try:
        interruption = float(stated)
    except ValueError:
        interruption = math.nan
    if not 0 <= interruption <= MOST_INTERRUPTIONS_H:
        raise FeedFault(f"interruption must be in 0 to {MOST_INTERRUPTIONS_H:g} an hour, got {stated[:40]!r}")
    return Quote(amount(row["price"]), row.get("currency") or DEFAULT, interruption)
