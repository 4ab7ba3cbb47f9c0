"""The Kubernetes provider on a contract API server: commands, observations, and its twelve failures by name."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import Rejected, Retryable
from pipeline.providers.base import Observation, Result
from pipeline.providers.integrations import INTEGRATIONS
from pipeline.providers.kubernetes import observation as watching
from pipeline.providers.kubernetes.checks import live_faults, permissions
from pipeline.providers.kubernetes.provider import KubernetesProvider
from pipeline.providers.kubernetes.release import release
from pipeline.providers.kubernetes.resources import (
    DEPLOYMENT,
    HPA,
    NODE_POOL,
    SCALED_OBJECT,
    STATEFUL_SET,
    Place,
    Resource,
)
from pipeline.providers.targets import read_targets
from pipeline.security.signing_keys import demo_key
from pipeline.stages.actuator.executor import Executor
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.commanding import World, eventually
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.kubernetes_server import Object, Refused, Served, served

ROOT = Path(__file__).parents[4]
REF = "shop/pod"
FLOOR = Resource(REF, Place(HPA, "shop", "web"))
SCALED = Resource(REF, Place(SCALED_OBJECT, "shop", "web"))
DIRECT = Resource(REF, Place(DEPLOYMENT, "shop", "web"))
POOL = Resource(REF, Place(NODE_POOL, "", "general"))
BY_SCALE = Resource(REF, Place(NODE_POOL, "", "general"), by_scale=True)
NOW_S = 900.0


class Cluster(World[Served, KubernetesProvider]):
    """A contract server with providers on it."""

    def __init__(self, server: Served) -> None:
        super().__init__(server)
        self.state = server.state

    def provider(self, *resources: Resource, dry_run: bool = False, **limits: Any) -> KubernetesProvider:
        return self.with_provider(KubernetesProvider(self.server.api(**limits), resources, dry_run=dry_run))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with served() as server:
        made = Cluster(server)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def floor(cluster: Cluster) -> Cluster:
    """A cluster with an HPA and its Deployment."""
    cluster.state.put("horizontalpodautoscalers", kube.hpa())
    cluster.state.put("deployments", kube.deployment())
    return cluster


def order(desired: int, epoch: int = 10, ref: str = REF, generation: int | None = None) -> Object:
    target = Target("kubernetes", ref, kind="REPLICAS" if ref.endswith("/replicas") else "NODES")
    return command(epoch, desired, ref, target=target, bounds=(0, 999), expected_generation=generation)


def apply(provider: KubernetesProvider, desired: int, epoch: int = 10) -> Result:
    return provider.apply(order(desired, epoch), NOW_S)


def observe(provider: KubernetesProvider, ref: str = REF) -> Observation:
    return provider.observe(Target("kubernetes", ref), NOW_S)


def counts(seen: Observation) -> tuple[int, int, int]:
    return seen.ready, seen.pending, seen.draining


def least(cluster: Cluster) -> int:
    return cluster.state.get("horizontalpodautoscalers", "shop", "web")["spec"]["minReplicas"]


# What it does.


@pytest.mark.parametrize(
    ("resource", "plural", "obj", "field"),
    [
        (FLOOR, "horizontalpodautoscalers", kube.hpa(), "minReplicas"),
        (SCALED, "scaledobjects", kube.scaled_object(), "minReplicaCount"),
        (DIRECT, "deployments", kube.deployment(), "replicas"),
        (Resource(REF, Place(STATEFUL_SET, "shop", "web")), "statefulsets", kube.deployment(), "replicas"),
        (POOL, "nodepools", kube.node_pool(), "replicas"),
        (BY_SCALE, "nodepools", kube.node_pool(), "replicas"),
    ],
    ids=["hpa", "scaled-object", "deployment", "stateful-set", "node-pool", "node-pool-by-scale"],
)
def test_a_command_sets_the_count_and_leaves_its_mark_in_one_patch(
    cluster: Cluster, resource: Resource, plural: str, obj: Object, field: str
) -> None:
    cluster.state.put(plural, obj)
    if plural != "deployments":
        cluster.state.put("deployments", kube.deployment())
    provider = cluster.provider(resource)
    seven = order(7)
    first = provider.apply(seven, NOW_S)
    assert (first.before, first.after, first.partial) == (2, 7, False)
    ((key, manager, written),) = cluster.state.patches
    assert (key[0], written["spec"][field]) == (plural, 7)
    notes = written["metadata"].get("annotations", {})
    if resource.by_scale:
        assert manager == f"leadtime:10:{seven['id']}"
        assert notes == {}
    else:
        named = [notes[f"leadtime.dev/{name}"] for name in ("command", "epoch", "desired")]
        assert named == [seven["id"], "10", "7"]
    (event,) = cluster.state.events()
    assert event == f"{field} 2 → 7, plan {seven['plan_id']}, epoch 10"
    seen = observe(provider)
    assert (seen.command_id, seen.generation, seen.managed_by) == (seven["id"], first.generation, "leadtime")
    again = provider.apply(seven, NOW_S + 60)
    assert (again.after, again.generation) == (first.after, first.generation)
    assert again == first or resource.by_scale  # which does not say what there was before
    assert len(cluster.state.patches) == 1


def test_a_count_that_is_there_already_is_marked_without_an_event(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    assert apply(provider, 2).after == 2
    assert floor.state.events() == []
    assert observe(provider).command_id == order(2)["id"]
    with pytest.raises(Rejected, match="older-epoch"):
        apply(provider, 9, epoch=9)


def test_an_older_or_equal_epoch_is_not_applied_by_another_process_either(floor: Cluster) -> None:
    apply(floor.provider(FLOOR), 7, epoch=10)
    for epoch in (9, 10):
        with pytest.raises(Rejected, match="older-epoch"):
            apply(floor.provider(FLOOR), 3, epoch=epoch)
    assert least(floor) == 7


@pytest.mark.parametrize(
    ("resource", "desired", "granted"),
    [(FLOOR, 30, 20), (FLOOR, 0, 1), (SCALED, 30, 20), (SCALED, 0, 0), (POOL, 14, 10)],
)
def test_what_the_object_bounds_is_granted_in_part(
    floor: Cluster, resource: Resource, desired: int, granted: int
) -> None:
    floor.state.put("scaledobjects", kube.scaled_object())
    floor.state.put("nodepools", kube.node_pool())
    result = apply(floor.provider(resource), desired)
    assert (result.after, result.partial) == (granted, granted != desired)


def test_a_floor_is_observed_as_the_pods_of_what_is_scaled(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    apply(provider, 7)
    assert counts(observe(provider)) == (2, 5, 0)
    floor.state.settle()
    eventually(lambda: counts(observe(provider)) == (7, 0, 0))
    assert observe(provider).autoscaled == 0
    apply(provider, 3, epoch=11)  # the autoscaler keeps what it needs
    assert counts(observe(provider)) == (7, 0, 0)
    assert observe(provider).autoscaled == 4
    floor.state.edit("deployments", "shop", "web", {"spec": {"replicas": 4}})
    eventually(lambda: counts(observe(provider)) == (4, 0, 3))


def test_an_observation_asks_the_api_server_nothing(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    observe(provider)
    eventually(lambda: sum(path.endswith("watch") for _, path in floor.state.requests) == 3)
    before = len(floor.state.requests)
    for _ in range(50):
        observe(provider)
    assert len(floor.state.requests) == before


def test_nodes_are_counted_by_what_they_say(cluster: Cluster) -> None:
    cluster.state.put("nodepools", kube.node_pool(5))
    cluster.state.put("nodes", kube.node("a"))
    cluster.state.put("nodes", kube.node("b"))
    cluster.state.put("nodes", kube.node("c", ready=False))
    cluster.state.put("nodes", kube.node("other", labels={"karpenter.sh/nodepool": "another"}))
    provider = cluster.provider(POOL)
    seen = observe(provider)
    assert counts(seen) == (2, 3, 0)
    assert seen.allocatable == {"cpu": pytest.approx(3.92), "memory": 14 * 2.0**30}
    cluster.state.edit("nodes", "", "b", {"spec": {"unschedulable": True}})
    eventually(lambda: counts(observe(provider)) == (1, 4, 1))


def test_replicas_on_shared_nodes_are_what_one_asks_for(cluster: Cluster) -> None:
    cluster.state.put("deployments", kube.deployment(3))
    provider = cluster.provider(Resource("shop/replicas", Place(DEPLOYMENT, "shop", "web")))
    assert provider.can_share_nodes()
    seen = observe(provider, "shop/replicas")
    assert (counts(seen), seen.allocatable) == ((3, 0, 0), {"cpu": 0.5, "memory": 2.0**30})


@pytest.mark.parametrize(
    ("notes", "named"),
    [
        ({"leadtime.dev/paused": "true"}, "leadtime.dev/paused=true"),
        ({"autoscaling.keda.sh/paused": "true"}, "autoscaling.keda.sh/paused=true"),
        ({"autoscaling.keda.sh/paused-replicas": "3"}, "autoscaling.keda.sh/paused-replicas=3"),
    ],
)
def test_what_is_paused_is_left_alone(cluster: Cluster, notes: dict[str, str], named: str) -> None:
    cluster.state.put("scaledobjects", kube.scaled_object(annotations=notes))
    provider = cluster.provider(SCALED)
    with pytest.raises(Rejected, match=f"paused \\({named}\\)"):
        apply(provider, 7)
    cluster.state.edit("scaledobjects", "shop", "web", {"metadata": {"annotations": dict.fromkeys(notes)}})
    assert apply(provider, 8, epoch=11).after == 8


def test_a_dry_run_is_checked_by_the_api_server_and_changes_nothing(floor: Cluster) -> None:
    provider = floor.provider(FLOOR, dry_run=True)
    with pytest.raises(Rejected, match="dry run: minReplicas 2 → 7 would be accepted"):
        apply(provider, 7)
    assert least(floor) == 2
    assert floor.state.patches == []
    assert floor.state.events() == []


def test_a_target_that_the_file_has_not_is_refused(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    with pytest.raises(Rejected, match="the targets file has no other/pod"):
        provider.apply(order(3, ref="other/pod"), NOW_S)
    with pytest.raises(Rejected, match="the targets file has no other/pod"):
        observe(provider, "other/pod")


def test_a_pool_that_is_not_static_has_no_count(cluster: Cluster) -> None:
    cluster.state.put("nodepools", kube.node_pool(None))
    provider = cluster.provider(POOL)
    with pytest.raises(Rejected, match="dynamic"):
        apply(provider, 3)
    with pytest.raises(Rejected, match="dynamic"):
        observe(provider)


def test_an_autoscaler_of_something_else_is_refused(floor: Cluster) -> None:
    ref = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "web"}
    floor.state.edit("horizontalpodautoscalers", "shop", "web", {"spec": {"scaleTargetRef": ref}})
    provider = floor.provider(FLOOR)
    with pytest.raises(Rejected, match="only Deployment and StatefulSet"):
        apply(provider, 3)
    with pytest.raises(Rejected, match="only Deployment and StatefulSet"):
        observe(provider)


def test_a_list_of_many_pages_is_read_whole(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.providers.kubernetes.api.PAGE", 2)
    cluster.state.put("nodepools", kube.node_pool(5))
    for name in "abcde":
        cluster.state.put("nodes", kube.node(name))
    assert counts(observe(cluster.provider(POOL))) == (5, 0, 0)


def test_a_watch_whose_version_is_gone_lists_again(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    observe(provider)
    for replicas in (5, 9):
        floor.state.edit("deployments", "shop", "web", {"spec": {"replicas": replicas}})
        eventually(lambda pending=replicas - 2: counts(observe(provider)) == (2, pending, 0))
        floor.state.compact()
    floor.state.delete("deployments", "shop", "web")  # an event that no watch tells any more
    eventually(lambda: observe(provider).reason == "Deployment shop/web is gone")
    assert ("GET", "/apis/apps/v1/namespaces/shop/deployments") in floor.state.requests[5:]


def test_what_a_late_event_tells_does_not_undo_what_a_request_returned(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    observe(provider)
    old = floor.state.get("horizontalpodautoscalers", "shop", "web")
    apply(provider, 7)
    provider.cluster.note(FLOOR.place, old)
    assert observe(provider).command_id == order(7)["id"]


def test_what_is_given_back_is_as_somebody_else_left_it(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    apply(provider, 7, 10)
    apply(provider, 9, 11)
    gone = Resource("gone/pod", Place(HPA, "shop", "gone"))
    (done,), (failed,) = release(provider.api, [FLOOR, gone])
    assert done == f"target {REF}: minReplicas 9 → 2, no annotations of ours"
    assert failed.startswith("target gone/pod: ")
    released = floor.state.get("horizontalpodautoscalers", "shop", "web")
    assert (released["spec"]["minReplicas"], released["metadata"].get("annotations", {})) == (2, {})
    apply(provider, 7, 12)
    floor.state.edit("horizontalpodautoscalers", "shop", "web", {"spec": {"minReplicas": 5}})
    apply(provider, 8, 13)
    assert release(provider.api, [FLOOR])[0] == [f"target {REF}: minReplicas 8 → 5, no annotations of ours"]
    apply(provider, 7, 14)
    floor.state.edit("horizontalpodautoscalers", "shop", "web", {"spec": {"minReplicas": 6}})
    assert release(provider.api, [FLOOR])[0] == [f"target {REF}: minReplicas 6 → 6, no annotations of ours"]
    assert release(provider.api, [FLOOR])[0] == [f"target {REF}: nothing of ours is on it"]


def test_a_target_by_scale_is_not_given_back_unsaid(cluster: Cluster) -> None:
    cluster.state.put("nodepools", kube.node_pool())
    provider = cluster.provider(BY_SCALE)
    apply(provider, 7)
    assert release(provider.api, [BY_SCALE])[1] == [
        f"target {REF}: set replicas of NodePool general yourself: with through = scale nobody knows what it was"
    ]


# The twelve failures.


def test_failure_stale_version(floor: Cluster) -> None:
    """Somebody edits between read and write: it is read again, and the edit stays."""
    provider = floor.provider(FLOOR)
    floor.state.faults.append(Fault("PATCH", refused=Refused(409, "modified", "Conflict")))
    floor.state.edit("horizontalpodautoscalers", "shop", "web", {"metadata": {"labels": {"team": "web"}}})
    assert apply(provider, 7).after == 7
    written = floor.state.get("horizontalpodautoscalers", "shop", "web")
    assert written["metadata"]["labels"] == {"team": "web"}
    floor.state.faults.append(Fault("PATCH", times=9, refused=Refused(409, "modified", "Conflict")))
    with pytest.raises(Retryable, match="changed by others 3 times"):
        apply(provider, 8, epoch=11)


@pytest.mark.parametrize("resource", [FLOOR, POOL], ids=["hpa", "pool"])
def test_failure_kill_between_patch_and_result(floor: Cluster, resource: Resource) -> None:
    """The answer is lost; another process answers the same command as the first time, also after a foreign edit."""
    floor.state.put("nodepools", kube.node_pool())
    place = resource.place
    key = place.kind.plural, place.namespace, place.name
    floor.state.faults.append(Fault("PATCH", lost=True))
    with pytest.raises(Retryable):
        apply(floor.provider(resource), 7)
    assert floor.state.get(*key)["spec"][place.kind.count] == 7
    floor.state.edit(*key, {"spec": {place.kind.count: 4}})
    provider = floor.provider(resource)
    result = apply(provider, 7)
    assert (result.before, result.after) == (2, 7)
    assert result.generation < observe(provider).generation  # so plans see that somebody came after it
    assert floor.state.get(*key)["spec"][place.kind.count] == 4
    assert len(floor.state.patches) == 1


@pytest.mark.parametrize(
    "resource", [FLOOR, DIRECT, POOL, BY_SCALE], ids=["hpa", "deployment", "pool", "by-scale"]
)
def test_failure_scaled_by_hand(cluster: Cluster, resource: Resource) -> None:
    """A foreign edit of the count is nobody's command, of a newer generation, and named."""
    if resource is not DIRECT:
        cluster.state.put("horizontalpodautoscalers", kube.hpa())
    cluster.state.put("deployments", kube.deployment())
    cluster.state.put("nodepools", kube.node_pool())
    provider = cluster.provider(resource)
    ours = apply(provider, 7)
    place = resource.place
    body = {"spec": {place.kind.count: 5}}
    cluster.state.edit(place.kind.plural, place.namespace, place.name, body, "kubectl-scale")
    eventually(lambda: observe(provider).command_id == "")
    seen = observe(provider)
    assert (seen.managed_by, seen.generation) == ("kubectl-scale", ours.generation + 1)
    assert apply(provider, 9, epoch=11).before == 5


def test_a_command_is_observed_though_the_list_was_read_before_it(cluster: Cluster) -> None:
    """The first list of a watch is still on its way while a command is applied."""
    cluster.state.put("nodepools", kube.node_pool())
    answered = threading.Event()
    listing = Fault("GET", "nodepools", late=answered)
    cluster.state.faults.append(listing)
    provider = cluster.provider(POOL)
    eventually(lambda: listing.times == 0)
    ours = apply(provider, 7)
    answered.set()
    seen = observe(provider)
    assert (seen.command_id, seen.generation) == (order(7)["id"], ours.generation)


def test_failure_scaled_by_hand_is_a_conflict_of_the_actuator(floor: Cluster) -> None:
    provider = floor.provider(FLOOR)
    actuator = Executor({"kubernetes": provider}, demo_key().keyring)
    [(_, settled)] = actuator.submit(order(7), NOW_S)
    assert settled["status"] == "APPLIED"
    floor.state.edit("horizontalpodautoscalers", "shop", "web", {"spec": {"minReplicas": 5}})
    eventually(lambda: observe(provider).command_id == "")
    [(_, refused)] = actuator.submit(order(8, 11, generation=settled["generation"]), NOW_S)
    assert (refused["status"], refused["reason"]) == ("REFUSED", "conflict")
    [(_, again)] = actuator.submit(order(8, 12, generation=observe(provider).generation), NOW_S)
    assert again["status"] == "APPLIED"


def test_failure_hpa_present(floor: Cluster) -> None:
    """Replicas that an autoscaler sets are not ours to set, nor is an autoscaler that KEDA sets."""
    with pytest.raises(Rejected, match="HorizontalPodAutoscaler web sets Deployment shop/web"):
        apply(floor.provider(DIRECT), 7)
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "web-kafka", "uid": "1"}
    floor.state.put("horizontalpodautoscalers", kube.hpa(ownerReferences=[owner]))
    with pytest.raises(Rejected, match="make ScaledObject web-kafka the target"):
        apply(floor.provider(FLOOR), 7)
    assert floor.state.patches == []


def test_failure_gitops_conflict(floor: Cluster) -> None:
    """A controller that puts its own count back is seen, and named, each time."""
    provider = floor.provider(FLOOR)
    for epoch in (10, 11):
        apply(provider, 7, epoch)
        body = {"spec": {"minReplicas": 2}}
        floor.state.edit("horizontalpodautoscalers", "shop", "web", body, "argocd-controller")
        eventually(lambda: observe(provider).managed_by == "argocd-controller")
        assert observe(provider).command_id == ""


def test_failure_annotation_only_edit(cluster: Cluster) -> None:
    """It raises the generation of a Deployment, but the count is still ours."""
    cluster.state.put("deployments", kube.deployment())
    provider = cluster.provider(DIRECT)
    ours = apply(provider, 7)
    cluster.state.edit("deployments", "shop", "web", {"metadata": {"annotations": {"note": "x"}}})
    eventually(lambda: observe(provider).generation == ours.generation + 1)
    seen = observe(provider)
    assert (seen.command_id, seen.managed_by) == (order(7)["id"], "leadtime")
    assert apply(provider, 7).after == 7
    assert len(cluster.state.patches) == 1


def test_failure_deleted_and_recreated(floor: Cluster) -> None:
    """What is gone has nothing; a copy of it with our annotations, under another uid, was never commanded."""
    provider = floor.provider(FLOOR)
    apply(provider, 7)
    old = floor.state.get("horizontalpodautoscalers", "shop", "web")
    floor.state.delete("horizontalpodautoscalers", "shop", "web")
    eventually(lambda: observe(provider).generation == 0)
    assert counts(observe(provider)) == (0, 0, 0)
    with pytest.raises(Rejected, match="not found"):
        apply(provider, 8, epoch=11)
    floor.state.put("horizontalpodautoscalers", {"metadata": old["metadata"], "spec": old["spec"]})
    eventually(lambda: observe(provider).generation == 1)
    assert observe(provider).command_id == ""
    assert apply(provider, 9, epoch=12).before == 7


def test_failure_drain_blocked_by_a_budget(cluster: Cluster) -> None:
    """A node that was told to go and does not is draining, not ready, and the reason says since when."""
    cluster.state.put("nodepools", kube.node_pool(2))
    cluster.state.put("nodes", kube.node("a"))
    cluster.state.put("nodes", kube.node("b", deletionTimestamp="1970-01-01T00:05:00Z"))
    seen = observe(cluster.provider(POOL))
    assert counts(seen) == (1, 1, 1)
    assert seen.reason == "1 drain, b for 600 s"


@pytest.mark.parametrize(
    "resource", [BY_SCALE, Resource(REF, Place(DEPLOYMENT, "shop", "web"), by_scale=True)]
)
def test_failure_scale_only_rbac(cluster: Cluster, resource: Resource) -> None:
    """A role for the subresource alone suffices; the command is in the field manager's name."""
    cluster.state.put("nodepools", kube.node_pool())
    cluster.state.put("deployments", kube.deployment())
    needed = permissions(resource)
    cluster.state.allow(*(_rule(p.verb, p.place, p.subresource) for p in needed))
    provider = cluster.provider(resource)
    assert apply(provider, 7).after == 7
    seen = observe(provider)
    assert (seen.command_id, seen.managed_by) == (order(7)["id"], "leadtime")
    assert apply(cluster.provider(resource), 7).after == 7
    assert len(cluster.state.patches) == 1
    with pytest.raises(Rejected, match="older-epoch"):
        apply(cluster.provider(resource), 3, epoch=9)
    plain = Resource(REF, resource.place)
    named = "nodepools.karpenter.sh" if resource is BY_SCALE else "deployments.apps"
    with pytest.raises(Rejected, match=f"a role must allow: patch {named}"):
        apply(cluster.provider(plain), 8, epoch=11)


def test_failure_api_server_down(floor: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is reported as it once was; when the server is back, it is followed again."""
    now = time.monotonic()
    provider = floor.provider(FLOOR, clock=lambda: now)
    apply(provider, 7)
    monkeypatch.setattr(watching, "MOST_WAIT_S", 0.05)
    monkeypatch.setattr(watching, "SHORTEST_WAIT_S", 0.05)
    floor.state.faults.append(Fault("GET", times=10_000, unheard=True))
    floor.state.compact()  # ends the watches
    eventually(lambda: all(w.fault is not None for w in provider.cluster._watches.values()))
    assert counts(observe(provider)) == (2, 5, 0)  # a moment ago
    now += 60
    with pytest.raises(Retryable, match=r"nothing was heard of .* for 60 s: no answer from the API server"):
        observe(provider)
    with pytest.raises(Retryable, match="no answer from the API server"):
        apply(provider, 8, epoch=11)
    floor.state.faults.clear()
    floor.state.settle()

    def back() -> bool:
        try:
            return counts(observe(provider)) == (7, 0, 0)
        except Retryable:
            return False

    eventually(back)
    assert apply(provider, 8, epoch=11).after == 8


def test_failure_pods_pending_for_nodes(floor: Cluster) -> None:
    """Pods that wait for a node are pending, with what the scheduler says."""
    provider = floor.provider(FLOOR)
    apply(provider, 7)
    message = "0/3 nodes are available: 3 Insufficient cpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod: Object = {"metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}}}
    pod["spec"] = {"containers": [{"name": "web", "image": "web:1"}]}
    floor.state.put("pods", pod | {"status": {"phase": "Pending", "conditions": [condition]}})
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((2, 5, 0), f"Unschedulable: {message}")
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "exceeded quota",
    }
    floor.state.edit("deployments", "shop", "web", {"status": {"conditions": [failure]}})
    eventually(lambda: observe(provider).reason == "FailedCreate: exceeded quota")


def test_failure_keda_scaler_dead(cluster: Cluster) -> None:
    """The floor is set all the same; what does not come is pending, with what KEDA says."""
    cluster.state.put("scaledobjects", kube.scaled_object())
    cluster.state.put("deployments", kube.deployment())
    provider = cluster.provider(SCALED)
    message = "Triggers defined in ScaledObject are not working correctly"
    condition = {"type": "Ready", "status": "False", "reason": "ScalerNotActive", "message": message}
    cluster.state.edit("scaledobjects", "shop", "web", {"status": {"conditions": [condition]}})
    assert apply(provider, 7).after == 7
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((2, 5, 0), f"ScalerNotActive: {message}")


# Late calls, and time.


@pytest.mark.parametrize("resource", [FLOOR, BY_SCALE], ids=["hpa", "by-scale"])
def test_a_call_that_was_given_up_lands_late_and_changes_nothing(floor: Cluster, resource: Resource) -> None:
    floor.state.put("nodepools", kube.node_pool())
    provider = floor.provider(resource, read_s=0.2)
    held = threading.Event()
    floor.state.faults.append(Fault("PATCH", held=held))
    with pytest.raises(Retryable):
        apply(provider, 7, epoch=10)
    assert apply(provider, 4, epoch=11).after == 4
    held.set()
    eventually(lambda: sum(method == "PATCH" for method, _ in floor.state.requests) == 2)
    time.sleep(0.1)
    assert [written["spec"][resource.kind.count] for _, _, written in floor.state.patches] == [4]


def test_a_call_that_hangs_before_its_patch_sends_none_after_its_time(floor: Cluster) -> None:
    provider = floor.provider(FLOOR, call_s=0.2)
    floor.state.faults.append(Fault("GET", "/horizontalpodautoscalers/web", slow_s=0.4))
    with pytest.raises(Retryable, match="too slowly"):
        apply(provider, 7)
    assert least(floor) == 2


def test_a_call_that_a_newer_command_overtook_writes_nothing(cluster: Cluster) -> None:
    """In a thread that the actuator has given up, with an object without annotations."""
    cluster.state.put("nodepools", kube.node_pool(4))
    provider = cluster.provider(BY_SCALE)
    cluster.state.faults.append(Fault("GET", "/nodepools/general", slow_s=0.5))
    late: list[Exception] = []

    def old() -> None:
        try:
            apply(provider, 7, epoch=10)
        except Rejected as error:
            late.append(error)

    thread = threading.Thread(target=old)
    thread.start()
    eventually(lambda: ("GET", "/apis/karpenter.sh/v1/nodepools/general") in cluster.state.requests)
    assert apply(provider, 4, epoch=11).after == 4  # a count that is there: no version changes
    thread.join()
    assert [str(error) for error in late] == ["older-epoch"]


# Permissions.


def _rule(verb: str, place: Place, subresource: str = "") -> Object:
    resource = f"{place.kind.plural}/{subresource}" if subresource else place.kind.plural
    rule: Object = {"verbs": [verb], "apiGroups": [place.kind.group], "resources": [resource]}
    return rule | ({"resourceNames": [place.name]} if place.name else {})


ROLES: list[Object] = [
    document
    for document in yaml.safe_load_all((ROOT / "infra/kubernetes/rbac.yaml").read_text())
    if document["kind"] in ("Role", "ClusterRole")
]
EXAMPLES = read_targets(ROOT / "examples/targets.toml", INTEGRATIONS).by_provider()["kubernetes"]


def shared_cluster(cluster: Cluster) -> KubernetesProvider:
    """A cluster with the targets of the example, under the roles of the example."""
    state = cluster.state
    state.put("horizontalpodautoscalers", kube.hpa())
    state.put("deployments", kube.deployment())
    state.put(
        "scaledobjects",
        kube.scaled_object(name="queue")
        | {"spec": kube.scaled_object()["spec"] | {"scaleTargetRef": {"name": "worker"}}},
    )
    state.put("deployments", kube.deployment(name="worker"))
    state.put("deployments", kube.deployment(name="batch"))
    state.put("nodepools", kube.node_pool())
    state.allow(*(rule for role in ROLES for rule in role["rules"]))
    return cluster.provider(*EXAMPLES)


def run_all(provider: KubernetesProvider, epoch: int = 10) -> None:
    for number, resource in enumerate(EXAMPLES):
        provider.apply(order(3 + number, epoch, resource.ref), NOW_S)
        assert observe(provider, resource.ref).command_id


def test_the_roles_of_the_example_suffice(cluster: Cluster) -> None:
    provider = shared_cluster(cluster)
    assert live_faults(provider.api, EXAMPLES) == []
    run_all(provider)
    assert len(cluster.state.events()) == len(EXAMPLES)


def test_the_roles_of_the_example_allow_nothing_else() -> None:
    needed = {
        (
            p.verb,
            p.place.kind.group,
            p.place.kind.plural + (f"/{p.subresource}" if p.subresource else ""),
            p.place.name,
        )
        for resource in EXAMPLES
        for p in permissions(resource)
    }
    allowed = {
        (verb, group, plural, name)
        for role in ROLES
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }
    assert allowed == needed


def test_a_permission_that_is_missing_is_named(floor: Cluster) -> None:
    readable = [
        _rule(verb, Place(kind, "shop"))
        for kind in (HPA, DEPLOYMENT, STATEFUL_SET)
        for verb in ("get", "list", "watch")
    ]
    floor.state.allow(*readable)
    provider = floor.provider(FLOOR)
    with pytest.raises(Rejected) as refused:
        apply(provider, 7)
    missing = 'a role must allow: patch horizontalpodautoscalers.autoscaling "web" in namespace "shop"'
    assert str(refused.value) == f"not allowed, {missing}"
    assert f"target {REF}: {missing}" in live_faults(provider.api, [FLOOR])


def test_without_leave_for_events_and_pods_commands_are_applied_all_the_same(floor: Cluster) -> None:
    needed = [p for p in permissions(FLOOR) if p.place.kind.name not in ("Event", "Pod")]
    floor.state.allow(*(_rule(p.verb, p.place) for p in needed))
    provider = floor.provider(FLOOR)
    assert apply(provider, 7).after == 7
    assert counts(observe(provider)) == (2, 5, 0)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"metadata": {"annotations": {"leadtime.dev/paused": "true"}}}, "is paused"),
        ({"spec": {"scaleTargetRef": {"kind": "Rollout", "name": "web"}}}, "only Deployment and StatefulSet"),
        (None, "not found"),
    ],
)
def test_a_check_names_what_would_hinder(floor: Cluster, body: Object | None, fault: str) -> None:
    if body is None:
        floor.state.delete("horizontalpodautoscalers", "shop", "web")
    else:
        floor.state.edit("horizontalpodautoscalers", "shop", "web", body)
    (line,) = live_faults(floor.server.api(), [FLOOR])
    assert line.startswith(f"target {REF}: ")
    assert fault in line
    assert floor.state.patches == []
