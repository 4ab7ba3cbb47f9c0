"""Training of the behaviour model: truncated backpropagation through time on pinball loss at the grid's levels.

Rows of a batch are stretches of series. A stretch starts from the state of a new user and is read in chunks; the
state is carried from chunk to chunk, and gradients stop between them. The running statistics are computed by the same
graph as in the stream (`features.advance`), so the network's inputs are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.special import ndtr

from models import metrics
from models.behaviour import features
from models.behaviour.features import MINUTES, SEASONAL, STATE, UNKNOWN
from models.behaviour.lstm import (
    BehaviourModel,
    Network,
    State,
    forecast_grid,
    initial_state,
    shape_of,
    tensorflow,
)
from models.behaviour.training_series import Array, Series, augmented
from models.metrics import METRICS, STEPS, horizon_steps
from models.quantile_function import Z

# Every second level of the grid: four parameters a distribution are fixed by eleven levels as by 21
LEVELS_Z: Final = Z[::2]
# CRPS weighs level z by its density, and the levels on both sides of 99 % by nearly nothing: what the 99 % bound
# costs is the product, so they weigh as 90 % does
TAIL_WEIGHT: Final = np.where(np.abs(LEVELS_Z - 2.45) < 0.5, 0.1, 0.02)
LEAK: Final = 0.02  # of the slope below zero, where a positive value cannot otherwise pull a quantile up
CHUNK: Final = 48  # ticks of backpropagation
ROWS: Final = 256
STRETCH: Final = (200, 6000)  # ticks of a stretch, log-uniform: cold starts and three weeks of five minutes
RATE: Final = (2e-3, 5e-5)  # Adam's, by a cosine
TUNING_RATE: Final = (5e-4, 2e-5)
CLIP: Final = 1.0  # global norm
PATIENCE: Final = 5  # checks without a better one
RATIO: Final = 0.6  # of persistence's loss: where a stretch's own begins, ...
RATIO_RATE: Final = 0.1  # ... and how fast it follows, in chunks
RATIO_LIMITS: Final = (0.1, 1.5)


class Batches:
    """Chunks of many stretches side by side, one a row; a row whose stretch has ended gets another."""

    def __init__(
        self, series: list[Series], rows: int, rng: np.random.Generator | None, skip: list[int] | None = None
    ) -> None:
        """Random augmented stretches drawn from `rng`; without it, each series once from its start, one a row.

        Targets of chunks that begin before row `skip` of their series are not scored.
        """
        self._skip = skip or [0] * rows
        self._series = series
        self._rng = rng
        self._rows: list[Series | None] = [None] * rows
        self._at = np.zeros(rows, int)
        self._ratio = np.full((rows, len(METRICS), STEPS), RATIO)
        if rng is None:
            self._rows = [*series]
        # long series are drawn more often, by the root of their length
        weight = np.array([s.weight * len(s.values) ** 0.5 for s in series])
        self._weight = weight / weight.sum()
        self.state = _fresh(rows)

    def take(self, chunk: int) -> dict[str, Any] | None:
        """The next `chunk` ticks of every row, the arrays of the training graph; None when a single pass has ended."""
        rows = len(self._rows)
        batch: dict[str, Any] = {
            "values": np.full((rows, chunk, len(METRICS)), np.nan, np.float32),
            "events": np.full((rows, chunk, len(metrics.EVENT_KINDS)), np.nan, np.float32),
            "saturated": np.zeros((rows, chunk, len(METRICS)), bool),
            "target": np.full((rows, chunk, len(METRICS), STEPS), np.nan, np.float32),
            "censored": np.zeros((rows, chunk, len(METRICS), STEPS), bool),
            "error": np.ones((rows, len(METRICS), STEPS), np.float32),
        }
        ticks, lengths = np.zeros((rows, chunk), np.int64), np.full(rows, 300)
        steps = metrics.steps_of(lengths)
        if self._rng is None and all(self._done(row) for row in range(rows)):
            return None
        for row in range(rows):
            if self._rng is not None and self._done(row):
                self._renew(row, self._rng)
            series, at = self._rows[row], int(self._at[row])
            assert series is not None
            lengths[row], steps[row] = series.tick_s, horizon_steps(series.tick_s)
            ticks[row] = series.first_tick + at + np.arange(chunk)
            n = max(0, min(chunk, len(series.values) - at))
            batch["values"][row, :n] = series.values[at : at + n]
            batch["events"][row, :n] = series.events[at : at + n]
            batch["saturated"][row, :n] = series.saturated[at : at + n]
            for k, step in enumerate(steps[row]):
                part = slice(at + step, at + step + n)
                m = len(series.values[part])
                batch["target"][row, :m, :, k] = series.values[part]
                batch["censored"][row, :m, :, k] = series.saturated[part]
            share = self._ratio[row] if self._rng is not None else 1.0
            batch["error"][row] = series.error * share if at >= self._skip[row] else 0
            self._at[row] += chunk
        clock = features.clock(ticks.ravel(), np.repeat(lengths, chunk), np.repeat(steps, chunk, axis=0))
        batch |= {name: part.reshape(rows, chunk, -1) for name, part in clock._asdict().items()}
        return batch

    def learn(self, loss: Array, count: Array) -> None:
        """Update the running ratio to persistence's loss from that of the newest chunk.

        Losses are divided by persistence's times this ratio, so that the gradient is that of the mean log ratio, as
        scoring takes the geometric mean over users.

        loss: (row, 5, 6) summed over the chunk, in units of the batch's error; count: (row, 5, 6) targets scored.
        """
        scored = count > 0
        ratio = self._ratio * loss / np.maximum(count, 1)
        moved = np.where(scored, self._ratio + RATIO_RATE * (ratio - self._ratio), self._ratio)
        self._ratio = np.clip(moved, *RATIO_LIMITS)

    def _done(self, row: int) -> bool:
        series = self._rows[row]
        return series is None or self._at[row] >= len(series.values) - 1

    def _renew(self, row: int, rng: np.random.Generator) -> None:
        series = self._series[int(rng.choice(len(self._series), p=self._weight))]
        length = int(np.exp(rng.uniform(*np.log(STRETCH))))
        start = int(rng.integers(0, max(1, len(series.values) - length + 1)))
        self._rows[row], self._at[row] = augmented(series.part(start, start + length), rng), 0
        self._ratio[row] = RATIO
        for name, fresh in _fresh(1).items():
            self.state[name][row] = fresh[0]


def _fresh(rows: int) -> State:
    """State of new users as float32 for the graph, without the fields that are learnt online."""
    kept = ("h", "c", *STATE)
    state = {name: field.astype(np.float32) for name, field in initial_state(rows).items() if name in kept}
    # of any tick length: as many slots as the shortest needs, and a mark that none reaches
    state["hourly"] = np.full((rows, MINUTES, len(METRICS)), UNKNOWN["hourly"], np.float32)
    return state


def pinball(tf: Any, quantiles: Any, target: Any, censored: Any, error: Any) -> Any:
    """Twice the weighted pinball loss in units of `error`, summed over time, and the number of targets scored.

    Both are (row, metric, step). Apart from the tail's weight the loss is the CRPS. A censored target is a lower bound:
    quantiles above it are not penalised (docs/records.md, "Censoring").

    Args:
        tf: the tensorflow module.
        quantiles: (row, time, metric, step, 11) before the clamp at zero.
        target: (row, time, metric, step), NaN = not scored.
        censored: (row, time, metric, step).
        error: as of Series, with an axis of 1 for time; 0 = not scored.
    """
    density = np.exp(-(LEVELS_Z**2) / 2) / np.sqrt(2 * np.pi) + TAIL_WEIGHT
    weights = (2 * density / density.sum()).astype(np.float32)
    levels: Array = ndtr(LEVELS_Z.astype(np.float64)).astype(np.float32)
    scored = tf.logical_and(tf.logical_not(tf.math.is_nan(target)), error > 0)
    y = tf.where(scored, target, 0.0)[..., None]
    over = tf.where(quantiles < 0.0, LEAK * tf.where(y > 0.0, quantiles, 0.0), quantiles)
    short = y - over
    below = tf.where(censored[..., None], 0.0, (levels - 1.0) * short)
    loss = tf.reduce_sum(weights * tf.maximum(levels * short, below), axis=-1)
    share = tf.cast(scored, tf.float32)
    loss = tf.where(scored, loss / tf.where(error > 0, error, 1.0), 0.0)
    return tf.reduce_sum(loss, axis=1), tf.reduce_sum(share, axis=1)


class Trainer:
    """Compiled graphs of training: a chunk with and without an update of the weights.

    updates: over which the learning rate falls; heads: whether the LSTM stays as it is.
    """

    def __init__(self, network: Network, updates: int, *, heads: bool = False) -> None:
        tf = tensorflow()
        import keras

        self.network = network
        self.trained = network.heads if heads else network.variables
        first, last = TUNING_RATE if heads else RATE
        schedule: Any = keras.optimizers.schedules.CosineDecay(first, updates, alpha=last / first)
        self._adam = keras.optimizers.Adam(schedule, global_clipnorm=CLIP)
        self._adam.build(self.trained)
        self._update = tf.function(
            lambda s, b: self._chunk(s, b, update=True), autograph=False, jit_compile=True
        )
        self._score = tf.function(
            lambda s, b: self._chunk(s, b, update=False), autograph=False, jit_compile=True
        )

    def run(self, batches: Batches, chunk: int, *, update: bool) -> tuple[Array, Array] | None:
        """Loss of the next chunk and its targets, (row, 5, 6) each; None at the end. `batches` keeps the state."""
        batch = batches.take(chunk)
        if batch is None:
            return None
        graph = self._update if update else self._score
        loss, count, state = graph(batches.state, batch)
        batches.state = {name: np.array(value) for name, value in state.items()}
        return np.asarray(loss), np.asarray(count)

    def _chunk(
        self, state: dict[str, Any], batch: dict[str, Any], *, update: bool
    ) -> tuple[Any, Any, dict[str, Any]]:
        tf = tensorflow()
        statistics, inputs, path, seasons = _read(tf, state, batch)
        with tf.GradientTape() as tape:
            parameters, h, c = self.network.sequence(inputs, state["h"], state["c"])
            rows, ticks = tf.shape(inputs)[0], tf.shape(inputs)[1]
            # (time, row) in one last axis, as the stream has users
            parameters = tf.reshape(tf.transpose(parameters, [2, 3, 4, 1, 0]), [*parameters.shape[2:], -1])
            reach = tf.reshape(tf.transpose(batch["reach"], [2, 1, 0]), [STEPS, -1])
            scale, shape = shape_of(tf, parameters, path, seasons)
            changes = tf.stack(forecast_grid(tf, scale, shape, path, reach, LEVELS_Z), axis=2)
            quantiles = path["last"][:, None, None] + changes
            quantiles = tf.reshape(quantiles, [len(METRICS), STEPS, len(LEVELS_Z), ticks, rows])
            quantiles = tf.transpose(quantiles, [4, 3, 0, 1, 2])
            known = tf.transpose(tf.reshape(path["seen"], [len(METRICS), ticks, rows]), [2, 1, 0])
            known = tf.cast(known > 0.5, tf.float32)[..., None]
            error = batch["error"][:, None] * known
            loss, count = pinball(tf, quantiles, batch["target"], batch["censored"], error)
            mean = tf.reduce_sum(loss) / tf.maximum(tf.reduce_sum(count), 1.0)
        if update:
            gradients = tape.gradient(mean, [v.value for v in self.trained])
            self._adam.apply_gradients(list(zip(gradients, self.trained, strict=True)))
        return loss, count, statistics | {"h": h, "c": c}


def _read(
    tf: Any, state: dict[str, Any], batch: dict[str, Any]
) -> tuple[dict[str, Any], Any, dict[str, Any], tuple[Any, Any]]:
    """Running statistics over a chunk: the state after it, the network's inputs, fields and seasons of every tick.

    Inputs are (row, time, FEATURES); fields and seasons (..., time × row), as `forecast_grid` takes them.
    """
    names = [name for name in STATE if name not in SEASONAL]
    kept = ("last", "recent", "level", "root_change", "peak", "age", "seen", "width")
    metrics = len(METRICS)
    shapes = [(features.FEATURES,), *(STATE[name][0] for name in kept), *[(metrics, STEPS)] * len(SEASONAL)]
    rows, ticks = tf.shape(batch["values"])[0], tf.shape(batch["values"])[1]
    index = tf.range(rows)

    def last(array: Any) -> Any:
        """Rows, the first axis, as the last one."""
        return tf.transpose(array, [*range(1, len(array.shape)), 0])

    def first(array: Any) -> Any:
        return tf.transpose(array, [len(array.shape) - 1, *range(len(array.shape) - 1)])

    def body(t: Any, fields: Any, seasonal: Any, out: Any) -> Any:
        slots = {name: batch[name][:, t] for name in SEASONAL}
        values, events, saturated = (last(batch[name][:, t]) for name in ("values", "events", "saturated"))
        daily, hourly = (last(tf.gather(seasonal[name], slots[name], batch_dims=1)) for name in SEASONAL)
        time, rate = (last(batch[name][:, t]) for name in ("time", "rate"))
        fields, codes, inputs, seasons = features.advance(
            tf, fields, values, events, saturated, (daily, hourly), time, rate
        )
        seasonal = {
            name: tf.tensor_scatter_nd_update(
                seasonal[name], tf.stack([index, slots[name][:, 0]], axis=1), first(code)
            )
            for name, code in zip(SEASONAL, codes, strict=True)
        }
        parts = [inputs, *(fields[name] for name in kept), *seasons]
        return (
            t + 1,
            fields,
            seasonal,
            out.write(t, tf.concat([tf.reshape(p, [-1, rows]) for p in parts], axis=0)),
        )

    out = tf.TensorArray(tf.float32, size=ticks)
    loop = (0, {name: last(state[name]) for name in names}, {name: state[name] for name in SEASONAL}, out)
    _, fields, seasonal, out = tf.while_loop(lambda t, *_: t < ticks, body, loop, parallel_iterations=1)
    path = tf.stop_gradient(tf.transpose(out.stack(), [1, 0, 2]))
    sizes = [int(np.prod(shape)) for shape in shapes]
    path = tf.ensure_shape(path, [sum(sizes), None, None])
    inputs, *parts = tf.split(path, sizes, axis=0)
    parts = [tf.reshape(part, [*shape, -1]) for part, shape in zip(parts, shapes[1:], strict=True)]
    fields = {name: first(field) for name, field in fields.items()} | seasonal
    rows, ticks = batch["values"].shape[:2]  # the LSTM wants to know
    inputs = tf.reshape(tf.transpose(inputs, [2, 1, 0]), [rows, ticks, features.FEATURES])
    return fields, inputs, dict(zip(kept, parts, strict=False)), tuple(parts[len(kept) :])


@dataclass(frozen=True)
class FitSettings:
    """Length and seed of a training.

    Attributes:
        seed: of weights, stretches and augmentation; equal arguments give equal weights on one machine.
        updates: most updates of the weights.
        check_every: updates between checks.
        rows: stretches side by side.
    """

    seed: int
    updates: int
    check_every: int = 500
    rows: int = ROWS


def fit(
    train: list[Series],
    check: list[tuple[Series, int]],
    settings: FitSettings,
    *,
    model_id: str,
    parent: BehaviourModel | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int, float, float], None] = lambda done, total, loss, best: None,
    checkpoint: Callable[[BehaviourModel], None] = lambda model: None,
) -> BehaviourModel:
    """Train a network; the model has the weights of the best check.

    A model that is fine-tuned has its parent's LSTM, so that the state of users goes on.

    Args:
        train: series to learn from.
        check: series for early stopping, each with the first row that counts.
        settings: length and seed.
        model_id: name of the new model.
        parent: model whose heads are fine-tuned, which stays as it is; None: all weights are learnt anew.
        stop: called before every update; training ends where it is true, as when a caller's time is up.
        progress: called with (updates done, updates, loss, best check so far).
        checkpoint: called with the model at every better check.
    """
    tensorflow()
    import keras

    keras.utils.set_random_seed(settings.seed)
    network, updates = Network() if parent is None else parent.network.copy(), settings.updates
    trainer = Trainer(network, updates, heads=parent is not None)
    batches = Batches(train, settings.rows, np.random.default_rng(settings.seed))
    best, kept, worse = np.inf if parent is None else checked(trainer, check), _copies(network), 0
    for done in range(1, updates + 1):
        if stop() or worse >= PATIENCE:
            break
        ran = trainer.run(batches, CHUNK, update=True)
        assert ran is not None, "random stretches never end"
        loss = ran[0].sum() / max(ran[1].sum(), 1)
        batches.learn(*ran)
        if done % settings.check_every == 0 or done == updates:
            score = checked(trainer, check)
            worse = 0 if score < best else worse + 1
            if score < best:
                best, kept = score, _copies(network)
                checkpoint(BehaviourModel(network, {"model_id": model_id, "updates": done, "check": score}))
        progress(done, updates, float(loss), float(best))
    if not np.isfinite(best):
        kept = _copies(network)
    for variable, value in zip(network.variables, kept, strict=True):
        variable.assign(value)
    return BehaviourModel(network, {"model_id": model_id})


def _copies(network: Network) -> list[Array]:
    return [np.asarray(v).copy() for v in network.variables]


def checked(trainer: Trainer, check: list[tuple[Series, int]]) -> float:
    """Ratio to persistence's loss in the check's rows, geometric mean over series, metrics and steps.

    The rows before them warm the state up. Infinite where nothing is scored.
    """
    if not check:
        return np.inf
    batches = Batches([s for s, _ in check], len(check), None, [start for _, start in check])
    total, count = np.zeros((2, len(check), len(METRICS), STEPS))
    while (ran := trainer.run(batches, 4 * CHUNK, update=False)) is not None:
        total, count = total + ran[0], count + ran[1]
    scored = (count > 0) & (total > 0)
    return float(np.exp(np.log(total[scored] / count[scored]).mean())) if scored.any() else np.inf
