"""Contract servers over HTTP: WSGI applications in this process that do what a fault says instead of answering."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from werkzeug.serving import make_server

from tests.unit.pipeline.providers.faults import Fault, take

Environ = dict[str, Any]
Answer = tuple[str, list[tuple[str, str]], bytes]
"""Status, headers and body."""


@dataclass
class Contract(ABC):
    """A cloud for tests.

    Attributes:
        faults: to come.
        landing_late: whether what is done now was held back.
    """

    faults: list[Fault] = field(default_factory=list[Fault])
    landing_late: bool = False
    lock: Any = field(default_factory=threading.RLock)
    noting: threading.Lock = field(default_factory=threading.Lock)

    @abstractmethod
    def note(self, environ: Environ) -> Any:
        """Read and note a request."""

    @abstractmethod
    def named(self, request: Any) -> tuple[str, str]:
        """Method and path of a request, as faults name them."""

    @abstractmethod
    def refusal(self, request: Any, refused: Any) -> Answer:
        """An answer that a fault says."""

    @abstractmethod
    def answer(self, request: Any, environ: Environ) -> Answer:
        """What a request does, and its answer; the lock is held."""

    def __call__(self, environ: Environ, start: Any) -> Iterable[bytes]:
        with self.noting:
            request = self.note(environ)
            fault = take(self.faults, *self.named(request))
        try:
            status, headers, body = self._faulty(fault, request, environ)
        finally:
            if fault is not None:
                fault.finished.set()
        if fault is not None and fault.late is not None:
            fault.late.wait(30)
        if fault is not None and (fault.lost or fault.held is not None):
            environ["werkzeug.socket"].shutdown(2)
        start(status, headers)
        return [body]

    def _faulty(self, fault: Fault | None, request: Any, environ: Environ) -> Answer:
        if fault is not None:
            time.sleep(fault.slow_s)
            if fault.held is not None:
                fault.held.wait(30)
            if fault.refused is not None:
                return self.refusal(request, fault.refused)
            if fault.body is not None:
                return "200 OK", [("Content-Type", "text/html")], fault.body
            if fault.unheard:
                environ["werkzeug.socket"].shutdown(2)
                return "200 OK", [], b""
        with self.lock:
            self.landing_late = fault is not None and fault.held is not None
            return self.answer(request, environ)


def serve(app: Any, tls: Any = None) -> str:
    """Serve an application as long as the process lives; returns its URL."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=tls)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"


class Switch:
    """One served application for all tests, each with a cloud of its own: making and ending a server takes half a
    second.
    """

    def __init__(self) -> None:
        self.cloud: Contract | None = None
        self.url = serve(self)

    def __call__(self, environ: Environ, start: Any) -> Iterable[bytes]:
        assert self.cloud is not None
        return self.cloud(environ, start)
