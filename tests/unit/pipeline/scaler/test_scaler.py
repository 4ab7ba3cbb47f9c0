"""KEDA's external scaler: what each call answers, to which trigger, in which mode and at which age of the plan."""

import datetime
import ipaddress
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import UsageError
from pipeline.scaler.board import Board, Planned, Unanswerable
from pipeline.scaler.listener import Tls
from pipeline.scaler.triggers import Trigger, trigger_of
from tests.markdown import ROOT
from tests.unit.pipeline.reports.test_decision_text import plan
from tests.unit.pipeline.scaler.serving import Client, refused, served

POD = {"app": "shop", "offer": "pod"}
NOW_S = 6_060.0
CODE = grpc.StatusCode


def planned(count: int = 3, tick: int = 100, mode: str = "auto") -> Planned:
    """A plan of `shop/pod` with ticks of 60 s, of which tick 100 ends at NOW_S."""
    counts = [{"offer_id": "pod", "desired": [count, 9]}]
    return Planned.of(plan(tick=tick, tick_s=60, mode=mode, counts=counts))


def fresh(count: int = 3, mode: str = "auto", later: int = 0) -> Planned:
    """The same for the tick that has just ended, and ticks after it."""
    return planned(count, int(time.time()) // 60 - 1 + later, mode)


def of_board(newest: Planned, now_s: float = NOW_S, **metadata: str) -> int:
    board = Board(300.0)
    board.take(newest, now_s)
    return board.replicas(trigger_of(POD | metadata), now_s)


def test_the_generated_modules_are_what_the_contract_gives(tmp_path: Path) -> None:
    folder, contract = ROOT / "pipeline/scaler", "pipeline/scaler/externalscaler.proto"
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, contract]
    subprocess.run(command, cwd=ROOT, check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "pipeline/scaler").iterdir()}
    assert made == {path.name: path.read_text() for path in folder.glob("externalscaler_pb2*")}
    assert contract in (ROOT / "Makefile").read_text()


def test_each_call_answers_with_what_the_command_of_the_plan_has() -> None:
    with served() as service, grpc.insecure_channel(service.address) as channel:
        keda = Client(channel)
        service.take(fresh(3), time.time())
        spec = keda.spec(**POD, scalerAddress="leadtime:9410")
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("planned-replicas", 1, 1.0)
        assert (keda.replicas(**POD), keda.active(**POD)) == (3, True)
        service.take(fresh(0, later=1), time.time())
        assert (keda.replicas(**POD), keda.active(**POD)) == (0, False)


def test_what_newer_keda_asks_for_and_we_have_not_is_unimplemented() -> None:
    """KEDA then asks GetMetricSpec."""
    with served() as service, grpc.insecure_channel(service.address) as channel:
        keda = Client(channel)
        code, _ = refused(lambda: next(keda.stub.StreamMetricSpec(keda.ref(**POD))))
    assert code is CODE.UNIMPLEMENTED


def test_without_an_answer_calls_fail_but_the_metric_has_its_name() -> None:
    """KEDA's fallback counts failures of GetMetrics alone (keda#8056)."""
    with served() as service, grpc.insecure_channel(service.address) as channel:
        keda = Client(channel)
        for call in (keda.active, keda.replicas):
            assert refused(call, **POD) == (CODE.NOT_FOUND, "there is no plan of app 'shop'")
        assert keda.spec(**POD).targetSize == 1


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({}, "metadata app must not be empty"),
        ({"app": "shop"}, "metadata offer must not be empty"),
        ({"app": "a\nb", "offer": "pod"}, "metadata app must not have control characters or line ends"),
        ({"app": "a" * 9999, "offer": "pod"}, "metadata app must have at most"),
        ({"app": "shop", "offer": "a/b"}, "metadata offer must not have a slash"),
        (POD | {"bootstrap": "elsewhere:9092"}, "metadata 'bootstrap': not known"),
        (POD | {"maxAge": "60"}, "metadata 'maxAge': not known, there are app, offer, maxAgeSeconds"),
        (POD | {"maxAgeSeconds": "0"}, "metadata maxAgeSeconds must be from 1 to 7200, got '0'"),
        (POD | {"maxAgeSeconds": "nan"}, "metadata maxAgeSeconds must be from 1 to 7200"),
        (POD | {"maxAgeSeconds": "1m"}, "metadata maxAgeSeconds must be from 1 to 7200"),
    ],
)
def test_bad_metadata_is_an_invalid_argument_of_every_call(metadata: dict[str, str], why: str) -> None:
    with served() as service, grpc.insecure_channel(service.address) as channel:
        keda = Client(channel)
        for call in (keda.active, keda.replicas, keda.spec, lambda **of: next(keda.stream(**of))):
            code, message = refused(call, **metadata)
            assert code is CODE.INVALID_ARGUMENT
            assert message.startswith(why)


def test_another_metric_and_what_is_too_long_are_refused() -> None:
    with served() as service, grpc.insecure_channel(service.address) as channel:
        keda = Client(channel)
        service.take(fresh(), time.time())
        assert refused(keda.replicas, "s0-other", **POD)[0] is CODE.INVALID_ARGUMENT
        assert refused(keda.active, app="a" * 70_000)[0] is CODE.RESOURCE_EXHAUSTED
        garbage = channel.unary_unary("/externalscaler.ExternalScaler/IsActive")
        assert refused(garbage, b"\xff\xff")[0] in (CODE.INTERNAL, CODE.UNKNOWN)
        assert keda.replicas(**POD) == 3  # neighbours are served


def test_shared_nodes_have_replicas_as_an_offer() -> None:
    assert trigger_of({"app": "shop", "offer": "replicas"}) == Trigger("shop", "replicas")


@pytest.mark.parametrize("mode", ["canary", "auto", "paused"])
def test_modes_that_hold_or_change_something_answer(mode: str) -> None:
    assert of_board(planned(4, mode=mode)) == 4


def test_shadow_mode_answers_nothing_rather_than_zero() -> None:
    with pytest.raises(Unanswerable, match="shop is in shadow mode, in which nothing is commanded") as raised:
        of_board(planned(mode="shadow"))
    assert raised.value.code is CODE.FAILED_PRECONDITION


def test_an_offer_that_the_plan_has_not_is_not_found() -> None:
    with pytest.raises(Unanswerable, match="the plan of shop has no offer 'vm': pod") as raised:
        of_board(planned(), offer="vm")
    assert raised.value.code is CODE.NOT_FOUND


@pytest.mark.parametrize(
    ("age_s", "metadata", "answers"),
    [
        (600.0, {}, True),  # as long as its commands are valid
        (601.0, {}, False),
        (90.0, {"maxAgeSeconds": "90"}, True),
        (91.0, {"maxAgeSeconds": "90"}, False),
        (1800.0, {"maxAgeSeconds": "1800"}, True),
    ],
)
def test_a_plan_that_is_too_old_is_an_error_and_no_zero(
    age_s: float, metadata: dict[str, str], answers: bool
) -> None:
    board = Board(300.0)
    board.take(planned(), NOW_S)
    trigger = trigger_of(POD | metadata)
    if answers:
        assert board.replicas(trigger, NOW_S + age_s) == 3
        return
    with pytest.raises(Unanswerable, match=f"of tick 100, is {age_s:.0f} s old") as raised:
        board.replicas(trigger, NOW_S + age_s)
    assert raised.value.code is CODE.UNAVAILABLE


def test_a_plan_of_long_ticks_counts_for_two_of_them() -> None:
    hourly = Planned.of(plan(tick=10, tick_s=3600, counts=[{"offer_id": "pod", "desired": [2]}]))
    assert hourly.life_s == 7200.0


def test_repeats_of_older_plans_and_plans_of_the_future_change_nothing() -> None:
    board, trigger = Board(300.0), trigger_of(POD)
    board.take(planned(3, 100), NOW_S)
    board.take(planned(9, 99), NOW_S)
    board.take(planned(9, 106), NOW_S)  # ends 360 s later than now
    assert board.replicas(trigger, NOW_S) == 3
    board.take(planned(5, 105), NOW_S)
    assert board.replicas(trigger, NOW_S) == 5


def test_streams_push_changes_alone_and_are_silent_while_there_is_no_answer() -> None:
    with served() as service, grpc.insecure_channel(service.address) as channel:
        pushes = Client(channel).stream(**POD)
        steps = [fresh(0), fresh(2, later=1), fresh(5, later=2), fresh(9, "shadow", 3), fresh(0, later=4)]
        for at, step in enumerate(steps):
            service.take(step, time.time() + 600)
            if at != 2 and at != 3:  # still active, and no answer
                assert next(pushes).result is (at == 1)
        pushes.cancel()


def test_three_hundred_streams_are_pushed_within_a_second_and_leave_nothing_behind() -> None:
    with served() as service, grpc.insecure_channel(service.address) as channel:
        keda = Client(channel)
        streams = [keda.stream(**POD) for _ in range(300)]
        service.take(fresh(0), time.time())
        assert not any(next(stream).result for stream in streams)
        began_s = time.monotonic()
        service.take(fresh(1, later=1), time.time() + 60)
        assert all(next(stream).result for stream in streams)
        assert time.monotonic() - began_s < 1.0
        for stream in streams:
            stream.cancel()
        deadline = time.monotonic() + 10
        while service.board._waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        assert service.board._waiting == {}


class Authority:
    """Signs certificates, in files of a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed(self.name, self.key, authority=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool = False) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate, private = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(self._signed(subject, key).public_bytes(serialization.Encoding.PEM))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        return certificate, private


def channel_to(address: str, authority: Authority, own: tuple[Path, Path] | None = None) -> grpc.Channel:
    certificate, key = (path.read_bytes() for path in own) if own else (None, None)
    return grpc.secure_channel(
        address, grpc.ssl_channel_credentials(authority.path.read_bytes(), key, certificate)
    )


def test_with_an_authority_of_clients_nobody_else_is_answered(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    certificate, key = ours.issue("server")
    with served(Tls(certificate, key, ours.path)) as service:
        service.take(fresh(), time.time())
        with channel_to(service.address, ours, ours.issue("keda")) as channel:
            assert Client(channel).replicas(**POD) == 3
        strangers = (
            channel_to(service.address, ours),
            channel_to(service.address, ours, others.issue("else")),
            channel_to(service.address, others, ours.issue("keda")),
            grpc.insecure_channel(service.address),
        )
        for channel in strangers:
            with channel:
                assert refused(Client(channel).active, **POD)[0] is CODE.UNAVAILABLE


def test_renewed_certificates_are_served_without_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    certificate, key = first.issue("server")
    with served(Tls(certificate, key)) as service:
        service.take(fresh(), time.time())
        with channel_to(service.address, first) as channel:
            assert Client(channel).active(**POD)
        secret = key.read_text()
        key.write_text("half of " + secret[:40])  # between two writes: what was there stays
        with channel_to(service.address, first) as channel:
            assert Client(channel).active(**POD)
        second.issue("server")  # into the same files
        with channel_to(service.address, second) as channel:
            assert Client(channel).active(**POD)
    logged = capsys.readouterr()
    assert "certificates are not renewed" in logged.err
    assert secret.splitlines()[1] not in logged.err + logged.out


def test_what_cannot_listen_says_why(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    certificate, key = ours.issue("server")
    _, other = others.issue("else")
    with (
        served() as service,
        pytest.raises(UsageError, match="nothing can listen there"),
        served(None, service.address),
    ):
        pass
    for address in ("9410", "localhost:http", "localhost:99999"):
        with pytest.raises(UsageError, match="give host:port"), served(None, address):
            pass
    for tls in (Tls(certificate, other), Tls(certificate, key, key), Tls(tmp_path / "none", key)):
        with pytest.raises(UsageError, match="certificates") as raised, served(tls):
            pass
        assert "PRIVATE" not in str(raised.value)


def test_beyond_the_loopback_plain_text_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    with served(None, "0.0.0.0:0"):
        pass
    assert "without TLS" in capsys.readouterr().err
    with served(None, "[::1]:0"):
        pass
    assert "without TLS" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tls-cert", "a.pem"], "give --tls-cert and --tls-key together"),
        (["--client-ca", "a.pem"], "--client-ca: no effect without --tls-cert"),
        (["--bootstrap", "localhost:1"], "localhost:1"),
    ],
)
def test_a_service_that_cannot_start_says_why(words: list[str], why: str) -> None:
    with pytest.raises(Exception, match=why):
        CliRunner().invoke(app, ["scaler", *words], catch_exceptions=False)


def test_the_command_line_imports_grpc_only_to_serve() -> None:
    """And without the extra says what to install."""
    script = (
        "import sys; sys.modules['grpc'] = None\n"
        "from pipeline.cli.main import main\n"
        "sys.argv = ['leadtime', *sys.argv[1:]]\nmain()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, "scaler", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--client-ca" in shown.stdout
    done = subprocess.run(
        [sys.executable, "-c", script, "scaler"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "leadtime: leadtime scaler needs grpc: pip install 'leadtime[keda]'\n",
    )
