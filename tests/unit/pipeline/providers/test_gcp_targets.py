"""Managed instance groups in the targets file, and the commands of the command line on them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import UsageError
from pipeline.providers.gcp.resources import Group, Location, Place
from pipeline.providers.integrations import INTEGRATIONS
from pipeline.providers.targets import parse_targets, read_targets
from tests.unit.pipeline.providers.gcp_server import PROJECT, REGION, ZONES, Served, served, service_account

ENDPOINT = "https://compute-shop.p.googleapis.com"
GOOD = f"""
[[target]]
ref = "shop/od"
kind = "InstanceGroupManager"
project = "{PROJECT}"
zone = "{ZONES[0]}"
name = "web"

[[target]]
ref = "shop/pod"
kind = "HorizontalPodAutoscaler"
namespace = "shop"
name = "web"

[[target]]
ref = "shop/spot"
kind = "InstanceGroupManager"
project = "example.com:shop"
region = "{REGION}"
name = "web"
endpoint = "{ENDPOINT}"
"""


def fields(**changed: str | int | None) -> str:
    row = {
        "ref": "shop/od",
        "kind": "InstanceGroupManager",
        "project": PROJECT,
        "zone": ZONES[0],
        "name": "web",
    }
    rest = "".join(f"{n} = {json.dumps(v)}\n" for n, v in (row | changed).items() if v is not None)
    return "[[target]]\n" + rest


def write(folder: Path, text: str) -> Path:
    path = folder / "targets.toml"
    path.write_text(text)
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(tmp_path)))
    with served() as made:
        made.cloud.make()
        yield made


def test_targets_are_groups_beside_those_of_others(tmp_path: Path) -> None:
    targets = read_targets(write(tmp_path, GOOD), INTEGRATIONS).by_provider()
    assert targets["gcp"] == [
        Group("shop/od", Place(Location(PROJECT, zone=ZONES[0]), "web")),
        Group("shop/spot", Place(Location("example.com:shop", region=REGION, endpoint=ENDPOINT), "web")),
    ]
    assert [resource.ref for resource in targets["kubernetes"]] == ["shop/pod"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (fields(project=None), "project is missing"),
        (fields(project="Shop!"), "project 'Shop!' is no id of a project"),
        (fields(zone=None), "either zone or region must be given"),
        (fields(region=REGION), "either zone or region must be given"),
        (fields(zone="Europe"), "'Europe' is no name of a zone or region"),
        (fields(zone=3), "zone must be a text"),
        (fields(name="Web"), "name 'Web' is no name of a managed instance group"),
        (fields(endpoint="compute"), "endpoint 'compute' is no URL of a host"),
        (
            fields(namespace="shop"),
            "no field 'namespace': there are ref, kind, project, zone, region, name, endpoint",
        ),
        (fields(ref="shop/replicas"), "an InstanceGroupManager has no replicas of an app"),
        (
            fields() + fields(ref="shop/b"),
            f"InstanceGroupManager web in {PROJECT}/{ZONES[0]}: 2 targets are this object",
        ),
    ],
)
def test_every_fault_is_a_line(tmp_path: Path, text: str, fault: str) -> None:
    (line,) = parse_targets(write(tmp_path, text), INTEGRATIONS).faults
    assert fault in line


def test_a_live_check_asks_gcp(server: Served, tmp_path: Path) -> None:
    text = fields(endpoint=server.url) + fields(ref="shop/b", name="gone", endpoint=server.url)
    done = CliRunner().invoke(app, ["targets", "check", str(write(tmp_path, text)), "--live"])
    words = f"The resource 'projects/{PROJECT}/zones/{ZONES[0]}/instanceGroupManagers/gone' was not found (notFound)"
    assert (done.exit_code, done.output) == (2, f"target shop/b: {words}\n")
    server.cloud.permissions = set()
    path = write(tmp_path, fields(endpoint=server.url))
    done = CliRunner().invoke(app, ["targets", "check", str(path), "--live"])
    assert done.output.startswith(
        "target shop/od: not allowed, a role must have: compute.instanceGroupManagers.get on projects/"
    )


def test_releasing_says_what_was_done(server: Served, tmp_path: Path) -> None:
    path = write(tmp_path, fields(endpoint=server.url))
    done = CliRunner().invoke(app, ["targets", "release", str(path)])
    assert (done.exit_code, done.output) == (0, "target shop/od: nothing of ours is on it\n")


def test_what_is_discovered_is_a_targets_file(server: Served, tmp_path: Path) -> None:
    words = ["targets", "discover", "--project", PROJECT, "--endpoint", server.url]
    with pytest.raises(
        UsageError, match=rf"^no managed instance group of {PROJECT} has \[leadtime.dev/target"
    ):
        CliRunner().invoke(app, words, catch_exceptions=False)
    server.cloud.make("wide", 1, zone="", description="[leadtime.dev/target shop/od]")
    text = CliRunner().invoke(app, words).output
    at = Location(PROJECT, region=REGION, endpoint=server.url)
    assert read_targets(write(tmp_path, text), INTEGRATIONS).by_provider() == {
        "gcp": [Group("shop/od", Place(at, "wide"))]
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "--provider gcp needs --targets FILE"), ("kubernetes", "targets.toml: no target of gcp")],
)
def test_an_actuator_without_groups_says_why(tmp_path: Path, text: str | None, why: str) -> None:
    words = ["actuator", "--provider", "gcp", "--bootstrap", "localhost:1"]
    if text is not None:
        of_kubernetes = fields(kind="NodePool", project=None, zone=None)
        words += ["--targets", str(write(tmp_path, of_kubernetes))]
    with pytest.raises(UsageError, match=why):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    words = ["leadtime", "targets", "release", str(write(tmp_path, fields()))]
    without = "import sys; sys.modules['google.auth'] = None"
    code = f"{without}; from pipeline.cli.main import main; sys.argv = {words!r}; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("pip install 'leadtime[gcp]'\n")
