"""Objects of a cluster as its watches tell, and what they say of a target.

Each kind in each namespace is listed once and then watched from that version on; a watch that the server ends goes on
from the last version, one whose version is not kept any more (410) lists again. So an observation asks nothing of the
API server, but for the reason of pods that wait. It is refused once the server has been silent for longer than a
healthy one is: what is not known is not reported as it once was.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pipeline.errors import Rejected, Retryable
from pipeline.logs import get_logger
from pipeline.providers.base import Observation
from pipeline.providers.kubernetes.api import LIST_S, WATCH_S, Api, Call, Gone, Stream
from pipeline.providers.kubernetes.marks import MANAGER, state_of, stated_count
from pipeline.providers.kubernetes.resources import (
    AUTOSCALERS,
    NODE,
    NODE_POOL,
    NODE_POOL_LABEL,
    POD,
    WORKLOADS,
    Object,
    Place,
    Resource,
    quantity,
)
from pipeline.wire.commands import REPLICAS

QUIET_S: Final = WATCH_S + 10.0
"""Silence of a watch in which nothing changes: it ends, and begins again, more often."""
BROKEN_S: Final = 10.0
"""Silence after which a watch that fails tells nothing any more."""
FIRST_S: Final = 5.0
"""Wait for the first list, within the actuator's 10 s."""
SHORTEST_WAIT_S: Final = 1.0
MOST_WAIT_S: Final = 30.0
"""Pauses between two attempts to watch."""
REASON_S: Final = 2.0
"""For asking why pods wait."""
DISRUPTED: Final = "karpenter.sh/disrupted"
SIZES: Final = ("cpu", "memory")
log = get_logger("leadtime.kubernetes")


@dataclass
class Watch:
    """All objects of a kind in a namespace, kept up to date by a thread.

    Attributes:
        api: the cluster.
        place: of all that is watched.
        selector: of labels.
        objects: by name.
        heard_s: monotonic time of the server's last sign of life; None: not listed yet.
        fault: why the last attempt failed; None: it did not.
    """

    api: Api
    place: Place
    selector: str = ""
    objects: dict[str, Object] = field(default_factory=dict[str, Object])
    heard_s: float | None = None
    fault: Retryable | Rejected | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listed: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _stream: Stream | None = None
    _version: str = ""

    def start(self) -> "Watch":
        """Begin to follow."""
        threading.Thread(target=self._run, name=f"watch {self.place}", daemon=True).start()
        return self

    def stop(self) -> None:
        """End it; its thread ends soon."""
        self._stop.set()
        if self._stream is not None:
            self._stream.stop()

    def get(self, name: str) -> Object | None:
        """An object; None: there is none.

        Raises:
            Retryable, Rejected: it is not known, since the server is silent, or refuses to tell.
        """
        return self._known().get(name)

    def all(self) -> list[Object]:
        """All objects.

        Raises:
            Retryable, Rejected: as `get`.
        """
        return list(self._known().values())

    def note(self, obj: Object) -> None:
        """Keep what a request returned, unless a newer version is known; a list that was read before it too."""
        with self._lock:
            self._put(obj)

    def _known(self) -> dict[str, Object]:
        if not self._listed.wait(FIRST_S if self.fault is None else 0.0) or self.heard_s is None:
            raise self.fault or Retryable(f"{self.place} is not listed yet", 1.0)
        silent_s = self.api.clock() - self.heard_s
        if silent_s > (QUIET_S if self.fault is None else BROKEN_S):
            why = f": {self.fault}" if self.fault is not None else ""
            raise Retryable(f"nothing was heard of {self.place} for {silent_s:.0f} s{why}", 5.0)
        with self._lock:
            return dict(self.objects)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                if not self._version:
                    self._list()
                self._follow()
                wait_s, self.fault = 0.0, None
            except Gone:
                self._version, wait_s = "", SHORTEST_WAIT_S
            except (Retryable, Rejected) as error:
                self._failed(error)
                requested_s = error.retry_after if isinstance(error, Retryable) else 0.0
                wait_s = min(max(SHORTEST_WAIT_S, 2 * wait_s, requested_s), MOST_WAIT_S)
            except Exception as error:  # a defect of ours or the library's must not end the watch
                self._failed(Retryable(f"watch of {self.place}: {error!r}", MOST_WAIT_S))
                self._version, wait_s = "", MOST_WAIT_S

    def _failed(self, error: Retryable | Rejected) -> None:
        if not self._stop.is_set() and str(error) != str(self.fault):
            log.warning("watch failed", of=str(self.place), error=str(error))
        self.fault = error

    def _list(self) -> None:
        objects, self._version = self.api.call(LIST_S).list(self.place, selector=self.selector)
        listed = {obj["metadata"]["name"]: obj for obj in objects}
        with self._lock:
            read_at = _number(self._version)
            noted = {name: obj for name, obj in self.objects.items() if _version(obj) > read_at}
            self.objects = listed | noted
            self._heard()
        self._listed.set()

    def _follow(self) -> None:
        """Follow from the last version on until the server ends the watch."""
        self._stream = self.api.call().watch(self.place, self._version, selector=self.selector)
        if self._stop.is_set():
            self._stream.stop()
        self._heard()
        for event, obj in self._stream:
            with self._lock:
                if event == "DELETED":
                    self._take(obj)
                elif event != "BOOKMARK":
                    self._put(obj)
                self._heard()
            self._version = str(obj["metadata"].get("resourceVersion", self._version))
        self._heard()

    def _heard(self) -> None:
        self.heard_s, self.fault = self.api.clock(), None

    def _put(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        if name not in self.objects or _version(obj) >= _version(self.objects[name]):
            self.objects[name] = obj

    def _take(self, obj: Object) -> None:
        there = self.objects.get(obj["metadata"]["name"])
        if there is not None and _version(obj) >= _version(there):
            del self.objects[obj["metadata"]["name"]]


class Cluster:
    """The objects that observations of targets are made of.

    Args:
        api: the cluster.
        resources: targets.
    """

    def __init__(self, api: Api, resources: Iterable[Resource]) -> None:
        self.api = api
        self._watches = {place: Watch(api, place, selector) for place, selector in watched_for(resources)}

    def start(self) -> "Cluster":
        """Begin to watch."""
        for watch in self._watches.values():
            watch.start()
        return self

    def stop(self) -> None:
        """End all watches."""
        for watch in self._watches.values():
            watch.stop()

    def note(self, place: Place, obj: Object) -> None:
        """Keep what a request returned of a watched object."""
        self._watch(place).note(obj)

    def observe(self, resource: Resource, now_s: float) -> Observation:
        """What a target has now; an object that is gone has nothing, at generation 0.

        Raises:
            Retryable, Rejected: it cannot be told.
        """
        obj = self._get(resource.place)
        if obj is None:
            return Observation(0, 0, {}, generation=0)
        state = state_of(resource, obj)
        count = stated_count(resource, state)
        if resource.kind is NODE_POOL:
            seen = _nodes(obj, count, self._watch(Place(NODE)).all(), now_s)
        else:
            seen = self._pods(resource, obj, count)
        owner = MANAGER if state.ours else state.owner or "unknown"
        command_id = state.mark.command if state.mark is not None and state.ours else ""
        return Observation(**seen, generation=state.generation, command_id=command_id, managed_by=owner)

    def _pods(self, resource: Resource, obj: Object, count: int) -> dict[str, Any]:
        """Counts of a target's pods: of an autoscaler's, at least its floor are wanted."""
        place = workload_of(resource.place, obj)
        workload = obj if place == resource.place else self._get(place)
        if workload is None:
            reason = f"{place} is gone"
            return {"ready": 0, "pending": count, "allocatable": {}, "reason": reason}
        status, replicas = workload.get("status", {}), workload.get("spec", {}).get("replicas", 1)
        wanted = max(count, replicas)
        ready = min(status.get("readyReplicas", 0), wanted)
        reason = self._why(resource, obj, workload) if ready < wanted else ""
        return {
            "ready": ready,
            "pending": wanted - ready,
            "draining": max(0, status.get("replicas", 0) - wanted),
            "autoscaled": max(0, wanted - count),
            "allocatable": _requests(workload) if resource.ref.endswith(f"/{REPLICAS}") else {},
            "reason": reason,
        }

    def _why(self, resource: Resource, obj: Object, workload: Object) -> str:
        """Why pods are not there: what the autoscaler or workload says, else what the scheduler says of one."""
        if resource.kind in AUTOSCALERS:
            conditions = {
                "Ready": "False",
                "AbleToScale": "False",
                "ScalingActive": "False",
                "Fallback": "True",
            }
            if reason := _condition(obj, conditions):
                return reason
        if reason := _condition(workload, {"ReplicaFailure": "True"}):
            return reason
        return self._unscheduled(workload)

    def _unscheduled(self, workload: Object) -> str:
        labels = workload.get("spec", {}).get("selector", {}).get("matchLabels", {})
        selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        place = Place(POD, workload["metadata"]["namespace"])
        if not selector:
            return ""
        try:
            call: Call = self.api.call(REASON_S)
            pods, _ = call.list(place, selector=selector, fields="status.phase=Pending", most=1)
        except (Retryable, Rejected):  # the reason is all that is lost
            return ""
        return _condition(pods[0], {"PodScheduled": "False"}) if pods else ""

    def _get(self, place: Place) -> Object | None:
        return self._watch(place).get(place.name)

    def _watch(self, place: Place) -> Watch:
        return self._watches[Place(place.kind, place.namespace)]


def workload_of(place: Place, obj: Object) -> Place:
    """Where the pods of a target are counted: the target itself, or what an autoscaler scales.

    Raises:
        Rejected: it scales something else than a Deployment or StatefulSet.
    """
    if place.kind not in AUTOSCALERS:
        return place
    ref = obj.get("spec", {}).get("scaleTargetRef") or {}
    kind = WORKLOADS.get(str(ref.get("kind") or "Deployment"))
    if kind is None or not str(ref.get("apiVersion") or "apps/v1").startswith("apps/"):
        raise Rejected(f"{place} scales a {ref.get('kind')}: only {' and '.join(WORKLOADS)} are followed")
    return Place(kind, place.namespace, str(ref.get("name")))


def watched_for(resources: Iterable[Resource]) -> list[tuple[Place, str]]:
    """What is watched for targets: places of all of a kind, each with a selector of labels."""
    watched: dict[Place, str] = {}
    pools: list[str] = []
    for resource in resources:
        place = resource.place
        watched[Place(place.kind, place.namespace)] = ""
        if place.kind in AUTOSCALERS:
            watched |= {Place(kind, place.namespace): "" for kind in WORKLOADS.values()}
        if place.kind is NODE_POOL:
            pools.append(place.name)
            watched[Place(NODE)] = f"{NODE_POOL_LABEL} in ({','.join(sorted(pools))})"
    return sorted(watched.items(), key=lambda item: str(item[0]))


def _nodes(pool: Object, count: int, nodes: list[Object], now_s: float) -> dict[str, Any]:
    """Counts of a pool's nodes."""
    mine = [
        n for n in nodes if n["metadata"].get("labels", {}).get(NODE_POOL_LABEL) == pool["metadata"]["name"]
    ]
    going = [node for node in mine if _goes(node)]
    ready = [node for node in mine if not _goes(node) and is_ready(node)]
    pending = max(0, count - len(ready))
    reason = _condition(pool, {"Ready": "False", "NodeClassReady": "False"}) if pending else ""
    return {
        "ready": len(ready),
        "pending": pending,
        "draining": len(going),
        "allocatable": _smallest([node.get("status", {}).get("allocatable", {}) for node in ready]),
        "reason": reason or _draining(going, now_s),
    }


def _goes(node: Object) -> bool:
    """Whether a node was told to go, or takes no new pods."""
    spec = node.get("spec", {})
    taints = {taint.get("key") for taint in spec.get("taints") or ()}
    return "deletionTimestamp" in node["metadata"] or bool(spec.get("unschedulable")) or DISRUPTED in taints


def is_ready(obj: Object) -> bool:
    """Whether a node or pod says that it is."""
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in obj.get("status", {}).get("conditions") or ()
    )


def _draining(nodes: list[Object], now_s: float) -> str:
    """Since when nodes drain: a budget that allows no eviction holds them for ever."""
    since = sorted(
        (str(node["metadata"]["deletionTimestamp"]), str(node["metadata"]["name"]))
        for node in nodes
        if "deletionTimestamp" in node["metadata"]
    )
    if not since:
        return ""
    at, name = since[0]
    waited_s = now_s - datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
    return f"{len(since)} drain, {name} for {max(0.0, waited_s):.0f} s"


def _condition(obj: Object, wrong: dict[str, str]) -> str:
    """What an object's first condition with such a status says, as `reason: message`; empty: none has."""
    for condition in obj.get("status", {}).get("conditions") or ():
        if wrong.get(str(condition.get("type"))) == condition.get("status"):
            parts = (condition.get("reason"), condition.get("message"))
            return " ".join(": ".join(str(part) for part in parts if part).split())
    return ""


def _requests(workload: Object) -> dict[str, float]:
    """What one pod asks for, by metric, as far as all its containers say."""
    containers = workload.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or []
    requests = [container.get("resources", {}).get("requests", {}) for container in containers]
    return {
        size: sum(quantity(request[size]) for request in requests)
        for size in SIZES
        if requests and all(size in request for request in requests)
    }


def _smallest(amounts: list[dict[str, Any]]) -> dict[str, float]:
    """Least of each size."""
    return {
        size: min(quantity(amount[size]) for amount in amounts)
        for size in SIZES
        if amounts and all(size in amount for amount in amounts)
    }


def _version(obj: Object) -> int:
    """Version of an object, which the API server counts up."""
    return _number(str(obj["metadata"].get("resourceVersion", "")))


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0
