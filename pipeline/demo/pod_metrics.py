"""The API metrics.k8s.io for pods whose usage is simulated: what a cluster's autoscalers read.

It is served over HTTPS on this machine, and the API server is told where by an APIService and a Service of the type
ExternalName. So the API server must run on this machine too.
"""

import json
import ssl
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from pipeline.security.certificates import self_signed

GROUP: Final = "metrics.k8s.io"
VERSION: Final = "v1beta1"
ROOT: Final = f"/apis/{GROUP}/{VERSION}"
CONTAINER: Final = "app"
"""The container of each pod."""
RESOURCES: Final = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
    "resources": [
        {
            "name": "pods",
            "singularName": "",
            "namespaced": True,
            "kind": "PodMetrics",
            "verbs": ["get", "list"],
        }
    ],
}
Usage = Callable[[Mapping[str, str]], Mapping[str, float]]
"""Cores by name of the ready pods with such labels."""


@contextmanager
def serving(usage: Usage, folder: Path) -> Generator[int]:
    """Serve until the end of the block, on the port that is given; the certificate goes into `folder`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            answer = _answer(url.path, parse_qs(url.query), usage)
            body = json.dumps(answer).encode()
            self.send_response(404 if answer["kind"] == "Status" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(folder))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, name="metrics.k8s.io", daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _answer(path: str, query: Mapping[str, list[str]], usage: Usage) -> dict[str, Any]:
    if path == ROOT:
        return RESOURCES
    parts = path.removeprefix(f"{ROOT}/").split("/")
    if len(parts) != 3 or (parts[0], parts[2]) != ("namespaces", "pods"):
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404}
    selector = query.get("labelSelector", [""])[0]
    labels = dict(pair.split("=", 1) for pair in selector.split(",") if "=" in pair)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    items = [
        {
            "metadata": {"name": pod, "namespace": parts[1], "labels": labels},
            "timestamp": now,
            "window": "30s",
            "containers": [{"name": CONTAINER, "usage": {"cpu": f"{cores * 1000:.0f}m", "memory": "1Mi"}}],
        }
        for pod, cores in usage(labels).items()
    ]
    return {
        "kind": "PodMetricsList",
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": {},
        "items": items,
    }
