"""One frozen settings object; the environment and the secrets' files are read here, once, and nowhere else."""

import json
import os
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from pipeline.errors import UsageError
from pipeline.logs import get_logger

_JSON = {
    "kafka": ("a JSON object of librdkafka's options", '{"security.protocol": "SSL"}'),
    "event_attributes": ("a JSON list of keys", '["plan", "country"]'),
}
"""Settings of several values: what is wanted, and an example."""
LIVE_LATENESS_S: Final = 35
"""Of a live installation by default: producers that flush every 30 s, and 5 s for the way and for clocks."""


class Settings(BaseSettings):
    """All that can be set, from `LEADTIME_*` in the environment; an argument of the command line wins."""

    model_config = SettingsConfigDict(env_prefix="LEADTIME_", frozen=True, extra="forbid")

    bootstrap: str | None = None
    """Address of a Kafka cluster, host:port[,host:port]; none: the embedded one is started."""
    kafka: dict[str, str] = {}
    """More client options by their librdkafka names (security.protocol, sasl.*, ssl.*), as a JSON object."""
    registry_url: str | None = None
    """A Confluent-compatible schema registry; none: Avro single-object encoding."""
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=200)
    """Put before every topic, consumer group and transactional id: several installations on one cluster."""
    partitions: int = Field(default=4, ge=1, le=1024)
    """Of every partitioned topic; fixed for the life of an installation (a user belongs to one partition)."""
    replication: int = Field(default=1, ge=1)
    data_dir: Path = Path(".leadtime")
    """Where the embedded broker, the local provider and generated keys keep their files."""

    tick_s: int = Field(default=60, ge=1, le=3600)
    lateness_s: int | None = Field(default=None, ge=0, le=300)
    """How far event time must have passed a tick's end before its frame closes. None: LIVE_LATENESS_S, and 0 in a
    replay (`event_time`), which promises after each tick that nothing older follows."""
    idle_s: float = Field(default=10.0, gt=0)
    """A live partition without records for so long by the wall clock gets a watermark record."""
    max_age_s: float = Field(default=7 * 86400.0, gt=0)
    """A record older than its produce time by more is refused (a week: a producer's backlog after an outage)."""
    max_ahead_s: float = Field(default=300.0, ge=0)
    """A record stamped later than its produce time by more is refused (5 minutes: clocks drift)."""
    event_attributes: frozenset[str] = frozenset()
    """Keys of event attributes that pass ingest, as rates of the app; no other attribute leaves it."""

    model: str | None = None
    """Folder of a released model; none: the newest in models/released/."""
    scenarios: int = Field(default=4096, ge=64)
    """Per app and tick: 4,096 leave 41 scenarios above the 99 % bound, 4 above 99.9 %."""
    seed: int = 0
    user_capacity: int = Field(default=2_000_000, ge=1)
    """Users whose state one partition keeps at most (2.5 KB each)."""
    standby: bool = False
    """A worker also reads the state of partitions that others own, so that it takes one over at once; for as much more
    memory (2.5 KB a user)."""
    snapshot_frames: int = Field(default=16, ge=1)
    """Messages folded between two snapshots: what a successor folds again at most."""
    session_timeout_s: float = Field(default=8.0, ge=6.0)
    """A worker or ingest that is not heard of for so long loses its partitions. Faust's default left a dead worker's
    unowned for over 26 s; brokers refuse less than 6."""
    event_time: bool = False
    """The clock of actuators and of waiting is the topics' (replay), not the wall's (live)."""
    observation_wait_s: float = Field(default=5.0, ge=0)
    """How long a plan waits for its actuator's last observation (live); a replay waits as long as it takes."""
    hold_after_s: float = Field(default=30.0, gt=0)
    """A tick that lacks a shard for so long by the wall clock brings a hold notice."""

    price_max_age_s: float | None = Field(default=None, gt=0)
    """A price that is valid for longer than this (event time) without a new version is stale: no more of its offer is
    bought. None: prices do not age."""

    feeds_file: Path | None = None
    """Feeds file that `leadtime up` pulls prices by; None: it does not."""
    feeds_every_s: float = Field(default=3600.0, ge=60, le=86_400)
    """Seconds between two pulls of `leadtime up`."""
    gcp_api_key: str | None = Field(default=None, repr=False)
    """Key of the Cloud Billing Catalog API, where the feeds file names no file of it."""

    metrics_port: int | None = Field(default=None, ge=1, le=65_000)
    """Prometheus metrics, /healthz and /readyz of ingest on this port of the loopback, of the worker on the next, of
    the actuator on the one after; a second one of a kind takes a port three further. None: there are none."""
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    """Address that they listen on: 0.0.0.0 where probes and Prometheus come from elsewhere, as to a pod."""

    pseudonym_keys_file: Path | None = None
    """JSON list of {key_id, secret, valid_from, carry_over}: keys for pseudonyms, each used for ticks that start at
    `valid_from` (unix seconds of event time) or later; with `carry_over` users keep their state when it begins. None:
    one is made in data_dir at first use. All ingests need the same."""
    signing_key_file: Path | None = None
    """Ed25519 private key (PEM) that signs commands; none: made in data_dir at first use."""
    demo_keys: bool = False
    """Fixed pseudonym and signing keys, so that two runs give the same bytes. Demo and tests only."""

    @field_validator("bootstrap")
    @classmethod
    def _addresses(cls, value: str | None) -> str | None:
        """Refuse what librdkafka takes for another address: it cuts a port beyond 65535 to 16 bits."""
        for address in () if value is None else value.split(","):
            port = address.strip().rpartition(":")[2]
            if not re.fullmatch(r"\S+", address.strip()) or (port.isdigit() and not 0 < int(port) < 65536):
                raise ValueError(
                    f"{address!r} is no address: give host:port[,host:port], ports from 1 to 65535"
                )
        return value

    def environment(self) -> dict[str, str]:
        """What a process of its own must have in its environment to get the same settings."""
        variables: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None and value != {}:
                value = sorted(value) if isinstance(value, frozenset) else value
                text = str(value) if isinstance(value, str | Path) else json.dumps(value)
                variables[f"LEADTIME_{name.upper()}"] = text
        return variables

    @property
    def allowed_lateness_s(self) -> int:
        """Seconds by which event time must have passed a tick's end before its frame closes."""
        if self.lateness_s is not None:
            return self.lateness_s
        return 0 if self.event_time else LIVE_LATENESS_S

    @property
    def group(self) -> str:
        """Prefix of consumer groups and transactional ids; not cached, or a copy with another prefix would keep it."""
        return f"{self.prefix}leadtime"


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment with what is not None in `overrides` put over it.

    A variable `LEADTIME_*` that is no setting is named in the log, once a process.

    Raises:
        UsageError: a value is not allowed; one line that names it.
    """
    for variable in os.environ:
        if variable.upper().startswith("LEADTIME_") and variable.upper() not in _variables():
            _warn_of(variable)
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        field = name.partition(".")[0]
        variable = f" (LEADTIME_{field.upper()})" if overrides.get(field) is None else ""
        raise UsageError(
            f"setting {name}{variable}: {first['msg'].removeprefix('Value error, ')}{_form(name)}"
        ) from None
    except SettingsError as error:  # its text names the field; the value may be a secret
        field = re.search(r'field "(\w+)"', str(error))
        name = field[1] if field else ""
        raise UsageError(f"LEADTIME_{name.upper()} in the environment is not JSON{_form(name)}") from None


@cache
def _warn_of(variable: str) -> None:
    """Log, once a process, that a variable of the environment is no setting, with the one that is probably meant."""
    near = get_close_matches(variable.upper(), _variables(), 1)
    get_logger().warning("no such setting", variable=variable, **({"meant": near[0]} if near else {}))


def _variables() -> list[str]:
    return [f"LEADTIME_{name.upper()}" for name in Settings.model_fields]


def _form(name: str) -> str:
    """How a setting of several values is written, as the end of an error; "" for one of a single value."""
    field = name.partition(".")[0]
    example = _JSON.get(field)
    return "" if example is None else f": give {example[0]}, as LEADTIME_{field.upper()}='{example[1]}'"
