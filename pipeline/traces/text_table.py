"""Text tables (CSV and its kin) as frames of texts: separator, comments and byte order marks are told from the file."""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.errors import UsageError

SUFFIXES: Final = (".csv", ".tsv", ".txt")
SEPARATORS: Final = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
WANTED: Final = ("ts", "app", "user")


@dataclass(frozen=True)
class TextTable:
    """A text table, read.

    Attributes:
        frame: a column of texts for each field of the header, as they stand in the file; null = nothing between two
            separators.
        separator: between fields.
        notes: what was told from the file and may be wrong, a line each.
        body: the file's text from its header on, in UTF-8.
        lines_before: lines above the header.
        comments: whether lines below the header that begin with # are comments.
    """

    frame: pl.DataFrame
    separator: str
    notes: tuple[str, ...]
    body: bytes
    lines_before: int
    comments: bool

    def line_of(self, row: int) -> int:
        """Number of the line in the file, from 1, on which a row of the frame ends."""
        return next(line for number, (line, _) in enumerate(_rows(self)) if number == row)


def read(path: Path) -> TextTable:
    """Read a text table.

    Raises:
        UsageError: it cannot be read, is not in UTF-8 or UTF-16, is empty, has a column twice, or a line more or
            fewer fields than the header.
    """
    data = _utf8(path)
    start, lines_before, separator = 0, 0, ""
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        line = data[start:end].strip()
        if line[:4].lower() == b"sep=":  # Excel's own
            separator = line[4:].decode(errors="replace") or "\t"
        elif line and not line.startswith(b"#"):
            break
        start, lines_before = end, lines_before + 1
    body = data[start:]
    if not body.strip():
        raise UsageError(f"{path}: no rows")
    header = body.partition(b"\n")[0].decode(errors="replace").rstrip("\r")
    if "\0" in header:
        raise UsageError(f"{path}: is no text in UTF-8, its first line has NUL bytes: save it as UTF-8")
    separator = separator if separator in SEPARATORS else _separator(header)
    names = _fields(header, separator)
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise UsageError(
            f"{path}: column {twice[0]!r} is there {names.count(twice[0])} times: leave one of them"
        )
    table = TextTable(pl.DataFrame(), separator, (), body, lines_before, comments=names[0] == "ts")
    try:
        frame = pl.read_csv(
            io.BytesIO(body),
            separator=separator,
            infer_schema=False,
            comment_prefix="#" if table.comments else None,
            new_columns=names if len(set(names)) == len(names) else None,  # else several have no name
        )
    except pl.exceptions.NoDataError as error:
        raise UsageError(f"{path}: no rows") from error
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"{path}: {_why(table, names) or str(error).splitlines()[0]}") from error
    if why := _short(table, names, frame):
        raise UsageError(f"{path}: {why}")
    notes = [] if separator == "," else [f"fields are separated by {SEPARATORS[separator]}"]
    return TextTable(frame, separator, tuple(notes), body, lines_before, table.comments)


def _utf8(path: Path) -> bytes:
    """A file's text in UTF-8 without a byte order mark, its lines ended by line feeds."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: begins as UTF-16 and is none ({error.reason}): save it as UTF-8"
            ) from None
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\n" not in data:  # lines end as on a Mac of old
        data = data.replace(b"\r", b"\n")
    return data


def _separator(header: str) -> str:
    """The one at which the header falls into the columns wanted; else the one that makes most columns of it."""

    def fit(separator: str) -> tuple[int, int]:
        names = _fields(header, separator)
        return sum(name in names for name in WANTED), len(names)

    return max(SEPARATORS, key=fit)


def _fields(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [line])]


def _rows(table: TextTable) -> list[tuple[int, list[str]]]:
    """Number of the last line, and fields, of each row below the header. Read again: errors alone need it."""
    text = io.StringIO(table.body.decode(errors="replace"), newline="")
    reader = csv.reader(text, delimiter=table.separator)
    next(reader, None)
    return [
        (table.lines_before + reader.line_num, fields)
        for fields in reader
        if not (table.comments and fields and fields[0].startswith("#"))
    ]


def _short(table: TextTable, names: list[str], frame: pl.DataFrame) -> str:
    """Which line has fewer fields than the header, as where a file was cut off; "" if none has."""
    separators = (frame.height + 1) * (len(names) - 1)
    counted = b'"' not in table.body and not (table.comments and b"\n#" in table.body)
    if not frame[:, -1].null_count() or (
        counted and table.body.count(table.separator.encode()) == separators
    ):
        return ""
    for line, fields in _rows(table):
        missing = ", ".join(filter(None, names[len(fields) :]))
        if missing and "".join(fields).strip():
            return f"line {line} has {len(fields)} fields, and the header {len(names)}: {missing} missing"
    return ""


def _why(table: TextTable, names: list[str]) -> str:
    """What is wrong with a table that polars refuses; "" if it is nothing of the usual."""
    try:
        table.body.decode()
    except UnicodeDecodeError as error:
        line = table.lines_before + table.body.count(b"\n", 0, error.start) + 1
        return f"line {line} is not in UTF-8 (byte 0x{table.body[error.start]:02x}): save the file as UTF-8"
    for line, fields in _rows(table):
        if len(fields) > len(names):
            comma = table.separator == "," and any(
                re.fullmatch(r"\s*[+-]?\d+", field) for field in fields[-2:]
            )
            hint = "; numbers with decimal commas need quotes or another separator, as ';'" if comma else ""
            return (
                f"line {line} has {len(fields)} fields, and the header {len(names)}: {', '.join(names)}{hint}"
            )
    if line := _unclosed(table):
        return f"line {line} has a quote that is not closed, or text behind one that is"
    if stray := re.search(rb"\r(?!\n)", table.body):
        line = table.lines_before + table.body.count(b"\n", 0, stray.start()) + 1
        return f"line {line} ends in a carriage return, others in line feeds: save the file with one kind of line ends"
    inside = (
        rb"(?m)(?:^|"
        + re.escape(table.separator.encode())
        + rb')[^"\n'
        + re.escape(table.separator.encode())
        + rb']+"'
    )
    if quote := re.search(inside, table.body):
        line = table.lines_before + table.body.count(b"\n", 0, quote.end()) + 1
        return f"line {line} has a quote inside a field: quote the whole field, and write two quotes for the one inside"
    return ""


def _unclosed(table: TextTable) -> int:
    """The line at which a quoted field begins that does not end as such; 0 where all do."""
    text = io.StringIO(table.body.decode(errors="replace"), newline="")
    reader = csv.reader(text, delimiter=table.separator, strict=True)
    ended = 0
    try:
        for _ in reader:
            ended = reader.line_num
    except csv.Error:
        return table.lines_before + ended + 1
    return 0
