"""What a look at the machine becomes: users, SHARED, and who is saturated."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.host import NAME_LENGTH, Machine, Process, look, samples
from pipeline.stages.ingest.validation import refusals, saturated
from pipeline.wire import codec
from pipeline.wire.batch_decoder import decode_batch
from pipeline.wire.codec import DEFAULT, Record

GIB = 1024**3
NOTHING = Machine(
    at_s=1000.0,
    cores=4,
    memory_total=16 * GIB,
    busy_s=100.0,
    idle_s=500.0,
    memory_bytes=0,
    network_bytes=0,
    disk_bytes=0,
    processes={},
)


def after(seconds: float, before: Machine = NOTHING, **changes: Any) -> Machine:
    return replace(before, at_s=before.at_s + seconds, **changes)


def by_user(records: list[Record]) -> dict[str | None, Record]:
    return {record["user"]: record for record in records}


def test_processes_of_one_name_add_up_and_rates_are_by_the_second() -> None:
    before = replace(
        NOTHING,
        processes={
            (1, 10.0): Process("java", 50.0, GIB, 1000),
            (2, 11.0): Process("java", 5.0, GIB, None),
        },
    )
    now = after(
        10,
        before,
        busy_s=118.0,
        idle_s=522.0,
        memory_bytes=6 * GIB,
        network_bytes=5_000,
        disk_bytes=90_000,
        processes={
            (1, 10.0): Process("java", 58.0, 2 * GIB, 41_000),
            (2, 11.0): Process("java", 6.0, GIB, None),
            (3, 1005.0): Process("python", 2.0, GIB, 20_000),
        },
    )
    records = by_user(samples("host", before, now, 10.0, top=5))
    # (8 + 1) s of processor in 10 s; 2 + 1 GiB; 40,000 bytes in 10 s, the other's are not ours to read.
    assert records["java"] | {"cpu": 0.9, "memory": 3 * GIB, "disk": 4_000.0} == records["java"]
    # New within the interval: all of its 2 s are of it.
    assert records["python"] | {"cpu": 0.2, "memory": GIB, "disk": 2_000.0} == records["python"]
    # The machine's 18 s, 6 GiB and 90,000 bytes, less theirs.
    assert records[None]["cpu"] == pytest.approx(1.8 - 0.9 - 0.2)
    assert records[None]["memory"] == 2 * GIB
    assert records[None]["disk"] == pytest.approx(9_000 - 4_000 - 2_000)
    assert [records[user]["network"] for user in ("java", "python", None)] == [None, None, 500.0]
    assert [records[user]["scope"] for user in ("java", "python", None)] == ["USER", "USER", "SHARED"]
    assert {record["ts"] for record in records.values()} == {1_010_000_000}
    assert records["java"]["limits"] == [
        {"metric": "cpu", "value": 4.0},
        {"metric": "memory", "value": 16.0 * GIB},
    ]


def test_a_process_id_that_is_used_again_is_another_process() -> None:
    before = replace(NOTHING, processes={(7, 10.0): Process("sh", 500.0, GIB, 0)})
    now = after(10, before, processes={(7, 1003.0): Process("sh", 1.0, GIB, 0)})
    assert by_user(samples("host", before, now, 10.0, 5))["sh"]["cpu"] == pytest.approx(0.1)


def test_those_beyond_the_top_and_the_kernel_are_shared() -> None:
    processes = {
        (1, 1.0): Process("big", 0.0, 8 * GIB, 0),  # half of the memory
        (2, 1.0): Process("busy", 10.0, GIB, 0),  # a quarter of the processors
        (3, 1.0): Process("small", 1.0, GIB, 500),
        (4, 1.0): Process("kworker/0:1", 20.0, 0, 0),  # no memory of its own: the kernel
    }
    # The machine's own counters show nothing, as in some containers: the processes' count.
    now = after(10, disk_bytes=None, processes=processes)
    records = samples("host", NOTHING, now, 10.0, top=2)
    assert [record["user"] for record in records] == ["big", "busy", None]
    assert records[-1]["cpu"] == pytest.approx(0.1 + 2.0)
    assert records[-1]["memory"] == GIB
    assert records[-1]["disk"] == 50.0


def test_disk_is_absent_where_nobody_may_read_it() -> None:
    now = after(10, disk_bytes=None, processes={(1, 1.0): Process("sh", 1.0, GIB, None)})
    assert [record["disk"] for record in samples("host", NOTHING, now, 10.0, 5)] == [None, None]


@pytest.mark.parametrize(
    ("busy_s", "idle_s", "memory", "full"),
    [
        (39.3, 0.7, GIB, True),  # 98.25 % of 4 cores for 10 s
        (39.0, 1.0, GIB, False),  # 97.5 %
        (20.0, 0.2, GIB, True),  # a neighbour stole half: what was left is used up
        (0.0, 0.0, GIB, False),  # no counters
        (1.0, 39.0, 15.9 * GIB, True),  # 99.4 % of the memory
    ],
)
def test_a_full_machine_saturates_those_who_use_it(
    busy_s: float, idle_s: float, memory: int, full: bool
) -> None:
    now = after(
        10,
        busy_s=100 + busy_s,
        idle_s=500 + idle_s,
        memory_bytes=memory,
        processes={(1, 1.0): Process("busy", 5.0, GIB, 0), (2, 1.0): Process("idle", 0.0, GIB, 0)},
    )
    records = by_user(samples("host", NOTHING, now, 10.0, 5))
    assert records["busy"]["saturated"] == full
    assert records["idle"]["saturated"] == (full and memory > GIB)


PROCESSES = st.dictionaries(
    st.tuples(st.integers(1, 9), st.sampled_from([1.0, 2.0])),
    st.builds(
        Process,
        st.sampled_from(["", "a", "b", "c", "d\udc80".encode(errors="replace").decode()]),
        st.floats(0, 40),
        st.integers(0, GIB),
        st.none() | st.integers(0, 10**9),
    ),
)
MACHINES = st.builds(
    Machine,
    at_s=st.just(1000.0),
    cores=st.just(4),
    memory_total=st.just(16 * GIB),
    busy_s=st.floats(0, 40),
    idle_s=st.floats(0, 40),
    memory_bytes=st.integers(0, 16 * GIB),
    network_bytes=st.integers(0, 10**9),
    disk_bytes=st.none() | st.integers(0, 10**9),
    processes=PROCESSES,
)


@given(MACHINES, MACHINES, st.integers(1, 4))
def test_whatever_is_seen_ingest_takes_it_and_nothing_is_lost(
    before: Machine, now: Machine, top: int
) -> None:
    records = samples("host", before, now, 5.0, top)
    assert len(records) <= top + 1
    bodies: list[bytes | None] = [codec.encode("metric", record) for record in records]
    decoded, poisons = decode_batch(DEFAULT, bodies, ("metric",))
    assert poisons == {}
    index, rows = decoded["metric"]
    zero, at_us = np.zeros(len(index), np.int64), np.full(len(index), 1_000_000_000)
    assert refusals("metric", rows, at_us, zero, 60.0, 60.0).tolist() == [""] * len(records)
    assert saturated(rows)[:, 2].tolist() == [record["saturated"] for record in records]
    used = sum(process.memory_bytes for process in now.processes.values())
    # Users and SHARED are the machine's; resident sets share pages and may be more.
    assert sum(record["memory"] for record in records) == max(used, now.memory_bytes)


class FakeProcess:
    pid = 5

    def __init__(self, **info: Any) -> None:
        self.info = {
            "name": "sh",
            "create_time": 3.0,
            "cpu_times": SimpleNamespace(user=1.0, system=0.5),
            "memory_info": SimpleNamespace(rss=9),
        } | info


def seen(*processes: FakeProcess) -> list[Process]:
    def iterate(_: list[str]) -> Any:
        return processes

    machine = look(lambda: 12.5, iterate)
    assert machine.at_s == 12.5
    return list(machine.processes.values())


def test_a_process_that_hides_is_left_out_and_its_counters_may_hide() -> None:
    assert seen(FakeProcess(cpu_times=None)) == []
    assert seen(FakeProcess(memory_info=None)) == []
    assert seen(FakeProcess(io_counters=None)) == [Process("sh", 1.5, 9, None)]
    assert seen(FakeProcess(io_counters=SimpleNamespace(read_bytes=3, write_bytes=4))) == [
        Process("sh", 1.5, 9, 7)
    ]
    assert seen(FakeProcess(name=None)) == [Process("", 1.5, 9, None)]


def test_a_name_is_text_whatever_its_bytes() -> None:
    (process,) = seen(FakeProcess(name="caf\udce9"))
    assert process.name == "caf?"


def test_a_command_line_is_never_part_of_a_name() -> None:
    """psutil completes a long name from the command line, which a process can set to anything."""
    script = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'worker-of-many-users') if sys.platform == 'linux' else 0;"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        ["worker-of-many--password=secret", "-c", script],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        machine = look()
        names = {process.name for (pid, _), process in machine.processes.items() if pid == child.pid}
        child.communicate()
    assert all(len(name) <= NAME_LENGTH and "secret" not in name for name in names)
    assert len(names) == 1


def test_this_machine_is_seen_as_it_is() -> None:
    began = time.process_time()
    before = look(time.perf_counter)
    while time.process_time() < began + 0.3:
        pass
    now = look(time.perf_counter)
    spent = time.process_time() - began
    own = next(key for key in now.processes if key[0] == os.getpid())
    assert now.processes[own].name == psutil.Process().name()[:NAME_LENGTH]
    assert now.processes[own].memory_bytes > 10**6
    counted = now.processes[own].cpu_s - before.processes[own].cpu_s
    assert 0 < counted <= spent + 0.04  # the kernel counts two times in hundredths of a second
    interval_s = now.at_s - before.at_s
    records = by_user(samples("host", before, now, interval_s, 10_000))
    assert records[now.processes[own].name]["cpu"] >= counted / interval_s
    assert now.memory_total == psutil.virtual_memory().total
    assert None in records
