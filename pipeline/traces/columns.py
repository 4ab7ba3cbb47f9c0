"""Columns of a trace as they come in files, as what they mean: names as texts, amounts as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import polars as pl

from models.metrics import EVENT_KINDS, METRIC_UNITS, METRICS

Place = Callable[[int], str]
"""Where a row stands, for people: "line 7"."""
ABSENT: Final = ("", "na", "n/a", "null", "none")
"""Texts, in any case, that stand for no number."""
_COMMA = r"^[+-]?\d*,\d+([eE][+-]?\d+)?$"
_THOUSAND_POINTS = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"
_WHOLE_MOST: Final[dict[pl.DataType, int]] = {pl.Float64(): 2**53, pl.Float32(): 2**24, pl.Float16(): 2**11}
"""Beyond it floats are no longer whole numbers each: ids would fall together."""


class ColumnError(ValueError):
    """A column or a value of it cannot be read; the text names it, where it is, and what would be right."""


def names(column: pl.Series) -> pl.Series:
    """Names of apps or users as the texts that producers send: numbers as whole numbers, without a point.

    Raises:
        ColumnError: the column holds neither texts nor whole numbers.
    """
    kind, name = column.dtype, column.name
    wanted = f"column {name!r} holds {kind}, not names: give texts"
    if isinstance(kind, (pl.String, pl.Null, pl.Categorical, pl.Enum)) or kind.is_integer():
        return column.cast(pl.String)
    if kind == pl.Binary:
        try:
            return column.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise ColumnError(f"{wanted}; its bytes are not UTF-8") from None
    if isinstance(kind, pl.Decimal):
        whole = column.cast(pl.String).str.replace(r"\.0*$", "")
        if whole.str.contains(".", literal=True).any():
            raise ColumnError(f"{wanted}; numbers with a fraction are no names")
        return whole
    if kind.is_float():  # whole numbers, of which some were missing where they were written
        given = column.fill_nan(None)
        whole = given.drop_nulls()
        most = _WHOLE_MOST[kind]
        if ((whole.floor() != whole) | (whole.abs() >= most)).any():
            raise ColumnError(f"{wanted}; numbers with a fraction, or of {most:,} or more, are no names")
        return given.cast(pl.Int64).cast(pl.String)
    raise ColumnError(wanted)


def numbers(
    frame: pl.DataFrame, columns: Sequence[str], place: Place, commas: bool
) -> tuple[pl.DataFrame, list[str]]:
    """Columns as float64, null where a value is absent; and a line on decimal commas, and on each that is doubtful.

    Args:
        frame: of the file.
        columns: names of those to read.
        place: of a row.
        commas: whether decimal commas are to be expected: semicolons separate fields.

    Raises:
        ColumnError: a column holds something else than numbers, a text that is none, or commas that may as well
            separate thousands, and no column has others.
    """
    texts = {name: _texts(frame[name]) for name in columns if _is_text(frame[name])}
    with_comma = [name for name, text in texts.items() if text.str.contains(",", literal=True).any()]
    doubtful = [name for name in with_comma if _ambiguous(texts[name])]
    refused = [] if commas and len(doubtful) < len(with_comma) else doubtful
    read = [
        _parsed(texts[name], place, with_comma, doubtful=name in refused)
        if name in texts
        else _typed(frame[name])
        for name in columns
    ]
    notes = [f"commas of column {name!r} are taken for decimal commas" for name in doubtful]
    return pl.DataFrame(read), [*notes, *(["numbers have decimal commas"] if with_comma else [])]


def unit(column: str) -> str:
    """Of a column's amounts, for people."""
    metric = column.rpartition(".")[2]
    return METRIC_UNITS[METRICS.index(metric)] if metric in METRICS else "1/s"


def meant(name: str) -> str | None:
    """The metric or kind of event for which a column that has another name was perhaps written; None if none was."""
    plain = re.split(r"[\s(\[]", name.strip().lower(), maxsplit=1)[0]
    for known in (*METRICS, *(f"limit.{m}" for m in METRICS), *(f"events.{kind}" for kind in EVENT_KINDS)):
        if name != known and plain == known.lower():
            return known
    return None


def points_of_thousands(amounts: pl.Series) -> bool:
    """Whether a text column's points may as well separate thousands: three digits follow each."""
    if not _is_text(amounts):
        return False
    texts = _texts(amounts)
    pointed = texts.filter(texts.str.contains(r"[.,]"))
    return bool(len(pointed) and pointed.str.contains(_THOUSAND_POINTS).all())


def _is_text(column: pl.Series) -> bool:
    return column.dtype == pl.String or isinstance(column.dtype, (pl.Categorical, pl.Enum))


def _texts(column: pl.Series) -> pl.Series:
    text = column.cast(pl.String).str.strip_chars()
    return pl.select(
        pl.when(text.str.to_lowercase().is_in(list(ABSENT))).then(None).otherwise(text).alias(column.name)
    ).to_series()


def _typed(column: pl.Series) -> pl.Series:
    if not (column.dtype.is_numeric() or column.dtype == pl.Null):
        raise ColumnError(
            f"column {column.name!r} holds {column.dtype}, not numbers: give {unit(column.name)} as numbers"
        )
    return column.cast(pl.Float64)


def _parsed(text: pl.Series, place: Place, with_comma: Sequence[str], *, doubtful: bool) -> pl.Series:
    name = text.name
    plain = text.str.replace(",", ".", literal=True) if with_comma else text
    value = plain.cast(pl.Float64, strict=False)
    odd = value.is_null() & text.is_not_null()
    if with_comma:
        points = text.str.contains(".", literal=True)
        odd |= points | (text.str.contains(",", literal=True) & ~text.str.contains(_COMMA))
    if odd.any():
        row = int(odd.arg_max() or 0)
        pointed = with_comma and "." in text[row] and "," not in text[row]
        why = (
            f"has a decimal point, and column {with_comma[0]!r} decimal commas" if pointed else "is no number"
        )
        raise ColumnError(f"column {name!r}, {place(row)}: {text[row]!r} {why}: give {unit(name)} as 1234.5")
    if doubtful:
        row = int(text.str.contains(",", literal=True).arg_max() or 0)
        raise ColumnError(
            f"column {name!r}, {place(row)}: {text[row]!r} may be a number of thousands or a decimal comma: give"
            f" {unit(name)} as 1234.5"
        )
    return value


def _ambiguous(text: pl.Series) -> bool:
    """Whether each comma may as well separate thousands."""
    return bool(text.filter(text.str.contains(",", literal=True)).str.contains(_THOUSANDS).all())
