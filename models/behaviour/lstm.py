"""The behaviour model: one LSTM step for many users at once, with the same weights in training and in the stream.

    running statistics, features  = advance(state, sample)                      models/behaviour/features.py
    shift, odds                   = learn(forecasts of this tick)               models/behaviour/online_mixture.py
    h, c                          = LSTM(features, h, c)
    parameters                    = head([h, features])
    forecast                      = average(sinh-arcsinh of the parameters, the user's own changes)

TensorFlow is imported with the first model, not with this module.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib
import itertools
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.behaviour import features, online_mixture
from models.behaviour.compiled_step import BLOCK, Blocks, empty
from models.behaviour.error_dependence import Dependence
from models.behaviour.features import KNOTS, SEASONAL, TRACKED, UNKNOWN, WIDTH_UNIT
from models.metrics import EVENT_KINDS, METRICS, STEPS
from models.quantile_function import LEVELS, OFFSET_LIMIT, QuantileFunction, Z

UNITS: Final = 64
HIDDEN: Final = 64
# location, scale, skew, tail; pulls to the recent mean, the daily level, the seasonal means of day and hour; shares
# of the network against persistence in the centre, the lower and the upper tail
PARAMETERS: Final = 11

COLD_TICKS: Final = 12  # an hour of five-minute ticks: before it a forecast is mostly the population's
CAP_PEAKS: Final = 4.0  # a forecast ends at four times the decaying maximum of the user
SILENT_TICKS: Final = 6.0  # training has gaps of a few ticks; after longer ones what is known fades, ...
SILENT_GROWTH: Final = (
    0.3  # ... by the power with which changes grow over time: of a random walk 0.5, of noise 0
)
SKEW_LIMIT: Final = 1.5
# asinh(3.5) = 1.97, so offsets stay below sinh((1.97 + 1.5) / 0.35) = 1e4, well inside float16
TAIL_LIMITS: Final = (0.35, 3.0)
WEIGHTS: Final = "weights.npz"
CARD: Final = "model.json"

RELEASED: Final = Path(__file__).parents[1] / "released"
DEFAULT_MODEL: Final = RELEASED / "lstm64-2026-11d"

State = dict[str, NDArray[Any]]
# What is kept of a user: name -> shape, kind
STATE: Final = {
    "h": ((UNITS,), np.float32),
    "c": ((UNITS,), np.float32),
    **features.STATE,
    **online_mixture.STATE,
}
# what enters the graph: of the seasonal memory only the slots at hand do
_FIELDS: Final = {name: shape for name, (shape, _) in STATE.items() if name not in SEASONAL}


@functools.cache
def tensorflow() -> Any:
    """The tensorflow module with Keras on it, imported once and without its messages on stderr."""
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
    gc.freeze()  # its modules stay: each full collection took half a second to look through them
    return tf


class Network:
    """The network's weights, LSTM and head. Training calls `sequence`, the stream `step`."""

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
        return [*self.lstm.trainable_variables, *self.heads]

    @property
    def heads(self) -> list[Any]:
        """Of these those that turn the LSTM's output into parameters."""
        return [v for layer in (self.hidden, self.head) for v in layer.trainable_variables]

    def copy(self) -> Network:
        """Another network with the same weights."""
        other = Network()
        for variable, value in zip(other.variables, self.variables, strict=True):
            variable.assign(np.asarray(value))
        return other

    def sequence(self, inputs: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
        """Parameters (n, time, 5, 6, 11) from inputs (n, time, FEATURES) and state h, c (n, 64); and the new h, c."""
        hs, h, c = self.lstm(inputs, initial_state=[h, c])
        return self._parameters(hs, inputs), h, c

    def turned(self) -> list[tuple[Any, Any]]:
        """A copy of the weights for `step`: kernels (out, in) and biases (out, 1) of its four products."""
        tf, cell = tensorflow(), self.lstm.cell
        layers = [(cell.kernel, cell.bias), (cell.recurrent_kernel, np.zeros(4 * UNITS))]
        layers += [(layer.kernel, layer.bias) for layer in (self.hidden, self.head)]
        return [
            (tf.constant(np.asarray(kernel).T.copy()), tf.constant(np.asarray(bias)[:, None], tf.float32))
            for kernel, bias in layers
        ]

    @staticmethod
    def step(turned: list[tuple[Any, Any]], inputs: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
        """Parameters (5, 6, 11, n) from inputs (FEATURES, n) and state h, c (64, n); and the new h, c.

        It is one tick of `sequence` with users as the last axis; turned: the weights of `turned`.
        """
        tf = tensorflow()
        (kernel, bias), (recurrent, _), (hidden, hidden_bias), (head, head_bias) = turned
        put, keep, new, show = tf.split(kernel @ inputs + bias + recurrent @ h, 4, axis=0)
        c = tf.sigmoid(keep) * c + tf.sigmoid(put) * tf.tanh(new)
        h = tf.sigmoid(show) * tf.tanh(c)
        out = head @ tf.tanh(hidden @ tf.concat([h, inputs], axis=0) + hidden_bias) + head_bias
        return tf.reshape(out, [len(METRICS), STEPS, PARAMETERS, -1]), h, c

    def _parameters(self, h: Any, inputs: Any) -> Any:
        tf = tensorflow()
        out = self.head(self.hidden(tf.concat([h, inputs], axis=-1)))
        return tf.reshape(out, tf.concat([tf.shape(h)[:-1], [len(METRICS), STEPS, PARAMETERS]], axis=0))


def shape_of(tf: Any, parameters: Any, state: dict[str, Any], seasons: tuple[Any, Any]) -> tuple[Any, Any]:
    """Scale (5, 6, n) of the network's distribution in the metric's units, and its shape (6, 5, 6, n).

    The shape is the argument of `online_mixture.average`. The location is the last value, moved in units of the scale
    and pulled towards the recent mean, the daily level and the seasonal means at the target; with zero parameters, as
    before training, it is the last value.

    Args:
        tf: the tensorflow module.
        parameters: (5, 6, 11, n) of the head.
        state: `advance`'s fields last, recent, level, root_change and age, (5, n).
        seasons: of `advance`, (5, 6, n) each.
    """
    last = state["last"][:, None]
    move, log_scale, skew, tail, to_recent, to_level, to_day, to_hour, *gates = tf.unstack(parameters, axis=2)
    scale = _faded_unit(tf, state)[:, None] * tf.exp(tf.clip_by_value(log_scale, -7.0, 9.0))
    pull = (
        tf.clip_by_value(to_recent, -0.5, 1.5) * (state["recent"][:, None] - last)
        + tf.clip_by_value(to_level, -0.5, 1.5) * (state["level"][:, None] - last)
        + tf.clip_by_value(to_day, -0.5, 1.5) * (seasons[0] - last)
        + tf.clip_by_value(to_hour, -0.5, 1.5) * (seasons[1] - last)
    ) / scale
    move = tf.clip_by_value(move, -10.0, 10.0) + pull
    # head bias 0 starts at a tail of 0.6: changes are heavier than the normal
    tail = tf.clip_by_value(0.6 * tf.exp(tail), *TAIL_LIMITS)
    return scale, tf.stack([move, SKEW_LIMIT * tf.tanh(skew), tail, *gates], axis=0)


def forecast_grid(
    tf: Any,
    scale: Any,
    shape: Any,
    state: dict[str, Any],
    reach: Any,
    z: NDArray[np.float32],
    shift: Any = None,
    odds: Any = None,
) -> list[Any]:
    """Quantiles of the forecasts as changes from the last value, in the metric's units: (5, 6, n) for each level.

    Args:
        tf: the tensorflow module.
        scale: of `shape_of`.
        shape: of `shape_of`.
        state: `advance`'s fields last, level, root_change, peak, age (5, n) and width.
        reach: of `Clock`, (6, n) or (6, 1).
        z: standard-normal levels, (level).
        shift: (held, 5, 6, n) of `online_mixture`; None in training.
        odds: (3, 5, n) of `online_mixture`; None in training.
    """
    unit = _faded_unit(tf, state)[:, None]
    experts = online_mixture.average(tf, shape, scale, state["width"], unit, reach, z, shift, odds)
    limit = OFFSET_LIMIT * scale
    highest = tf.minimum(tf.maximum(ceiling(tf, state)[:, None] - state["last"][:, None], 0.0), limit)
    return [tf.clip_by_value(b + w * (a - b), -limit, highest) for a, b, w in zip(*experts, strict=True)]


def _faded_unit(tf: Any, state: dict[str, Any]) -> Any:
    """Each user's unit (5, n), which grows with the ticks without a sample beyond SILENT_TICKS."""
    silent = tf.maximum(state["age"] / SILENT_TICKS, 1.0)
    return features.unit_of(tf, state) * tf.exp(SILENT_GROWTH * tf.math.log(silent))


def ceiling(tf: Any, state: dict[str, Any]) -> Any:
    """Upper limit of forecasts, (5, n): a multiple of the user's decaying maximum."""
    return CAP_PEAKS * (state["peak"] + features.unit_of(tf, state))


class BehaviourModel:
    """A trained network with its model card, which steps many users by one tick at a time.

    network: with the weights; facts: the model card; block: users that a step takes at a time.
    """

    def __init__(self, network: Network, facts: dict[str, Any], block: int = BLOCK) -> None:
        self.network = network
        self.facts = facts
        self.model_id: str = facts["model_id"]
        self._blocks = _compile(_Weights.of(network), block)

    @classmethod
    def load(cls, path: Path, block: int = BLOCK) -> BehaviourModel:
        """The model in a folder of weights and model card; block: users that a step takes at a time.

        Raises:
            ValueError: the folder holds no model, or its weights are not those that model.json names, or of another
                shape than this network's.
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
                kept = weights[variable.path] if variable.path in weights else np.empty(0)
                if kept.shape != (shape := tuple(variable.shape)):
                    shapes = f"{variable.path} is {kept.shape}, not {shape}"
                    raise ValueError(f"{path / WEIGHTS} is of another network: {shapes}")
                variable.assign(kept)
        for name, prior in facts.get("prior", {}).items():
            if len(prior) != STATE[name][0][0]:
                raise ValueError(f"{path / CARD} is of another network: prior {name} has {len(prior)} rows")
        return cls(network, facts, block)

    def save(self, path: Path) -> None:
        """Write weights and model card into a folder, which is made if absent.

        Raises:
            OSError: the folder cannot be written.
        """
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
        """Dependence of forecast errors across users, metrics and steps, as estimated in training."""
        facts = self.facts["dependence"]
        return Dependence(
            shared=np.array(facts["shared"], np.float64),
            metric_correlation=np.array(facts["metric_correlation"], np.float64),
            step_correlation=float(facts["step_correlation"]),
        )

    def initial_state(self, n: int) -> State:
        """State of n new users, arrays (n, ...); what is learnt online begins at the model card's prior."""
        state = initial_state(n)
        for name, prior in self.facts.get("prior", {}).items():
            state[name][:] = np.array(prior)
        return state

    def step(
        self,
        state: State,
        values: NDArray[np.float32],
        events: NDArray[np.float32],
        saturated: NDArray[np.bool_],
        *,
        tick: int,
        tick_s: int,
    ) -> tuple[State, QuantileFunction, dict[str, NDArray[Any]]]:
        """Step n users by one tick. A row of the results depends on its own user alone, to the bit.

        Args:
            state: as of `initial_state`; it is not changed.
            values: (n, 5) by METRICS, NaN where absent.
            events: (n, 4) by EVENT_KINDS in 1/s, NaN where absent.
            saturated: (n, 5): the value is only a lower bound of demand.
            tick: its number: it covers [tick * tick_s, (tick + 1) * tick_s) in Unix seconds.
            tick_s: its length in seconds.

        Returns:
            new state; forecasts (user, metric, step) = (n, 5, 6), with a NaN location where the metric had no sample
            yet; flags `cold_start` (n,) and `censored` (n, 5), and `scores` (n, 5, 3), float16: the normal scores of
            the TRACKED forecasts whose target is this tick, NaN where there is none.
        """
        clock = features.clock_of(tick, tick_s)
        slots = clock.daily[0].tolist(), clock.hourly[0].tolist()
        memories = zip(seasonal(state, tick_s), slots, strict=True)
        new, forecast, scores = _outputs(state, len(values))
        self._blocks(
            given=[
                *(state[name] for name in _FIELDS),
                *(memory[:, slot] for memory, of in memories for slot in of),
                values,
                events,
                saturated,
            ],
            shared=[clock.time.T, clock.rate.T, clock.reach.T, clock.made.T, clock.due.T],
            copies=[(state[name], new[name]) for name in SEASONAL],
            out=[
                *(new[name] for name in _FIELDS),
                *(memory[:, of[0]] for memory, of in zip(seasonal(new, tick_s), slots, strict=True)),
                forecast.scale,
                scores,
            ],
            offsets=forecast.offsets,
        )
        forecast.location[:] = np.where(new["seen"] > 0, new["last"], np.float32(np.nan))[..., None]
        censored = saturated & ~np.isnan(values)
        flags = {"cold_start": new["ticks"][:, 0] < COLD_TICKS, "censored": censored, "scores": scores}
        return new, forecast, flags


def _outputs(state: State, n: int) -> tuple[State, QuantileFunction, NDArray[np.float16]]:
    """Uninitialised results of a step of n users: state, forecasts (n, 5, 6), scores (n, 5, 3), in one memory."""
    grid = (len(METRICS), STEPS)
    *arrays, location, scale, scores, offsets = empty(
        n,
        [
            *((array.shape[1:], array.dtype) for array in state.values()),
            *((grid, np.float32), (grid, np.float32)),
            *(((len(METRICS), len(TRACKED)), np.float16), ((*grid, LEVELS), np.float16)),
        ],
    )
    return dict(zip(state, arrays, strict=True)), QuantileFunction(location, scale, offsets), scores


def initial_state(n: int) -> State:
    """State of n new users, each field (n, ...), without a model's prior."""
    state = {name: np.zeros((n, *shape), kind) for name, (shape, kind) in STATE.items()}
    for name in SEASONAL:
        state[name][:] = UNKNOWN[name]
    for name in ("past", "made_last"):
        state[name][:] = np.nan
    # persistence begins with a change heavier than the normal
    state["width"][:] = np.round(np.log(1.5 * np.abs(KNOTS)) / WIDTH_UNIT)[:, None]
    return state


def seasonal(state: State, tick_s: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Views of the seasonal memory by slots of the day and of the hour, (n, slot, 5), for a tick length in seconds."""
    hourly = state["hourly"]
    if tick_s < features.HOURLY_SLOT_S:
        hourly = hourly.view(np.int8).reshape(len(hourly), features.MINUTES, len(METRICS))
    return state["daily"], hourly


def state_bytes() -> int:
    """Bytes of state per user."""
    return sum(array.nbytes for array in initial_state(1).values())


@dataclass(frozen=True)
class _Weights:
    """A copy of a network's weights, equal to another where the bytes are equal.

    digest: SHA-256 of the bytes; turned: of `Network.turned`.
    """

    digest: bytes
    turned: list[tuple[Any, Any]] = field(compare=False, repr=False)

    @classmethod
    def of(cls, network: Network) -> _Weights:
        digest, turned = hashlib.sha256(), network.turned()
        for array in itertools.chain(*turned):
            digest.update(np.asarray(array).tobytes())
        return cls(digest.digest(), turned)


@functools.lru_cache(maxsize=8)
def _compile(weights: _Weights, block: int) -> Blocks:
    """The graph of one step for `block` users, shared by all models of a process with these weights.

    XLA compiles it with the first step, which takes about ten seconds of a core and keeps about 100 MB.
    """
    tf = tensorflow()
    slots, metrics = 1 + STEPS, (len(METRICS),)

    def graph(*arrays: Any) -> tuple[list[Any], Any]:
        *known, values, events, saturated, time, rate, reach, made, due = arrays
        state = dict(zip(_FIELDS, known, strict=False))
        saturated = saturated > 0.5
        daily, hourly = (
            tf.stack(known[len(state) + k * slots :][:slots], axis=0) for k in range(len(SEASONAL))
        )
        unit = features.unit_of(tf, state)
        shift, odds, scores = online_mixture.learn(
            tf, state, values, saturated, unit, ceiling(tf, state), due, reach
        )
        time = tf.broadcast_to(time, (time.shape[0], block))
        new, codes, inputs, seasons = features.advance(
            tf, state, values, events, saturated, (daily, hourly), time, rate
        )
        parameters, h, c = Network.step(weights.turned, inputs, state["h"], state["c"])
        scale, shape = shape_of(tf, parameters, new, seasons)
        learnt = online_mixture.for_steps(tf, shift, new["seen"]), odds * online_mixture.ODDS_UNIT
        levels = forecast_grid(tf, scale, shape, new, reach, Z, *learnt)
        # XLA would compute cheap ends again in each of the maxima; a division it keeps
        levels = online_mixture.rising(tf, [level / scale for level in levels])
        known = tf.where(new["seen"] > 0.5, new["last"], np.float32(np.nan))
        new |= {"h": h, "c": c, "shift": shift, "odds": odds}
        new |= online_mixture.remember(tf, state, made, known, scale, shape)
        return [*(new[name] for name in _FIELDS), *codes, scale, scores], levels

    given = [*_FIELDS.values(), *[metrics] * slots * len(SEASONAL), metrics, (len(EVENT_KINDS),), metrics]
    return Blocks(tf, graph, given, [(9,), (10,), (STEPS,), (len(TRACKED),), (len(TRACKED),)], block)
