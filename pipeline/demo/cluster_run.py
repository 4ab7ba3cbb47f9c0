"""A demo's day on a Kubernetes cluster: each app twice, under the same autoscaler, once with Leadtime's floor below it.

The replay goes at a speed, and the cluster's own times must be as many times as short (`make cluster SPEED=100`), so
that it sees the day as it was. The autoscalers read the usage of pods from `pod_metrics`: an app's demand, divided
evenly among its ready pods. What became of it is read from the cluster by watch, some ten times a tick or more.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from models.capacity import replica_loads
from models.metrics import METRICS
from pipeline.demo import pod_metrics, summary
from pipeline.demo.recorder import Watch as Published
from pipeline.demo.run import Run
from pipeline.errors import LeadtimeError, Retryable, UsageError
from pipeline.inputs.example import Example, totals
from pipeline.providers.kubernetes.api import Api, NotFound
from pipeline.providers.kubernetes.marks import owner_of, state_of
from pipeline.providers.kubernetes.observation import Watch, is_ready
from pipeline.providers.kubernetes.resources import DEPLOYMENT, HPA, POD, Kind, Object, Place, Resource
from pipeline.providers.targets import table
from pipeline.reports.app_run import AppRun
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.traces.trace_file import Trace
from pipeline.traces.window import TickWindow
from pipeline.wire import currencies
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.policies import policy_of

PROVIDER: Final = "kubernetes"
SPEED: Final = 100.0
"""Event seconds per second where none is given: a tick of five minutes takes three seconds."""
LANES: Final = ("floor", "alone")
"""With Leadtime's floor, and without it."""
SAMPLE_S: Final = 0.05
"""Seconds between two looks at the cluster's objects."""
WITHIN_S: Final = 60.0
"""For the cluster to serve what the demo has made."""
NAMESPACE: Final = Kind("Namespace", "", "v1", "namespaces", namespaced=False)
SERVICE: Final = Kind("Service", "", "v1", "services")
API_SERVICE: Final = Kind("APIService", "apiregistration.k8s.io", "v1", "apiservices", namespaced=False)
METRICS_API: Final = Place(API_SERVICE, "", f"{pod_metrics.VERSION}.{pod_metrics.GROUP}")
MAKER: Final = "leadtime-demo"
"""Field manager of what the demo makes."""
OURS: Final = {"app.kubernetes.io/managed-by": MAKER}


class HeldPace:
    """The pace of a replay that waits at a moment until it is released, and goes at a speed from there on.

    Args:
        hold_s: the moment, unix seconds; before it the replay goes as fast as possible.
        speed: event seconds per second.
        ahead_s: of the cluster's event time before the replay's: a tick's records are complete so long after its end.
        clock: monotonic seconds.
    """

    def __init__(
        self, hold_s: float, speed: float, ahead_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.hold_s, self.speed, self.ahead_s, self.clock = hold_s, speed, ahead_s, clock
        self._released = threading.Event()
        self._begun_s = 0.0

    def __call__(self, at_s: float) -> None:
        """Wait for a moment; see `Pace`."""
        if at_s >= self.hold_s:
            self._released.wait()
            time.sleep(max(0.0, self._begun_s + (at_s - self.hold_s) / self.speed - self.clock()))

    def release(self) -> None:
        """Let the replay go on; again: does nothing."""
        if not self._released.is_set():
            self._begun_s = self.clock()
            self._released.set()

    def now_s(self) -> float:
        """Event time of the cluster, unix seconds: until the release it stands right before the moment."""
        if not self._released.is_set():
            return self.hold_s - 1.0
        return self.hold_s + self.ahead_s + (self.clock() - self._begun_s) * self.speed


@dataclass
class Effects:
    """How long raised floors took to act, in event seconds, and who else had a hand in the counts.

    Attributes:
        scaled_s: until the autoscaler wanted as many replicas.
        ready_s: until as many were ready.
        overtaken: floors that were lowered before.
        foreign: samples in which a floor was not what Leadtime had set last.
        owners: field managers that were seen to have set the workload's replicas.
    """

    scaled_s: list[float] = field(default_factory=list[float])
    ready_s: list[float] = field(default_factory=list[float])
    overtaken: int = 0
    foreign: int = 0
    owners: set[str] = field(default_factory=set[str])


@dataclass
class Raised:
    """A floor that is higher than what its workload has: its count, since when, and whether it is wanted already."""

    count: int
    since_s: float
    scaled: bool = False


@dataclass
class Lane:
    """A Deployment and its autoscaler: event time, ready and all replicas of each look at them."""

    app: str
    name: str
    labels: Mapping[str, str]
    looks: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])

    def by_tick(self, window: TickWindow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tick) least ready, ready at the beginning, and mean of all replicas; the last look where a tick has none."""
        at_s, ready, running = (np.array(of, float) for of in zip(*self.looks, strict=True))
        ticks = at_s // window.tick_s
        least, first, mean = np.zeros((3, window.ticks))
        last = ready[0], running[0]
        for place in range(window.ticks):
            there = ticks == window.first + place
            if there.any():
                last = ready[there][-1], running[there][-1]
                least[place], first[place] = ready[there].min(), ready[there][0]
                mean[place] = running[there].mean()
            else:
                least[place] = first[place] = last[0]
                mean[place] = last[1]
        return least, first, mean


class Lanes:
    """The objects of a demo on a cluster, and what is seen of them.

    Args:
        api: the cluster.
        demand: (tick) of each app, in replicas.
        most: replicas that each autoscaler allows.
        begin: replicas that each Deployment begins with, by app.
        window: ticks of `demand`.
        now_s: event time, unix seconds.
    """

    def __init__(
        self,
        api: Api,
        demand: Mapping[str, np.ndarray],
        most: int,
        begin: Mapping[str, int],
        window: TickWindow,
        now_s: Callable[[], float],
    ) -> None:
        self.api, self.demand, self.most, self.begin = api, demand, most, begin
        self.window, self.now_s = window, now_s
        self.namespace = f"leadtime-demo-{time.time_ns() // 1_000_000}"
        self.lanes = {
            (app, lane): Lane(app, f"app-{number}-{lane}", {"app": f"app-{number}", "lane": lane})
            for number, app in enumerate(sorted(demand))
            for lane in LANES
        }
        self.effects = Effects()
        self._raised: dict[str, Raised] = {}
        self._floors: dict[str, int] = {}
        self._stack = ExitStack()
        self._stopping = threading.Event()
        self._watches = {kind: Watch(api, Place(kind, self.namespace)) for kind in (DEPLOYMENT, HPA, POD)}

    def floors(self) -> dict[str, Place]:
        """The autoscalers that Leadtime's commands are for, by app."""
        return {
            app: Place(HPA, self.namespace, lane.name)
            for (app, name), lane in self.lanes.items()
            if name == LANES[0]
        }

    def make(self, folder: Path) -> None:
        """Make everything, and wait until the Deployments' first pods are ready; the certificate goes into `folder`.

        Raises:
            UsageError: the cluster has metrics of its own, or reaches no server on this machine.
        """
        call = self.api.call(WITHIN_S)
        with suppress(NotFound):
            there = call.get(METRICS_API)
            if there["metadata"].get("labels", {}) | OURS != there["metadata"].get("labels"):
                raise UsageError(
                    "this cluster has metrics of its own, and the demo would take their place: `make cluster` runs"
                    " one without"
                )
            call.delete(METRICS_API)
        call.create(Place(NAMESPACE), {"metadata": {"name": self.namespace, "labels": OURS}})
        self._stack.callback(self._take_away)
        for watch in self._watches.values():
            watch.start()
            self._stack.callback(watch.stop)
        port = self._stack.enter_context(pod_metrics.serving(self._usage, folder))
        service = {"type": "ExternalName", "externalName": "localhost"}
        call.create(
            Place(SERVICE, self.namespace),
            {"metadata": {"name": "pod-metrics", "labels": OURS}, "spec": service},
        )
        call.create(Place(API_SERVICE), self._api_service(port))
        for lane in self.lanes.values():
            call.create(Place(DEPLOYMENT, self.namespace), self._deployment(lane), manager=MAKER)
            call.create(Place(HPA, self.namespace), self._autoscaler(lane))
        self._wait(self._served, "the API server does not reach the demo's metrics on this machine")
        self._wait(self._begun, "the first pods do not get ready: has the cluster nodes?")
        looking = threading.Thread(target=self._look_on, name="lanes", daemon=True)
        looking.start()
        self._stack.callback(looking.join)
        self._stack.callback(self._stopping.set)

    def close(self) -> None:
        """Take everything away."""
        self._stack.close()

    def _wait(self, check: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not check():
            if time.monotonic() > deadline:
                raise UsageError(otherwise)
            time.sleep(SAMPLE_S)

    def _served(self) -> bool:
        conditions = self.api.call().get(METRICS_API).get("status", {}).get("conditions") or ()
        return any(c.get("type") == "Available" and c.get("status") == "True" for c in conditions)

    def _begun(self) -> bool:
        with suppress(Retryable):
            return all(_counts(self._deployment_of(lane))[0] > 0 for lane in self.lanes.values())
        return False

    def _take_away(self) -> None:
        """Delete what was made; what cannot be is left, in a namespace of its own."""
        call = self.api.call(WITHIN_S)
        places = [METRICS_API, Place(SERVICE, self.namespace, "pod-metrics")]
        places += [
            Place(kind, self.namespace, lane.name)
            for lane in self.lanes.values()
            for kind in (HPA, DEPLOYMENT)
        ]
        for place in [*places, Place(NAMESPACE, "", self.namespace)]:
            with suppress(LeadtimeError):
                call.delete(place)

    # What is made.

    def _api_service(self, port: int) -> Object:
        spec = {
            "group": pod_metrics.GROUP,
            "version": pod_metrics.VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": self.namespace, "name": "pod-metrics", "port": port},
        }
        return {"metadata": {"name": METRICS_API.name, "labels": OURS}, "spec": spec}

    def _deployment(self, lane: Lane) -> Object:
        container = {
            "name": pod_metrics.CONTAINER,
            "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": "1"}},
        }
        spec = {
            "replicas": self.begin[lane.app],
            "selector": {"matchLabels": lane.labels},
            "template": {
                "metadata": {"labels": lane.labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            },
        }
        return {"metadata": {"name": lane.name, "labels": OURS}, "spec": spec}

    def _autoscaler(self, lane: Lane) -> Object:
        """As `kubectl autoscale` makes it; its steps up are not bounded, since their periods are whole seconds."""
        target = {"type": "Utilization", "averageUtilization": round(100 * summary.HPA_TARGET)}
        steps = {"policies": [{"type": "Percent", "value": 900, "periodSeconds": 1}]}
        spec = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": lane.name},
            "minReplicas": 1,
            "maxReplicas": self.most,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {"scaleUp": steps},
        }
        return {"metadata": {"name": lane.name, "labels": OURS}, "spec": spec}

    # What is seen.

    def _demand(self, app: str) -> float:
        place = int(self.now_s() // self.window.tick_s) - self.window.first
        return float(np.nan_to_num(self.demand[app][min(max(place, 0), self.window.ticks - 1)]))

    def _usage(self, labels: Mapping[str, str]) -> dict[str, float]:
        """Cores of each ready pod of a lane: its app's demand in parts of the same size."""
        lane = next((lane for lane in self.lanes.values() if lane.labels == labels), None)
        if lane is None:
            return {}
        pods = [
            pod["metadata"]["name"]
            for pod in self._watches[POD].all()
            if pod["metadata"].get("labels", {}).items() >= lane.labels.items() and is_ready(pod)
        ]
        return dict.fromkeys(pods, self._demand(lane.app) / max(1, len(pods)))

    def _look_on(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            with suppress(Retryable):
                self._look()

    def _look(self) -> None:
        now_s = self.now_s()
        for (app, name), lane in self.lanes.items():
            deployment = self._deployment_of(lane)
            lane.looks.append((now_s, *_counts(deployment)))
            if name == LANES[0]:
                self._follow(app, deployment, self._watches[HPA].get(lane.name) or {}, now_s)

    def _follow(self, app: str, deployment: Object, autoscaler: Object, now_s: float) -> None:
        """Note how far the newest floor has come."""
        place = Place(HPA, self.namespace, autoscaler["metadata"]["name"])
        state = state_of(Resource(app, place), autoscaler)
        if (owner := owner_of(deployment, DEPLOYMENT.count)) != MAKER:
            self.effects.owners.add(owner)
        if state.mark is None or state.count is None:
            return
        self.effects.foreign += not state.ours
        wanted, (ready, _) = deployment["spec"]["replicas"], _counts(deployment)
        if state.count != self._floors.get(app):
            self._floors[app] = state.count
            self.effects.overtaken += self._raised.pop(app, None) is not None
            if state.count > wanted:
                self._raised[app] = Raised(state.count, now_s)
        raised = self._raised.get(app)
        if raised is None:
            return
        if wanted >= raised.count and not raised.scaled:
            raised.scaled = True
            self.effects.scaled_s.append(now_s - raised.since_s)
        if ready >= raised.count:
            self.effects.ready_s.append(now_s - raised.since_s)
            del self._raised[app]

    def _deployment_of(self, lane: Lane) -> Object:
        deployment = self._watches[DEPLOYMENT].get(lane.name)
        if deployment is None:
            raise Retryable(f"Deployment {lane.name} is gone", 1.0)
        return deployment


class ClusterRun(Run):
    """One replay whose commands move floors on a cluster; see the module.

    Args:
        api: the cluster.
        speed: event seconds per second.
        more: as in `Run`.
    """

    def __init__(
        self, api: Api, speed: float, settings: Settings, trace: Trace, *more: Any, **named: Any
    ) -> None:
        super().__init__(settings, trace, *more, **named)
        self.api = api
        hold = self.window.first + max(2, summary.warm_up_of(self.window))
        self.held = HeldPace(float(hold * self.window.tick_s), speed, float(settings.allowed_lateness_s))
        self.pace, self.each = self.held, self._release
        self.lanes: Lanes | None = None

    def go(self, page: Path, out: Path | None) -> dict[str, Any]:
        """As `Run.go`; takes away from the cluster what it has made."""
        try:
            return super().go(page, out)
        finally:
            if self.lanes is not None:
                self.lanes.close()

    def _examples(self) -> tuple[Example, Example]:
        example = Example.of(self.trace, self.window).as_pods(PROVIDER)
        return example, example

    def _begin(self, settings: Settings, example: Example) -> Mapping[str, Sequence[str]]:
        folder = settings.data_dir / "cluster"
        folder.mkdir(parents=True, exist_ok=True)
        demand = demands(self.trace, self.window, example.policies)
        most = max(policy["max"] for policy in example.policies)
        self.lanes = Lanes(self.api, demand, most, example.replicas, self.window, self.held.now_s)
        self.lanes.make(folder)
        self._say(f"namespace {self.lanes.namespace}: {len(demand)} apps, each with and without a floor")
        offers = {price["commitment_id"]: price["offer_id"] for price in example.prices}
        targets = folder / "targets.toml"
        targets.write_text(
            "\n\n".join(_table(f"{app}/{offers[app]}", at) for app, at in self.lanes.floors().items())
        )
        return {"actuator": ("--provider", PROVIDER, "--targets", str(targets), "--replayed")}

    def _release(self, watch: Published, _: Supervisor) -> None:
        """Let the replay go on once the ticks before the hold are planned."""
        planned = watch.planned_until()
        if planned is not None and planned >= self.held.hold_s // self.window.tick_s - 2:
            self.held.release()

    def _outcome(self, example: Example, own: Example, watch: Published) -> list[AppRun]:
        assert self.lanes is not None
        end_s = (self.window.last + 1) * self.window.tick_s
        time.sleep(max(0.0, (end_s - self.held.now_s()) / self.held.speed))
        prices = {price["commitment_id"]: DEFAULT.with_defaults("price", price) for price in example.prices}
        runs: list[AppRun] = []
        for policy in sorted(example.policies, key=lambda policy: policy["app"]):
            app = policy["app"]
            price = prices[app]
            with_floor, alone = (self._served(app, lane, price) for lane in LANES)
            currency = currencies.one_currency([price])[0]
            of = policy_of(DEFAULT.with_defaults("policy", policy))
            runs.append(summary.run_of(app, watch, of, self.window, with_floor, alone, currency))
        return runs

    def _served(self, app: str, lane: str, price: Record) -> summary.Served:
        assert self.lanes is not None
        least, _, mean = self.lanes.lanes[app, lane].by_tick(self.window)
        cost = mean * float(price["price"]) * self.window.tick_s / 3600
        offer = price["offer_id"]
        return summary.Served(least, cost, {offer: least}, {offer: price["tier"]})

    def _figures(self) -> dict[str, Any]:
        assert self.lanes is not None
        effects = self.lanes.effects
        return {
            "kubernetes": {
                "speed": self.held.speed,
                "rises": {lane: self._rises(self.lanes, lane) for lane in LANES},
                "floor_to_scaled_s": _percentiles(effects.scaled_s),
                "floor_to_ready_s": _percentiles(effects.ready_s),
                "floors_raised": len(effects.scaled_s),
                "overtaken": effects.overtaken,
                "foreign_samples": effects.foreign,
                "replicas_set_by": sorted(effects.owners),
            }
        }

    def _rises(self, lanes: Lanes, lane: str) -> dict[str, int]:
        """Ticks that need more whole replicas than the hour before, and in how many these were there as they began."""
        warm_up, ticks = summary.warm_up_of(self.window), 3600 // self.window.tick_s
        counts = {"rises": 0, "ready_before": 0}
        for app, demand in lanes.demand.items():
            needs = np.ceil(np.nan_to_num(demand))
            _, first, _ = lanes.lanes[app, lane].by_tick(self.window)
            for place in range(max(warm_up, 1), self.window.ticks):
                if needs[place] > needs[max(0, place - ticks) : place].max():
                    counts["rises"] += 1
                    counts["ready_before"] += int(first[place] >= needs[place])
        return counts


def demands(trace: Trace, window: TickWindow, policies: Sequence[Record]) -> dict[str, np.ndarray]:
    """(tick) demand of each app of a trace, in replicas of its policy; NaN: nobody reported."""
    sums = totals(trace, window)
    metrics = [metric for metric in METRICS if metric in sums.columns]
    demand: dict[str, np.ndarray] = {}
    for record in policies:
        app, policy = record["app"], policy_of(DEFAULT.with_defaults("policy", record))
        rows = sums.filter(pl.col("app") == app)
        loads = replica_loads(rows.select(metrics).cast(pl.Float64).to_numpy(), metrics, policy).max(axis=1)
        demand[app] = np.full(window.ticks, np.nan)
        demand[app][rows["tick"].to_numpy() - window.first] = loads
    return demand


def _table(ref: str, place: Place) -> str:
    """A table of the targets file."""
    return table({"ref": ref, "kind": place.kind.name, "namespace": place.namespace, "name": place.name})


def _counts(deployment: Object) -> tuple[int, int]:
    """Ready and all replicas."""
    status = deployment.get("status", {})
    return status.get("readyReplicas", 0), status.get("replicas", 0)


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    return {f"p{share}": float(np.percentile(values, share)) if values else None for share in (50, 99)}
