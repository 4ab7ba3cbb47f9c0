"""The provider on a real kube-apiserver: what the contract server was believed to do, and the roles as they are."""

import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from pipeline.errors import Rejected, Retryable
from pipeline.providers.kubernetes.api import Gone
from pipeline.providers.kubernetes.checks import live_faults
from pipeline.providers.kubernetes.observation import BROKEN_S
from pipeline.providers.kubernetes.resources import Place
from tests.peers.api_server import ApiServer
from tests.unit.pipeline.providers import test_kubernetes as contract
from tests.unit.pipeline.providers.test_kubernetes import (
    EXAMPLES,
    FLOOR,
    Cluster,
    apply,
    counts,
    eventually,
    observe,
    order,
    run_all,
    shared_cluster,
)

ON_PEERS = (
    contract.test_a_check_names_what_would_hinder,
    contract.test_a_command_sets_the_count_and_leaves_its_mark_in_one_patch,
    contract.test_a_count_that_is_there_already_is_marked_without_an_event,
    contract.test_a_dry_run_is_checked_by_the_api_server_and_changes_nothing,
    contract.test_a_permission_that_is_missing_is_named,
    contract.test_a_pool_that_is_not_static_has_no_count,
    contract.test_a_target_by_scale_is_not_given_back_unsaid,
    contract.test_an_autoscaler_of_something_else_is_refused,
    contract.test_an_older_or_equal_epoch_is_not_applied_by_another_process_either,
    contract.test_failure_annotation_only_edit,
    contract.test_failure_deleted_and_recreated,
    contract.test_failure_gitops_conflict,
    contract.test_failure_hpa_present,
    contract.test_failure_keda_scaler_dead,
    contract.test_failure_pods_pending_for_nodes,
    contract.test_failure_scale_only_rbac,
    contract.test_failure_scaled_by_hand,
    contract.test_failure_scaled_by_hand_is_a_conflict_of_the_actuator,
    contract.test_nodes_are_counted_by_what_they_say,
    contract.test_the_roles_of_the_example_suffice,
    contract.test_what_is_given_back_is_as_somebody_else_left_it,
    contract.test_what_is_paused_is_left_alone,
    contract.test_what_the_object_bounds_is_granted_in_part,
    contract.test_without_leave_for_events_and_pods_commands_are_applied_all_the_same,
)
"""Tests of the contract server that inject no faults: here they meet what it was written after."""
globals().update({test.__name__: test for test in ON_PEERS})
pytestmark = [pytest.mark.slow, pytest.mark.peers]
RBAC = Path(__file__).parents[2] / "infra/kubernetes/rbac.yaml"


def test_the_roles_as_they_are_suffice(cluster: Cluster, peer: ApiServer) -> None:
    """Each manifest is made as it is written, and bound to the service account that it names."""
    shared_cluster(cluster).close()
    peer.clean_roles()
    for document in yaml.safe_load_all(RBAC.read_text()):
        peer.apply(document)
    peer.restrict()
    provider = cluster.provider(*EXAMPLES)
    assert live_faults(provider.api, EXAMPLES) == []
    run_all(provider)
    assert len(peer.events()) == len(EXAMPLES)


def test_what_the_api_server_does_not_note_of_an_autoscaler(floor: Cluster) -> None:
    """HPAs have no `metadata.generation`: ours is in the annotations."""
    provider = floor.provider(FLOOR)
    apply(provider, 7)
    assert "generation" not in floor.state.get("horizontalpodautoscalers", "shop", "web")["metadata"]
    assert observe(provider).generation == 2


def test_an_edit_between_read_and_write_is_read_again(floor: Cluster, peer: ApiServer) -> None:
    edit = {"metadata": {"labels": {"team": "web"}}, "spec": {"minReplicas": 4}}
    peer.before_patch.append(lambda: peer.edit("horizontalpodautoscalers", "shop", "web", edit))
    result = apply(floor.provider(FLOOR), 7)
    assert (result.before, result.after) == (4, 7)
    assert peer.get("horizontalpodautoscalers", "shop", "web")["metadata"]["labels"] == {"team": "web"}


def test_a_version_that_is_not_kept_is_gone(floor: Cluster, peer: ApiServer) -> None:
    with pytest.raises(Gone):
        list(peer.admin.call().watch(Place(FLOOR.kind, "shop"), "1"))


def test_a_frozen_api_server_applies_a_late_patch_before_the_next_command_or_never(
    floor: Cluster, peer: ApiServer
) -> None:
    """The call is given up with its patch on the way; the count is the newest command's all the same."""
    provider = floor.provider(FLOOR, read_s=0.5)
    peer.before_patch.append(peer.freeze)
    try:
        with pytest.raises(Retryable, match="no answer from the API server"):
            apply(provider, 7, epoch=10)
    finally:
        peer.freeze(thaw=True)
    patient = floor.provider(FLOOR)
    assert apply(patient, 4, epoch=11).after == 4
    time.sleep(0.5)
    written = peer.get("horizontalpodautoscalers", "shop", "web")
    assert written["spec"]["minReplicas"] == 4
    assert written["metadata"]["annotations"]["leadtime.dev/epoch"] == "11"
    with pytest.raises(Rejected, match="older-epoch"):
        apply(floor.provider(FLOOR), 7, epoch=10)


def test_a_floor_takes_effect_without_metrics_and_the_autoscaler_stays(
    controllers: Cluster, peer: ApiServer
) -> None:
    """Command to pods through the real controllers; a lower floor leaves what the autoscaler holds."""
    provider = controllers.provider(FLOOR)
    assert apply(provider, 17, epoch=10).after == 17

    def started(ready: int) -> bool:
        peer.start_pods()
        return counts(observe(provider)) == (ready, 0, 0)

    eventually(lambda: sum(counts(observe(provider))) == 17)
    eventually(lambda: started(17))
    assert apply(provider, 3, epoch=11).after == 3
    time.sleep(3.0)  # three syncs of the autoscaler
    assert counts(observe(provider)) == (17, 0, 0)
    assert observe(provider).command_id == order(3, 11)["id"]  # nobody has fought


def test_an_api_server_that_was_down_is_followed_again(floor: Cluster, peer: ApiServer) -> None:
    provider = floor.provider(FLOOR)
    apply(provider, 7, epoch=10)
    peer.stop()
    try:
        with pytest.raises(Retryable, match="no answer from the API server"):
            apply(provider, 8, epoch=11)
        time.sleep(BROKEN_S + 1)
        with pytest.raises(Retryable, match="nothing was heard of"):
            observe(provider)
    finally:
        peer.start()
    assert apply(floor.provider(FLOOR), 8, epoch=11).before == 7
    peer.edit("deployments", "shop", "web", {"spec": {"replicas": 11}})

    def followed() -> bool:
        with suppress(Retryable):
            return sum(counts(observe(provider))[:2]) == 11
        return False

    eventually(followed, within_s=60)
