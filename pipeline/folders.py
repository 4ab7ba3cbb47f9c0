"""Folders that a command writes to, made before its work."""

import errno
import os
from pathlib import Path

from pipeline.errors import UsageError


def make(path: Path, name: str) -> None:
    """Make a folder, with its parents, where it is not there; name: what the error calls it, such as an option.

    Raises:
        UsageError: it cannot be made or written to; one line.
        OSError: the disk is full, which passes.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{name} {path}: no folder can be made there: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{name} {path}: the folder cannot be written to")
