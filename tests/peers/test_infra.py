"""Files of infra/ by the programs that read them: promtool, helm and a real kube-apiserver."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from pipeline.providers.integrations import INTEGRATIONS
from pipeline.providers.kubernetes.checks import live_faults
from pipeline.providers.kubernetes.resources import Kind, Object
from pipeline.providers.targets import read_targets
from tests.peers.api_server import KINDS, ApiServer, definition
from tests.peers.cluster import binary
from tests.unit.pipeline.providers.test_kubernetes import EXAMPLES, Cluster, run_all, shared_cluster

pytestmark = [pytest.mark.slow, pytest.mark.peers]
INFRA = Path(__file__).parents[2] / "infra"
RBAC = INFRA / "kubernetes/rbac.yaml"
CHART = INFRA / "helm/leadtime"
VALUES = INFRA / "helm/examples"
EXAMPLES_OF_VALUES = sorted(VALUES.glob("*.yaml"))
VERSION = ("--kube-version", "1.33.4")
"""Of the peers: our helm, built without its Makefile, would take the cluster for 1.20."""
IN_NAMESPACE = ("--namespace", "leadtime")


def run(*command: str | Path, text: str = "") -> str:
    """Standard output of a program.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("test", "rules", INFRA / "alerts/leadtime.test.yml"),
        ("check", "rules", INFRA / "alerts/leadtime.yml"),
        ("check", "config", "--syntax-only", INFRA / "compose/prometheus.yml"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
def test_promtool_accepts_the_alerts_and_fires_them_when_they_should(
    arguments: tuple[str | Path, ...],
) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not on PATH: Debian has it in prometheus"
    run(promtool, *arguments)


def helm(command: str, *arguments: str | Path) -> str:
    return run(binary("helm"), command, *arguments)


def rendered(values: Path, *more: str) -> list[Object]:
    """Objects of the chart with a file of values, as release `leadtime` in the namespace `leadtime`."""
    text = helm("template", "leadtime", CHART, *IN_NAMESPACE, *VERSION, "--values", values, *more)
    return [document for document in yaml.safe_load_all(text) if document]


def pods_of(objects: list[Object]) -> list[Object]:
    """Pods that the controllers of Deployments and Jobs would make."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**obj["spec"]["template"]["metadata"], "name": obj["metadata"]["name"]}
            | {"namespace": "leadtime"},
            "spec": obj["spec"]["template"]["spec"],
        }
        for obj in objects
        if obj["kind"] in ("Deployment", "Job")
    ]


@pytest.fixture(scope="module")
def kubeconfig(peer: ApiServer) -> Path:
    """Of the API server, whose namespace `leadtime` enforces the restricted pod security standard."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    peer.edit("namespaces", "", "leadtime", {"metadata": {"labels": labels}})
    for name, plural in (("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")):
        kind = Kind(name, "monitoring.coreos.com", "v1", plural, count="replicas")
        peer.apply({"kind": "CustomResourceDefinition"} | definition(kind))
    path = peer.kubeconfig()
    deadline = time.monotonic() + 30
    while "prometheusrules" not in run(binary("kubectl"), "--kubeconfig", path, "api-resources"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return path


def apply_dry(kubeconfig: Path, objects: list[Object]) -> None:
    """Have the API server validate and admit objects; a warning, such as of pod security, is an error."""
    command = (
        binary("kubectl"),
        "--kubeconfig",
        kubeconfig,
        "apply",
        "--dry-run=server",
        "--warnings-as-errors",
    )
    run(*command, "--validate=strict", "--filename", "-", text=yaml.safe_dump_all(objects))


@pytest.mark.parametrize("values", EXAMPLES_OF_VALUES, ids=lambda path: path.stem)
def test_a_real_api_server_admits_the_chart_and_its_pods_as_restricted(
    values: Path, kubeconfig: Path
) -> None:
    helm("lint", CHART, "--strict", *VERSION, "--values", values)
    objects = rendered(values)
    apply_dry(kubeconfig, objects)
    assert {"Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget"} <= {obj["kind"] for obj in objects}
    apply_dry(kubeconfig, pods_of(objects))


def test_pod_security_of_the_namespace_is_enforced(kubeconfig: Path) -> None:
    pods = pods_of(rendered(EXAMPLES_OF_VALUES[0]))
    del pods[0]["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        apply_dry(kubeconfig, pods)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("kafka.bootstrap=broker", "does not match pattern"),
        ("kafka.options.sasl\\.password=secret", "sasl.password"),
        ("settings.partition=4", "partition"),
        ("targets=null", "an actuator needs some"),
        ("targets[0].kind=AutoScalingGroup", "none is an object of Kubernetes"),
        ("image.repository=", "minLength"),
    ],
)
def test_values_that_cannot_be_are_refused(setting: str, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        rendered(VALUES / "strimzi.yaml", "--set", setting)


def test_the_targets_file_of_the_chart_is_accepted(tmp_path: Path) -> None:
    for values in EXAMPLES_OF_VALUES:
        given = yaml.safe_load(values.read_text()).get("targets", ())
        maps = [obj for obj in rendered(values) if "targets.toml" in obj.get("data", {})]
        assert len(maps) == bool(given)
        for written in maps:
            path = tmp_path / "targets.toml"
            path.write_text(written["data"]["targets.toml"])
            assert read_targets(path, INTEGRATIONS).refs == [target["ref"] for target in given]


def permitted(objects: list[Object]) -> set[tuple[str, ...]]:
    """Each that roles allow: namespace, group, resource, name and verb."""
    return {
        (role["metadata"].get("namespace", ""), group, resource, name, verb)
        for role in objects
        if role["kind"] in ("Role", "ClusterRole")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def test_the_roles_of_the_chart_suffice_and_are_the_least(cluster: Cluster, peer: ApiServer) -> None:
    """They are those of infra/kubernetes/rbac.yaml, and the provider runs with them."""
    objects = [obj for obj in rendered(VALUES / "msk.yaml") if obj["kind"] in KINDS]
    assert permitted(objects) == permitted(list(yaml.safe_load_all(RBAC.read_text())))
    shared_cluster(cluster).close()
    peer.clean_roles()
    for obj in objects:
        if "Role" in obj["kind"]:
            peer.apply(obj)
    peer.restrict()
    provider = cluster.provider(*EXAMPLES)
    assert live_faults(provider.api, EXAMPLES) == []
    run_all(provider)


def test_it_is_installed_upgraded_and_taken_away(kubeconfig: Path, peer: ApiServer) -> None:
    """Without its hook, because no node runs it here."""
    peer.clean_roles()
    where = (*IN_NAMESPACE, "--kubeconfig", kubeconfig)
    values = ("--values", VALUES / "msk.yaml", "--no-hooks")
    helm("install", "leadtime", CHART, *where, *values)
    helm(
        "upgrade",
        "leadtime",
        CHART,
        *where,
        *values,
        "--set",
        "worker.replicas=5,actuator.providers={kubernetes}",
    )
    kubectl = (
        binary("kubectl"),
        "--kubeconfig",
        kubeconfig,
        "get",
        "--namespace",
        "leadtime",
        "--output",
        "name",
    )
    deployments = [
        f"deployment.apps/leadtime-{n}" for n in ("actuator-kubernetes", "ingest", "learner", "worker")
    ]
    assert run(*kubectl, "deployments").split() == deployments
    assert peer.get("deployments", "leadtime", "leadtime-worker")["spec"]["replicas"] == 5
    helm("uninstall", "leadtime", *where)
    kinds = "deployments,networkpolicies,poddisruptionbudgets,configmaps,serviceaccounts,secrets"
    assert run(*kubectl, "--selector", "app.kubernetes.io/name=leadtime", kinds) == ""
    assert (
        run(*kubectl[:-4], "roles,clusterroles", "--all-namespaces", "--output", "name").count("leadtime")
        == 0
    )
