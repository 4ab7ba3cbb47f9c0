"""Stage 3: a shard's forecasts -> joint scenarios of each app's demand, and a marker that the tick is complete."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from models import collapsed
from models.distribution import QuantileFunction, sum_of_quantiles
from models.features import METRICS
from models.margin import USER_LEVEL
from models.scenarios import Dependence, pack, simulate
from pipeline import topics
from pipeline.codec import Codec, Record
from pipeline.forecasts import unpack
from pipeline.identity import partition_of
from pipeline.side_inputs import SideInputs
from pipeline.state import Numbered, Publish


class Simulator(Numbered):
    """One partition's forecasts (see `pipeline.state` for when its methods are called).

    Args:
        shard: the partition.
        xp: numpy, or cupy where there is a GPU.
        dependence: of forecast errors, as the released model estimated it.
        inputs: policies name each app's allocation group.
        partitions, scenarios, seed: of the installation.
    """

    def __init__(
        self,
        shard: int,
        xp: Any,
        dependence: Dependence,
        inputs: SideInputs,
        codec: Codec,
        publish: Publish,
        *,
        partitions: int,
        scenarios: int,
        seed: int,
    ) -> None:
        super().__init__(shard, codec)
        self.xp, self.dependence, self.inputs, self.publish = xp, dependence, inputs, publish
        self.partitions, self.scenarios, self.seed = partitions, scenarios, seed

    def whole(self, parts: list[Record]) -> None:
        """Simulate a tick and publish its scenarios, then the markers."""
        head = parts[0]
        tick = head["tick"]
        apps = np.concatenate([np.frombuffer(p["app_index"], "<u4") for p in parts])
        forecast, observed, censored, rates = unpack(parts)
        sent: dict[int, list[str]] = {number: [] for number in range(self.partitions)}
        for index, app in enumerate(head["apps"]):
            rows = np.flatnonzero(apps == index)
            policy = self.inputs.at("policies", app, tick)
            group = (policy["allocation_group"] if policy else "") or app
            partition = partition_of(group, self.partitions)
            sent[partition].append(app)
            record = {
                "app": app,
                "allocation_group": group,
                **{
                    name: head[name]
                    for name in ("shard", "seq", "tick", "tick_s", "steps", "metrics", "model_id")
                },
                "users": len(rows),
                "reporting": int(np.isfinite(observed[rows]).any(axis=1).sum()),
                "scenarios": self.scenarios,
                "kinds": head["kinds"],
                "rates": total(rates[rows]).tobytes(),
                "observed": total(observed[rows]).tobytes(),
                "saturated": total(np.where(censored[rows], observed[rows], 0)).tobytes(),
                "user_quantiles": sum_of_quantiles(forecast[rows], USER_LEVEL).tobytes(),
            }
            for part in self._parts(record, forecast[rows], app, tick):
                self.publish("scenarios", "scenario", part, partition=partition, key=group)
        for partition, names in sent.items():
            marker = {**{name: head[name] for name in ("shard", "seq", "tick", "tick_s")}, "apps": names}
            self.publish("scenarios", "marker", marker, partition=partition, key=str(self.shard))

    def _parts(self, record: Record, forecast: QuantileFunction, app: str, tick: int) -> Iterable[Record]:
        demand = self._sample(
            forecast,
            self.dependence_of(record["metrics"]),
            app=app.encode(),
            tick=tick,
            shard=self.shard,
            scenarios=self.scenarios,
            seed=self.seed,
        )
        packed, scale = pack(demand)
        rows = topics.MESSAGE_BYTES * 9 // 10 // (packed[0].nbytes or 1)
        of = max(1, -(-self.scenarios // rows))
        for part in range(of):
            block = packed[part * rows : (part + 1) * rows]
            yield record | {"part": part, "of": of, "scale": scale.tobytes(), "demand": block.tobytes()}

    def _sample(self, forecast: QuantileFunction, dependence: Dependence, **key: Any) -> Any:
        """Demand (scenario, step, metric): on a GPU every user is drawn, on a processor those who matter most."""
        if self.xp is np:
            return collapsed.simulate(forecast, dependence, **key)
        arrays = (self.xp.asarray(array) for array in (forecast.location, forecast.scale, forecast.offsets))
        return simulate(self.xp, QuantileFunction(*arrays), dependence, **key)

    def dependence_of(self, metrics: list[str]) -> Dependence:
        """The part of the dependence that concerns these metrics."""
        index = [METRICS.index(metric) for metric in metrics]
        whole = self.dependence
        return Dependence(
            whole.shared[index], whole.metric_correlation[np.ix_(index, index)], whole.step_correlation
        )

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """The position is all there is."""
        yield b"position", json.dumps({"seq": self.seq}).encode()

    def restore(self, blocks: Mapping[bytes, bytes]) -> None:
        """Continue from the last snapshot."""
        if b"position" in blocks:
            self.seq = json.loads(blocks[b"position"])["seq"]


def total(values: np.ndarray) -> np.ndarray:
    """(user, column) -> (column) float64 sums over those that are there, NaN where nobody is."""
    return np.where(np.isnan(values).all(axis=0), np.nan, np.nansum(values, axis=0, dtype=np.float64))
