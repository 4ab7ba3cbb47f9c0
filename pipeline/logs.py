"""Log lines of a process: warnings and errors, on stderr, so that stdout carries a command's output alone."""

import logging
import sys
from typing import Any

import structlog


def get_logger(name: str = "leadtime") -> Any:
    """A structlog logger; structlog is configured first, unless the program that imports us has done so.

    The stream is looked up with each line: whoever replaces `sys.stderr` gets what is logged afterwards.
    """
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
            cache_logger_on_first_use=False,
        )
    return structlog.get_logger(name)
