"""One of several producers or instances of a user stops: what it last used counts, and the plan says what is missing.

What looks alike and is none of it (an instance that ended and was taken over or replaced, a slow sampler, an explicit
zero) is neither missing nor counted twice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from models.demand.stopped_series import Carried
from models.demand.turnover import silent_ticks
from models.metrics import METRICS
from pipeline.reports import decision_text
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.demand import TelemetryShare, carried_of, telemetry_of
from tests.cases.test_03_lost_share_of_telemetry import METRIC, TICK_S, partition
from tests.cases.test_06_07_series_and_missing_metrics import every, plan
from tests.unit.pipeline.messages import NOW_US, FakeMessage, metric, watermark

CPU = METRICS.index("cpu")
Sample = tuple[float, dict[str, Any]]
"""Seconds after the start, and fields."""


def frames(
    samples: Sequence[Sample], ticks: int, cuts: Sequence[int] = (), tick_s: int = TICK_S
) -> list[list[Record]]:
    """Parts of the frames of a user's samples, in batches up to each of `cuts`: killed there, and started again."""
    ends = [watermark(NOW_US), watermark(NOW_US + ticks * tick_s * 1_000_000)]
    ordered = sorted(samples, key=lambda item: item[0])
    fresh = {"lateness_s": 0, "tick_s": tick_s}
    interval: dict[str, Any] = {"interval_s": float(tick_s)}
    bodies = [metric(NOW_US + round(at * 1e6), **interval | more) for at, more in ordered]
    messages = [FakeMessage(value, n) for n, value in enumerate([ends[0], *bodies, ends[1]])]
    marks = [FakeMessage(end, n, name="telemetry.events") for n, end in enumerate(ends)]
    part, out, at = partition(**fresh), list[list[Record]](), 0
    part.take("telemetry.events", marks)
    for cut in [*sorted(cuts), len(messages)]:
        part.take(METRIC, messages[at:cut])
        out += part.close()
        at = max(at, cut)
        if out and at < len(messages):
            part = partition(**fresh)
            part.windows.restore(*(DEFAULT.decode(DEFAULT.encode("frame", p))[1] for p in out[-1]))
            part.take("telemetry.events", marks[1:])
            at = part.windows.metrics.next_offset
    return out


def reported(frame: list[Record], of: int = CPU) -> float:
    return float(
        sum(np.frombuffer(part["values"], "<f4").reshape(len(METRICS), -1)[of].sum() for part in frame)
    )


def missing(frame: list[Record]) -> Carried:
    none = np.zeros(0, np.int64), np.zeros((0, len(METRICS)))
    return carried_of(frame) or Carried(none[0], none[0], none[1], none[1])


def whole(frame: list[Record], of: int = CPU) -> float:
    """What is reported and what stopped series last used."""
    more = missing(frame)
    return reported(frame, of) + float(more.of_stopped[:, of].sum() + more.of_slips[:, of].sum())


def stopped(frame: list[Record]) -> int:
    return int(missing(frame).stopped.sum())


def agents(until_s: Sequence[float], interval_s: float = TICK_S, **more: Any) -> list[Sample]:
    return [
        sample
        for n, until in enumerate(until_s)
        for sample in every(interval_s, until, producer=f"{n}", **{"cpu": 2.0} | more)
    ]


def test_one_of_three_agents_stops_and_its_share_is_told() -> None:
    made = frames(agents((1200, 1200, 30)), 120)
    assert [reported(frame) for frame in made] == [6.0] * 3 + [4.0] * 117
    silent = silent_ticks(TICK_S)
    assert [whole(frame) for frame in made] == [6.0] * (3 + silent) + [4.0] * (117 - silent)
    assert [stopped(frame) for frame in made] == [0] * 4 + [1] * (silent - 1) + [0] * (117 - silent)


@pytest.mark.parametrize(
    ("lost", "completeness"), [(1, 4 / 6), (2, 2 / 6)], ids=["one of three", "two of three"]
)
def test_the_plan_is_for_all_agents_and_says_what_stopped(
    shop: Callable[..., list[Record]], lost: int, completeness: float
) -> None:
    samples = [
        (tick, "u", {"cpu": 2.0, "producer": f"{n}"})
        for tick in range(32)
        for n in range(3)
        if n >= lost or tick < 10
    ]
    with structlog.testing.capture_logs() as logs:
        plans = shop(samples)
    assert [of["reactive_floor"] for of in plans[:25]] == [6] * 25
    assert [of["stopped"] for of in plans] == [0] * 11 + [lost] * 14 + [0] * 7
    assert [of["completeness"] for of in plans[11:25]] == [pytest.approx(completeness)] * 14
    assert {of["completeness"] for of in plans[:11] + plans[25:]} == {1.0}
    assert min(of["replicas"][0] for of in plans[1:25]) >= 6
    explained = " ".join(decision_text.text(plans[12]).split())
    assert f"{completeness:.1%} complete: series stopped while others of their user report" in explained
    assert f"({lost} producer-stopped)" in explained
    begun = [log for log in logs if log["event"] == "series stopped"]
    assert [(log["app"], log["of"], log["tick"]) for log in begun] == [
        ("shop", f"{lost} producer-stopped", plans[11]["tick"])
    ]


def test_what_stopped_counts_beside_demand_that_falls(shop: Callable[..., list[Record]]) -> None:
    """Demand of the others falls to an eighth as an agent stops: its last usage is held for 15 minutes."""
    level = [40.0] * 10 + [5.0] * 18
    samples = [
        (tick, "u", {"cpu": level[tick], "producer": f"{n}"})
        for tick in range(28)
        for n in range(3)
        if n or tick < 10
    ]
    plans = shop(samples)
    assert [of["stopped"] for of in plans] == [0] * 11 + [1] * 14 + [0] * 3
    assert [of["reactive_floor"] for of in plans[10:]] == [10 + 40] * 15 + [10] * 3


@pytest.mark.parametrize(
    ("telemetry", "rails"),
    [
        ({}, ()),
        ({"stopped": 0.3, "carried": 0.3}, ("producer_stopped",)),
        ({"stopped": 0.002, "carried": 0.002}, ("producer_stopped",)),
        ({"carried": 0.2}, ("producer_stopped",)),
        ({"carried": 0.05}, ()),
    ],
)
def test_nothing_is_released_while_a_series_is_missing(
    telemetry: dict[str, Any], rails: tuple[str, ...]
) -> None:
    decision = plan({"cpu": 1.0}, **telemetry)
    assert decision.guardrails == rails
    assert decision.counts["od"][0] == (4 if rails else 1)
    assert decision.completeness == 1 - telemetry.get("stopped", 0.0)
    assert plan({"cpu": 9.0}, **telemetry).counts["od"][0] >= 9


def test_an_instance_that_ends_and_is_taken_over_is_not_missing() -> None:
    """Three instances share six cores; one ends within a tick, the others go on with three each."""
    for end_s in (30.0, 31.0, 35.0, 39.0):
        samples = [
            (at, {"instance": f"i-{n}", "interval_s": 1.0, "cpu": 2.0 if at < end_s else 3.0})
            for at in np.arange(0.0, 120.0, 1.0).tolist()
            for n in range(3)
            if n or at < end_s
        ]
        made = frames(samples, 12)
        assert [stopped(frame) for frame in made] == [0] * 12, end_s
        assert [whole(frame) for frame in made[4:]] == pytest.approx([6.0] * 8)


@pytest.mark.parametrize("gap_s", [0.0, 7.0, 20.0, 60.0])
def test_a_rollout_that_renames_every_instance_replaces_them(gap_s: float) -> None:
    names = [(f"old-{n}", 0.0, 60.0) for n in range(3)] + [
        (f"new-{n}", 60.0 + gap_s, 240.0) for n in range(3)
    ]
    samples = [
        (at, {"instance": name, "cpu": 2.0})
        for name, since, until in names
        for at in np.arange(since + 3, until, TICK_S).tolist()
    ]
    made = frames(samples, 24)
    after = round((60 + gap_s) // TICK_S) + 1
    assert [whole(frame) for frame in made[after:]] == [6.0] * (24 - after)
    assert [stopped(frame) for frame in made[after:]] == [0] * (24 - after)


def test_instances_are_renamed_one_after_the_other() -> None:
    """As in a rolling update: every new one takes its share of six cores before an old one ends."""
    born = [0.0, 0.0, 0.0, 50.0, 80.0, 110.0]
    ends = [60.0, 90.0, 120.0, 300.0, 300.0, 300.0]
    samples: list[Sample] = []
    for at in np.arange(0.0, 300.0, 5.0).tolist():
        there = [n for n in range(6) if born[n] <= at < ends[n]]
        samples += [(at, {"instance": f"i-{n}", "interval_s": 5.0, "cpu": 6.0 / len(there)}) for n in there]
    made = frames(samples, 30)
    assert [stopped(frame) for frame in made] == [0] * 30
    assert [whole(frame) for frame in made] == pytest.approx([6.0] * 30)


def test_instances_that_live_for_minutes_replace_each_other() -> None:
    """One of six begins and one ends in every minute."""
    samples = [
        (at, {"instance": f"i-{n}", "cpu": 1.0})
        for n in range(-5, 40)
        for at in np.arange(max(0.0, 60.0 * n), 60.0 * (n + 6), TICK_S).tolist()
        if at < 1200
    ]
    made = frames(samples, 120)
    assert [stopped(frame) for frame in made] == [0] * 120
    assert [whole(frame) for frame in made] == [6.0] * 120


@pytest.mark.parametrize("tick_s", [10, 60])
def test_slow_samplers_are_missing_after_their_interval(tick_s: int) -> None:
    """Four agents sample every 300 s, each at its own phase; the last of them sends its last sample at 599.9 s."""
    phases = (0.0, 37.0, 123.4, 299.9)
    samples = [
        sample
        for n, phase_s in enumerate(phases)
        for sample in every(300.0, 1800.0 if n < 3 else 700.0, phase_s, producer=f"{n}", cpu=1.0)
    ]
    made = frames(samples, 1800 // tick_s, tick_s=tick_s)
    first = 900 // tick_s  # 599.9 s and its interval
    assert [stopped(frame) for frame in made[: first + 1]] == [0] * (first + 1)
    assert [stopped(frame) for frame in made[first + 1 : 1799 // tick_s]] == [1] * (
        1799 // tick_s - first - 1
    )
    assert [whole(frame) for frame in made[300 // tick_s : 1799 // tick_s]] == [4.0] * (1499 // tick_s)


@pytest.mark.parametrize("others", [0, 2])
def test_a_slow_agent_that_starts_again_under_a_new_name_is_no_loss(others: int) -> None:
    """It is counted twice until the last interval of its old self ends, not longer."""
    samples = [
        s for n in range(others) for s in every(300.0, 1800.0, 20.0 * n, producer=f"other-{n}", cpu=2.0)
    ]
    samples += every(300.0, 900.0, 50.0, producer="before", cpu=2.0)
    samples += [(690.0 + at, fields) for at, fields in every(300.0, 1100.0, producer="after", cpu=2.0)]
    made = frames(samples, 180)
    assert [stopped(frame) for frame in made] == [0] * 180
    assert [whole(frame) for frame in made[96:170]] == [2.0 * (others + 1)] * 74


def test_real_zeros_are_no_silence_and_nothing_is_missing_of_nothing() -> None:
    zeros = [*every(10.0, 100.0, producer="a", cpu=2.0), *every(10.0, 100.0, producer="b", cpu=0.0)]
    ends = [*every(10.0, 100.0, producer="a", cpu=2.0), *every(10.0, 50.0, producer="b", cpu=0.0)]
    for samples in (zeros, ends):
        made = frames(samples, 10)
        assert [stopped(frame) for frame in made] == [0] * 10
        assert [whole(frame) for frame in made] == [2.0] * 10


def test_a_sample_that_slips_over_a_ticks_edge_is_carried_and_not_named() -> None:
    steady = every(10.0, 100.0, 5.0, producer="a", cpu=2.0)
    late = [
        (at + (0.5 if at == 39.8 else 0.0), f) for at, f in every(10.0, 100.0, 9.8, producer="b", cpu=1.0)
    ]
    made = frames([*steady, *late], 10)
    assert reported(made[3]) == 2.0
    assert [whole(frame) for frame in made] == [3.0] * 10
    assert [stopped(frame) for frame in made] == [0] * 10


@pytest.mark.parametrize("others", [1, 2, 5])
def test_a_series_that_begins_to_miss_every_second_tick_counts_in_each_and_when_it_dies(others: int) -> None:
    ticks = [0, 1, *range(2, 20, 2)]
    samples = agents((400,) * others) + [(10.0 * t, {"producer": "flaps", "cpu": 2.0}) for t in ticks]
    made = frames(samples, 40)
    assert [whole(frame) for frame in made] == [2.0 * (others + 1)] * 40
    assert [stopped(frame) for frame in made] == [0] * 20 + [1] * 20


@example(9150586, 2, 0.15, [99])
@examples(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([0.03, 0.15, 0.4]),
    st.lists(st.integers(1, 250), max_size=4),
)  # fmt: skip
def test_samples_lost_at_random_add_up_to_no_more_and_single_ones_count(
    seed: int, producers: int, lost: float, cuts: list[int]
) -> None:
    kept = np.random.default_rng(seed).random((60, producers)) > lost
    kept[:2] = True
    samples = [(10.0 * t, {"producer": f"{n}", "cpu": 1.0}) for t, n in np.argwhere(kept).tolist()]
    made = frames(samples, 60, cuts)
    assert [DEFAULT.encode("frame", p) for parts in frames(samples, 60) for p in parts] == [
        DEFAULT.encode("frame", p) for parts in made for p in parts
    ]
    total = np.array([whole(frame) for frame in made])
    assert total.max() <= producers
    assert np.all(total >= kept.sum(axis=1))
    gaps = kept.copy()
    gaps[1:-1] |= kept[:-2] & kept[2:]
    if gaps.all() and kept.any(axis=1).all():  # no series was silent for two ticks on end, nor all at once
        assert total.min() == producers


def test_an_agent_that_comes_back_is_no_longer_missing() -> None:
    samples = [s for s in agents((400, 400, 400)) if not (s[1]["producer"] == "2" and 100 <= s[0] < 250)]
    made = frames(samples, 40)
    assert [whole(frame) for frame in made] == [6.0] * 40
    assert [stopped(frame) for frame in made] == [0] * 11 + [1] * 14 + [0] * 15


@pytest.mark.parametrize("away", [4.0, 1.7, 0.5])
def test_what_comes_back_leaves_what_another_series_last_used(away: float) -> None:
    """One agent is away from 100 to 250 s; another, of 2 cores, stops for good at 200 s."""
    lives = [(away, 0, 100), (away, 250, 1500), (2.0, 0, 200), (3.0, 0, 1500)]
    made = frames(
        [
            (at, fields)
            for cpu, begin, end in lives
            for at, fields in every(TICK_S, 1500, producer=f"{cpu}", cpu=cpu)
            if begin <= at < end
        ],
        150,
    )
    silent = silent_ticks(TICK_S)
    assert [whole(frame) for frame in made] == pytest.approx(
        [5 + away] * (20 + silent) + [3 + away] * (130 - silent)
    )
    assert [stopped(frame) for frame in made[25 : 20 + silent]] == [1] * (silent - 5)


@pytest.mark.parametrize("level", [2.0, 1.9, 2.1])
@pytest.mark.parametrize("back", [0, 1])
def test_of_two_alike_that_stopped_the_one_that_is_still_missing_counts_for_its_time(
    level: float, back: int
) -> None:
    """One stops at 100 s, one at 300 s, and either comes back at 600 s with about as much."""
    ends = (100, 300)
    lives = [
        (2.0, 0, ends[0], "a"),
        (2.0, 0, ends[1], "b"),
        (level, 600, 1500, "ab"[back]),
        (3.0, 0, 1500, "c"),
    ]
    made = frames(
        [
            (at, fields)
            for cpu, begin, end, name in lives
            for at, fields in every(TICK_S, 1500, producer=name, cpu=cpu)
            if begin <= at < end
        ],
        150,
    )
    total = np.array([whole(frame) for frame in made])
    until = ends[1 - back] // TICK_S + silent_ticks(TICK_S)
    assert total[:until] == pytest.approx(7.0, abs=0.11)
    assert total[ends[1] // TICK_S + silent_ticks(TICK_S) :] == pytest.approx(3.0 + level)


def test_of_a_user_who_was_silent_what_does_not_come_back_is_missing() -> None:
    """All three agents are silent for 30 s, as behind one proxy; two come back."""
    samples = [s for s in agents((300, 300, 100)) if not 100 <= s[0] < 130]
    made = frames(samples, 30)
    assert [stopped(frame) for frame in made] == [0] * 13 + [1] * 17
    assert [whole(frame) for frame in made] == [6.0] * 10 + [0.0] * 3 + [6.0] * 17


def test_demand_that_falls_as_a_series_ends_is_held_and_forgotten() -> None:
    samples = [(at, fields | {"cpu": 1.5 if at >= 30 else 2.0}) for at, fields in agents((1500, 1500, 30))]
    made = frames(samples, 150)
    silent = silent_ticks(TICK_S)
    assert [whole(frame) for frame in made] == [6.0] * 3 + [5.0] * silent + [3.0] * (147 - silent)


@pytest.mark.parametrize("left", [0.0, 0.01])
def test_an_instance_that_is_drained_before_it_ends_is_not_missing(left: float) -> None:
    """Its memory goes with it; the load of three cores each is at two instances before."""
    samples = [
        (at, {"instance": f"i-{n}", "memory": 4e9, "cpu": 2.0 if at < 30 else 3.0 if n else left})
        for at in np.arange(0.0, 100.0, TICK_S).tolist()
        for n in range(3)
        if n or at < 50
    ]
    made = frames(samples, 10)
    assert [stopped(frame) for frame in made] == [0] * 10
    assert [whole(frame, METRICS.index("memory")) for frame in made] == [12e9] * 5 + [8e9] * 5


def test_an_exporter_of_one_metric_stops() -> None:
    samples = [
        *every(10.0, 100.0, producer="cpu", cpu=2.0),
        *every(10.0, 50.0, producer="memory", cpu=None, memory=4e9),
    ]
    made = frames(samples, 10)
    assert [stopped(frame) for frame in made] == [0] * 6 + [1] * 4
    assert [whole(frame) for frame in made] == [2.0] * 10
    share = TelemetryShare.of("shop", telemetry_of(made[8]))
    assert (share.used, share.refused, share.stopped) == (1.0, (), 1)
    assert dict(share.of_stopped) == {"memory": 4e9}


@examples(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 50), st.sampled_from([2.0, 10.0, 25.0, 40.0]), st.floats(0.0, 9.9), st.integers(5, 40)
        ),
        min_size=2, max_size=7,
    ),
    st.lists(st.integers(1, 400), max_size=4),
)  # fmt: skip
def test_reported_and_carried_are_the_last_full_total(
    given_agents: list[tuple[int, float, float, int]], cuts: list[int]
) -> None:
    """Any agents but the first stop at any time, each sampling at its own interval and phase; ingest is killed."""
    series = [
        (cpu / 7, interval_s, phase_s, 40 if n == 0 else ends)
        for n, (cpu, interval_s, phase_s, ends) in enumerate(given_agents)
    ]
    samples = [
        sample
        for n, (cpu, interval_s, phase_s, ends) in enumerate(series)
        for sample in every(interval_s, ends * TICK_S, phase_s, producer=f"{n}", cpu=cpu)
    ]
    made = frames(samples, 40, cuts)
    total = sum(cpu for cpu, *_ in series)
    assert [whole(frame) for frame in made[5:]] == pytest.approx([total] * 35, rel=1e-5)
    assert [DEFAULT.encode("frame", p) for parts in frames(samples, 40) for p in parts] == [
        DEFAULT.encode("frame", p) for parts in made for p in parts
    ]
