"""Work beside other work: a thread that lasts as long as a context."""

import contextlib
import threading
from collections.abc import Callable, Generator


@contextlib.contextmanager
def watching(watch: Callable[[threading.Event], None], name: str) -> Generator[None]:
    """While the context lasts, run `watch` in a thread; it returns soon after the event that it is given is set."""
    ended = threading.Event()
    thread = threading.Thread(target=watch, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
