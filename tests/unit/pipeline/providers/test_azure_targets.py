"""Scale sets in the targets file, and the commands of the command line on them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import UsageError
from pipeline.providers.azure.marks import TARGET
from pipeline.providers.azure.resources import Account, Place, ScaleSet
from pipeline.providers.integrations import INTEGRATIONS
from pipeline.providers.targets import parse_targets, read_targets
from tests.unit.pipeline.providers.azure_server import GROUP, ROOT, SUBSCRIPTION, Served, served


def fields(**changed: str | int | None) -> str:
    row = {
        "ref": "shop/od",
        "kind": "VirtualMachineScaleSet",
        "subscription": SUBSCRIPTION,
        "resource_group": GROUP,
        "name": "web",
    }
    rest = "".join(f"{n} = {json.dumps(v)}\n" for n, v in (row | changed).items() if v is not None)
    return "[[target]]\n" + rest


def write(folder: Path, text: str) -> Path:
    path = folder / "targets.toml"
    path.write_text(text)
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served() as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        made.cloud.make()
        yield made


def test_targets_are_sets_beside_those_of_others(tmp_path: Path) -> None:
    pod = '[[target]]\nref = "shop/pod"\nkind = "HorizontalPodAutoscaler"\nnamespace = "shop"\nname = "web"\n'
    stack = fields(ref="shop/b", subscription=SUBSCRIPTION.upper(), endpoint="https://management.example/")
    targets = read_targets(write(tmp_path, fields(name="Web") + pod + stack), INTEGRATIONS).by_provider()
    assert targets["azure"] == [
        ScaleSet("shop/od", Place(Account(SUBSCRIPTION), GROUP, "web")),
        ScaleSet("shop/b", Place(Account(SUBSCRIPTION, "https://management.example"), GROUP, "web")),
    ]
    assert [resource.ref for resource in targets["kubernetes"]] == ["shop/pod"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (fields(subscription=None), "subscription is missing"),
        (fields(subscription="shop"), "subscription 'shop' is none of Azure"),
        (fields(resource_group=None), "resource_group is missing"),
        (fields(resource_group="a/b"), "resource_group 'a/b' is none of Azure"),
        (fields(resource_group=3), "resource_group must be a text"),
        (fields(name="-web"), "name '-web' is none of Azure"),
        (fields(endpoint="management"), "endpoint 'management' is none of Azure"),
        (
            fields(region="x"),
            "no field 'region': there are ref, kind, subscription, resource_group, name, endpoint",
        ),
        (fields(ref="shop/replicas"), "a VirtualMachineScaleSet has no replicas of an app"),
        (
            fields() + fields(ref="shop/b", name="WEB", resource_group="Shop"),
            "VirtualMachineScaleSet web in shop: 2 targets are this object",
        ),
    ],
)
def test_every_fault_is_a_line(tmp_path: Path, text: str, fault: str) -> None:
    (line,) = parse_targets(write(tmp_path, text), INTEGRATIONS).faults
    assert fault in line


def test_a_live_check_asks_azure(server: Served, tmp_path: Path) -> None:
    text = fields(endpoint=server.url) + fields(ref="shop/b", name="gone", endpoint=server.url)
    done = CliRunner().invoke(app, ["targets", "check", str(write(tmp_path, text)), "--live"])
    assert done.exit_code == 2
    assert done.output.startswith("target shop/b: GET gone: The Resource ")
    server.cloud.actions = []
    path = write(tmp_path, fields(endpoint=server.url))
    done = CliRunner().invoke(app, ["targets", "check", str(path), "--live"])
    action = "Microsoft.Compute/virtualMachineScaleSets/read"
    within = f"{ROOT}/providers/Microsoft.Compute/virtualMachineScaleSets/web"
    assert done.output == f"target shop/od: not allowed, a role must allow: {action} on {within}\n"


def test_releasing_says_what_was_done(server: Served, tmp_path: Path) -> None:
    path = write(tmp_path, fields(endpoint=server.url))
    done = CliRunner().invoke(app, ["targets", "release", str(path)])
    assert (done.exit_code, done.output) == (0, "target shop/od: nothing of ours is on it\n")


def test_what_is_discovered_is_a_targets_file(server: Served, tmp_path: Path) -> None:
    words = ["targets", "discover", "--subscription", SUBSCRIPTION, "--endpoint", server.url]
    with pytest.raises(
        UsageError, match=f"^no VirtualMachineScaleSet in {SUBSCRIPTION} has the tag {TARGET}$"
    ):
        CliRunner().invoke(app, words, catch_exceptions=False)
    server.cloud.make("tagged", 1, tags={TARGET: "shop/od"})
    for more in ([], ["--resource-group", GROUP]):
        text = CliRunner().invoke(app, [*words, *more]).output
        assert read_targets(write(tmp_path, text), INTEGRATIONS).by_provider() == {
            "azure": [ScaleSet("shop/od", Place(server.account, GROUP, "tagged"))]
        }


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "--provider azure needs --targets FILE"), ("kubernetes", "targets.toml: no target of azure")],
)
def test_an_actuator_without_sets_says_why(tmp_path: Path, text: str | None, why: str) -> None:
    words = ["actuator", "--provider", "azure", "--bootstrap", "localhost:1"]
    if text is not None:
        of_kubernetes = fields(kind="NodePool", subscription=None, resource_group=None)
        words += ["--targets", str(write(tmp_path, of_kubernetes))]
    with pytest.raises(UsageError, match=why):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    words = ["leadtime", "targets", "release", str(write(tmp_path, fields()))]
    without = "import sys; sys.modules['azure.identity'] = None"
    code = f"{without}; from pipeline.cli.main import main; sys.argv = {words!r}; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("pip install 'leadtime[azure]'\n")
