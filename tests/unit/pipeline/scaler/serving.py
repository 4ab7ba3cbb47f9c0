"""The service on a port of this machine, and a client as KEDA's: gRPC over HTTP/2."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from pipeline.scaler import externalscaler_pb2 as pb
from pipeline.scaler.board import Board, Planned
from pipeline.scaler.externalscaler_pb2_grpc import ExternalScalerStub
from pipeline.scaler.listener import Tls
from pipeline.scaler.service import METRIC, start

CALL_S = 10.0


class Client:
    """Calls of KEDA to a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub: Any = ExternalScalerStub(channel)

    def ref(self, **metadata: str) -> Any:
        return pb.ScaledObjectRef(name="web", namespace="shop", scalerMetadata=metadata)

    def active(self, **metadata: str) -> bool:
        return self.stub.IsActive(self.ref(**metadata), timeout=CALL_S).result

    def replicas(self, metric: str = METRIC, **metadata: str) -> float:
        request = pb.GetMetricsRequest(scaledObjectRef=self.ref(**metadata), metricName=metric)
        (value,) = self.stub.GetMetrics(request, timeout=CALL_S).metricValues
        assert (value.metricName, value.metricValue) == (METRIC, value.metricValueFloat)
        return value.metricValueFloat

    def spec(self, **metadata: str) -> Any:
        (spec,) = self.stub.GetMetricSpec(self.ref(**metadata), timeout=CALL_S).metricSpecs
        return spec

    def stream(self, **metadata: str) -> Any:
        return self.stub.StreamIsActive(self.ref(**metadata), timeout=60.0)


def refused(call: Any, *arguments: Any, **metadata: str) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that fails."""
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **metadata)
    raised: Any = error.value
    return raised.code(), raised.details()


@dataclass
class Served:
    """The service in a thread."""

    address: str
    board: Board
    loop: asyncio.AbstractEventLoop

    def take(self, planned: Planned, now_s: float) -> None:
        asyncio.run_coroutine_threadsafe(self._take(planned, now_s), self.loop).result()

    async def _take(self, planned: Planned, now_s: float) -> None:
        self.board.take(planned, now_s)


@contextmanager
def served(tls: Tls | None = None, address: str = "127.0.0.1:0") -> Generator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    board = Board(300.0)
    try:
        server, bound = asyncio.run_coroutine_threadsafe(start(board, address, tls), loop).result(20)
        yield Served(bound, board, loop)
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
