"""Simulated load: what is written column by column is what the codec would write; the benches' arithmetic."""

import io

import fastavro
import numpy as np
import polars as pl

from pipeline.bench.latency import delays
from pipeline.bench.load import MEASURED, Load
from pipeline.bench.throughput import container, summary
from pipeline.security.pseudonyms import Directory, entity, partition_of
from pipeline.settings import Settings
from pipeline.wire.batch_decoder import bare
from pipeline.wire.codec import decode, published

TICK = 29_400_000


def small_load() -> Load:
    return Load(users=7, apps=3, samples=10, settings=Settings(tick_s=60, partitions=2))


def test_every_body_is_a_record_of_its_user_and_time() -> None:
    made = small_load()
    for user, body in enumerate(made.bodies(TICK, 4)):
        name, record = decode(body)
        assert name == "metric"
        assert entity(record["app"], record["user"]).encode() == made.keys[user]
        assert record["app"] == f"app-{user % 3:03d}"
        # a sample every 6 s, users spread over them: user 2 of 7 at 4 x 6 + 2 x 6 / 7 s
        expected = TICK * 60_000_000 + 4 * 6_000_000 + user * 6_000_000 // 7
        assert int(np.datetime64(record["ts"].replace(tzinfo=None), "us").astype(int)) == expected
        assert all(0 < record[metric] < 1e12 for metric in MEASURED)
        assert record["requests"] is None


def test_users_lie_where_javas_partitioner_puts_them_and_values_repeat() -> None:
    made = small_load()
    assert [partition_of(key.decode(), 2) for key in made.keys] == made.partition.tolist()
    assert made.bodies(TICK, 1) == small_load().bodies(TICK, 1)
    assert made.bodies(TICK, 1) != made.bodies(TICK, 2)


def test_a_container_of_bodies_is_read_by_polars() -> None:
    bodies = [body[10:] for body in small_load().bodies(TICK, 0)]
    head = io.BytesIO()
    fastavro.writer(head, bare(published("metric").schema), [])
    frame = pl.read_avro(container(head.getvalue(), bodies))
    assert frame["user"].to_list() == [f"u{user:08d}" for user in range(7)]


def test_rates_and_costs_are_what_was_measured_over_records() -> None:
    whole = {
        "wall_s": 4.0,
        "stages": {"ingest": (0.5, 2.5)},
        "cpu_s": {"ingest": 2.0, "broker": 1.0},
        "peak_bytes": {"ingest": 3 * 2**20, "broker": 2**20},
        "state_bytes": 5_000,
        "framed": 1_000,
        "dead_letters": 0,
    }
    facts = summary(whole, records=1_000, users=2)
    assert facts["records_per_s"] == 250  # 1,000 / 4 s
    assert facts["stages"]["ingest"]["records_per_s"] == 500  # 1,000 / (2.5 - 0.5) s
    assert facts["core_us_per_record"] == 3_000  # (2 + 1) s / 1,000
    assert facts["core_us_per_record_without_broker"] == 2_000
    assert facts["peak_mb_ours"] == 3
    assert facts["state_bytes_per_user"] == 2_500  # 5,000 / 2


def test_a_column_of_entities_is_each_rows_entity() -> None:
    rows = [
        ("shop", "ann", "USER", None),
        ("shop", None, "SHARED", None),
        ("shop", None, "INSTANCE", "i-7"),
        ("shop", None, "INSTANCE", ""),
        ("shop", "ann", "USER", "i-7"),
        ("bank", "ann", "APP", None),
    ]
    directory = Directory(4)
    codes = directory.code(pl.DataFrame(rows, schema=["app", "user", "scope", "instance"], orient="row"))
    assert [directory.keys[code] for code in codes] == [entity(*row) for row in rows]
    assert [directory.apps[code] for code in codes] == [row[0] for row in rows]
    assert [directory.partition[code] for code in codes] == [partition_of(entity(*row), 4) for row in rows]


def test_a_ticks_delay_is_to_its_last_apps_plan() -> None:
    planned = {1: {"a": 10.0}, 2: {"a": 20.5, "b": 21.0}, 3: {"b": 30.25, "a": 30.0}}
    closed = {1: 9.0, 2: 20.0, 3: 30.0}
    assert delays(closed, planned, first=2) == [1.0, 0.25]  # 21 - 20, 30.25 - 30; tick 1 is not timed
