"""Any interleaving of commands, kills, late calls and foreign edits, for a provider on its contract server."""

import threading
from abc import abstractmethod
from typing import Any, ClassVar, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from pipeline.errors import Rejected, Retryable
from pipeline.providers.base import Record
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command
from tests.unit.pipeline.providers.commanding import Closable
from tests.unit.pipeline.providers.faults import Fault

REF = "shop/pod"
CHOICE = st.integers(0, 1_000)
"""Of a list, by the remainder: a draw inside a rule fails where a thread of a client uses `random` meanwhile."""
COUNTS = st.integers(1, 9)


class Interleavings(RuleBasedStateMachine):
    """One target; the newest command is repeated as an actuator does after a kill, older ones as calls come late.

    Attributes:
        name: of the provider; writes: methods of the requests of a command that write, in their order.
        refusals: answers that a command may meet.
    """

    name: ClassVar[str]
    writes: ClassVar[tuple[str, ...]]
    refusals: ClassVar[tuple[Any, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[Record] = []
        self.held: list[Fault] = []
        self.answers: dict[str, tuple[int, int]] = {}
        self.restored: set[str] = set()
        self.start()
        self.provider = self.made()

    @abstractmethod
    def start(self) -> None:
        """Begin with a target on a server."""

    @abstractmethod
    def stop(self) -> None:
        """End the server."""

    @abstractmethod
    def made(self) -> Closable:
        """Another process's provider."""

    @property
    @abstractmethod
    def faults(self) -> list[Fault]:
        """Of the server."""

    @abstractmethod
    def set_count(self, count: int) -> None:
        """Somebody else sets the count."""

    @abstractmethod
    def edit(self, text: str | None) -> None:
        """Somebody else edits something that is no count."""

    @abstractmethod
    def judge(self) -> None:
        """Assert what must hold of what was written."""

    def teardown(self) -> None:
        for fault in self.held:
            self._release(fault)
        self.judge()
        self.provider.close()
        self.stop()

    def _apply(self, number: int, fault: Fault | None = None) -> None:
        """Apply a command; its answers, where there are several, are the same."""
        order = self.commands[number]
        self.faults[:] = [fault] if fault is not None else []
        try:
            result = self.provider.apply(order, 100.0)
        except (Retryable, Rejected):
            return
        finally:
            self.faults.clear()
            self.judge()
        answer = result.before, result.after
        assert self.answers.setdefault(order["id"], answer) == answer
        assert result.after == order["desired"]

    def _next(self, desired: int) -> int:
        epoch = len(self.commands) + 1
        self.commands.append(command(epoch, desired, REF, target=Target(self.name, REF), bounds=(0, 9)))
        return -1

    def _write(self, which: int) -> str:
        return self.writes[which % len(self.writes)]

    @rule(desired=COUNTS)
    def commanded(self, desired: int) -> None:
        self._apply(self._next(desired))

    @rule(desired=COUNTS, how=CHOICE, write=CHOICE)
    def refused(self, desired: int, how: int, write: int) -> None:
        refused = self.refusals[how % len(self.refusals)]
        self._apply(self._next(desired), Fault(self._write(write), refused=refused))

    @rule(desired=COUNTS, lost=st.booleans(), write=CHOICE)
    def killed(self, desired: int, lost: bool, write: int) -> None:
        """Before or after a write: another process goes on."""
        self._apply(self._next(desired), Fault(self._write(write), lost=lost, unheard=not lost))
        self.provider.close()
        self.provider = self.made()

    @rule(desired=COUNTS)
    def given_up(self, desired: int) -> None:
        """The last write is on its way when the call is given up."""
        fault = Fault(self.writes[-1], held=threading.Event())
        self._apply(self._next(desired), fault)
        if not fault.times:  # it was sent
            self.held.append(fault)

    @precondition(lambda self: bool(self.held))
    @rule()
    def lands_late(self) -> None:
        self._release(self.held.pop(0))
        self.judge()

    def _release(self, fault: Fault) -> None:
        assert fault.held is not None
        fault.held.set()
        assert fault.finished.wait(10)

    @precondition(lambda self: bool(self.commands))
    @rule()
    def repeated(self) -> None:
        self._apply(-1)

    @precondition(lambda self: bool(self.commands))
    @rule(which=CHOICE)
    def comes_again(self, which: int) -> None:
        """Any command, as if nobody had looked at its epoch before."""
        self._apply(which % len(self.commands))

    @rule(count=COUNTS)
    def scaled_by_hand(self, count: int) -> None:
        self.set_count(count)

    @rule(text=st.sampled_from(["a", "b", None]))
    def edited(self, text: str | None) -> None:
        self.edit(text)


class TwoWrites(Interleavings):
    """Where nothing makes a write of the count depend on what was read.

    A request that was given up can land after a newer command's. So it is told apart from somebody else's edit, and the
    next command mends it; no other write moves a target to an older epoch, and none is made twice.
    """

    cloud: Any
    """Has `written` (count, mark that was there, whether late), `mark()` and `scale(count)`."""

    @property
    def faults(self) -> list[Fault]:
        return self.cloud.faults

    def set_count(self, count: int) -> None:
        mark = self.cloud.mark()
        if mark is not None and count == mark.before:  # nothing tells it from a count that was never written
            self.restored.add(mark.command)
        self.cloud.scale(count)

    def judge(self) -> None:
        desired = {order["id"]: order["desired"] for order in self.commands}
        ours = [(count, mark) for count, mark, late in list(self.cloud.written) if not late]
        marks = [mark for _, mark in ours if mark is not None]
        assert len(marks) == len(ours)
        assert [count for count, _ in ours] == [desired[mark.command] for mark in marks]
        epochs = [mark.epoch for mark in marks if mark.command not in self.restored]
        assert epochs == sorted(set(epochs))


def case(machine: type[Interleavings], examples: int) -> Any:
    """The machine as a test of so many examples."""
    made: Any = cast("Any", machine).TestCase
    health = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    made.settings = settings(max_examples=examples, stateful_step_count=20, suppress_health_check=health)
    return made
