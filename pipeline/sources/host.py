"""`leadtime observe`: this machine's own telemetry, a user for each command that runs on it.

What is measured, and to whom it belongs:
- a user is a command's name, and processes of one name add up. Never a command line or an environment: they hold
  secrets. The names that use most, at most `top` of them, are sent with scope USER;
- everything else is nobody's and goes out once with scope SHARED, so that the app's total is the machine's:
  what the machine has used less what those users have, at least what the other processes have (some containers
  hide the machine's counters). The kernel's threads and processes that began and ended unseen are in it;
- cpu in cores, from processor time. Memory is the resident set: it counts a page shared by two processes twice,
  but is free; the proportional set would cost a walk over each process's pages, and its owner's rights;
- disk in bytes/s from each process's I/O counters where we may read them (our own processes; all, as root);
- network in bytes/s only for the machine, in SHARED: no system that psutil knows counts it by process.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, NamedTuple

import psutil

from models.metrics import SATURATED_SHARE
from pipeline.kafka.producer import Outputs
from pipeline.security.pseudonyms import entity
from pipeline.settings import Settings
from pipeline.wire.codec import Record

NAME_LENGTH = 15
"""Characters that the kernel keeps of a name; psutil completes longer names from the command line, which is private."""
_ATTRIBUTES = ["name", "create_time", "cpu_times", "memory_info"] + (
    ["io_counters"] if hasattr(psutil.Process, "io_counters") else []
)
_BUSY = ("user", "nice", "system", "irq", "softirq")  # not steal: another machine's work
_IDLE = ("idle", "iowait")


@dataclass(frozen=True)
class Process:
    """One process: its name, processor seconds and disk bytes since it began (None: not ours to read), and memory."""

    name: str
    cpu_s: float
    memory_bytes: int
    disk_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """Counters of the machine and its processes at one moment.

    Attributes:
        at_s: unix seconds.
        cores, memory_total: what there is.
        busy_s, idle_s: processor seconds of all cores since the start.
        memory_bytes: not available to others.
        network_bytes, disk_bytes: since the start, in both directions; None: not known.
        processes: by process id and time of creation (ids are used again).
    """

    at_s: float
    cores: int
    memory_total: int
    busy_s: float
    idle_s: float
    memory_bytes: int
    network_bytes: int
    disk_bytes: int | None
    processes: Mapping[tuple[int, float], Process]


class Usage(NamedTuple):
    """Cores, bytes and bytes/s; None: not known."""

    cpu: float = 0.0
    memory: float = 0.0
    disk: float | None = None

    def plus(self, other: "Usage") -> "Usage":
        """Both together; what is known of either is known."""
        disks = [disk for disk in (self.disk, other.disk) if disk is not None]
        return Usage(self.cpu + other.cpu, self.memory + other.memory, sum(disks) if disks else None)


def look(
    clock: Callable[[], float] = time.time,
    processes: Callable[[list[str]], Iterable[psutil.Process]] = psutil.process_iter,
) -> Machine:
    """Read the counters now; processes that end meanwhile or cannot be read are left out."""
    running: dict[tuple[int, float], Process] = {}
    for process in processes(_ATTRIBUTES):
        info: dict[str, Any] = process.info
        if info["cpu_times"] is None or info["memory_info"] is None:
            continue
        counters = info.get("io_counters")
        running[process.pid, info["create_time"]] = Process(
            # A name may be any bytes; what is not text must not stop its neighbours.
            name=(info["name"] or "").encode(errors="replace").decode(errors="replace")[:NAME_LENGTH],
            cpu_s=info["cpu_times"].user + info["cpu_times"].system,
            memory_bytes=info["memory_info"].rss,
            disk_bytes=None if counters is None else counters.read_bytes + counters.write_bytes,
        )
    times, memory = psutil.cpu_times(), psutil.virtual_memory()
    cards = psutil.net_io_counters(pernic=True)
    try:
        disk = psutil.disk_io_counters()
    except NotImplementedError:  # a container without /proc/diskstats
        disk = None
    return Machine(
        at_s=clock(),
        cores=psutil.cpu_count() or 1,
        memory_total=memory.total,
        busy_s=sum(getattr(times, name, 0.0) for name in _BUSY),
        idle_s=sum(getattr(times, name, 0.0) for name in _IDLE),
        memory_bytes=memory.total - memory.available,
        network_bytes=sum(
            card.bytes_sent + card.bytes_recv
            for name, card in cards.items()
            if not name.lower().startswith("lo")  # loopback, as each system calls it
        ),
        disk_bytes=None if disk is None else disk.read_bytes + disk.write_bytes,
        processes=running,
    )


def usage(before: Machine, after: Machine, interval_s: float) -> dict[str, Usage]:
    """What the processes of each name used; the kernel's threads, which have no memory of their own, under ""."""
    totals: defaultdict[str, Usage] = defaultdict(Usage)
    for key, now in after.processes.items():
        then = before.processes.get(key, Process(now.name, 0.0, 0, 0))  # new: all of it is of this interval
        disk = None if now.disk_bytes is None or then.disk_bytes is None else now.disk_bytes - then.disk_bytes
        used = Usage(
            max(0.0, now.cpu_s - then.cpu_s) / interval_s,
            float(now.memory_bytes),
            None if disk is None else max(0, disk) / interval_s,
        )
        name = now.name if now.memory_bytes else ""
        totals[name] = totals[name].plus(used)
    return dict(totals)


def samples(app: str, before: Machine, after: Machine, interval_s: float, top: int) -> list[Record]:
    """`metric` records of an interval: a user for each of the `top` names, and SHARED, as the module says.

    The machine's cores and memory are everybody's limits. Where the processors, or the memory, are used up to
    `SATURATED_SHARE` all who were using them are saturated: what they wanted was more than what they got.

    Args:
        app: name of the machine as an app.
        before, after: two looks at it.
        interval_s: seconds between them, by a clock that nobody sets.
        top: names that become users.
    """
    names = usage(before, after, interval_s)
    own = {name: used for name, used in names.items() if name}

    def share(name: str) -> tuple[float, str]:
        return max(own[name].cpu / after.cores, own[name].memory / after.memory_total), name

    users = nlargest(top, own, key=share)
    rest, theirs = Usage(), Usage()
    for name, used in names.items():
        if name in users:
            theirs = theirs.plus(used)
        else:
            rest = rest.plus(used)
    shared = Usage(
        max((after.busy_s - before.busy_s) / interval_s - theirs.cpu, rest.cpu),
        max(after.memory_bytes - theirs.memory, rest.memory),
        rest.disk
        if after.disk_bytes is None or before.disk_bytes is None
        else max(
            (after.disk_bytes - before.disk_bytes) / interval_s - (theirs.disk or 0.0), rest.disk or 0.0
        ),
    )
    busy, idle = after.busy_s - before.busy_s, after.idle_s - before.idle_s
    no_cpu = busy > 0 and busy >= SATURATED_SHARE * (busy + idle)
    no_memory = after.memory_bytes >= SATURATED_SHARE * after.memory_total

    def record(user: str | None, used: Usage, network: float | None) -> Record:
        return {
            "ts": int(after.at_s * 1e6),
            "interval_s": interval_s,
            "app": app,
            "user": user,
            "scope": "SHARED" if user is None else "USER",
            **used._asdict(),
            "network": network,
            "limits": [
                {"metric": "cpu", "value": float(after.cores)},
                {"metric": "memory", "value": float(after.memory_total)},
            ],
            "saturated": (no_cpu and used.cpu > 0) or no_memory,
            "producer": "observe",
        }

    network = max(0, after.network_bytes - before.network_bytes) / interval_s
    return [record(name, own[name], None) for name in users] + [record(None, shared, network)]


@dataclass
class Summary:
    """Totals of what was published."""

    app: str
    records: int = 0
    users: set[str] = field(default_factory=set[str])
    seconds: float = 0.0


def publish(
    settings: Settings,
    app: str,
    interval_s: float,
    top: int,
    wait: Callable[[float], bool],
    see: Callable[[], Machine] = look,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Publish the samples of each interval until `wait` returns True.

    Args:
        settings: where to.
        app, interval_s, top: as in `samples`.
        wait: waits the given seconds; returns whether to stop.
        see: reads the counters.
        clock: seconds, by a clock that nobody sets.

    Raises:
        Unreachable: Kafka does not take the records.
    """
    outputs, done = Outputs(settings), Summary(app)
    began = last = clock()
    before = see()
    while not wait(max(0.0, last + interval_s - clock())):
        after, now = see(), clock()
        for record in samples(app, before, after, now - last, top):
            record["producer_seq"] = done.records
            key = entity(app, record["user"], record["scope"])
            outputs.publish("telemetry.metrics", "metric", record, key=key)
            done.records += 1
            if record["user"] is not None:
                done.users.add(record["user"])
        outputs.flush()
        before, last = after, now
    done.seconds = last - began
    return done
