"""Users a second that `BehaviourModel.step` takes, beside a bare Keras LSTM cell of as many units: a lower bound.

    python -m tests.benchmarks.step [--users 1000 20000 100000] [--repeats 7] [--json]

Both are timed in turn, the best of the repeats counts; other jobs on the machine slow both.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from models.behaviour.features import FEATURES
from models.behaviour.lstm import UNITS, BehaviourModel, Network, tensorflow
from models.metrics import EVENT_KINDS, METRICS

TICK_S = 300


def stepping(model: BehaviourModel, users: int, rng: np.random.Generator) -> Callable[[], None]:
    """A call that steps the users by a tick, each with a new value in every metric."""
    state = model.initial_state(users)
    values = rng.lognormal(0, 1, (2, users, len(METRICS))).astype(np.float32)
    events = rng.lognormal(0, 1, (users, len(EVENT_KINDS))).astype(np.float32)
    saturated = np.zeros(values[0].shape, bool)
    tick = 4_000_000

    def step() -> None:
        nonlocal state, tick
        state, _, _ = model.step(state, values[tick % 2], events, saturated, tick=tick, tick_s=TICK_S)
        tick += 1

    return step


def cell(users: int, rng: np.random.Generator) -> Callable[[], None]:
    """A call of a Keras LSTM cell alone: inputs and state as tensors, neither statistics nor a head."""
    tf: Any = tensorflow()
    import keras

    layer = keras.layers.LSTMCell(UNITS)
    layer.build((None, FEATURES))
    inputs, h, c = (
        tf.constant(rng.standard_normal((users, width)), tf.float32) for width in (FEATURES, UNITS, UNITS)
    )
    graph = tf.function(lambda x, h, c: layer(x, [h, c])[1], autograph=False)

    def call() -> None:
        for array in graph(inputs, h, c):
            np.asarray(array)

    return call


def measured(users: int, repeats: int, model: BehaviourModel) -> dict[str, float]:
    """Best rates of both in 1/s, their ratio, and the microseconds of processor time a user of the best step."""
    rng = np.random.default_rng(users)
    calls = {"step": stepping(model, users, rng), "cell": cell(users, rng)}
    for call in calls.values():
        call()
    wall = dict.fromkeys(calls, np.inf)
    busy = np.inf
    for _ in range(repeats):
        for name, call in calls.items():
            began, used = time.perf_counter(), time.process_time()
            call()
            wall[name] = min(wall[name], time.perf_counter() - began)
            busy = min(busy, time.process_time() - used) if name == "step" else busy
    rates = {name: users / seconds for name, seconds in wall.items()}
    return {
        "users": users,
        **{f"{name}_per_s": round(rate) for name, rate in rates.items()},
        "ratio": round(rates["step"] / rates["cell"], 3),
        "core_us_per_user": round(busy / users * 1e6, 2),
    }


def main() -> None:
    """Print a line for each number of users."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 20_000, 100_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    began = time.perf_counter()
    network = Network()
    rng = np.random.default_rng(7)
    for variable in network.variables:  # an untrained head is zero
        variable.assign(np.asarray(variable) + 0.1 * rng.standard_normal(variable.shape))
    model = BehaviourModel(network, {"model_id": "benchmark"})
    stepping(model, 1, rng)()
    start_s = round(time.perf_counter() - began, 1)
    rows = [measured(users, given.repeats, model) for users in given.users]
    if given.json:
        print(json.dumps({"load": load, "cores": os.cpu_count(), "start_s": start_s, "rows": rows}))
        return
    print(f"load before the run {load:.1f} on {os.cpu_count()} cores; {start_s} s to load and compile")
    for row in rows:
        print(
            f"{row['users']:>7,} users: step {row['step_per_s']:>9,}/s, Keras cell {row['cell_per_s']:>9,}/s, "
            f"ratio {row['ratio']:.2f}; {row['core_us_per_user']} us of a core a user"
        )


if __name__ == "__main__":
    main()
