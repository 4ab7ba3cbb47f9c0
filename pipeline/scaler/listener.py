"""Where the service listens, and with which certificates."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from pipeline.errors import UsageError
from pipeline.logs import get_logger
from pipeline.security.addresses import is_loopback

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else a second service shares the port, and neither says so
    ("grpc.max_receive_message_length", 64 * 1024),
    # A peer that is gone without a word is noticed, and its streams end.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(frozen=True)
class Tls:
    """Files in PEM: our certificate and its key; with `client_ca` KEDA needs a certificate of that authority."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def bind(server: grpc.aio.Server, address: str, tls: Tls | None) -> str:
    """Listen on `host:port`, port 0 is a free one; return the address.

    Raises:
        UsageError: it is no address, or taken, or a file is no certificate or key that fit.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        raise UsageError(f"--listen {address}: give host:port")
    credentials = None if tls is None else _credentials(tls)
    if credentials is None and not is_loopback(host):
        get_logger().warning("without TLS whoever reaches the port reads what is planned", address=address)
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise UsageError(
            f"--listen {address}: nothing can listen there: taken, or no address of this machine"
        )
    return f"{host}:{bound}"


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that read their files again with each connection: certificates are renewed while we run.

    Files that do not fit at that moment, as between two writes of a renewal, leave those before in force.
    """

    kept = _configuration(tls)

    def renewed() -> grpc.ServerCertificateConfiguration:
        nonlocal kept
        try:
            kept = _configuration(tls)
        except UsageError as error:
            get_logger().warning("certificates are not renewed", reason=str(error))
        return kept

    return grpc.dynamic_ssl_server_credentials(
        kept, renewed, require_client_authentication=tls.client_ca is not None
    )


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")  # asks nobody for one
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        authorities = None if tls.client_ca is None else tls.client_ca.read_bytes()
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or "cannot be used"
        files = ", ".join(str(path) for path in (tls.certificate, tls.key, tls.client_ca) if path)
        raise UsageError(f"certificates ({files}): {reason}") from None
    return grpc.ssl_server_certificate_configuration([pair], authorities)
