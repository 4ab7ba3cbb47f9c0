"""Faults that a contract server does to requests, instead of or beside what they ask for."""

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """What happens to the next `times` requests of a method (an operation of AWS) whose path contains a text.

    Attributes:
        refused: is answered; body: is answered instead of an object, with status 200.
        lost: done, but the connection ends before the answer; unheard: the connection ends before it is done.
        held: done only when the event is set: the client has given up by then.
        late: done at once, but answered only when the event is set.
        slow_s: is waited before; finished: set when it is done.
    """

    method: str
    path: str = ""
    times: int = 1
    refused: Any = None
    body: bytes | None = None
    lost: bool = False
    unheard: bool = False
    held: threading.Event | None = None
    late: threading.Event | None = None
    slow_s: float = 0.0
    finished: threading.Event = field(default_factory=threading.Event)


def take(faults: list[Fault], method: str, path: str) -> Fault | None:
    """The fault of a request, of which there is one less then; the caller holds a lock."""
    for fault in faults:
        if fault.method == method and fault.path in path and fault.times > 0:
            fault.times -= 1
            return fault
    return None
