"""Work beside other work: a thread that lasts as long as a context, a process that ends with its parent."""

import contextlib
import multiprocessing
import os
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


def end_with_parent() -> None:
    """End this process of `multiprocessing` once its parent has ended, also where that was killed.

    A pool's processes wait for work at a pipe that all of them hold open, and so would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
