"""The rival of `leadtime bench throughput`: a plain Faust agent that handles one record after the other.

Each record is decoded, the user's state looked up in a dict, the released network stepped for that one user by a
compiled TensorFlow function, and the forecast of the next ticks sent on. Of the model it runs only the LSTM and its
head on the same weights: no running statistics, no calibration, no scenarios, no plan, and a crash loses the state.

    python -m pipeline.bench.faust_baseline SECONDS      settings from LEADTIME_*; one JSON object on stdout
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

import faust
import numpy as np

from models.behaviour.features import FEATURES
from models.behaviour.lstm import PARAMETERS, UNITS, BehaviourModel, tensorflow
from models.metrics import METRICS, STEPS
from pipeline.inputs import released_models
from pipeline.kafka import topics
from pipeline.kafka.connection import faust_app
from pipeline.settings import Settings, load_settings
from pipeline.wire.codec import Codec

QUIET_S = 5.0
"""Without a record for so long all of them have been handled."""


def build(settings: Settings, seconds: float) -> faust.App:
    """The app; it ends the process after so many seconds of work, or when nothing is left."""
    app = faust_app(settings, "rival", datadir=str(settings.data_dir / "rival"))
    step, codec = _step(BehaviourModel.load(released_models.folder(settings))), Codec(settings.registry_url)
    source = app.topic(topics.name("telemetry.metrics", settings), value_type=bytes)
    forecasts = app.topic(topics.name("forecasts", settings), value_type=bytes)
    states: dict[bytes, tuple[Any, Any]] = {}
    fresh = (np.zeros((UNITS, 1), np.float32), np.zeros((UNITS, 1), np.float32))
    begun, last, records = 0.0, 0.0, 0

    async def predict(stream: Any) -> None:
        nonlocal begun, last, records
        async for key, value in stream.items():
            begun = begun or time.monotonic()
            name, record = codec.decode(value)
            if name == "metric":
                inputs = np.zeros((FEATURES, 1), np.float32)
                inputs[: len(METRICS), 0] = [record[metric] or 0.0 for metric in METRICS]
                parameters, h, c = step(np.log1p(inputs), *states.get(key, fresh))
                states[key] = h, c
                await forecasts.send(key=key, value=np.asarray(parameters).tobytes())
                records += 1
            last = time.monotonic()

    app.agent(source, name="predict")(predict)

    async def report() -> None:
        now = time.monotonic()
        if begun and (now - begun >= seconds or now - last >= QUIET_S):
            print(json.dumps({"records": records, "seconds": last - begun, "users": len(states)}), flush=True)
            os._exit(0)
        await asyncio.sleep(0)

    app.timer(0.1)(report)
    return app


def _step(model: BehaviourModel) -> Any:
    """The network for one user, compiled: parameters, h and c from inputs, h and c."""
    tf = tensorflow()
    turned = model.network.turned()
    specs = [tf.TensorSpec((rows, 1), tf.float32) for rows in (FEATURES, UNITS, UNITS)]
    graph = tf.function(
        lambda x, h, c: model.network.step(turned, x, h, c),
        input_signature=specs,
        autograph=False,
        jit_compile=True,
    )
    parameters, *_ = graph(*(np.zeros(spec.shape, np.float32) for spec in specs))
    assert parameters.shape == (len(METRICS), STEPS, PARAMETERS, 1)
    return graph


if __name__ == "__main__":
    worker = faust.Worker(
        build(load_settings(), float(sys.argv[1])), loglevel="ERROR", quiet=True, redirect_stdouts=False
    )
    worker.spinner = None
    worker.execute_from_commandline()
