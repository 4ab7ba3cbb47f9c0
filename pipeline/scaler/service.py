"""Answers KEDA: `IsActive`, `StreamIsActive`, `GetMetricSpec` and `GetMetrics` of `externalscaler.proto`.

`GetMetricSpec` answers for every good trigger, also where there is no plan: KEDA counts failures for its `fallback`
only after it knows a metric's name (keda#8056), and drops what is pushed while it knows none (keda#8168).
"""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import grpc

from pipeline.errors import UsageError
from pipeline.scaler import externalscaler_pb2 as pb
from pipeline.scaler.board import Board, Planned, Unanswerable
from pipeline.scaler.externalscaler_pb2_grpc import (
    ExternalScalerServicer,
    add_ExternalScalerServicer_to_server,
)
from pipeline.scaler.follower import Follower
from pipeline.scaler.listener import OPTIONS, Tls, bind
from pipeline.scaler.triggers import Trigger, trigger_of
from pipeline.settings import Settings

METRIC: Final = "planned-replicas"
"""KEDA puts the number of the trigger before it."""
GRACE_S: Final = 1.0
"""For calls that are on their way when the service ends; streams end then."""

T = TypeVar("T")
Context = Any
"""`grpc.aio.ServicerContext`."""


class Scaler(ExternalScalerServicer):
    """The service.

    Args:
        board: has the plans.
        clock: unix seconds.
    """

    def __init__(self, board: Board, clock: Callable[[], float] = time.time) -> None:
        self.board, self.clock = board, clock

    async def IsActive(self, request: pb.ScaledObjectRef, context: Context) -> pb.IsActiveResponse:
        """Whether any replica is planned."""
        trigger = await _trigger(request, context)
        return pb.IsActiveResponse(result=await self._replicas(trigger, context) > 0)

    async def StreamIsActive(
        self, request: pb.ScaledObjectRef, context: Context
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """The same, at once and with each change.

        While there is no answer the stream is silent and stays: KEDA would open another up to a minute later, and its
        `IsActive` and `GetMetrics` are told why.
        """
        trigger = await _trigger(request, context)
        pushed: bool | None = None
        with self.board.changes(trigger.app) as changed:
            while True:
                changed.clear()
                with suppress(Unanswerable):
                    active = self.board.replicas(trigger, self.clock()) > 0
                    if active is not pushed:
                        pushed = active
                        yield pb.IsActiveResponse(result=active)
                await changed.wait()

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Context) -> pb.GetMetricSpecResponse:
        """One metric, of which each replica has 1."""
        await _trigger(request, context)
        return pb.GetMetricSpecResponse(
            metricSpecs=[pb.MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)]
        )

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Context) -> pb.GetMetricsResponse:
        """The replicas that are planned."""
        trigger = await _trigger(request.scaledObjectRef, context)
        if request.metricName != METRIC:
            why = f"metric {request.metricName[:80]!r}: there is only {METRIC}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
        replicas = await self._replicas(trigger, context)
        value = pb.MetricValue(metricName=METRIC, metricValue=replicas, metricValueFloat=float(replicas))
        return pb.GetMetricsResponse(metricValues=[value])

    async def _replicas(self, trigger: Trigger, context: Context) -> int:
        try:
            return self.board.replicas(trigger, self.clock())
        except Unanswerable as error:
            return await context.abort(error.code, str(error))


async def _trigger(of: pb.ScaledObjectRef, context: Context) -> Trigger:
    try:
        return trigger_of(of.scalerMetadata)
    except UsageError as error:
        return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


async def start(board: Board, address: str, tls: Tls | None) -> tuple[grpc.aio.Server, str]:
    """A server that answers, and its address.

    Raises:
        UsageError: nothing can listen there, or certificates do not fit.
    """
    server = grpc.aio.server(options=OPTIONS)
    add_ExternalScalerServicer_to_server(Scaler(board), server)
    bound = bind(server, address, tls)
    await server.start()
    return server, bound


def run(settings: Settings, address: str, tls: Tls | None, started: Callable[[str], object]) -> None:
    """Serve until SIGTERM or Ctrl-C. Nobody is answered before all plans that there are were read.

    Args:
        settings: of an installation whose Kafka answers.
        address: `host:port`; port 0 is a free one.
        tls: none: plain text.
        started: is told the address.

    Raises:
        UsageError: nothing can listen there, or certificates do not fit.
    """
    asyncio.run(_run(settings, address, tls, started))


async def _run(settings: Settings, address: str, tls: Tls | None, started: Callable[[str], object]) -> None:
    loop, board = asyncio.get_running_loop(), Board(settings.max_ahead_s)
    caught_up: asyncio.Future[None] = loop.create_future()
    ended: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ended)

    def take(planned: Planned) -> None:
        loop.call_soon_threadsafe(board.take, planned, time.time())

    def follow() -> None:
        try:
            Follower(settings, take, lambda: loop.call_soon_threadsafe(caught_up.set_result, None)).run()
        except Exception as error:  # a defect ends the service: without plans it has nothing to say
            loop.call_soon_threadsafe(_end, ended, error)

    threading.Thread(target=follow, name="plans", daemon=True).start()
    await asyncio.wait((caught_up, ended), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        server, bound = await start(board, address, tls)
        started(bound)
        await asyncio.wait((ended,))
        await server.stop(GRACE_S)
    ended.result()


def _end(ended: "asyncio.Future[None]", error: Exception | None = None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
