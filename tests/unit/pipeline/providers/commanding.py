"""What tests of the providers of clouds have in common: commands, and observations in short."""

import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from pipeline.providers.base import Observation, Provider, Record, Result
from pipeline.security.signing_keys import demo_key
from pipeline.stages.actuator.executor import Executor
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command

REF = "shop/od"


class Closable(Protocol):
    """A provider that ends."""

    def apply(self, command: Record, now_s: float) -> Result: ...

    def close(self) -> None: ...


S = TypeVar("S")
P = TypeVar("P", bound=Closable)


class World(Generic[S, P]):
    """A cloud on its contract server, with providers on it.

    Args:
        server: is serving it.
    """

    def __init__(self, server: S) -> None:
        self.server = server
        self.providers: list[P] = []

    def with_provider(self, made: P) -> P:
        """Close a provider with the rest."""
        self.providers.append(made)
        return made

    def close(self) -> None:
        for provider in self.providers:
            provider.close()


def order(provider: str, desired: int, epoch: int = 10, ref: str = REF, **more: Any) -> Record:
    """A command for a target of a provider."""
    return command(epoch, desired, ref, target=Target(provider, ref), bounds=(0, 999), **more)


def counts(seen: Observation) -> tuple[int, int, int, int, int]:
    """Ready, pending, draining, failed and interrupted."""
    return seen.ready, seen.pending, seen.draining, seen.failed, seen.interrupted


def eventually(check: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_conflicts_are_refused(name: str, provider: Provider, scale: Callable[[int], None]) -> None:
    """Check that an actuator refuses what somebody else changed, whose size `scale` sets and has observed."""
    executor = Executor({name: provider}, demo_key().keyring)

    def submit(desired: int, epoch: int, generation: int) -> Record:
        sent = order(name, desired, epoch, expected_generation=generation)
        (outcome,) = executor.submit(sent, sent["not_before"].timestamp())
        return outcome[1]

    assert submit(7, 10, 1)["status"] == "APPLIED"
    scale(5)
    assert (submit(8, 11, 2)["status"], submit(8, 12, 2)["reason"]) == ("REFUSED", "conflict")
    assert submit(8, 13, 3)["status"] == "APPLIED"
