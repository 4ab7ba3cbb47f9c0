"""Pytest plugin: each test is in exactly one tier, and a skipped test fails the session.

A test is `slow` where it is marked so, else `fast`: `make test` runs the fast tier, `make test-slow` the slow one,
`make test-all` both. `-m fast` and `-m slow` select the same by hand; without `-m` all tests run.

With `-n 2 --dist loadgroup` two processes share the tests: those that need a Kafka are one group, so that there is one
broker and no two replays compete, and the tests of each other file are a group, so that its fixtures are made once.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import pytest

TIERS: Final = ("fast", "slow")
KAFKA: Final = "kafka"
"""Group of the tests that need a broker."""
WITHOUT_KAFKA: Final = ("tests/unit/", "tests/cases/")
"""Folders whose tests start no broker of their own: they need one only through the fixture `kafka`."""
ALLOWED_SKIPS: Final[Mapping[str, str]] = {}
"""Start of a node id -> why this test cannot run everywhere. Empty: all tests run on all machines."""
COLLECTED: Final = pytest.StashKey[tuple[pytest.Item, ...]]()
"""In a configuration's stash: all tests collected in this session, before `-m` and `-k` choose among them."""
_SKIPPED: Final = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fast: of `make test`; given to each test that is not slow")
    config.addinivalue_line("markers", "slow: of `make test-slow`; not of `make test`")
    config.addinivalue_line(
        "markers", "xdist_group: tests that one process of pytest-xdist runs, one after another"
    )
    config.stash[_SKIPPED] = []
    config.pluginmanager.register(_Skips(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is not slow as fast.

    Raises:
        UsageError: a test is marked as both.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
        marks = tiers_of(item)
        if not marks:
            item.add_marker("fast")
        elif len(marks) > 1:
            raise pytest.UsageError(f"{item.nodeid} is in more than one tier: {', '.join(marks)}")
    config.stash[COLLECTED] = tuple(items)
    if hasattr(config, "workerinput"):  # the longest group first: the others fill what is left
        items.sort(key=lambda item: _group(item) != KAFKA)


def _group(item: pytest.Item) -> str:
    file = item.nodeid.partition("::")[0]
    alone = file.startswith(WITHOUT_KAFKA) and "kafka" not in getattr(item, "fixturenames", ())
    return file if alone else KAFKA


def tiers_of(item: pytest.Item) -> list[str]:
    """The tiers that a test is marked with."""
    return [tier for tier in TIERS if item.get_closest_marker(tier) is not None]


class _Skips:
    """Notes what was skipped; with xdist in the process that gathers the reports."""

    def __init__(self, config: pytest.Config) -> None:
        self.skipped = config.stash[_SKIPPED]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not report.nodeid.startswith(tuple(ALLOWED_SKIPS)):
            self.skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that would have ended well, where a test was skipped that is not allowed to be."""
    well = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if session.config.stash[_SKIPPED] and session.exitstatus in well:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the skipped tests."""
    skipped: Sequence[str] = config.stash[_SKIPPED]
    for name in skipped:
        terminalreporter.write_line(f"SKIPPED, and not in tests.tiers.ALLOWED_SKIPS: {name}", red=True)
