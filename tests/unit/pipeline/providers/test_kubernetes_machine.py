"""Any interleaving of commands, kills, late calls and foreign edits: no older epoch over a newer one, none twice."""

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.errors import Rejected, Retryable
from pipeline.providers.kubernetes.marks import PREFIX
from pipeline.providers.kubernetes.provider import KubernetesProvider
from pipeline.providers.kubernetes.resources import DEPLOYMENT, HPA, NODE_POOL, Place, Resource
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.kubernetes_server import Fault, Object, Refused, served

REF = "shop/pod"
COUNTS = st.integers(1, 9)
OBJECTS: dict[str, Object] = {
    "horizontalpodautoscalers": kube.hpa(),
    "deployments": kube.deployment(),
    "nodepools": kube.node_pool(),
}


class Interleavings(RuleBasedStateMachine):
    """One target; the newest command is repeated as an actuator does after a kill, older ones as calls come late."""

    place = Place(HPA, "shop", "web")

    def __init__(self) -> None:
        super().__init__()
        self.context = served()
        self.server = self.context.__enter__()
        self.state = self.server.state
        self.state.put(self.place.kind.plural, OBJECTS[self.place.kind.plural])
        if self.place.kind is HPA:
            self.state.put("deployments", kube.deployment())
        self.commands: list[Object] = []
        self.held: list[Fault] = []
        self.answers: dict[str, tuple[int, int]] = {}
        self.provider = self._provider()

    def _provider(self) -> KubernetesProvider:
        resource = Resource(REF, self.place)
        return KubernetesProvider(self.server.api(read_s=0.1, call_s=2.0), [resource])

    def teardown(self) -> None:
        for fault in self.held:
            self._release(fault)
        self.epochs_only_grow_and_none_is_applied_twice()
        self.provider.close()
        self.context.__exit__(None, None, None)

    def _apply(self, number: int, fault: Fault | None = None) -> None:
        """Apply a command; its answers, where there are several, are the same."""
        order = self.commands[number]
        self.state.faults[:] = [fault] if fault is not None else []
        try:
            result = self.provider.apply(order, 100.0)
        except (Retryable, Rejected):
            return
        finally:
            self.state.faults.clear()
        answer = result.before, result.after
        assert self.answers.setdefault(order["id"], answer) == answer
        assert result.after == order["desired"]

    def _next(self, desired: int) -> int:
        epoch = len(self.commands) + 1
        self.commands.append(command(epoch, desired, REF, target=Target("kubernetes", REF), bounds=(0, 9)))
        return -1

    @rule(desired=COUNTS)
    def commanded(self, desired: int) -> None:
        self._apply(self._next(desired))

    @rule(desired=COUNTS, code=st.sampled_from([409, 422, 429, 500, 503]))
    def refused(self, desired: int, code: int) -> None:
        self._apply(self._next(desired), Fault("PATCH", refused=Refused(code, "no")))

    @rule(desired=COUNTS, lost=st.booleans())
    def killed(self, desired: int, lost: bool) -> None:
        """Before or after the patch: another process goes on."""
        self._apply(self._next(desired), Fault("PATCH", lost=lost, unheard=not lost))
        self.provider.close()
        self.provider = self._provider()

    @rule(desired=COUNTS)
    def given_up(self, desired: int) -> None:
        """The patch is on its way when the call is given up."""
        fault = Fault("PATCH", held=threading.Event())
        self._apply(self._next(desired), fault)
        if not fault.times:  # it was sent
            self.held.append(fault)

    @precondition(lambda self: bool(self.held))
    @rule()
    def lands_late(self) -> None:
        self._release(self.held.pop(0))

    def _release(self, fault: Fault) -> None:
        assert fault.held is not None
        fault.held.set()
        assert fault.finished.wait(10)

    @precondition(lambda self: bool(self.commands))
    @rule()
    def repeated(self) -> None:
        self._apply(-1)

    @precondition(lambda self: bool(self.commands))
    @rule(data=st.data())
    def comes_again(self, data: st.DataObject) -> None:
        """Any command, as if nobody had looked at its epoch before."""
        self._apply(data.draw(st.integers(0, len(self.commands) - 1)))

    @rule(count=COUNTS)
    def scaled_by_hand(self, count: int) -> None:
        self._edit({"spec": {self.place.kind.count: count}})

    @rule(text=st.sampled_from(["a", "b", None]))
    def annotated(self, text: str | None) -> None:
        self._edit({"metadata": {"annotations": {"note": text}}})

    def _edit(self, body: Object) -> None:
        self.state.edit(self.place.kind.plural, self.place.namespace, self.place.name, body)

    @invariant()
    def epochs_only_grow_and_none_is_applied_twice(self) -> None:
        notes = [written["metadata"]["annotations"] for _, _, written in list(self.state.patches)]
        epochs = [int(note[f"{PREFIX}epoch"]) for note in notes]
        assert epochs == sorted(set(epochs))
        ids = [note[f"{PREFIX}command"] for note in notes]
        assert len(set(ids)) == len(ids)

    @invariant()
    def what_was_written_is_what_was_commanded(self) -> None:
        desired = {order["id"]: order["desired"] for order in self.commands}
        for _, _, written in list(self.state.patches):
            command_id = written["metadata"]["annotations"][f"{PREFIX}command"]
            assert written["spec"][self.place.kind.count] == desired[command_id]


class OfDeployments(Interleavings):
    place = Place(DEPLOYMENT, "shop", "web")


class OfNodePools(Interleavings):
    place = Place(NODE_POOL, "", "general")


def _case(machine: type[Interleavings], examples: int) -> Any:
    case: Any = machine.TestCase
    health = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    case.settings = settings(max_examples=examples, stateful_step_count=20, suppress_health_check=health)
    return case


class Quickly(Interleavings):
    """Some of them, in the fast tier."""


TestQuickly = _case(Quickly, 5)
TestFloors = pytest.mark.slow(_case(Interleavings, 40))
TestDeployments = pytest.mark.slow(_case(OfDeployments, 20))
TestNodePools = pytest.mark.slow(_case(OfNodePools, 20))
