"""The worker's Faust app: builds profiler, simulator, allocator and learner as agents of one consumer group.

A worker that runs some of them alone is of another consumer group, by their names: within a group all must have the
same. The same agent in two groups would be fenced again and again, so each is to run in one.
"""

import asyncio
import ctypes
import gc
import importlib
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

import faust
import numpy as np

from models import kernels
from models.behaviour.lstm import BehaviourModel
from models.demand.scenarios import ScenarioKey, simulate
from models.metrics import EVENT_KINDS, METRICS, horizon_steps
from models.quantile_function import LEVELS, QuantileFunction
from pipeline import folders
from pipeline.errors import UsageError
from pipeline.inputs import released_models
from pipeline.inputs.store import SideInputs
from pipeline.kafka import topics
from pipeline.kafka.connection import faust_app
from pipeline.kafka.producer import Outputs
from pipeline.runtime import metrics
from pipeline.runtime.faust_consumer import PromptConsumer
from pipeline.runtime.fenced_state import Agent
from pipeline.runtime.session_guard import Pulse
from pipeline.security.signing_keys import keyring, signing_key
from pipeline.settings import Settings
from pipeline.stages.allocator import plan_metrics
from pipeline.stages.allocator.agent import Allocator
from pipeline.stages.learner.agent import Learner
from pipeline.stages.profiler.agent import Profiler
from pipeline.stages.simulator.agent import Simulator
from pipeline.wire import messages
from pipeline.wire.codec import Codec

AGENTS: Final = {
    "profiler": "behaviour.frames",
    "simulator": "forecasts",
    "allocator": "scenarios",
    "learner": "plans",
}
"""Agents of a worker, with the topic that each consumes."""
SNAPSHOT_IDLE_S = 1.0
"""Period in seconds of snapshots of idle partitions, and of the check for stages that wait too long."""
FETCH_BYTES = 16 * messages.MESSAGE_BYTES
"""Most bytes of one partition per fetch: several large messages, but few enough small ones to keep shards in step."""

BUFFERED = 16
"""Messages that a Faust stream buffers: few, as each may have MESSAGE_BYTES."""


def array_module() -> ModuleType:
    """CuPy where it is installed and finds a GPU, else NumPy."""
    try:
        cupy = importlib.import_module("cupy")
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return cupy
    except Exception:
        return np
    return np


def streams(settings: Settings, group: str = "worker") -> faust.App:
    """A Faust app whose agents buffer few messages: what a slow one has not read stays in the topic, as lag."""
    app = faust_app(
        settings,
        group,
        consumer_max_fetch_size=FETCH_BYTES,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=1,
        broker_commit_interval=1,
        stream_wait_empty=False,  # else held acknowledgements hang the shutdown
        stream_buffer_maxsize=BUFFERED,
        datadir=str(settings.data_dir / "faust"),
    )
    app.transport.Consumer = PromptConsumer  # pyright: ignore[reportAttributeAccessIssue]
    return app


def build(
    settings: Settings, check: Callable[[], None] = lambda: None, only: Sequence[str] = tuple(AGENTS)
) -> faust.App:
    """The worker's app: profiler, simulator, allocator and learner over the topics of an installation.

    Args:
        settings: of the installation.
        check: called before each message is published (`pipeline.runtime.session_guard`).
        only: the agents that it runs, by name.

    Raises:
        UsageError: no released model, no signing key, or an unknown agent.
        Unreachable: Kafka does not answer.
    """
    unknown = sorted({*only} - {*AGENTS})
    if unknown or not only:
        raise UsageError(f"no agent {', '.join(unknown) or 'is named'}: there are {', '.join(AGENTS)}")
    names = [name for name in AGENTS if name in only]
    app = streams(settings, "-".join(["worker", *names] if len(names) < len(AGENTS) else ["worker"]))
    agents = _agents(app, settings, check, names)
    _snapshots(app, agents)
    _metrics(app, agents, settings)
    return app


def _agents(
    app: faust.App, settings: Settings, check: Callable[[], None], names: Sequence[str]
) -> list[Agent]:
    """The named agents, each registered with the app on its source topic."""
    model = _model(settings, names)
    codec, outputs = Codec(settings.registry_url), Outputs(settings, check=check)
    key, xp = signing_key(settings), array_module()
    inputs = SideInputs(
        settings,
        ring={**keyring(settings), **key.keyring},
        max_ahead_s=None if settings.event_time else settings.max_ahead_s,
    ).start()

    def profiler(shard: int) -> Profiler:
        assert model is not None
        return Profiler(shard, model, codec, outputs.publish, settings.user_capacity)

    def simulator(shard: int) -> Simulator:
        assert model is not None
        return Simulator(shard, xp, model.dependence, inputs, codec, outputs.publish, settings)

    def allocator(shard: int) -> Allocator:
        assert model is not None
        return Allocator(shard, model, inputs, codec, outputs.publish, key, settings)

    def learner(shard: int) -> Learner:
        return Learner(shard, inputs, codec, outputs.publish, key, settings)

    makers = {"profiler": profiler, "simulator": simulator, "allocator": allocator, "learner": learner}
    agents: list[Agent] = []
    for name in names:
        agent = Agent(name, topics.name(AGENTS[name], settings), settings, outputs, makers[name])
        channel = app.topic(agent.source, value_type=bytes, partitions=settings.partitions)
        app.agent(channel, name=name)(agent.serve)
        agents.append(agent)
    return agents


def _model(settings: Settings, names: Sequence[str]) -> BehaviourModel | None:
    """The released model, warm; None where the learner alone runs, which needs none."""
    if [*names] == ["learner"]:
        return None
    model = BehaviourModel.load(released_models.folder(settings))
    _warm(model, settings.tick_s)
    return model


def _snapshots(app: faust.App, agents: list[Agent]) -> None:
    """Snapshot the agents' state on revocation (metrics of plans end there), at shutdown and while all are idle.

    Also calls `watch` of the agents, for stages that wait.
    """

    async def end(*_: Any, **__: Any) -> None:
        await asyncio.gather(*(agent.end() for agent in agents))
        plan_metrics.clear()

    app.on_partitions_revoked.connect(end)
    app.on_before_shutdown.connect(end)

    async def snapshot_idle() -> None:
        # Of all agents: a snapshot takes time from a tick that is still under way in another.
        # A busy one is snapshot every `snapshot_frames`: each second would write the whole state for nothing.
        if all(agent.quiet() for agent in agents):
            await asyncio.gather(*(agent.snapshot_all() for agent in agents))

    app.timer(SNAPSHOT_IDLE_S)(snapshot_idle)

    async def watch() -> None:
        for agent in agents:
            await agent.watch()

    app.timer(SNAPSHOT_IDLE_S)(watch)


def _metrics(app: faust.App, agents: list[Agent], settings: Settings) -> None:
    """Serve the worker's metrics and health; it is ready when it owns partitions and none is being restored."""
    vitals, assigned = metrics.Vitals(), False

    async def own(*given: Any, **__: Any) -> None:
        nonlocal assigned
        assigned = True
        now: set[Any] = given[1]  # the app comes first
        for agent in agents:
            agent.assigned({tp.partition for tp in now if tp.topic == agent.source})

    async def lose(*_: Any, **__: Any) -> None:
        nonlocal assigned
        assigned = False

    async def beat() -> None:
        vitals.beat()
        vitals.ready = assigned and not any(agent.opening for agent in agents)

    app.on_partitions_assigned.connect(own)
    app.on_partitions_revoked.connect(lose)
    app.timer(SNAPSHOT_IDLE_S)(beat)
    metrics.serve("worker", vitals, settings)
    metrics.watch_lag(
        "worker", lambda: {at: p for agent in agents for at, p in list(agent.positions.items())}, settings
    )


def _warm(model: BehaviourModel, tick_s: int) -> None:
    """Compile the model's step, sampler and purchase kernels, for which the first frame would wait ten seconds."""
    nobody = (
        np.full((1, len(METRICS)), np.nan, np.float32),
        np.full((1, len(EVENT_KINDS)), np.nan, np.float32),
    )
    model.step(model.initial_state(1), *nobody, np.zeros((1, len(METRICS)), bool), tick=0, tick_s=tick_s)
    cells = 1, len(METRICS), len(horizon_steps(tick_s))
    location, scale = np.zeros((2, *cells), np.float32)
    flat = QuantileFunction(location, scale, np.zeros((*cells, LEVELS), np.float16))
    simulate(np, flat, model.dependence, ScenarioKey(b"", tick=0, shard=0, scenarios=2, seed=0))
    kernels.staircase(location[0], location, location, 0, np.zeros(1, np.int64))
    gc.freeze()  # what is loaded stays: the collector took half a second to look through it, within a tick
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # glibc keeps what the compiler has freed: 200 MB


def run(settings: Settings, only: Sequence[str] = tuple(AGENTS)) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Args:
        settings: of the installation.
        only: the agents that it runs, by name.

    Raises:
        UsageError: no released model, no signing key, or an unknown agent.
        Unreachable: Kafka does not answer.
    """
    folders.make(settings.data_dir, "LEADTIME_DATA_DIR")
    pulse = Pulse(settings.session_timeout_s)
    app = build(settings, pulse.check, only)
    pulse.start()  # now: TensorFlow's start holds all threads for seconds, and no partition is ours yet
    faust_worker = faust.Worker(app, loglevel=logging.WARNING, quiet=True, redirect_stdouts=False)
    faust_worker.spinner = None  # it writes escape codes to what is no terminal
    faust_worker.execute_from_commandline()
