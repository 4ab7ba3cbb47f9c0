"""Any interleaving of commands, kills, late calls and foreign edits: no older epoch over a newer one, none twice."""

import pytest

from pipeline.providers.kubernetes.marks import PREFIX
from pipeline.providers.kubernetes.provider import KubernetesProvider
from pipeline.providers.kubernetes.resources import DEPLOYMENT, HPA, NODE_POOL, Place, Resource
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.kubernetes_server import Object, Refused, served
from tests.unit.pipeline.providers.machine import REF, Interleavings, case

OBJECTS: dict[str, Object] = {
    "horizontalpodautoscalers": kube.hpa(),
    "deployments": kube.deployment(),
    "nodepools": kube.node_pool(),
}


class OfFloors(Interleavings):
    name = "kubernetes"
    writes = ("PATCH",)
    refusals = tuple(Refused(code, "no") for code in (409, 422, 429, 500, 503))
    place = Place(HPA, "shop", "web")

    def start(self) -> None:
        self.context = served()
        self.server = self.context.__enter__()
        self.state = self.server.state
        self.state.put(self.place.kind.plural, OBJECTS[self.place.kind.plural])
        if self.place.kind is HPA:
            self.state.put("deployments", kube.deployment())

    def stop(self) -> None:
        self.context.__exit__(None, None, None)

    def made(self) -> KubernetesProvider:
        return KubernetesProvider(self.server.api(read_s=0.1, call_s=2.0), [Resource(REF, self.place)])

    @property
    def faults(self) -> list[Fault]:
        return self.state.faults

    def set_count(self, count: int) -> None:
        self._edit({"spec": {self.place.kind.count: count}})

    def edit(self, text: str | None) -> None:
        self._edit({"metadata": {"annotations": {"note": text}}})

    def _edit(self, body: Object) -> None:
        self.state.edit(self.place.kind.plural, self.place.namespace, self.place.name, body)

    def judge(self) -> None:
        patched = [written for _, _, written in list(self.state.patches)]
        notes = [written["metadata"]["annotations"] for written in patched]
        epochs = [int(note[f"{PREFIX}epoch"]) for note in notes]
        assert epochs == sorted(set(epochs))
        ids = [note[f"{PREFIX}command"] for note in notes]
        assert len(set(ids)) == len(ids)
        desired = {order["id"]: order["desired"] for order in self.commands}
        for written, command_id in zip(patched, ids, strict=True):
            assert written["spec"][self.place.kind.count] == desired[command_id]


class OfDeployments(OfFloors):
    place = Place(DEPLOYMENT, "shop", "web")


class OfNodePools(OfFloors):
    place = Place(NODE_POOL, "", "general")


class Quickly(OfFloors):
    """Some of them, in the fast tier."""


TestQuickly = case(Quickly, 5)
TestFloors = pytest.mark.slow(case(OfFloors, 40))
TestDeployments = pytest.mark.slow(case(OfDeployments, 20))
TestNodePools = pytest.mark.slow(case(OfNodePools, 20))
