"""Bounds in time of requests to a provider's API, and what is common to how their failures are mapped."""

import errno
from typing import Final

CONNECT_S: Final = 2.0
READ_S: Final = 5.0
"""Longest silence within an answer."""
CALL_S: Final = 8.0
"""For all requests of one call of a provider: the actuator gives it up after 10 s."""
WAIT_S: Final = 5.0
"""Pause after a failure whose answer names none."""
LONG_WAIT_S: Final = 30.0
"""Pause after what somebody has to mend: credentials, certificates."""
OF_THE_MACHINE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""Errors of no single target: the disk is full or read-only, or there are no more file handles."""


def one_line(error: Exception) -> str:
    """An exception as one line."""
    text = str(getattr(error, "reason", None) or error) or type(error).__name__
    return " ".join(text.split())
