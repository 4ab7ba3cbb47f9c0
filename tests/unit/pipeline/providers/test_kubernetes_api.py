"""Answers of an API server, and what is no answer, by the class that they are mapped to."""

import errno
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3.exceptions
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from pipeline.errors import Rejected, Retryable, Throttled, UsageError
from pipeline.providers.kubernetes.api import CALL_S, Api, Conflict, Gone, NotFound, connect
from pipeline.providers.kubernetes.resources import HPA, NODE, Place, quantity
from pipeline.security.certificates import self_signed
from pipeline.stages.actuator.executor import Executor
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.kubernetes_server import Refused, Served, served

PLACE = Place(HPA, "shop", "web")
CODES: dict[int, type[Exception]] = {
    **dict.fromkeys((301, 302, 307, 400, 402, 403, 405, 406, 413, 415, 422), Rejected),
    429: Throttled,
    **dict.fromkeys((401, 408, 500, 501, 502, 503, 504, 507, 599), Retryable),
    404: NotFound,
    409: Conflict,
    410: Gone,
}
"""Every code that the API's conventions document, and those of what may stand in between."""


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as made:
        made.state.put("horizontalpodautoscalers", kube.hpa())
        yield made


@pytest.fixture
def get(server: Served) -> Callable[[Fault], Any]:
    def run(fault: Fault) -> Any:
        server.state.faults[:] = [fault]
        return server.api(read_s=0.3, call_s=1.0).call().get(PLACE)

    return run


def test_the_actuator_waits_longer_than_a_call_takes() -> None:
    assert Executor({}, {}).timeout_s > CALL_S


@pytest.mark.parametrize(("code", "expected"), CODES.items())
def test_every_documented_code_is_mapped(get: Callable[[Fault], Any], code: int, expected: type) -> None:
    with pytest.raises((Retryable, Rejected)) as refused:
        get(Fault("GET", refused=Refused(code, "why it is refused")))
    assert type(refused.value) is expected
    assert "why it is refused" in str(refused.value)


@pytest.mark.parametrize(("code", "expected"), CODES.items())
def test_a_failure_inside_a_200_is_as_its_code(
    get: Callable[[Fault], Any], code: int, expected: type
) -> None:
    body = json.dumps(Refused(code, "why it is refused").status()).encode()
    with pytest.raises((Retryable, Rejected)) as refused:
        get(Fault("GET", body=body))
    assert type(refused.value) is expected


@pytest.mark.parametrize(("text", "expected_s"), [("7", 7.0), ("soon", 5.0), ("", 5.0)])
def test_a_pause_that_is_asked_for_is_kept(get: Callable[[Fault], Any], text: str, expected_s: float) -> None:
    with pytest.raises(Retryable) as refused:
        get(Fault("GET", refused=Refused(429, "too many requests", headers={"Retry-After": text})))
    assert refused.value.retry_after == expected_s


def test_a_pause_until_a_date_is_kept(get: Callable[[Fault], Any]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60))
    with pytest.raises(Retryable) as refused:
        get(Fault("GET", refused=Refused(503, "later", headers={"Retry-After": date})))
    assert 50 < refused.value.retry_after <= 60


def test_a_403_of_somebody_else_than_rbac_says_who(get: Callable[[Fault], Any]) -> None:
    message = 'admission webhook "keda" denied the request: minReplicaCount must be less'
    with pytest.raises(Rejected, match="denied the request"):
        get(Fault("GET", refused=Refused(403, message)))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", body=b"<html>sign in to the proxy</html>"),
        Fault("GET", body=b"[]"),
        Fault("GET", body=b"{}"),
        Fault("GET", body=b'{"kind": "HorizontalPodAutoscaler", "metadata": 3}'),
        Fault("GET", body=b"\xff\xfe"),
        Fault("GET", body=b""),
        Fault("GET", unheard=True),
        Fault("GET", lost=True),
        Fault("GET", slow_s=0.6),
    ],
    ids=["html", "list", "empty", "no-metadata", "bytes", "nothing", "unheard", "lost", "hangs"],
)
def test_what_is_no_answer_is_tried_again(get: Callable[[Fault], Any], fault: Fault) -> None:
    with pytest.raises(Retryable):
        get(fault)


@settings(max_examples=60)
@given(code=st.integers(200, 599), body=st.one_of(st.binary(max_size=40), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["kind", "status", "code", "message", "metadata", "details", "retryAfterSeconds"]),
        inner | st.just("Failure") | st.just("Status"),
        max_size=5,
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_no_answer_at_all_raises_anything_else(server: Served, code: int, body: bytes) -> None:
    class Raw(Refused):
        def status(self) -> Any:
            return body

    server.state.faults[:] = [Fault("GET", refused=Raw(code, ""))]
    try:
        assert isinstance(server.api().call().get(PLACE), dict)
    except (Retryable, Rejected):
        return


def _failing(error: BaseException) -> Api:
    class Client:
        def param_serialize(self, *_: Any, **__: Any) -> tuple[()]:
            return ()

        def call_api(self, *_: Any, **__: Any) -> None:
            raise error

    return Api(Client())  # type: ignore[arg-type]


POOL: Any = None
ERRORS: list[Exception] = [
    urllib3.exceptions.ConnectTimeoutError("slow"),
    urllib3.exceptions.ReadTimeoutError(POOL, "/", "slow"),
    urllib3.exceptions.NewConnectionError(POOL, "refused"),
    urllib3.exceptions.ProtocolError("reset"),
    urllib3.exceptions.ProxyError("no", OSError()),
    urllib3.exceptions.SSLError("certificate"),
    urllib3.exceptions.DecodeError("gzip"),
    urllib3.exceptions.LocationParseError("url"),
    urllib3.exceptions.MaxRetryError(POOL, "/"),
    urllib3.exceptions.IncompleteRead(1, 2),
    urllib3.exceptions.EmptyPoolError(POOL, "empty"),
    ApiException(status=0, reason="SSLError certificate verify failed"),
    ConfigException("the token file is gone"),
    ssl.SSLError("handshake"),
    ConnectionResetError("reset"),
    TimeoutError("slow"),
    socket.gaierror(-2, "Name or service not known"),
    FileNotFoundError("token"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_of_the_connection_is_tried_again(error: Exception) -> None:
    with pytest.raises(Retryable):
        _failing(error).call().get(PLACE)


def test_an_error_of_this_machine_ends_the_actuator() -> None:
    with pytest.raises(OSError, match="No space"):
        _failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))).call().get(PLACE)


def test_a_body_that_drips_for_ever_is_given_up() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            try:
                for _ in range(100):
                    connection.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    api = Served(kube.ApiServer(), f"http://127.0.0.1:{listener.getsockname()[1]}").api(call_s=0.3)
    began = time.monotonic()
    with pytest.raises(Retryable, match="too slowly"):
        api.call().get(PLACE)
    assert time.monotonic() - began < 2
    thread.join()
    listener.close()


def test_pages_that_never_end_are_given_up(server: Served) -> None:
    page = {"kind": "NodeList", "metadata": {"continue": "again"}, "items": []}
    server.state.faults[:] = [Fault("GET", "/nodes", times=99, body=json.dumps(page).encode())]
    with pytest.raises(Retryable, match="does not end"):
        server.api().call().list(Place(NODE))
    server.state.faults.clear()


def test_a_certificate_of_somebody_else_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    with served(lambda sock: context.wrap_socket(sock, server_side=True), "https") as tls:
        with pytest.raises(Retryable, match="certificate verify failed") as refused:
            tls.api().call().get(PLACE)
        assert refused.value.retry_after == 30.0


def test_credentials_are_those_of_the_kubeconfig(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
        str(server.kubeconfig(tmp_path / "config")),
    )
    server.state.faults.clear()
    server.state.seen.clear()
    assert connect().call().get(PLACE)["metadata"]["name"] == "web"
    assert server.state.seen == {"Bearer token"}
    server.state.requests.clear()
    server.state.faults[:] = [Fault("GET", times=9, unheard=True)]
    with pytest.raises(Retryable):
        connect().call().get(PLACE)
    assert len(server.state.requests) == 1  # the library repeats nothing by itself


def test_without_credentials_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(location, str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"^no credentials for Kubernetes: [^\n]+$"):
        connect()
    (tmp_path / "broken").write_text("clusters: 3\ncurrent-context: x\n")
    monkeypatch.setattr(location, str(tmp_path / "broken"))
    with pytest.raises(UsageError, match=r"^no credentials for Kubernetes: [^\n]+$"):
        connect()


@pytest.mark.parametrize(
    ("text", "value"),
    [("100m", 0.1), ("2", 2.0), (3, 3.0), ("1.5Gi", 1.5 * 2**30), ("1e3", 1e3), ("5E", 5e18), ("12k", 12e3)],
)
def test_quantities(text: object, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "Gi", "1mm", "x"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        quantity(text)
