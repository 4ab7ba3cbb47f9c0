"""Commands for an API that sets no count on condition: a mark with the command is written first, the count second.

1. the object is read; a mark with the command's id answers it again as the first time, or, where a kill or fault came
   between mark and count, goes on with 4;
2. a mark of the same epoch or a newer one, a pause, or somebody else who would fight refuses it;
3. the mark is written;
4. the count is set.

Nothing makes 4 depend on 1: a request that was given up can land late. Requests of a target wait for each other, none
leaves after its call's deadline, and one that lands all the same is recognised by its count (`marks`).
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pipeline.errors import Rejected
from pipeline.providers.base import Provider, Record, Result
from pipeline.providers.bounds import Turns
from pipeline.providers.marks import Epochs, Mark, Memory, State, Whose, change_of, result_of
from pipeline.providers.targets import Resource, named
from pipeline.wire.commands import Target

G = TypeVar("G", bound=Resource)
C = TypeVar("C")


@dataclass(frozen=True)
class Read(Generic[G, C]):
    """A target as it was read for a command.

    Attributes:
        call: its further requests.
        described: as the API says.
        uid: what differs where it was made anew under its name.
        noted: mark that is on it.
        state: its count, and whose it is.
    """

    group: G
    call: C
    described: dict[str, Any]
    uid: str
    noted: Mark | None
    state: State


class TwoWrites(Provider, Generic[G, C]):
    """See the module.

    Args:
        groups: targets.
        dry_run: commands are judged by what is there, and rejected: the API itself cannot try them.
    """

    count: ClassVar[str]
    """What the API calls the desired count."""

    def __init__(self, groups: Iterable[G], *, dry_run: bool = False) -> None:
        self.groups, self.dry_run = {group.ref: group for group in groups}, dry_run
        self.memory = {ref: Memory() for ref in self.groups}
        self._epochs, self._turns = Epochs(), Turns(self.groups)

    @abstractmethod
    def read(self, group: G) -> Read[G, C]:
        """Read a target."""

    @abstractmethod
    def granted(self, read: Read[G, C], command: Record) -> int:
        """The count that a command gets.

        Raises:
            Rejected: it gets none, for what the object is, or somebody who would fight.
        """

    @abstractmethod
    def leave(self, read: Read[G, C], mark: Mark) -> None:
        """Leave a mark on the object."""

    @abstractmethod
    def write(self, read: Read[G, C], mark: Mark, command: Record) -> None:
        """Set the count of an object that has the mark."""

    def apply(self, command: Record, now_s: float) -> Result:
        """Set the count of the target's object; see the module and `Provider.apply`."""
        group = self.group(Target.of(command).ref)
        self._epochs.enter(group.ref, command)
        with self._turns.turn(group.ref, group.place):
            read = self.read(group)
            mark = read.state.mark
            if mark is None or mark.command != command["id"]:
                mark = self._change(read, command, now_s)
            elif read.state.whose is not Whose.UNWRITTEN:
                return result_of(mark, command, mark.generation, read.uid)
            if self.dry_run:
                words = f"{self.count} {mark.before} → {mark.desired}"
                raise Rejected(f"dry run: {words} of {group.place} would be set, nothing was changed")
            self._epochs.enter(group.ref, command)
            if read.noted != mark:
                self.leave(read, mark)
                self._epochs.enter(group.ref, command)
            self.write(read, mark, command)
            return result_of(mark, command, mark.generation, read.uid)

    def _change(self, read: Read[G, C], command: Record, now_s: float) -> Mark:
        """The mark of a command on the target that was read.

        Raises:
            Rejected: it does nothing, for its epoch, the object, or somebody who would fight.
        """
        mark = read.state.mark
        if mark is not None and command["epoch"] <= mark.epoch:
            raise Rejected("older-epoch")
        return change_of(read.state, command, self.granted(read, command), now_s)

    def group(self, ref: str) -> G:
        """A target.

        Raises:
            Rejected: the targets file has none of this name.
        """
        return named(self.groups, ref)
