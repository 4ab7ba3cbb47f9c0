"""Metrics, health and readiness over HTTP, and lag from the ends of topics."""

import socket
import urllib.error
import urllib.request
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from prometheus_client import REGISTRY

from pipeline.errors import UsageError
from pipeline.runtime import metrics
from pipeline.runtime.metrics import SEVERAL, STALLED_S, Vitals
from pipeline.settings import Settings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def free_port() -> int:
    """One from which the next few are free as well."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return min(one.getsockname()[1], 64_000)


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_stage_says_whether_it_lives_and_is_ready() -> None:
    clock = Clock()
    vitals = Vitals(clock)
    port = metrics.serve("worker", vitals, Settings(metrics_port=free_port()))
    assert port is not None
    assert [get(port, path)[0] for path in ("/healthz", "/readyz", "/elsewhere")] == [200, 503, 404]
    vitals.ready = True
    assert get(port, "/readyz") == (200, "OK\n")
    assert 'leadtime_ready{stage="worker"} 1.0' in get(port, "/metrics")[1]
    clock.now += STALLED_S
    assert [get(port, path)[0] for path in ("/healthz", "/readyz")] == [503, 503]
    assert 'leadtime_ready{stage="worker"} 0.0' in get(port, "/metrics")[1]
    vitals.beat()
    assert get(port, "/healthz")[0] == 200
    metrics.DROPPED.labels("here", "late").inc(3)
    status, text = get(port, "/metrics")
    assert status == 200
    assert 'leadtime_dropped_total{reason="late",stage="here"} 3.0' in text
    assert "process_resident_memory_bytes" in text


def test_stages_of_one_kind_take_ports_beside_each_other_until_none_is_left() -> None:
    assert metrics.serve("ingest", Vitals(), Settings()) is None
    first = metrics.serve("ingest", Vitals(), settings := Settings(metrics_port=free_port()))
    assert first is not None
    assert (metrics.serve("ingest", Vitals(), settings) or 0) > first
    with suppress(UsageError):  # another process may listen on one of them
        for _ in range(SEVERAL):
            metrics.serve("ingest", Vitals(), settings)
    with pytest.raises(UsageError, match="no port"):
        metrics.serve("ingest", Vitals(), settings)


def test_it_listens_where_it_is_told_to() -> None:
    settings = Settings(metrics_port=free_port(), metrics_host="127.0.0.2")
    port = metrics.serve("ingest", Vitals(), settings)
    with urllib.request.urlopen(f"http://127.0.0.2:{port}/healthz", timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10)


class Ends:
    """An admin client's answer: where topics end."""

    def __init__(self, ends: dict[tuple[str, int], int]) -> None:
        self.ends = ends

    def list_offsets(self, asked: dict[TopicPartition, Any]) -> dict[TopicPartition, Future[Any]]:
        answers: dict[TopicPartition, Future[Any]] = {}
        for at in asked:
            answers[at] = Future()
            answers[at].set_result(TopicPartition(at.topic, at.partition, self.ends[at.topic, at.partition]))
        return answers


def test_lag_is_what_lies_before_the_end_and_goes_with_the_partition() -> None:
    def lag(partition: int) -> float | None:
        labels = {"stage": "x", "topic": "frames", "partition": str(partition)}
        return REGISTRY.get_sample_value("leadtime_lag_messages", labels)

    ends = Ends({("frames", 0): 50, ("frames", 1): 7})
    shown = metrics.show_lag("x", {("frames", 0): 30, ("frames", 1): 8}, set(), ends)
    assert (lag(0), lag(1)) == (20, 0)
    shown = metrics.show_lag("x", {("frames", 0): 50}, shown, ends)
    assert (lag(0), lag(1)) == (0, None)
    assert metrics.show_lag("x", {}, shown, ends) == set()
    assert lag(0) is None
