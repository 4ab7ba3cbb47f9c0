"""README and docs as the tests read them: headings, links and code blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: file, from the repository's root.
        line: of the fence, from 1.
        language: after the fence; "" for none.
        text: without the fence.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    """All blocks of a language, page by page."""
    return [
        Block(str(page.relative_to(ROOT)), text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for page in PAGES
        for text in (page.read_text(),)
        for match in FENCE.finditer(text)
        if match[1] == language
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def headings(page: Path) -> list[str]:
    """Titles of a page's sections."""
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What a link into a page may name after `#`."""
    return {slugify(re.sub(r"[`*]", "", heading), "-") for heading in headings(page)}


def section(page: Path, title: str) -> str:
    """The text below a heading, until the next of its level or a higher one.

    Raises:
        KeyError: the page has no such heading.
    """
    text = page.read_text()
    begun = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    if begun is None:
        raise KeyError(title)
    rest = text[begun.end() :]
    end = re.search(rf"^#{{1,{len(begun[1])}}} ", rest, re.MULTILINE)
    return rest if end is None else rest[: end.start()]


def table(text: str) -> list[list[str]]:
    """Cells of the rows of the first table in a text, without its head."""
    rows = re.search(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    assert rows is not None
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in rows[0].splitlines()[2:]]
