"""HTML parts of all reports: the document with its style sheet, tables, bars and intervals.

A report is one file: no script, no request for anything else, colours by the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

from pipeline.reports import charts

Kind = Literal["second", "rows", "prose"]
UNCUT: Final = 12  # characters of a row's name that fit the narrowest screen
LONGEST_BAR: Final = 2.5
"""Of a bar chart, in lengths of its reference bar: longer bars are cut and fade, else one outlier flattens the rest."""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

    Attributes:
        label: name shown.
        value: length, at least 0.
        text: the value as it is shown.
        remark: beside the value, in a muted colour.
        role: colour: a name of `charts.THEME`, empty for the muted colour.
        hint: shown where the reader points at the label.
    """

    label: str
    value: float
    text: str
    remark: str = ""
    role: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart: a value with both ends of its interval, and the label's hint and colour."""

    label: str
    value: float
    low: float
    high: float
    text: str
    role: str = ""
    hint: str = ""


def document(title: str, parts: Sequence[str]) -> str:
    """A complete page; a number and its per-cent sign stay on one line.

    Args:
        title: plain text, escaped here.
        parts: HTML of the body, in order.
    """
    body = "\n".join(parts).replace(" %", "\N{NO-BREAK SPACE}%")
    return _PAGE.format(title=escape(title), style=_style(), body=body)


def table(
    head: Sequence[str | tuple[str, str]],
    rows: Sequence[Sequence[str]],
    kind: Kind = "second",
    strong: str = "",
) -> str:
    """A table whose cells keep to one line, in a container that scrolls sideways where it is too wide.

    Args:
        head: a column's title, or the title with what it is short for.
        rows: plain text, escaped here; the first cell names the row, stays in sight and is cut where it is long.
        kind: "second": the second column is bold; "rows": the row named `strong` is; "prose": the last column is a text
            that wraps.
        strong: see `kind`.
    """
    titles = [(cell, "") if isinstance(cell, str) else cell for cell in head]
    top = "".join(
        f'<th scope="col"{_hint(hint)}>{f"<abbr>{escape(cell)}</abbr>" if hint else escape(cell)}</th>'
        for cell, hint in titles
    )
    body = "".join(_row(row, bool(strong) and row[0] == strong) for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def bars(rows: Sequence[Bar], reference: float) -> str:
    """Horizontal bars with their values.

    Args:
        rows: from top to bottom.
        reference: value whose LONGEST_BAR-fold is the longest bar that is drawn whole.
    """
    longest = max((row.value for row in rows), default=0.0)
    scale = min(longest, LONGEST_BAR * reference) if reference > 0 else longest
    items: list[str] = []
    for row in rows:
        share = min(1.0, row.value / scale) if scale > 0 else 0.0
        cut = " cut" if row.value > scale else ""
        items.append(
            f'<li class="{row.role and "named"}"><span{_hint(row.hint)}>{escape(row.label)}</span>'
            f'<i class="track"><i class="bar{cut}" style="width:{100 * share:.2f}%;{_colour(row.role)}"></i></i>'
            f"<span><b>{escape(row.text)}</b> <small>{escape(row.remark)}</small></span></li>"
        )
    return f'<ol class="bars">{"".join(items)}</ol>'


def intervals(rows: Sequence[Interval], least: float) -> str:
    """Points with their intervals on one scale, which begins at `least` and ends at the highest end."""
    top = max((row.high for row in rows), default=least)
    span = max(top - least, 1e-9)

    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - least) / span))

    items = [
        f'<li class="{row.role and "named"}"><span{_hint(row.hint)}>{escape(row.label)}</span>'
        f'<i class="track"><i class="range" style="left:{at(row.low):.2f}%;'
        f'width:{at(row.high) - at(row.low):.2f}%;{_colour(row.role)}"></i>'
        f'<i class="point" style="left:{at(row.value):.2f}%;{_colour(row.role)}"></i></i>'
        f"<span>{escape(row.text)}</span></li>"
        for row in rows
        if math.isfinite(row.value)
    ]
    return f'<ol class="bars intervals">{"".join(items)}</ol>'


def picture(svg: str, width: float | None = None) -> str:
    """An SVG element in a container that scrolls sideways; width: pixels that it fills at most, None: all there is."""
    fit = "" if width is None else f' style="--width:{width:.0f}px"'
    return f'<div class="wide"{fit}>{svg}</div>'


def folded(title: str, body: str) -> str:
    """Content that is shown when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _row(row: Sequence[str], strong: bool) -> str:
    kind = ' class="strong"' if strong else ""
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
    return f'<tr{kind}><th scope="row"{_hint(row[0] if len(row[0]) > UNCUT else "")}>{escape(row[0])}</th>{cells}</tr>'


def _hint(text: str) -> str:
    return f' title="{escape(text)}"' if text else ""


def _colour(role: str) -> str:
    return f"background:var(--{role})" if role else ""


def _style() -> str:
    light = "".join(f"--{name}:{colour};" for name, colour in charts.THEME.items())
    dark = "".join(f"--{name}:{colour};" for name, colour in _DARK.items())
    return _CSS.replace("/*light*/", light).replace("/*dark*/", dark)


_DARK = {
    "ink": "#e8ebf0",
    "muted": "#98a3b3",
    "rule": "#2d3542",
    "paper": "#12161d",
    "forecast": "#28506e",
    "ours": "#4cb5f5",
    "reactive": "#ff9248",
    "reserved": "#6d7f97",
    "on-demand": "#56b4e9",
    "spot": "#f0c75e",
    "other": "#cc79a7",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_CSS = """
:root{/*light*/}
@media (prefers-color-scheme: dark){:root{/*dark*/}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:22px;margin:0}
header p{margin:2px 0 0;color:var(--muted)}
h2{font-size:19px;margin:36px 0 8px}
h2 small{font-weight:400;font-size:14px;color:var(--muted);margin-left:6px}
section>p,details>p{max-width:80ch;margin:4px 0 10px}
.hero h2{font-size:28px;line-height:1.2;margin:26px 0 6px;text-wrap:balance}
.hero p{max-width:none;margin:4px 0 8px}
.aside,figcaption span{color:var(--muted)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;margin:6px 0;color:var(--muted)}
.legend span{white-space:nowrap}
.legend svg{margin-right:6px;vertical-align:-1px}
.wide{overflow-x:auto}
.wide>svg{display:block;width:100%;max-width:var(--width,none);min-width:min(680px,var(--width,680px));height:auto}
svg text{font-family:inherit!important}
figure{margin:22px 0 34px}
figcaption{border-top:1px solid var(--rule);padding-top:12px;margin-bottom:6px}
figcaption b{font-size:17px;margin-right:8px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:6px 15px 6px 0;text-align:right;border-bottom:1px solid var(--rule);font-weight:400;white-space:nowrap}
tbody th,th:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
tbody th{max-width:min(270px,38vw);overflow:hidden;text-overflow:ellipsis}
thead th{color:var(--muted);font-size:13px}
abbr{text-decoration:underline dotted;text-underline-offset:3px;cursor:help}
.second td:nth-child(2),.strong th,.strong td{font-weight:600}
.prose tbody th{max-width:none}
.prose td:last-child,.prose th:last-child{text-align:left;white-space:normal;min-width:280px}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(112px,1fr));gap:12px 20px;margin:20px 0}
.facts div{display:flex;flex-direction:column}
.facts dt{color:var(--muted);font-size:13px;line-height:1.35}
.facts dd{order:-1;margin:0;font-size:19px;font-variant-numeric:tabular-nums}
.bars{list-style:none;display:grid;grid-template-columns:max-content 1fr max-content;gap:7px 14px;
margin:14px 0;padding:0}
.bars li{display:contents;color:var(--muted)}
.bars span{white-space:nowrap}
.bars span:last-child{text-align:right;font-variant-numeric:tabular-nums}
.bars b{font-weight:400}
.bars small{display:inline-block;min-width:8ch;font-size:13px}
.bars .named{color:var(--ink)}
.bars .named b,.bars .named span:first-child{font-weight:600}
.track{position:relative;align-self:center;height:16px;border-left:1px solid var(--muted)}
.bar{display:block;height:100%;background:var(--muted);opacity:.45;border-radius:0 2px 2px 0}
.named .bar{opacity:1}
.cut{-webkit-mask:linear-gradient(90deg,#000 85%,transparent);mask:linear-gradient(90deg,#000 85%,transparent)}
.intervals .track{background:linear-gradient(var(--rule),var(--rule)) 0 50%/100% 1px no-repeat}
.range{position:absolute;top:6px;height:4px;border-radius:2px;background:var(--muted);opacity:.55}
.point{position:absolute;top:3px;width:10px;height:10px;margin-left:-5px;border-radius:5px;background:var(--muted)}
details{margin:10px 0}
summary{cursor:pointer;color:var(--ours);padding:4px 0}
.notes li,.wins li{margin:6px 0;max-width:85ch}
.notes li{color:var(--muted)}
@media (max-width:640px){
main{padding:20px 14px 40px}
.hero h2{font-size:22px}
th,td{padding-right:11px}
.facts{grid-template-columns:repeat(auto-fill,minmax(86px,1fr));gap:12px}
.bars{grid-template-columns:1fr max-content;gap:2px 10px}
.bars .track{grid-column:1/-1;grid-row:auto;order:0;margin-bottom:7px}
.bars li{display:grid;grid-column:1/-1;grid-template-columns:subgrid}
.bars li .track{order:3}
}
"""
