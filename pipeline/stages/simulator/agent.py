"""Stage 3: draws joint scenarios of each app's demand from a shard's forecasts; a marker ends each tick."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from models.behaviour.error_dependence import Dependence, followed
from models.demand import collapsed_sampler
from models.demand.scenarios import ScenarioKey, by_loading, pack, simulate
from models.metrics import METRICS
from models.planning.risk_premium import USER_LEVEL
from models.quantile_function import QuantileFunction, Selected, sum_of_quantiles
from models.tick import Tick
from models.totals import total
from pipeline.inputs.store import SideInputs
from pipeline.runtime.fenced_state import Numbered, Publish
from pipeline.security.pseudonyms import partition_of
from pipeline.settings import Settings
from pipeline.stages.simulator.app_dependence import DependenceTable
from pipeline.wire import messages
from pipeline.wire.codec import Codec, Record
from pipeline.wire.forecasts import Gathered


class Simulator(Numbered):
    """Simulates the forecasts of one partition; `pipeline.runtime.fenced_state.Agent` calls its methods.

    Args:
        shard: the partition.
        xp: numpy, or cupy where there is a GPU.
        dependence: of forecast errors, from the released model: the prior of each app's.
        inputs: policies, which name each app's allocation group.
        codec: encodes and decodes records.
        publish: publishes scenarios and markers.
        settings: give `partitions`, `scenarios` and `seed`.
    """

    def __init__(
        self,
        shard: int,
        xp: Any,
        dependence: Dependence,
        inputs: SideInputs,
        codec: Codec,
        publish: Publish,
        settings: Settings,
    ) -> None:
        super().__init__(shard, codec)
        self.xp, self.inputs, self.publish = xp, inputs, publish
        self.dependence_table = DependenceTable(dependence)
        self.partitions, self.scenarios, self.seed = settings.partitions, settings.scenarios, settings.seed
        self.gathered: Gathered | None = None

    def keep(self, part: Record) -> Record:
        """Copy the columns of a part into the arrays of its tick; the part itself is not kept."""
        if self.gathered is None or not self.parts:
            self.gathered = Gathered(part)
        self.gathered.add(part)
        return {}

    def whole(self, parts: list[Record]) -> None:
        """Simulate one tick; publish the scenarios of each app, then a marker to every partition."""
        gathered, self.gathered = self.gathered, None
        assert gathered is not None
        head, forecast = gathered.head, gathered.forecast
        tick = head["tick"]
        ids = gathered.ids
        previous = gathered["previous"]
        kept = followed(tick, head["tick_s"])
        group_of = {
            app: self._group(app, tick) for app in {e["app"] for e in head["telemetry"]} | {*head["apps"]}
        }
        sent: dict[int, list[str]] = {number: [] for number in range(self.partitions)}
        for index, app in enumerate(head["apps"]):
            rows = np.flatnonzero(gathered["app_index"] == index)
            of_app = self._of_app(forecast, rows)
            metrics = slice(None) if of_app.metrics is None else of_app.metrics
            columns = np.array([METRICS.index(metric) for metric in head["metrics"]], np.intp)[metrics]
            observed, censored = (
                gathered["observed"][rows][:, metrics],
                gathered["censored"][rows][:, metrics],
            )
            group = group_of[app]
            partition = partition_of(group, self.partitions)
            sent[partition].append(app)
            names = ids[rows].tobytes()
            if previous[rows].any():
                self.dependence_table.rename(app, names, previous[rows].tobytes())
            turnover = self.dependence_table.turnover(
                app,
                Tick(tick, head["tick_s"]),
                names,
                observed,
                gathered["location"][rows, :, 0][:, metrics],
                columns,
            )
            record = {
                "app": app,
                "allocation_group": group,
                **{name: head[name] for name in ("shard", "seq", "tick", "tick_s", "steps", "model_id")},
                "metrics": np.array(head["metrics"], object)[metrics].tolist(),
                "users": len(rows),
                "reporting": int(np.isfinite(observed).any(axis=1).sum()),
                "scenarios": self.scenarios,
                "kinds": head["kinds"],
                "rates": total(gathered["rates"][rows]).tobytes(),
                "observed": total(observed).tobytes(),
                "saturated": total(np.where(censored, observed, 0)).tobytes(),
                **{part: level.tobytes() for part, level in turnover._asdict().items()},
                "user_quantiles": sum_of_quantiles(of_app, USER_LEVEL).tobytes(),
            }
            learnt, loading = self.dependence_table.learn(app, tick, names, gathered["scores"][rows], kept)
            for part in self._parts(record, of_app, learnt, loading):
                self.publish("scenarios", "scenario", part, partition=partition, key=group)
        self.dependence_table.forget(tick, head["tick_s"])
        telemetry: dict[int, list[Record]] = {number: [] for number in sent}
        for entry in head["telemetry"]:
            planned = [partition_of(group_of[entry["app"]], self.partitions)] if entry["app"] else list(sent)
            for partition in planned:
                telemetry[partition].append(entry)
        for partition, apps_sent in sent.items():
            marker = {name: head[name] for name in ("shard", "seq", "tick", "tick_s")}
            marker |= {"apps": apps_sent, "telemetry": telemetry[partition]}
            self.publish("scenarios", "marker", marker, partition=partition, key=str(self.shard))

    @staticmethod
    def _of_app(forecast: QuantileFunction, rows: np.ndarray) -> Selected:
        """Forecasts of an app's users (rows), of those metrics that at least one of them has."""
        every = len(rows) == forecast.shape[0]
        location = forecast.location if every else forecast.location[rows]
        known = np.isfinite(location[:, :, 0]).any(axis=0)
        metrics = None if known.all() or not known.any() else np.flatnonzero(known)
        return Selected(forecast, None if every else rows, metrics)

    def _group(self, app: str, tick: int) -> str:
        """The app's allocation group, in whose partition it is planned: the policy's, else the app itself."""
        policy = self.inputs.at("policies", app, tick)
        return (policy["allocation_group"] if policy else "") or app

    def _parts(
        self, record: Record, forecast: Selected, learnt: Dependence, loading: np.ndarray
    ) -> Iterable[Record]:
        demand = by_loading(
            self.xp,
            self._sample,
            forecast,
            learnt,
            loading,
            np.array([METRICS.index(metric) for metric in record["metrics"]], np.intp),
            ScenarioKey(record["app"].encode(), record["tick"], self.shard, self.scenarios, self.seed),
        )
        packed, scale = pack(demand)
        rows = messages.MESSAGE_BYTES * 9 // 10 // (packed[0].nbytes or 1)
        of = max(1, -(-self.scenarios // rows))
        for part in range(of):
            block = packed[part * rows : (part + 1) * rows]
            yield record | {"part": part, "of": of, "scale": scale.tobytes(), "demand": block.tobytes()}

    def _sample(self, forecast: Selected, dependence: Dependence, key: ScenarioKey, **factor: Any) -> Any:
        """Demand (scenario, step, metric) of users: every user is drawn on a GPU, those with most variance on a CPU."""
        if self.xp is np:
            return collapsed_sampler.simulate(forecast, dependence, key, **factor)
        every = forecast[:]
        arrays = (self.xp.asarray(array) for array in (every.location, every.scale, every.offsets))
        return simulate(self.xp, QuantileFunction(*arrays), dependence, key, **factor)

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """Key and bytes of each block of a snapshot: the position, then the dependence of all apps."""
        learnt = list(self.dependence_table.blocks())
        yield b"position", json.dumps({"seq": self.seq, "blocks": len(learnt)}).encode()
        for number, block in enumerate(learnt):
            yield b"apps-%d" % number, block

    def restore(self, blocks: dict[bytes, bytes]) -> None:
        """Restore the state from the blocks of the last snapshot."""
        if b"position" in blocks:
            position = json.loads(blocks[b"position"])
            self.seq = position["seq"]
            self.dependence_table.restore(
                blocks[b"apps-%d" % number] for number in range(position.get("blocks", 0))
            )
