"""Log lines of a process: warnings and errors, on stderr, so that stdout carries a command's output alone."""

import logging
import sys
from collections.abc import Hashable
from typing import Any, Final, Generic, TypeVar

import structlog

Trouble = TypeVar("Trouble", bound=Hashable)
QUIET_S: Final = 600
"""Trouble that has not been there for so long begins anew where it comes back."""


class Episodes(Generic[Trouble]):
    """Tells when trouble that comes and goes begins, so that it is logged once."""

    def __init__(self) -> None:
        self.newest: dict[Trouble, int] = {}  # tick in which it was there last

    def begins(self, trouble: Trouble, tick: int, tick_s: int) -> bool:
        """Note that it is there in a tick; whether it has begun: it was not there before, or not for QUIET_S."""
        last = self.newest.get(trouble)
        self.newest[trouble] = tick
        return last is None or (tick - last) * tick_s > QUIET_S


def get_logger(name: str = "leadtime") -> Any:
    """A structlog logger; structlog is configured first, unless the program that imports us has done so.

    The stream is looked up with each line: whoever replaces `sys.stderr` gets what is logged afterwards.
    """
    if not structlog.is_configured():
        *processors, renderer = structlog.get_config()["processors"]
        # without the locals of each frame: they are long, and a provider's may hold a secret
        renderer.exception_formatter = structlog.dev.plain_traceback
        structlog.configure(
            processors=[*processors, renderer],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
            cache_logger_on_first_use=False,
        )
    return structlog.get_logger(name)
