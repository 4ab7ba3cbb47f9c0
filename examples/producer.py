"""A producer: what a service's users cost it, measured where their requests are handled.

    python examples/producer.py localhost:9092

Wrap the handling of a request in `meter.request(user)`, and call `meter.report` every few seconds. Usage is the CPU
time of the handling thread; each request is also an event, so that the forecast knows of a rush before usage shows
it. Run as a program, it handles made-up requests of three users.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from leadtime import Telemetry


class Meter:
    """Sums up CPU seconds and requests by user since the last report.

    Args:
        telemetry: where reports go.
        app: name of the application.
        clock: seconds, monotonic; what an interval is measured by.
    """

    def __init__(self, telemetry: Telemetry, app: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.telemetry, self.app, self.clock = telemetry, app, clock
        self.cpu_s, self.requests, self.since = defaultdict[str, float](float), Counter[str](), clock()

    @contextmanager
    def request(self, user: str) -> Generator[None]:
        """Count one request of a user and the CPU time that it takes in this thread."""
        begun = time.thread_time()
        try:
            yield
        finally:
            self.cpu_s[user] += time.thread_time() - begun
            self.requests[user] += 1

    def report(self) -> None:
        """Send one sample and one count of events for each user, and begin anew."""
        now = self.clock()
        interval_s = max(1e-3, now - self.since)
        for user, requests in self.requests.items():
            self.telemetry.metric(
                app=self.app,
                user=user,
                interval_s=interval_s,
                cpu=self.cpu_s[user] / interval_s,  # cores
                requests=requests / interval_s,
            )
            self.telemetry.event(app=self.app, user=user, kind="API_CALL", name="request", count=requests)
        self.cpu_s.clear()
        self.requests.clear()
        self.since = now


def main(bootstrap: str, seconds: float = 60.0, report_s: float = 5.0) -> None:
    """Handle made-up requests for so long, and report every `report_s` seconds."""
    with Telemetry(bootstrap) as telemetry:
        meter = Meter(telemetry, "shop")
        end, due = time.monotonic() + seconds, time.monotonic() + report_s
        while time.monotonic() < end:
            for size, user in enumerate(("ann", "bob", "eve"), 1):
                with meter.request(user):
                    sum(range(size * 10_000))
            time.sleep(0.05)
            if time.monotonic() >= due:
                meter.report()
                due += report_s
        meter.report()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092")
