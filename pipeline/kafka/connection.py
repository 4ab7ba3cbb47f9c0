"""Address and security options of every Kafka client, the same for both client libraries."""

import contextlib
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.errors import Unreachable, UsageError
from pipeline.settings import Settings

if TYPE_CHECKING:
    from faust import App
    from faust.types.auth import CredentialsT


def connection(settings: Settings) -> dict[str, Any]:
    """Options that all confluent-kafka clients of this project share.

    Raises:
        UsageError: no address is set.
    """
    if settings.bootstrap is None:
        raise UsageError("no Kafka address: set LEADTIME_BOOTSTRAP or give --bootstrap")
    return {"bootstrap.servers": settings.bootstrap, **settings.kafka}


def reachable(settings: Settings, timeout_s: float = 10.0) -> None:
    """Return when Kafka answers.

    Raises:
        UsageError: an option is unknown or has an impossible value.
        Unreachable: no answer within `timeout_s`, or the credentials are refused.
    """
    reasons: list[KafkaError] = []
    admin = quiet_admin({**connection(settings), "error_cb": reasons.append})
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(KafkaException):
            admin.list_topics(timeout=min(0.5, left))
            return
        admin.poll(0)
        for reason in reasons:
            if reason.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
                raise Unreachable(f"Kafka at {settings.bootstrap} refuses the connection: {reason.str()}")
    why = f": {reasons[-1].str()}" if reasons else ""
    raise Unreachable(f"Kafka at {settings.bootstrap} does not answer within {timeout_s:g} s{why}")


def quiet_admin(options: Mapping[str, Any]) -> AdminClient:
    """An admin client that tries again quickly and keeps librdkafka's complaints off stderr.

    Raises:
        UsageError: an option is unknown or has an impossible value.
    """
    try:
        return AdminClient({"log_level": 0, "reconnect.backoff.max.ms": 200, **options})
    except KafkaException as error:
        raise UsageError(f"Kafka option: {error.args[0].str()}") from None


_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SSL_OPTIONS = {
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
}
_SASL_OPTIONS = {"sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"}


def faust_credentials(settings: Settings) -> "CredentialsT | None":
    """The connection options of `settings.kafka` as Faust's `broker_credentials`; None: plaintext.

    Raises:
        UsageError: a file cannot be read, or Faust has no counterpart of a protocol, mechanism or security option: both
            kinds of client connect in the same way or not at all.
    """
    from faust.auth import SASLCredentials, SSLCredentials  # here: a second of imports that few commands need

    options = settings.kafka
    protocol = options.get("security.protocol", "PLAINTEXT").upper()
    if protocol not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
        raise UsageError(f"security.protocol {protocol} is unknown")
    for name in options:
        if (name.startswith("ssl.") and name not in _SSL_OPTIONS) or (
            name.startswith("sasl.") and name not in _SASL_OPTIONS
        ):
            raise UsageError(f"Kafka option {name} is not supported: Faust has no counterpart")
    context = _ssl_context(options) if protocol.endswith("SSL") else None
    if not protocol.startswith("SASL"):
        return None if context is None else SSLCredentials(context)
    mechanism = (
        options.get("sasl.mechanism") or options.get("sasl.mechanisms") or "GSSAPI"
    )  # librdkafka's default
    if mechanism not in _MECHANISMS:
        raise UsageError(f"sasl.mechanism {mechanism} is not supported: one of {', '.join(_MECHANISMS)}")
    return SASLCredentials(
        username=options.get("sasl.username"),
        password=options.get("sasl.password"),
        ssl_context=context,
        mechanism=mechanism,
    )


def faust_app(settings: Settings, name: str, **options: Any) -> "App":
    """A Faust app of raw bytes on existing topics; name: of its consumer group; options: further options of Faust.

    Raises:
        UsageError: as `connection` and `faust_credentials`.
    """
    from faust import App  # as in `faust_credentials`

    return App(
        f"{settings.group}-{name}",
        broker=[f"kafka://{address}" for address in connection(settings)["bootstrap.servers"].split(",")],
        broker_credentials=faust_credentials(settings),
        value_serializer="raw",
        key_serializer="raw",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        **options,
    )


def _ssl_context(options: Mapping[str, str]) -> ssl.SSLContext:
    authority = options.get("ssl.ca.location")
    try:
        if authority is not None and Path(authority).is_dir():
            context = ssl.create_default_context(capath=authority)
        else:
            context = ssl.create_default_context(cafile=authority)
        if certificate := options.get("ssl.certificate.location"):
            context.load_cert_chain(
                certificate, options.get("ssl.key.location"), options.get("ssl.key.password")
            )
    except OSError as error:  # SSLError is one
        raise UsageError(f"TLS files cannot be read: {error}") from error
    if options.get("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    if options.get("enable.ssl.certificate.verification") == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
