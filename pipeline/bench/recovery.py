"""Recovery: how soon work goes on after a stop and after a kill, with many users' state to restore.

stop       from SIGTERM, with a tick's frames on their way, until the process has ended
back       from the moment that a new worker has its partitions until it has forecast a tick for all of them
takeover   two workers: from SIGKILL of one until the other has forecast a tick for all partitions
"""

import os
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka.admin import AdminClient

from pipeline.bench.load import Load
from pipeline.bench.throughput import say, stands
from pipeline.errors import Unreachable
from pipeline.kafka import reader, topics
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.wire.codec import decode

TICKS: Final = 5
POLL_S: Final = 0.02
GIVE_UP_S: Final = 900.0


class Recovery:
    """One installation whose workers are stopped and killed.

    Args:
        population: of one app; reports once a tick.
        settings: of the installation.
    """

    def __init__(self, population: Load, settings: Settings) -> None:
        self.population, self.settings = population, settings
        self.admin = quiet_admin(connection(settings))
        self.supervisor = Supervisor(settings.environment(), settings.data_dir / "stages", note=say)
        self.group = f"{settings.group}-worker"
        self.tick = int(time.time()) // settings.tick_s - TICKS - 1
        self.forecast = dict.fromkeys(range(settings.partitions), -1)
        self.seen: set[tuple[int, int, int]] = set()
        self.repeats = 0
        self.reader = reader.reader(settings, more={"fetch.wait.max.ms": 10})
        self.reader.assign(reader.whole(self.reader, topics.name("forecasts", settings)))

    def measured(self) -> dict[str, Any]:
        """The figures of one run."""
        load_before = os.getloadavg()[0]
        self.population.publish_inputs(self.settings)
        try:
            self.supervisor.start(["worker", "ingest"])
            stands(self.admin, self.group, self.supervisor)
            self._report()
            self._worked()
            say("a first tick is forecast")
            stop_s = self._stop()
            say(f"stopped in {stop_s:.1f} s")
            back_s = self._back()
            repeats = self.repeats
            say(f"at work {back_s:.1f} s after its partitions were its own")
            takeover_s = self._take_over()
        finally:
            self.supervisor.stop()
            self.reader.close()
        return {
            "users": self.population.users,
            "partitions": self.settings.partitions,
            "cores": os.cpu_count(),
            "load_before": round(load_before, 2),
            "session_timeout_s": self.settings.session_timeout_s,
            "stop_s": round(stop_s, 2),
            "forecast_again_after_stop": repeats,
            "back_s": round(back_s, 2),
            "takeover_s": round(takeover_s, 2),
        }

    def _stop(self) -> float:
        self._report()
        stage = self.supervisor.stages["worker"]
        process, stage.process = stage.process, None  # not the supervisor's any more
        assert process is not None
        begun = time.monotonic()
        with process:  # closes its stdin
            process.terminate()
            process.wait(GIVE_UP_S)
        return time.monotonic() - begun

    def _back(self) -> float:
        self._report()
        self.supervisor.stages["worker"].start(time.monotonic())
        stands(self.admin, self.group, self.supervisor, poll_s=POLL_S)
        begun = time.monotonic()
        self._worked()
        return time.monotonic() - begun

    def _take_over(self) -> float:
        first = self.supervisor.stages["worker"]
        self.supervisor.another("worker", "worker-2")
        self._until(lambda: owners(self.admin, self.group) == 2, "a second worker has no partitions")
        self._report()
        self._worked()
        say("two workers share the partitions")
        process, first.process = first.process, None
        assert process is not None
        begun = time.monotonic()
        with process:
            process.kill()
        self._report()
        self._worked()
        return time.monotonic() - begun

    def _report(self) -> None:
        """All users' next tick."""
        for _ in self.population.fill(self.tick, 1):
            self.tick += 1

    def _worked(self) -> None:
        """Return when all partitions have forecast the last tick that was reported."""
        self._until(self._done, "no forecasts")

    def _done(self) -> bool:
        for message in reader.batch(self.reader, 1000, POLL_S):
            if message.error() is None:
                _, record = decode(message.value() or b"")
                key = (record["shard"], record["seq"], record["part"])
                self.repeats += key in self.seen
                self.seen.add(key)
                if record["part"] == record["of"] - 1:
                    self.forecast[record["shard"]] = max(self.forecast[record["shard"]], record["tick"])
        return min(self.forecast.values()) >= self.tick - 1

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while not condition():
            self.supervisor.poll()
            if time.monotonic() > deadline:
                raise Unreachable(f"{what} for {GIVE_UP_S:g} s; logs in {self.supervisor.folder}")
            time.sleep(POLL_S)


def owners(admin: AdminClient, group: str) -> int:
    """Members of a consumer group that own partitions, while it is at rest; else none."""
    group_state = admin.describe_consumer_groups([group])[group].result()
    owning = [member for member in group_state.members if member.assignment.topic_partitions]
    return len(owning) if group_state.state.name == "STABLE" else 0
