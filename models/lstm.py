"""The behaviour model: one LSTM step for many users at once; the same weights in training and in the stream.

    running statistics, features  = advance(state, sample)                      models/features.py
    h, c                          = LSTM(features, h, c)
    parameters                    = head([h, features])
    forecast                      = sinh-arcsinh around the last value, in the user's units

TensorFlow is loaded with the first model, not with this module.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models import features
from models.distribution import LEVELS, OFFSET_LIMIT, QuantileFunction, Z, sinh_arcsinh
from models.features import EVENT_KINDS, METRICS, STATE, STEPS
from models.scenarios import Dependence

UNITS: Final = 64
HIDDEN: Final = 96
PARAMETERS: Final = 7  # location, scale, skew, tail; pulls to the recent mean, the daily level, the season
VECTOR: Final = 16  # float32 in the widest vector register: with full registers a row's place does not matter
COLD_TICKS: Final = 12  # an hour of five-minute ticks: before it a forecast is mostly the population's
CAP_PEAKS: Final = 4.0  # a forecast ends at four times the decaying maximum of the user
SKEW_LIMIT: Final = 1.5
# asinh(3.5) = 1.97, so offsets stay below sinh((1.97 + 1.5) / 0.35) = 1e4, well inside float16
TAIL_LIMITS: Final = (0.35, 3.0)
WEIGHTS: Final = "weights.npz"
CARD: Final = "model.json"

RELEASED: Final = Path(__file__).parent / "released"
DEFAULT_MODEL: Final = RELEASED / "lstm64-2026-11"

State = dict[str, NDArray[np.float32]]
_SLOW: Final = tuple(name for name in STATE if not name.startswith("seasonal"))  # fields that enter the graph


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, loaded once and silent, with Keras on it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # oneDNN greets on stderr before TensorFlow's log level applies
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import tensorflow as tf

            importlib.import_module("keras")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    return tf


class Network:
    """The weights: LSTM and head. `sequence` serves training, `step` the stream."""

    def __init__(self) -> None:
        tensorflow()
        import keras

        self.lstm = keras.layers.LSTM(UNITS, return_sequences=True, return_state=True, name="lstm")
        self.hidden = keras.layers.Dense(HIDDEN, activation="tanh", name="hidden")
        self.head = keras.layers.Dense(
            len(METRICS) * STEPS * PARAMETERS,
            kernel_initializer="zeros",  # training starts from persistence
            name="head",
        )
        self.lstm.build((None, None, features.FEATURES))
        self.hidden.build((None, UNITS + features.FEATURES))
        self.head.build((None, HIDDEN))

    @property
    def variables(self) -> list[Any]:
        """All trainable variables, in a fixed order."""
        return [v for layer in (self.lstm, self.hidden, self.head) for v in layer.trainable_variables]

    def sequence(self, inputs: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
        """Parameters (n, time, 5, 6, 7) for inputs (n, time, FEATURES) from h, c (n, 64), and new h, c."""
        hs, h, c = self.lstm(inputs, initial_state=[h, c])
        return self._parameters(hs, inputs), h, c

    def step(self, inputs: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
        """Parameters (n, 5, 6, 7) for inputs (n, FEATURES) from h, c (n, 64), and new h, c."""
        _, (h, c) = self.lstm.cell(inputs, [h, c])
        return self._parameters(h, inputs), h, c

    def _parameters(self, h: Any, inputs: Any) -> Any:
        tf = tensorflow()
        out = self.head(self.hidden(tf.concat([h, inputs], axis=-1)))
        return tf.reshape(out, tf.concat([tf.shape(h)[:-1], [len(METRICS), STEPS, PARAMETERS]], axis=0))


def forecast_grid(
    tf: Any, parameters: Any, state: dict[str, Any], seasons: list[Any], levels: NDArray[np.float32]
) -> tuple[Any, Any, Any]:
    """Location, scale (..., 5, 6) and offsets (..., 5, 6, level) of the sinh-arcsinh forecasts.

    Persistence is the starting point: location is the last value, pulled towards the recent mean, the daily
    level and the season's mean at the target, and moved in units of the scale.

    Args:
        tf: the tensorflow module.
        parameters: (..., 5, 6, 7) of the head.
        state: `advance`'s fields, each (..., 5).
        seasons: seasonal means at the steps AHEAD, each (..., 5), NaN where unknown.
        levels: standard normal, (level) or (5, 6, level): those of Z after calibration, or part of Z in training.
    """
    last = state["last"][..., None]
    # a target between two of the steps AHEAD takes the nearest: (0, 2, 5) serve steps 0 | 1 2 3 | 4 5
    nearest = tf.stack([seasons[i] for i in (0, 1, 1, 1, 2, 2)], axis=-1)
    season = tf.where(tf.math.is_nan(nearest), last, nearest)
    unit = features.unit_of(tf, state)[..., None]
    move, log_scale, skew, tail, to_recent, to_level, to_season = tf.unstack(parameters, axis=-1)
    scale = unit * tf.exp(tf.clip_by_value(log_scale, -7.0, 9.0))
    location = (
        last
        + scale * tf.clip_by_value(move, -10.0, 10.0)
        + tf.clip_by_value(to_recent, -0.5, 1.5) * (state["recent"][..., None] - last)
        + tf.clip_by_value(to_level, -0.5, 1.5) * (state["level"][..., None] - last)
        + tf.clip_by_value(to_season, -0.5, 1.5) * (season - last)
    )
    # head bias 0 starts at a tail of 0.6: changes are heavier than the normal
    tail = tf.clip_by_value(0.6 * tf.exp(tail), *TAIL_LIMITS)
    skew = SKEW_LIMIT * tf.tanh(skew)
    offsets = sinh_arcsinh(tf, levels, skew[..., None], tail[..., None])
    highest = (CAP_PEAKS * (state["peak"][..., None] + unit) - location) / scale
    offsets = tf.clip_by_value(
        offsets, -OFFSET_LIMIT, tf.clip_by_value(highest, 0.0, OFFSET_LIMIT)[..., None]
    )
    return location, scale, offsets


class BehaviourModel:
    """A trained network with its released facts, stepping many users by one tick."""

    def __init__(self, network: Network, facts: dict[str, Any]) -> None:
        self.network = network
        self.facts = facts
        self.model_id: str = facts["model_id"]
        self._graph = _compile(network, self.levels)

    @property
    def levels(self) -> NDArray[np.float32]:
        """Level of the sinh-arcsinh that is published at each level of Z, (5, 6, 21): Z until calibrated."""
        levels = np.array(self.facts.get("levels", Z), np.float32)
        return np.broadcast_to(levels, (len(METRICS), STEPS, LEVELS))

    @classmethod
    def load(cls, path: Path) -> BehaviourModel:
        """The model in a folder `released/<model_id>`.

        Raises:
            ValueError: the folder holds no model, or its weights are not those that model.json names.
        """
        try:
            facts = json.loads((path / CARD).read_text())
            digest = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} holds no model: {error}") from error
        if digest != facts["weights_sha256"]:
            raise ValueError(f"{path / WEIGHTS} is not the file that {CARD} names: sha256 {digest}")
        network = Network()
        with np.load(path / WEIGHTS) as weights:
            for variable in network.variables:
                variable.assign(weights[variable.path])
        return cls(network, facts)

    def save(self, path: Path) -> None:
        """Write weights and model.json into a folder, made if absent."""
        path.mkdir(parents=True, exist_ok=True)
        arrays = {variable.path: np.asarray(variable) for variable in self.network.variables}
        np.savez(path / WEIGHTS, **arrays)  # pyright: ignore[reportArgumentType]
        self.facts["weights_sha256"] = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
        lines = (
            f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in self.facts.items()
        )
        (path / CARD).write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @property
    def dependence(self) -> Dependence:
        """How forecast errors move together: across users, metrics and steps; estimated in training."""
        facts = self.facts["dependence"]
        return Dependence(
            shared=np.array(facts["shared"], np.float64),
            metric_correlation=np.array(facts["metric_correlation"], np.float64),
            step_correlation=float(facts["step_correlation"]),
        )

    def initial_state(self, n: int) -> State:
        """State of n users never seen: the population's prior; arrays (n, ...) float32."""
        return initial_state(n)

    def step(
        self,
        state: State,
        values: NDArray[np.float32],
        events: NDArray[np.float32],
        saturated: NDArray[np.bool_],
        *,
        tick: int,
        tick_s: int,
    ) -> tuple[State, QuantileFunction, dict[str, NDArray[np.bool_]]]:
        """One tick of n users. A row depends on its own user alone, to the bit.

        Args:
            state: as `initial_state`; not changed.
            values: (n, 5) by METRICS, NaN where absent.
            events: (n, 4) by EVENT_KINDS in 1/s, NaN where absent.
            saturated: (n, 5): the value is only a lower bound of demand.
            tick: number of the tick: it covers [tick * tick_s, (tick + 1) * tick_s) in unix seconds.
            tick_s: its length in seconds.

        Returns:
            new state; forecasts (n, 5, 6) [user, metric, step], NaN location where the metric was never seen;
            flags cold_start (n,) and censored (n, 5).
        """
        slots = features.target_slots(tick, tick_s, features.horizon_steps(tick_s))
        seasonal, count = state["seasonal"], state["seasonal_count"]
        out, now, counted, location, scale, offsets = self._graph(
            {name: state[name] for name in ("h", "c", *_SLOW)},
            values,
            events,
            saturated,
            [seasonal[:, i] for i in slots],
            [count[:, i : i + 1] for i in slots],
            features.calendar(np.array([tick * tick_s]), np.array([tick_s])),
            features.rates(np.array([tick_s])),
        )
        new = {name: np.asarray(array) for name, array in out.items()}
        new["seasonal"], new["seasonal_count"] = seasonal.copy(), count.copy()
        new["seasonal"][:, slots[0]] = np.asarray(now)
        new["seasonal_count"][:, slots[0]] = np.asarray(counted)[:, 0]
        forecast = QuantileFunction(np.asarray(location), np.asarray(scale), np.asarray(offsets))
        flags = {"cold_start": new["ticks"][:, 0] < COLD_TICKS, "censored": saturated & ~np.isnan(values)}
        return new, forecast, flags


def initial_state(n: int) -> State:
    """State of n users never seen, each field (n, ...) float32."""
    shapes = {"h": (UNITS,), "c": (UNITS,), **STATE}
    state = {name: np.zeros((n, *shape), np.float32) for name, shape in shapes.items()}
    state["seasonal"][:] = np.nan
    return state


def state_bytes() -> int:
    """Bytes of state a user."""
    return sum(array.nbytes for array in initial_state(1).values())


def _compile(network: Network, levels: NDArray[np.float32]) -> Any:
    """The graph of one step: no retracing for any n, no XLA."""
    tf = tensorflow()

    def spec(*shape: int | None, dtype: Any = tf.float32) -> Any:
        return tf.TensorSpec(shape, dtype)

    metrics, slots = len(METRICS), 1 + len(features.AHEAD)
    fields = {"h": (UNITS,), "c": (UNITS,), **{name: STATE[name] for name in _SLOW}}
    signature = [
        {name: spec(None, *shape) for name, shape in fields.items()},
        spec(None, metrics),
        spec(None, len(EVENT_KINDS)),
        spec(None, metrics, dtype=tf.bool),
        [spec(None, metrics) for _ in range(slots)],
        [spec(None, 1) for _ in range(slots)],
        spec(1, 7),
        spec(1, 3),
    ]

    @tf.function(input_signature=signature, autograph=False, jit_compile=False)
    def graph(
        state: Any, values: Any, events: Any, saturated: Any, means: Any, counts: Any, time: Any, rate: Any
    ) -> Any:
        n = tf.shape(values)[0]
        padding = tf.math.floormod(-n, VECTOR)

        def pad(array: Any) -> Any:
            return tf.pad(array, [[0, padding], [0, 0]])

        state, values, events, saturated, means, counts = tf.nest.map_structure(
            pad, (state, values, events, saturated, means, counts)
        )
        rows = tf.shape(values)[0]
        new, (now, counted), inputs = features.advance(
            tf,
            state,
            values,
            events,
            saturated,
            list(zip(means, counts, strict=True)),
            tf.tile(time, [rows, 1]),
            tf.tile(rate, [rows, 1]),
        )
        parameters, h, c = network.step(inputs, state["h"], state["c"])
        location, scale, offsets = forecast_grid(tf, parameters, new, means[1:], levels)
        known = new["seen"][..., None] > 0.5
        location = tf.where(known, location, np.float32(np.nan))
        offsets = tf.cast(tf.reshape(offsets, [rows, metrics, STEPS, LEVELS]), tf.float16)
        out = (new | {"h": h, "c": c}, now, counted, location, scale, offsets)
        return tf.nest.map_structure(lambda array: array[:n], out)

    return graph
