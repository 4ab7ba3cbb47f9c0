"""README and docs/ against the code: links, paths, names, settings, fields, topics, metrics, commands and examples."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.cli.inputs import policies_app
from pipeline.cli.main import app
from pipeline.inputs.files import read_policies, read_prices
from pipeline.kafka.topics import TOPICS
from pipeline.providers.integrations import INTEGRATIONS
from pipeline.providers.targets import read_targets
from pipeline.runtime import metrics
from pipeline.settings import Settings
from pipeline.wire.codec import published
from tests.markdown import LINK, PAGES, ROOT, Block, anchors, blocks, headings, prose, section, table

FILES = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if (ROOT / line).is_file()
]
CODE = [
    path
    for path in FILES
    if path.suffix in {".py", ".toml", ".avsc", ".yml", ".yaml"} or path.name == "Makefile"
]
FOLDERS = ("pipeline", "models", "schemas", "tests", "examples", "docs", "infra")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`")
DOCS = ROOT / "docs"
OF_OTHERS = ("docs/user-guide/",)
"""Pages of other projects that code names as its source."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "models/released").rglob("*.md")], ids=name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", CODE, ids=name)
def test_every_page_that_code_names_is_there_with_the_section_that_it_names(path: Path) -> None:
    text = path.read_text()
    for page, titles in re.findall(r'\b(docs/[\w./-]+\.md)((?:,?[\s#]+"[^"\n]+")?)', text):
        if page.startswith(OF_OTHERS):
            continue
        assert (ROOT / page).exists(), page
        for title in re.findall(r'"([^"]+)"', titles):
            assert title in headings(ROOT / page) or f"**{title}" in (ROOT / page).read_text(), (page, title)


def test_every_page_is_in_the_sites_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f" {page.relative_to(DOCS)}\n" in contents, page


def test_the_site_is_built_without_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in PAGES[1:]}
    assert pages <= {page.relative_to(ROOT / ".site") for page in (ROOT / ".site").rglob("*.html")}


def test_the_readme_can_be_read_in_ten_minutes() -> None:
    assert 150 <= len((ROOT / "README.md").read_text().splitlines()) <= 200


def definitions(path: Path) -> set[str]:
    """Functions and classes of a module, and methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


def test_the_walk_of_a_record_names_what_is_defined() -> None:
    walk = table(section(DOCS / "architecture.md", "The walk of one record"))
    assert len(walk) > 15
    for _, module, names in walk:
        there = definitions(ROOT / module.strip("`"))
        assert set(re.findall(r"`([\w.]+)`", names)) <= there, module


@pytest.mark.parametrize("package", ["pipeline", "models"])
def test_every_room_is_in_the_architecture_in_the_order_of_imports(package: str) -> None:
    from tests.unit.test_layers import ROOMS

    rows = table(section(DOCS / "architecture.md", f"Rooms of `{package}/`"))
    rooms = [row[0].strip("`").removeprefix(f"{package}/").strip("/") for row in rows]
    there = [
        room
        for room in ROOMS[package]
        if room == "(ground)" or (ROOT / package / room / "__init__.py").exists()
    ]
    assert [room for room in rooms if room != "released"] == there


def test_every_setting_is_in_operations() -> None:
    rows = table(section(DOCS / "operations.md", "Settings"))
    stated = {row[0].strip("`").removeprefix("LEADTIME_").lower() for row in rows}
    assert stated == set(Settings.model_fields)


def test_every_metric_is_in_operations() -> None:
    rows = table(section(DOCS / "operations.md", "Watching it"))
    stated = {found for row in rows for found in re.findall(r"`leadtime_(\w+)", row[0])}
    collectors = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    made = {family.name.removeprefix("leadtime_") for value in collectors for family in value.collect()}
    assert {one.removesuffix("_total") for one in stated} == made


def test_every_topic_is_in_records() -> None:
    stated = re.findall(r"`([\w.-]+)`", " ".join(r[0] for r in table(section(DOCS / "records.md", "Topics"))))
    assert set(stated) == set(TOPICS)


@pytest.mark.parametrize(
    "schema",
    sorted(path.name for path in (ROOT / "schemas").iterdir() if path.is_dir() and path.name[0] != "_"),
)
def test_every_field_of_a_record_is_in_records(schema: str) -> None:
    titles = [title for title in headings(DOCS / "records.md") if title.endswith(f": {schema}")]
    assert len(titles) == 1
    text = section(DOCS / "records.md", titles[0])
    fields = [field["name"] for field in published(schema).schema["fields"]]
    assert [row[0].strip("`") for row in table(text)] == [
        field for field in fields if field != "schema_version"
    ]
    assert f"`schemas/{schema}/{published(schema).version}.avsc`" in text


def options(command: Any) -> set[str]:
    return {option for param in command.params for option in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("block", blocks("") + blocks("bash") + blocks("sh"), ids=str)
def test_commands_in_code_blocks_exist_with_their_options(block: Block) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in re.findall(r"^\s*(?:leadtime|make) .*$", block.text, re.MULTILINE):
        for part in line.split("&&"):
            words = shlex.split(part.split("  #")[0].split(" | ")[0])
            if words[0] == "make":
                assert words[1] in targets, line
                continue
            command: Any = get_command(app)
            rest = words[1:]
            while hasattr(command, "list_commands"):
                assert rest[0] in command.list_commands(None), line
                command, rest = command.get_command(None, rest[0]), rest[1:]
            given = {word.split("=")[0] for word in rest if word.startswith("--")}
            assert given <= options(command) | {"--help"}, line


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_policies_prices_and_targets_in_code_blocks_are_accepted(block: Block, tmp_path: Path) -> None:
    tables: dict[str, Any] = tomllib.loads(block.text)
    file = tmp_path / "block.toml"
    file.write_text(block.text)
    assert len(tables) == 1
    if "policy" in tables:
        checked = CliRunner().invoke(policies_app, ["check", str(file)])
        assert checked.exit_code == 0, checked.output
    elif "target" in tables:
        assert read_targets(file, INTEGRATIONS).refs
    else:
        assert read_prices(file)


def test_the_example_policies_and_prices_fit_together() -> None:
    policies, prices = (
        read_policies(ROOT / "examples/policies.toml"),
        read_prices(ROOT / "examples/prices.toml"),
    )
    groups = {policy["allocation_group"] for policy in policies}
    assert {price["commitment_id"] for price in prices if price["tier"] == "RESERVED"} <= groups
    assert {price["tier"] for price in prices} == {"RESERVED", "ON_DEMAND", "SPOT"}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_in_code_blocks_is_formatted_and_clean(block: Block) -> None:
    for command in (["format", "--check"], ["check", "--ignore", "D,S,I001"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ruff",
                *command,
                "--config",
                str(ROOT / "pyproject.toml"),
                "--stdin-filename",
                "block.py",
                "-",
            ],
            input=block.text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
