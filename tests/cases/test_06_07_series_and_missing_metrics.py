"""What a sample stands for is its interval and its producer; a metric that nobody reports is missing, not zero."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from models.capacity import Observed, Offer, Policy
from models.metrics import METRICS
from models.planning.allocate import DecisionContext, Plan, allocate
from models.planning.guardrails import Telemetry
from pipeline.reports import decision_text
from pipeline.wire.codec import DEFAULT, Record
from tests.cases.test_03_lost_share_of_telemetry import METRIC, TICK_S, partition
from tests.unit.pipeline.messages import NOW_US, FakeMessage, metric, watermark

CPU = METRICS.index("cpu")


def usage(
    samples: Sequence[tuple[float, dict[str, Any]]], ticks: int, cuts: Sequence[int] = (), **options: Any
) -> list[float]:
    """The user's cpu by tick, NaN = absent, from samples (seconds after the start, fields) taken in batches."""
    tick_s = options.get("tick_s", TICK_S)
    interval: dict[str, Any] = {"interval_s": float(tick_s)}
    bodies = [(at, metric(NOW_US + round(at * 1e6), **interval | fields)) for at, fields in samples]
    ends = [watermark(NOW_US), watermark(NOW_US + ticks * tick_s * 1_000_000)]
    values = [ends[0], *(body for _, body in sorted(bodies, key=lambda item: item[0])), ends[1]]
    part = partition(**{"lateness_s": 0} | options)
    messages = [FakeMessage(value, n) for n, value in enumerate(values)]
    part.take(
        "telemetry.events", [FakeMessage(end, n, name="telemetry.events") for n, end in enumerate(ends)]
    )
    frames: list[Record] = []
    for first, last in pairwise([0, *sorted(cuts), len(messages)]):
        part.take(METRIC, messages[first:last])
        frames += [parts[0] for parts in part.close()]
        if frames:  # killed, and started again behind its last frame
            part = partition(**{"lateness_s": 0} | options)
            part.windows.restore(DEFAULT.decode(DEFAULT.encode("frame", frames[-1]))[1])
            resumed = part.windows.metrics.next_offset
            part.take("telemetry.events", [FakeMessage(ends[1], 1, name="telemetry.events")])
            part.take(METRIC, messages[resumed:last])
    cpu = [np.frombuffer(frame["values"], "<f4").reshape(len(METRICS), -1)[CPU] for frame in frames]
    assert all(len(values) <= 1 for values in cpu)
    return [float(values[0]) if len(values) else float("nan") for values in cpu]


def every(
    interval_s: float, until_s: float, phase_s: float = 0.0, **fields: Any
) -> list[tuple[float, dict[str, Any]]]:
    return [
        (at, {"interval_s": interval_s} | fields) for at in np.arange(phase_s, until_s, interval_s).tolist()
    ]


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([{"producer": f"agent-{n}", "instance": f"i-{n}"} for n in range(3)], 6.0),
        ([{"producer": "agent", "instance": f"i-{n}"} for n in range(3)], 6.0),
        ([{"producer": f"agent-{n}"} for n in range(3)], 6.0),
        ([{"producer": "a", "instance": "i"}, {"producer": "b", "instance": "i"}], 4.0),
        ([{"producer": "agent"}] * 3, 2.0),
        ([{}] * 3, 2.0),
        ([{"producer": "ab", "instance": "c"}, {"producer": "a", "instance": "bc"}], 4.0),
        ([{"producer": "1:a"}, {"producer": "a", "instance": ""}], 4.0),
    ],
)  # fmt: skip
def test_instances_and_producers_add_up_and_duplicates_do_not(
    series: list[dict[str, Any]], expected: float
) -> None:
    samples = [sample for of in series for sample in every(10.0, 60.0, cpu=2.0, **of)]
    assert usage(samples, 6) == [expected] * 6


def test_each_series_is_its_mean_over_time() -> None:
    samples = [
        *every(5.0, 10.0, producer="a", cpu=1.0),
        (1.0, {"producer": "b", "interval_s": 2.0, "cpu": 4.0}),
        (8.0, {"producer": "b", "interval_s": 6.0, "cpu": 8.0}),
    ]
    assert usage(samples, 1) == [pytest.approx(1.0 + (2 * 4 + 6 * 8) / 8)]


def test_an_agent_that_stops_is_no_longer_added() -> None:
    samples = [
        s for n, until_s in enumerate((60, 60, 30)) for s in every(10.0, until_s, producer=f"{n}", cpu=2.0)
    ]
    assert usage(samples, 6) == [6.0] * 3 + [4.0] * 3


@pytest.mark.parametrize("tick_s", [10, 60])
def test_slow_samplers_are_carried_each_at_its_own_phase(tick_s: int) -> None:
    samples = [
        sample
        for n, phase_s in enumerate((0.0, 37.0, 123.4, 299.9))
        for sample in every(300.0, 1500.0, phase_s, producer=f"{n}", cpu=1.0)
    ]
    ticks = 1500 // tick_s
    used = usage(samples, ticks, tick_s=tick_s)
    assert len(used) == ticks
    assert used[300 // tick_s :] == [4.0] * (ticks - 300 // tick_s)


def test_a_slow_sample_is_replaced_by_the_next_and_ends_with_its_interval() -> None:
    samples = [(3.0, {"cpu": 1.0, "interval_s": 30.0}), (33.0, {"cpu": 2.0, "interval_s": 30.0})]
    used = usage(samples, 9)
    assert used[:7] == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert np.isnan(used[7:]).all()
    barely = [(9.0, {"cpu": 1.0, "interval_s": 10.004})]
    assert np.isnan(usage(barely, 2)[1])


@pytest.mark.parametrize("interval_s", [60.0, 90.0])
@pytest.mark.parametrize("cuts", [(), (2,), (3, 7), (5, 9)])
def test_a_sampler_whose_interval_becomes_shorter_counts_with_its_newest_sample(
    interval_s: float, cuts: Sequence[int]
) -> None:
    samples = [
        (0.0, {"interval_s": 900.0, "cpu": 0.1}),
        *every(interval_s, 600.0, 60.0, cpu=5.0),
        *every(interval_s, 600.0, 60.0, producer="other", cpu=1.0),
    ]
    used = usage(samples, 60, cuts)
    assert used[:6] == [pytest.approx(0.1)] * 6
    assert used[6:] == [6.0] * 54


@examples(max_examples=40)
@given(
    st.lists(st.integers(1, 60), max_size=4),
    st.lists(
        st.tuples(st.floats(1.0, 400.0), st.floats(0.0, 60.0), st.sampled_from(["a", "b"]), st.floats(0.1, 9.0)),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_restarts_change_no_value(cuts: list[int], samplers: list[tuple[float, float, str, float]]) -> None:
    samples = [
        (at, fields | {"cpu": cpu + place})
        for interval_s, phase_s, producer, cpu in samplers
        for place, (at, fields) in enumerate(every(interval_s, 300.0, phase_s, producer=producer)[:30])
    ]
    cuts = [min(cut, len(samples)) for cut in cuts]
    np.testing.assert_array_equal(usage(samples, 40, cuts), usage(samples, 40))


SIZE = {"cpu": 1.0, "memory": 4e9, "requests": 100.0}
OFFER = Offer("od", "local", "here", "here-1", "ON_DEMAND", SIZE, 0.1, 20.0, 30.0, 50.0)
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto", hold_s=0.0)


def plan(values: dict[str, float], policy: Policy = POLICY, running: int = 4, **telemetry: Any) -> Plan:
    """Of usage by metric, NaN = forecast, but not reported; demand is the usage and stays."""
    usage_now = np.array(list(values.values()))
    demand = np.broadcast_to(np.nan_to_num(usage_now).astype(np.float32), (64, 6, len(values))).copy()
    context = DecisionContext(
        demand, list(values), (10, 30, 60, 120, 180, 300), usage_now, np.zeros(len(values)),
        Telemetry(4, 4, **telemetry), now_s=1000.0, seed=0, app=b"shop", tick=100,
    )  # fmt: skip
    observed = {"od": Observed(ready=running)}
    return allocate(context, offers=[OFFER], observed=observed, policy=policy, memory={})[0]


@pytest.mark.parametrize("values", [{"requests": 500.0}, {"requests": 500.0, "cpu": float("nan")}, {}])
def test_a_governed_metric_that_nobody_reports_is_missing(values: dict[str, float]) -> None:
    decision = plan(values)
    assert decision.counts["od"][0] == 4
    assert "missing_telemetry" in decision.guardrails
    assert not decision.feasible
    assert decision.unreported == ("cpu",)
    assert decision.reason.startswith("missing_telemetry: nobody reported cpu, which the policy governs")


def test_one_of_two_governed_metrics_lets_grow_and_not_shrink() -> None:
    both = replace(POLICY, governed=("cpu", "memory"), unit={"cpu": 1.0, "memory": 4e9})
    less, more = (plan({"cpu": cpu, "memory": float("nan")}, both) for cpu in (1.0, 9.0))
    assert less.counts["od"][0] == 4
    assert "missing_telemetry" in less.guardrails
    assert more.counts["od"][0] >= 9
    assert less.unreported == more.unreported == ("memory",)
    assert plan({"cpu": 1.0, "memory": 1e9}, both).counts["od"][0] < 4


def test_the_usual_policy_takes_what_is_reported() -> None:
    usual = replace(POLICY, governed=("cpu", "memory"), unit={"cpu": 1.0, "memory": 4e9})
    assert plan({"cpu": 1.0}, usual, usual=True).counts["od"][0] == 1
    assert plan({"requests": 1.0}, usual, usual=True).counts["od"][0] == 4


def test_a_governed_metric_is_missing_in_plan_explain_and_log(shop: Callable[..., list[Record]]) -> None:
    samples = [(tick, f"u{n}", {"cpu": None, "requests": 500.0}) for tick in range(8) for n in range(4)]
    plans = shop(samples)
    assert {tuple(published["unreported"]) for published in plans} == {("cpu",)}
    assert not any(published["feasible"] for published in plans)
    assert "Nobody reported cpu, which the policy governs" in decision_text.text(plans[-1])


@pytest.mark.parametrize("silent", [3, 5, 9])
def test_a_governed_metric_that_part_of_the_users_no_longer_report_is_missing_of_them(
    shop: Callable[..., list[Record]], silent: int
) -> None:
    """Memory binds; from minute 12 on some of ten users report cpu alone."""
    samples = [
        (tick, f"u{n}", {"cpu": 0.1, "memory": None if tick >= 12 and n < silent else 4e9})
        for tick in range(24)
        for n in range(10)
    ]
    unit = [{"metric": "cpu", "value": 1.0}, {"metric": "memory", "value": 4e9}]
    plans = shop(samples, governed=["cpu", "memory"], unit=unit)
    for plan in plans[12:]:
        assert plan["completeness"] == pytest.approx(1 - silent / 10)
        assert min(plan["replicas"]) >= 10
    instances = [sum(count["desired"][0] for count in plan["counts"]) for plan in plans]
    assert min(instances[12:]) >= instances[11]
    assert all(plan["completeness"] == 1 for plan in plans[:12])


def test_a_metric_that_users_report_only_when_they_use_it_is_not_added_up(
    shop: Callable[..., list[Record]],
) -> None:
    """Each of ten users has requests in every fifth minute, and reports none in the others."""
    samples = [
        (tick, f"u{n}", {"cpu": 0.1, "requests": 50.0 if tick % 5 == n % 5 else None})
        for tick in range(30)
        for n in range(10)
    ]
    plans = shop(samples, governed=["requests"], unit=[{"metric": "requests", "value": 10.0}])
    assert max(plan["replicas"][0] for plan in plans[-8:]) <= 20


def test_metrics_of_another_app_change_nothing(shop: Callable[..., list[Record]]) -> None:
    own = [(tick, f"u{n}", {"memory": 1e9 * (1 + tick)}) for tick in range(8) for n in range(4)]
    others = [(tick, "x", {"app": "blog", "requests": 5.0, "network": 1e6}) for tick in range(8)]
    assert shop(own + others) == shop(own)
