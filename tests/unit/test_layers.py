"""Which room may import which: the table of docs/architecture.md, checked against every import in the code.

A room is a folder of `pipeline` or `models`; modules directly in these are the ground. A room imports the rooms that
stand before it, the ground, and, from `pipeline`, `models`. Nothing else: no import climbs.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROUND = "(ground)"
ROOMS = {
    "pipeline": (
        GROUND,
        *(
            "security",
            "traces",
            "wire",
            "kafka",
            "providers",
            "runtime",
            "inputs",
            "sources",
            "scaler",
            "stages",
        ),
        *("training", "backtest", "reports", "bench", "demo", "console", "federation", "cli"),
    ),
    "models": (
        GROUND,
        *(
            "behaviour",
            "demand",
            "nodes",
            "supply",
            "purchase",
            "planning",
            "baselines",
            "evaluation",
            "synthetic",
        ),
        *("learning", "federation"),
    ),
}
"""The rooms of each package, in the order in which they may import: only what stands before."""
FORMER = ("pipeline/codec.py", "pipeline/actuators/__init__.py", "pipeline/actuators/provider.py")
"""Names of the last release, kept until the next: each only imports from where its names are now."""
MODULES = sorted(
    path
    for package in ROOMS
    for path in (ROOT / package).rglob("*.py")
    if path.relative_to(ROOT).as_posix() not in FORMER
)
OUTSIDE_MODELS = {"pipeline", "faust", "confluent_kafka", "aiokafka", "pydantic_settings", "time"}
"""What mathematics must not know: the stream, its libraries, settings and the clock."""


def module_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str, package: str) -> set[str]:
    """Full names of all that `source`, a module of `package`, imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def room(module: str) -> str:
    """The room of a dotted module name: the folder below its package, or the ground."""
    package, *inner = module.split(".")
    return inner[0] if inner and (ROOT / package / inner[0]).is_dir() else GROUND


def climbing(source: str, module: str) -> list[str]:
    """Imports of a module that its room may not have."""
    package, own = module.split(".")[0], room(module)
    order = ROOMS[package]
    used = {
        room(name) for name in imports(source, module.rpartition(".")[0]) if name.startswith(f"{package}.")
    }
    return sorted(other for other in used - {own} if order.index(other) > order.index(own))


def test_imports_are_found_in_every_form() -> None:
    source = (
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\ndef h():\n    from ..i import j\n"
    )
    assert imports(source, "p.q") >= {"a.b", "c.d", "p.q.e", "p.q.f", "p.q.f.g", "p.i.j"}


def test_an_import_that_climbs_is_found() -> None:
    source = "from pipeline.wire.codec import Record\nfrom pipeline.stages.worker import build\n"
    assert climbing(source, "pipeline.kafka.reader") == ["stages"]
    assert climbing(source, "pipeline.cli.demo") == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_folder_is_a_room_with_a_meaning(package: str) -> None:
    folders = {path.parent for path in MODULES if path.parent.parent == ROOT / package}
    assert {folder.name for folder in folders} <= set(ROOMS[package])
    for folder in folders:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__main__.py"], ids=module_name)
def test_no_import_climbs(path: Path) -> None:
    module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    assert climbing(path.read_text(), module) == []


@pytest.mark.parametrize("path", FORMER)
def test_a_former_name_holds_no_code(path: str) -> None:
    body = ast.parse((ROOT / path).read_text()).body
    assert all(isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign) for node in body)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.relative_to(ROOT).parts[0] == "models"], ids=module_name
)
def test_mathematics_knows_no_stream_clock_or_settings(path: Path) -> None:
    roots = {imported.split(".")[0] for imported in imports(path.read_text(), "models")}
    assert not roots & OUTSIDE_MODELS


STAGES = sorted(
    path.name
    for path in (ROOT / "pipeline" / "stages").iterdir()
    if path.is_dir() and path.name != "__pycache__"
)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other(stage: str) -> None:
    for path in (ROOT / "pipeline" / "stages" / stage).glob("*.py"):
        used = {
            name.split(".")[2]
            for name in imports(path.read_text(), f"pipeline.stages.{stage}")
            if name.startswith("pipeline.stages.")
        }
        assert used <= {stage}, path
