"""Who may import whom, and how long a module may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "models").rglob("*.py"))
PIPELINE = sorted((ROOT / "pipeline").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

AGENTS = ("profiler", "simulator", "allocator")
OUTSIDE_MODELS = {"pipeline", "faust", "confluent_kafka", "aiokafka", "pydantic_settings", "time"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str, package: str) -> set[str]:
    """Full names of all that `source`, a module of `package`, imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_imports_are_found_in_every_form() -> None:
    source = (
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\ndef h():\n    from ..i import j\n"
    )
    assert imports(source, "p.q") >= {"a.b", "c.d", "p.q.e", "p.q.f", "p.q.f.g", "p.i.j"}


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_mathematics_knows_no_stream_clock_or_settings(path: Path) -> None:
    roots = {imported.split(".")[0] for imported in imports(path.read_text(), "models")}
    assert not roots & OUTSIDE_MODELS


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_imports_no_other(agent: str) -> None:
    others = {f"pipeline.{other}" for other in AGENTS if other != agent}
    assert not imports((ROOT / "pipeline" / f"{agent}.py").read_text(), "pipeline") & others


@pytest.mark.parametrize("path", MODELS + PIPELINE + TESTS, ids=name)
def test_a_module_fits_in_a_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
