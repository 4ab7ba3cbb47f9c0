"""The public interface without a broker: names, arguments that are refused, signatures, typed records, a backtest."""

import ast
import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, ValidationError

import leadtime
import schemas
from models.synthetic.population import population
from pipeline.security.signing_keys import demo_key
from pipeline.wire import codec
from tests.unit.pipeline.messages import command, metric
from tests.unit.pipeline.reports.test_decision_text import plan
from tests.unit.pipeline.trace_files import write

NOW_S = 1_800_000_000.0
NOBODY = "127.0.0.1:1"
"""An address where nothing listens."""
SOURCE = Path(leadtime.__file__).read_text()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from the environment."""
    for name in [name for name in os.environ if name.startswith("LEADTIME_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def telemetry() -> leadtime.Telemetry:
    """What is refused never reaches the producer, so that no broker is needed."""
    return leadtime.Telemetry(NOBODY, settings=leadtime.Settings(), clock=lambda: NOW_S)


def test_every_name_is_importable_and_what_type_checkers_see() -> None:
    (checked,) = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.If) and node.orelse][
        :1
    ]
    seen = {
        alias.asname or alias.name
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(leadtime.__all__)
    for name in leadtime.__all__:
        assert inspect.getdoc(getattr(leadtime, name)), name
    assert set(leadtime.__all__) <= set(dir(leadtime))
    with pytest.raises(AttributeError, match="no public name 'Codec'"):
        _ = leadtime.Codec  # pyright: ignore


def test_it_is_short_and_cheap_to_import() -> None:
    assert len(SOURCE.splitlines()) < 80
    script = "import sys, leadtime; print(sorted({'polars', 'numpy', 'tensorflow', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"cpu": -1.0}, r"cpu must be a number from 0 to 100,000 \(cores\); got -1\.0"),
        ({"cpu": math.nan}, r"cpu must be a number .* \(cores\); got"),
        ({"memory": math.inf}, r"memory must be a number .* \(bytes\); got"),
        ({"network": 1e14}, r"network must be a number from 0 to 10,000,000,000,000 \(bytes/s\); got"),
        ({"requests": "many"}, r"requests must be a number .* \(1/s\); got 'many'"),
        ({"gpu": 1.0}, "unknown metric 'gpu'; known are cpu, memory"),
        ({}, "needs at least one of cpu, memory, network, disk, requests"),
        ({"cpu": 1.0, "limits": {"ram": 1.0}}, "unknown metric 'ram' in limits"),
        ({"cpu": 1.0, "limits": {"cpu": math.nan}}, r"limit of cpu must be a number .* \(cores\); got"),
        ({"cpu": 1.0, "throttled": 35.0}, r"throttled must be a number from 0 to 1 \(share of time\); got 35\.0"),
        ({"cpu": 1.0, "latency_p99": -0.1}, r"latency_p99 must be a number .* \(seconds\); got"),
        ({"cpu": 1.0, "interval_s": 0}, "interval_s must be above 0 seconds"),
        ({"cpu": 1.0, "interval_s": 1e6}, r"interval_s must be a number from 0 to 86,400 \(seconds\)"),
        ({"cpu": 1.0, "user": None}, "user is missing: give a user, or a scope"),
        ({"cpu": 1.0, "scope": "SHARED"}, "scope SHARED is no user's, and user 'ann' is given"),
        ({"cpu": 1.0, "user": None, "scope": "POD"}, "scope must be one of USER, SHARED, APP, INSTANCE"),
        ({"cpu": 1.0, "user": None, "scope": "INSTANCE"}, "scope INSTANCE needs an instance"),
        ({"cpu": 1.0, "app": ""}, "app must be a text of 1 to 1,024 bytes; got ''"),
        ({"cpu": 1.0, "user": "ü" * 600}, "user must be a text of 1 to 1,024 bytes; got 'ü+…"),
        ({"cpu": 1.0, "ts": NOW_S * 1000}, r"after now; .*unix seconds are meant, no milliseconds"),
        ({"cpu": 1.0, "ts": NOW_S - 8 * 86_400}, "lies 691200 s before now; ingest takes 604800 s before"),
        ({"cpu": 1.0, "ts": math.nan}, "ts must be finite"),
        ({"cpu": 1.0, "ts": datetime(2027, 1, 15)}, "has no time zone"),
    ],
)  # fmt: skip
def test_a_sample_that_ingest_would_refuse_is_an_error(
    telemetry: leadtime.Telemetry, given: dict[str, Any], why: str
) -> None:
    with pytest.raises(leadtime.UsageError, match=why):
        telemetry.metric(**dict[str, Any](app="shop", user="ann") | given)
    telemetry.close()  # nothing was sent, so nothing waits


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"kind": "CLICK"}, "kind must be one of API_CALL, DB_QUERY, INTERACTION, OTHER; got 'CLICK'"),
        ({"count": -1}, r"count must be a number from 0 to 1,000,000,000 \(events\); got -1"),
        ({"duration": -1.0}, r"duration must be a number .* \(seconds\); got"),
        ({"user": ""}, "user must be a text"),
        ({"attributes": {"plan": 3}}, "attribute plan must be a text of 0 to 1,024 bytes; got 3"),
        ({"colour": "red"}, "unknown detail 'colour'; known are name, duration"),
    ],
)
def test_an_event_that_ingest_would_refuse_is_an_error(
    telemetry: leadtime.Telemetry, given: dict[str, Any], why: str
) -> None:
    with pytest.raises(leadtime.UsageError, match=why):
        telemetry.event(**dict[str, Any](app="shop", user="ann", kind="API_CALL") | given)


def test_records_that_kafka_does_not_take_are_counted_with_the_first_reason() -> None:
    telemetry = leadtime.Telemetry(NOBODY, settings=leadtime.Settings(), timeout_s=1.0)
    for _ in range(3):
        telemetry.metric("shop", "ann", interval_s=60.0, cpu=1.0)
    with pytest.raises(
        leadtime.NotDelivered, match=r"3 messages failed, 0 wait: .*timed out.*refused"
    ) as caught:
        telemetry.flush()
    assert (caught.value.failed, caught.value.waiting) == (3, 0)
    telemetry.flush()  # each failure is reported once
    telemetry.event("shop", "ann", "OTHER")
    with pytest.raises(leadtime.NotDelivered, match="1 messages failed"):
        telemetry.close()
    telemetry.close()
    with pytest.raises(leadtime.UsageError, match="closed"):
        telemetry.metric("shop", "ann", interval_s=60.0, cpu=1.0)


def test_an_error_of_the_caller_is_not_hidden_by_one_of_delivery() -> None:
    def fail() -> None:
        with leadtime.Telemetry(NOBODY, settings=leadtime.Settings(), timeout_s=1.0) as telemetry:
            telemetry.metric("shop", "ann", interval_s=60.0, cpu=1.0)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        fail()
    assert "1 messages failed" in caught.value.__notes__[0]


def test_an_address_is_needed() -> None:
    with pytest.raises(leadtime.UsageError, match="no Kafka address"):
        leadtime.Telemetry(settings=leadtime.Settings())


def test_a_command_is_verified_by_key_object_pem_and_path(tmp_path: Path) -> None:
    public, record = demo_key().public, command()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file = tmp_path / "trusted.pem"
    file.write_bytes(pem)
    value = codec.encode("command", record)
    for key in (public, pem, str(file), file, [public, pem]):
        assert leadtime.verify(value, key)
    assert leadtime.verify(codec.decode(value)[1], public)
    assert not leadtime.verify(record | {"desired": record["desired"] + 1}, public)
    assert not leadtime.verify(record | {"key_id": "0" * 16}, public)


@pytest.mark.parametrize(
    ("call", "error", "why"),
    [
        (lambda: leadtime.verify(metric(), demo_key().public), leadtime.Poison, "a metric and no command"),
        (lambda: leadtime.verify(b"hello", demo_key().public), leadtime.Poison, "unknown-framing"),
        (lambda: leadtime.verify({"id": "1"}, demo_key().public), leadtime.UsageError, "KeyError: 'key_id'"),
        (lambda: leadtime.verify(command(), []), leadtime.UsageError, "no public key"),
        (lambda: leadtime.verify(command(), "/no/key"), leadtime.UsageError, "cannot read key"),
        (
            lambda: leadtime.verify(command(), b"hello"),
            leadtime.UsageError,
            "given as bytes holds no Ed25519",
        ),
        (lambda: leadtime.verify(command(), x25519()), leadtime.UsageError, "another kind than Ed25519"),
    ],
)
def test_what_cannot_be_verified_is_an_error(
    call: Callable[[], bool], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        call()


def x25519() -> bytes:
    return (
        X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def names(schema: Any) -> dict[str, Any]:
    """Field names of a record's schema, nested records included."""
    kinds = schema if isinstance(schema, list) else [schema]
    for kind in kinds:
        if isinstance(kind, dict) and kind.get("type") == "array":
            return names(kind["items"])
        if isinstance(kind, dict) and kind.get("type") == "record":
            return {field["name"]: names(field["type"]) for field in kind["fields"]}
    return {}


def parts(annotation: Any) -> list[type[BaseModel]]:
    """Typed records inside an annotation such as `tuple[OfferCount, ...]` or `Margin | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for argument in get_args(annotation) for part in parts(argument)]


def typed_names(model: type[BaseModel]) -> dict[str, Any]:
    return {
        name: {k: v for part in parts(field.annotation) for k, v in typed_names(part).items()}
        for name, field in model.model_fields.items()
    }


def test_a_typed_plan_has_the_fields_of_the_newest_schema() -> None:
    newest = max(schemas.versions("plan"))
    assert typed_names(leadtime.PublishedPlan) == names(schemas.versions("plan")[newest])


def test_a_typed_plan_is_the_record_and_cannot_be_changed() -> None:
    record = plan()
    published = leadtime.PublishedPlan.model_validate(record)
    assert published.counts[0].desired == (2, 2)
    assert published.cost == Decimal("0.912")
    assert published.margin is not None
    assert published.margin.demand.replicas == 12
    assert published.model_dump(mode="json") == leadtime.PublishedPlan(**record).model_dump(mode="json")
    again = published.model_dump(mode="python")
    assert {name: again[name] for name in ("binding", "versions", "sum_of_users")} == {
        "binding": record["binding"],
        "versions": record["versions"] | {"prices": ("od@1", "owned@1", "spot@7"), "calendar": ()},
        "sum_of_users": record["sum_of_users"],
    }
    with pytest.raises(ValidationError, match="frozen"):
        published.app = "bank"  # pyright: ignore[reportAttributeAccessIssue]


def test_arguments_of_plans_and_decisions_must_agree() -> None:
    with pytest.raises(leadtime.UsageError, match="'end' or 'start', got 'now'"):
        leadtime.plans(NOBODY, from_="now")  # pyright: ignore[reportArgumentType]
    with pytest.raises(leadtime.UsageError, match="nothing to read"):
        leadtime.plans(NOBODY, follow=False)
    with pytest.raises(leadtime.UsageError, match="tick or at, not both"):
        leadtime.decision("shop", 1, at=2.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_backtest_takes_a_frame_or_a_path_and_gives_the_same_frames(tmp_path: Path) -> None:
    people = population(seed=1, apps=1, users_per_app=2, ticks=72, start_tick=28_000_000)
    path = tmp_path / "small.parquet"
    write(people, path)
    given: dict[str, Any] = {"warm_up": "66m", "alone": True, "scenarios": 64, "processes": 1}
    of_frame = leadtime.backtest(pl.read_parquet(path), **given)
    of_path = leadtime.backtest(str(path), **given)
    assert of_frame.report["ticks"] == 6
    assert {"policies", "apps", "ticks", "figures"} <= of_frame.tables.keys()
    assert of_frame.tables["policies"].height == 1
    for name, table in of_frame.tables.items():
        assert table.equals(of_path.tables[name]), name
    with pytest.raises(leadtime.UsageError, match="trace"):
        leadtime.backtest()
    with pytest.raises(TypeError, match="colour"):
        leadtime.backtest(path, colour="red")  # pyright: ignore[reportCallIssue]
    taken = list(inspect.signature(leadtime.backtest).parameters)
    assert taken == [field.name for field in fields(leadtime.BacktestRequest)]
