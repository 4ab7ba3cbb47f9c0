"""Connection options without a broker: precedence, both clients alike, one clear line for what is wrong."""

import socket
import ssl
from pathlib import Path

import pytest
from faust.auth import SASLCredentials, SSLCredentials

from pipeline.errors import Unreachable, UsageError
from pipeline.kafka.connection import connection, faust_credentials, reachable
from pipeline.kafka.embedded import EmbeddedKafka, free_port
from pipeline.runtime.cluster import cluster
from pipeline.settings import Settings


def with_options(**options: str) -> Settings:
    return Settings(
        bootstrap="k:9092", kafka={name.replace("_", "."): value for name, value in options.items()}
    )


def test_connection_is_the_address_and_the_options() -> None:
    settings = with_options(sasl_username="u")
    assert connection(settings) == {"bootstrap.servers": "k:9092", "sasl.username": "u"}


def test_connection_without_an_address_says_how_to_give_one() -> None:
    with pytest.raises(UsageError, match="LEADTIME_BOOTSTRAP"):
        connection(Settings(bootstrap=None))


def test_plaintext_needs_no_credentials() -> None:
    assert faust_credentials(with_options()) is None
    assert faust_credentials(Settings(kafka={"security.protocol": "plaintext"})) is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("option", ["sasl.mechanism", "sasl.mechanisms"])
def test_sasl_passes_through(mechanism: str, option: str) -> None:
    options = {
        "security.protocol": "SASL_PLAINTEXT",
        option: mechanism,
        "sasl.username": "u",
        "sasl.password": "p",
    }
    credentials = faust_credentials(Settings(kafka=options))
    assert isinstance(credentials, SASLCredentials)
    assert (credentials.mechanism.value, credentials.username, credentials.password) == (mechanism, "u", "p")
    assert credentials.protocol.value == "SASL_PLAINTEXT"
    assert credentials.ssl_context is None


def test_sasl_over_tls_has_both() -> None:
    options = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}
    credentials = faust_credentials(Settings(kafka=options))
    assert isinstance(credentials, SASLCredentials)
    assert credentials.protocol.value == "SASL_SSL"
    assert credentials.ssl_context is not None


@pytest.mark.parametrize(
    ("option", "host_checked", "mode"),
    [
        ({}, True, ssl.CERT_REQUIRED),
        ({"ssl.endpoint.identification.algorithm": "none"}, False, ssl.CERT_REQUIRED),
        ({"enable.ssl.certificate.verification": "false"}, False, ssl.CERT_NONE),
    ],
)
def test_tls_checks_what_librdkafka_checks(
    option: dict[str, str], host_checked: bool, mode: ssl.VerifyMode
) -> None:
    credentials = faust_credentials(Settings(kafka={"security.protocol": "SSL", **option}))
    assert isinstance(credentials, SSLCredentials)
    assert credentials.context.check_hostname is host_checked
    assert credentials.context.verify_mode is mode


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"security.protocol": "TELNET"}, "security.protocol TELNET is unknown"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "sasl.mechanism OAUTHBEARER"),
        ({"security.protocol": "SASL_SSL"}, "sasl.mechanism GSSAPI"),
        (
            {"security.protocol": "SSL", "ssl.keystore.location": "x"},
            "ssl.keystore.location is not supported",
        ),
        ({"security.protocol": "SSL", "ssl.ca.location": "/nowhere.pem"}, "TLS files cannot be read"),
    ],
)
def test_what_faust_cannot_do_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        faust_credentials(Settings(kafka=options))


def test_a_given_address_wins_and_must_answer() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=f"Kafka at {address} does not answer within 0.3 s") as caught:
        reachable(Settings(bootstrap=address), timeout_s=0.3)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UsageError, match=r'No such configuration property: "no\.such"'):
        reachable(Settings(bootstrap="127.0.0.1:1", kafka={"no.such": "1"}))


def test_cluster_starts_nothing_when_an_address_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Settings] = []
    monkeypatch.setattr("pipeline.runtime.cluster.reachable", asked.append)
    settings = Settings(bootstrap="k:9092", data_dir=tmp_path)
    with cluster(settings) as found:
        assert found is settings
    assert asked == [settings]
    assert list(tmp_path.iterdir()) == []


def test_a_busy_port_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.kafka.embedded.jars", lambda _: [])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port: int = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"^port {port} is in use$"), EmbeddedKafka(tmp_path, port=port):
            pass


def test_free_port_is_below_the_ephemeral_ones_and_skips_the_one_named() -> None:
    assert 20_000 <= free_port() < 32_000
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        assert free_port() != other.getsockname()[1]


def test_kafka_that_cannot_be_fetched_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JGO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"cannot fetch org.apache.kafka:kafka"), EmbeddedKafka():
        pass
    assert list((tmp_path / "leadtime").iterdir()) == []
