"""Groups in the targets file, and the commands of the command line on them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import UsageError
from pipeline.providers.aws.resources import Account, Group, Place
from pipeline.providers.integrations import INTEGRATIONS
from pipeline.providers.targets import TARGET_TAG, parse_targets, read_targets
from tests.unit.pipeline.providers.aws_server import REGION, Served, served

QUEUE = "https://sqs.eu-west-1.amazonaws.com/1/spot"
GOOD = f"""
[[target]]
ref = "shop/od"
kind = "AutoScalingGroup"
region = "eu-west-1"
name = "web"

[[target]]
ref = "shop/pod"
kind = "HorizontalPodAutoscaler"
namespace = "shop"
name = "web"

[[target]]
ref = "shop/spot"
kind = "AutoScalingGroup"
region = "us-gov-west-1"
name = "Web group/2"
profile = "production"
queue = "{QUEUE}"
"""


def fields(**changed: str | int | None) -> str:
    row = {"ref": "shop/od", "kind": "AutoScalingGroup", "region": REGION, "name": "web"} | changed
    return "[[target]]\n" + "".join(f"{n} = {json.dumps(v)}\n" for n, v in row.items() if v is not None)


def write(folder: Path, text: str) -> Path:
    path = folder / "targets.toml"
    path.write_text(text)
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served() as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        made.cloud.make()
        yield made


def test_targets_are_groups_beside_those_of_others(tmp_path: Path) -> None:
    targets = read_targets(write(tmp_path, GOOD), INTEGRATIONS).by_provider()
    assert targets["aws"] == [
        Group("shop/od", Place(Account("", REGION), "web")),
        Group("shop/spot", Place(Account("production", "us-gov-west-1"), "Web group/2"), QUEUE),
    ]
    assert [group.queue for group in targets["aws"]] == ["", QUEUE]
    assert [resource.ref for resource in targets["kubernetes"]] == ["shop/pod"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (fields(region=None), "region is missing"),
        (fields(region="Ireland"), "region 'Ireland' is no region of AWS"),
        (fields(region=3), "region must be a text"),
        (fields(name="a:b"), "name 'a:b' is no name of an auto scaling group"),
        (fields(name=""), "name '' is no name of an auto scaling group"),
        (fields(profile=""), "profile is empty"),
        (fields(queue="spot"), "queue 'spot' is no URL of an SQS queue"),
        (fields(namespace="shop"), "no field 'namespace': there are ref, kind, region, name, profile, queue"),
        (fields(ref="shop/replicas"), "an AutoScalingGroup has no replicas of an app"),
        (fields() + fields(ref="shop/b"), "AutoScalingGroup web in eu-west-1: 2 targets are this object"),
    ],
)
def test_every_fault_is_a_line(tmp_path: Path, text: str, fault: str) -> None:
    (line,) = parse_targets(write(tmp_path, text), INTEGRATIONS).faults
    assert fault in line


def test_a_live_check_asks_aws(server: Served, tmp_path: Path) -> None:
    path = write(tmp_path, fields() + fields(ref="shop/b", name="gone"))
    done = CliRunner().invoke(app, ["targets", "check", str(path), "--live"])
    assert (done.exit_code, done.output) == (
        2,
        "target shop/b: there is no AutoScalingGroup gone in eu-west-1\n",
    )
    server.cloud.policy = []
    done = CliRunner().invoke(app, ["targets", "check", str(write(tmp_path, fields())), "--live"])
    why = "not allowed, a policy must allow: autoscaling:DescribeAutoScalingGroups"
    assert done.output == f"target shop/od: {why}\n"


def test_releasing_says_what_was_done(server: Served, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["targets", "release", str(write(tmp_path, fields()))])
    assert (done.exit_code, done.output) == (0, "target shop/od: nothing of ours is on it\n")


def test_what_is_discovered_is_a_targets_file(server: Served, tmp_path: Path) -> None:
    words = ["targets", "discover", "--region", REGION]
    with pytest.raises(UsageError, match=f"^no auto scaling group in {REGION} has the tag {TARGET_TAG}$"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    tag = {"Key": TARGET_TAG, "Value": "shop/od", "PropagateAtLaunch": False}
    server.cloud.make("tagged", 1, Tags=[tag])
    text = CliRunner().invoke(app, words).output
    assert read_targets(write(tmp_path, text), INTEGRATIONS).by_provider() == {
        "aws": [Group("shop/od", Place(Account("", REGION), "tagged"))]
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "--provider aws needs --targets FILE"), ("kubernetes", "targets.toml: no target of aws")],
)
def test_an_actuator_without_groups_says_why(tmp_path: Path, text: str | None, why: str) -> None:
    words = ["actuator", "--provider", "aws", "--bootstrap", "localhost:1"]
    if text is not None:
        of_kubernetes = fields(kind="NodePool", region=None)
        words += ["--targets", str(write(tmp_path, of_kubernetes))]
    with pytest.raises(UsageError, match=why):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    words = ["leadtime", "targets", "release", str(write(tmp_path, fields()))]
    code = f"import sys; sys.modules['boto3'] = None; from pipeline.cli.main import main; sys.argv = {words!r}; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("pip install 'leadtime[aws]'\n")
