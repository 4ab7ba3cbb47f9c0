"""The targets file, its check, and the command line of the actuator."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import Rejected, UsageError
from pipeline.providers.integrations import INTEGRATIONS
from pipeline.providers.kubernetes.resources import HPA, NODE_POOL, Place, Resource
from pipeline.providers.targets import parse_targets, read_targets
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.kubernetes_server import served

GOOD = """
[[target]]
ref = "shop/pod"
kind = "HorizontalPodAutoscaler"
namespace = "shop"
name = "web"

[[target]]
ref = "general/m7i"
kind = "NodePool"
name = "general"
through = "scale"
"""


def fields(**changed: str | int | None) -> str:
    row = {"ref": "shop/pod", "kind": "Deployment", "namespace": "shop", "name": "web"} | changed
    return "[[target]]\n" + "".join(f"{n} = {json.dumps(v)}\n" for n, v in row.items() if v is not None)


def write(folder: Path, text: str) -> Path:
    path = folder / "targets.toml"
    path.write_text(text)
    return path


def test_targets_are_objects(tmp_path: Path) -> None:
    assert read_targets(write(tmp_path, GOOD), INTEGRATIONS).by_provider() == {
        "kubernetes": [
            Resource("shop/pod", Place(HPA, "shop", "web")),
            Resource("general/m7i", Place(NODE_POOL, "", "general"), by_scale=True),
        ]
    }


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["no [[target]]"]),
        ("target = 3", ["no [[target]]"]),
        ("target = [3]", ["target 1: must be a table"]),
        ("title = 3\n" + GOOD, ["title: there is only [[target]]"]),
        (fields(colour="red"), ["no field 'colour': there are ref, kind, namespace, name, through, context"]),
        (fields(ref=None), ["target 1: ref is missing"]),
        (fields(name=None, kind=None), ["kind is missing", "name is missing"]),
        (fields(name=3), ["name must be a text"]),
        (fields(ref="shop"), ["ref must be app/offer"]),
        (fields(ref="/pod"), ["ref: the app must not be empty"]),
        (fields(ref="shop/budget"), ["ref: the offer must not be 'budget'"]),
        (fields(kind="Rollout"), ["no kind 'Rollout': there are HorizontalPodAutoscaler"]),
        (fields(name="Web"), ["name 'Web' is no name of Kubernetes"]),
        (fields(name="../secrets/x"), ["name '../secrets/x' is no name of Kubernetes"]),
        (fields(namespace=None), ["namespace is missing"]),
        (fields(namespace="a.b"), ["namespace 'a.b' is no name of Kubernetes"]),
        (fields(kind="NodePool"), ["a NodePool has no namespace"]),
        (fields(kind="NodePool", namespace=None, ref="x/replicas"), ["a NodePool has no replicas of an app"]),
        (fields(through="status"), ["through 'status': there are object, scale"]),
        (fields(kind="ScaledObject", through="scale"), ["a ScaledObject has no count"]),
        (fields() + fields(name="other"), ["target shop/pod: 2 targets have this ref"]),
        (fields(context=""), ["context is empty"]),
        (
            fields(context="eu") + fields(ref="shop/other", context="eu"),
            ["Deployment shop/web of context eu: 2 targets are this object"],
        ),
        (fields() + fields(ref="shop/other"), ["Deployment shop/web: 2 targets are this object"]),
        (fields(kind="X") + fields(ref="b/c", name="Y"), ["no kind 'X'", "target b/c: name 'Y'"]),
    ],
)
def test_every_fault_is_a_line(tmp_path: Path, text: str, faults: list[str]) -> None:
    path = write(tmp_path, text)
    lines = parse_targets(path, INTEGRATIONS).faults
    assert len(lines) == len(faults)
    assert all(fault in line for fault, line in zip(faults, lines, strict=True))
    with pytest.raises(UsageError, match=r"targets\.toml: "):
        read_targets(path, INTEGRATIONS)
    checked = CliRunner().invoke(app, ["targets", "check", str(path)])
    assert (checked.exit_code, checked.output.splitlines()) == (2, lines)


@pytest.mark.parametrize("text", [None, b"ref = ", b"\xff"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "targets.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UsageError, match=r"^[^\n]*targets\.toml: [^\n]+$"):
        parse_targets(path, INTEGRATIONS)


def test_a_good_file_is_named_with_its_targets(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    checked = CliRunner().invoke(app, ["targets", "check", str(path)])
    assert (checked.exit_code, checked.output) == (0, f"{path}: 2 good: shop/pod, general/m7i\n")
    checked = CliRunner().invoke(app, ["targets", "check", str(path), "--json"])
    assert json.loads(checked.output) == {"targets": ["shop/pod", "general/m7i"], "faults": []}


LOCATION = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"


def test_a_live_check_asks_the_cluster_of_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["targets", "check", str(write(tmp_path, GOOD)), "--live"]
    with served() as server:
        server.state.put("horizontalpodautoscalers", kube.hpa())
        server.state.put("deployments", kube.deployment())
        monkeypatch.setattr(LOCATION, str(server.kubeconfig(tmp_path / "config")))
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert done.output == 'target general/m7i: NodePool general: nodepools "general" not found\n'
    with pytest.raises(UsageError, match=r"^no answer from the API server: [^\n]+$"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_releasing_names_what_was_done_and_what_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["targets", "release", str(write(tmp_path, GOOD))]
    with served() as server:
        server.state.put("horizontalpodautoscalers", kube.hpa())
        monkeypatch.setattr(LOCATION, str(server.kubeconfig(tmp_path / "config")))
        done = CliRunner().invoke(app, words)
        server.state.put("nodepools", kube.node_pool())
        again = CliRunner().invoke(app, [*words, "--json"])
    gone = 'target general/m7i: NodePool general: nodepools "general" not found'
    assert (done.exit_code, done.output) == (2, f"target shop/pod: nothing of ours is on it\n{gone}\n")
    assert (again.exit_code, json.loads(again.output)["faults"]) == (0, [])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--provider", "ovh"], "no provider ovh: there are local, kubernetes, aws, azure, gcp"),
        (["--provider", "kubernetes"], "--provider kubernetes needs --targets FILE"),
        (["--targets", "x.toml"], "--targets: no effect with the local provider"),
        (["--dry-run"], "--dry-run: no effect with the local provider"),
        (["--provider", "kubernetes", "--targets", "none.toml"], "none.toml: No such file or directory"),
    ],
)
def test_an_actuator_that_cannot_start_says_why_before_it_asks_kafka(words: list[str], why: str) -> None:
    with pytest.raises(UsageError) as refused:
        CliRunner().invoke(app, ["actuator", "--bootstrap", "localhost:1", *words], catch_exceptions=False)
    assert str(refused.value) == why


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    code = (
        "import sys; sys.modules['kubernetes'] = None; from pipeline.cli.main import main;"
        f"sys.argv = ['leadtime', 'targets', 'check', {str(path)!r}, '--live']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("pip install 'leadtime[kubernetes]'\n")


def test_what_is_discovered_is_a_targets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, bank = {"leadtime.dev/app": "shop"}, {"leadtime.dev/app": "bank", "leadtime.dev/offer": "big"}
    owners = [{"kind": "ScaledObject", "name": "bank"}]
    words = ["targets", "discover", "--namespace"]
    with served() as server:
        monkeypatch.setattr(LOCATION, str(server.kubeconfig(tmp_path / "config")))
        server.state.put("horizontalpodautoscalers", kube.hpa())  # of nobody's app
        server.state.put("deployments", kube.deployment(labels=shop))
        server.state.put("deployments", kube.deployment(name="free", labels={"leadtime.dev/app": "free"}))
        server.state.put("scaledobjects", kube.scaled_object(name="bank", labels=bank))
        copied = kube.hpa(name="keda-hpa-bank", labels=bank, ownerReferences=owners)
        server.state.put("horizontalpodautoscalers", copied)
        proposed = CliRunner().invoke(app, [*words, "shop"])
        nothing = CliRunner().invoke(app, [*words, "empty"])
    assert "namespace empty has the label leadtime.dev/app" in str(nothing.exception)
    targets = read_targets(write(tmp_path, proposed.stdout), INTEGRATIONS).by_provider()["kubernetes"]
    assert [resource.ref for resource in targets] == ["bank/big", "free/pod", "shop/pod"]
    [comment] = [line for line in proposed.stdout.splitlines() if line.startswith("#")]
    assert "sets Deployment shop/web" in comment


def test_targets_of_several_clusters_are_those_of_their_contexts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hpa = {"kind": "HorizontalPodAutoscaler"}
    text = fields(ref="shop/eu", context="eu", **hpa) + fields(ref="shop/us", context="us", **hpa)
    path = write(tmp_path, text + fields(ref="shop/here", **hpa))
    with served() as here, served() as eu, served() as us:
        config = yaml.safe_load(here.kubeconfig(tmp_path / "config").read_text())
        for name, server in (("eu", eu), ("us", us)):
            config["clusters"].append({"name": name, "cluster": {"server": server.url}})
            config["contexts"].append({"name": name, "context": {"cluster": name, "user": "test"}})
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        monkeypatch.setattr(LOCATION, str(tmp_path / "config"))
        for server in (here, eu, us):
            server.state.put("horizontalpodautoscalers", kube.hpa())
            server.state.put("deployments", kube.deployment(labels={"leadtime.dev/app": "shop"}))
        assert CliRunner().invoke(app, ["targets", "check", str(path), "--live"]).exit_code == 0
        resources = read_targets(path, INTEGRATIONS).by_provider()["kubernetes"]
        with INTEGRATIONS["kubernetes"].provider(resources, dry_run=False) as provider:
            for ref, count in (("shop/eu", 3), ("shop/us", 5)):
                target = Target("kubernetes", ref)
                sent = command(10, count, ref, target=target, bounds=(0, 9))
                assert provider.apply(sent, 900.0).after == count
                assert provider.observe(target, 900.0).command_id == sent["id"]
            with pytest.raises(Rejected, match="the targets file has no shop/asia"):
                provider.observe(Target("kubernetes", "shop/asia"), 900.0)

        def floors() -> list[int]:
            return [
                server.state.get("horizontalpodautoscalers", "shop", "web")["spec"]["minReplicas"]
                for server in (here, eu, us)
            ]

        assert floors() == [2, 3, 5]
        assert CliRunner().invoke(app, ["targets", "release", str(path)]).exit_code == 0
        assert floors() == [2, 2, 2]
        proposed = CliRunner().invoke(app, ["targets", "discover", "--namespace", "shop", "--context", "us"])
        assert 'context = "us"' in proposed.stdout
        done = CliRunner().invoke(
            app, ["targets", "check", str(write(tmp_path, fields(context="gone"))), "--live"]
        )
    assert "no credentials for Kubernetes: " in str(done.exception)
