import json
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from math import exp, log
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Rejected, Retryable, UsageError
from pipeline.providers.base import Observation
from pipeline.providers.local import Faults, LocalProvider
from pipeline.wire.commands import Target, command_id

HOUR = 3600.0
Make = Callable[..., LocalProvider]


def price(offer_id: str = "od-4", tier: str = "ON_DEMAND", **more: Any) -> dict[str, Any]:
    """4 cores less 0.5; starts in 60 s (median) to 120 s (99 %)."""
    return {
        "offer_id": offer_id,
        "version": 1,
        "valid_from_tick": 0,
        "provider": "local",
        "region": "",
        "zone": "",
        "tier": tier,
        "capacity": [{"metric": "cpu", "value": 4.0}],
        "reserved_overhead": [{"metric": "cpu", "value": 0.5}],
        "price": Decimal("0.2"),
        "billing_min_s": 60.0,
        "owned_count": 3 if tier == "RESERVED" else None,
        "startup_p50_s": 60.0,
        "startup_p90_s": 90.0,
        "startup_p99_s": 120.0,
        "launch_failure": 0.0,
        "interruption": 0.0,
        "notice_s": 0.0,
    } | more


def command(desired: int, epoch: int = 1, ref: str = "shop/od-4", **more: Any) -> dict[str, Any]:
    return {
        "id": command_id(f"plan-{epoch}", ref, desired),
        "target": Target("local", ref).record(),
        "desired": desired,
        "epoch": epoch,
        "drain_s": 0.0,
        "victim_rule": "NEWEST",
    } | more


OD, SPOT, RESERVED = (Target("local", f"shop/{offer}") for offer in ("od-4", "spot-4", "re-4"))
PRICES = (price(), price("spot-4", "SPOT"), price("re-4", "RESERVED"))


@pytest.fixture
def make(tmp_path: Path) -> Any:
    made: list[LocalProvider] = []

    def provider(faults: Faults | None = None, prices: Any = PRICES, **more: Any) -> LocalProvider:
        """A provider on the test's folder, as after a kill of the one before."""
        for one in made:
            one.close()
        made.append(LocalProvider(tmp_path, tick_s=60, faults=faults, **more))
        for record in prices:
            made[-1].offered(record)
        return made[-1]

    yield provider
    made[-1].close()


def counts(seen: Observation) -> tuple[int, int, int, int, int]:
    return seen.ready, seen.pending, seen.draining, seen.failed, seen.interrupted


def test_instances_are_pending_then_ready(make: Make) -> None:
    provider = make()
    result = provider.apply(command(3), 1000.0)
    assert (result.before, result.after, result.generation, result.accepted_s) == (0, 3, 1, 1000.0)
    assert counts(provider.observe(OD, 1000.0)) == (0, 3, 0, 0, 0)
    assert counts(provider.observe(OD, 2000.0)) == (3, 0, 0, 0, 0)
    assert counts(provider.observe(OD, 999.0)) == (0, 0, 0, 0, 0)
    assert provider.observe(OD, 2000.0).allocatable == {"cpu": 3.5}


def test_start_up_times_have_the_offers_median_and_99_percent(make: Make) -> None:
    provider = make()
    provider.apply(command(1000), 0.0)
    ready = [provider.observe(OD, at_s).ready for at_s in (60.0, 120.0)]
    # Binomial: 500 of 1000 within 60 s, deviation 16; 990 within 120 s, deviation 3.1.
    assert 450 <= ready[0] <= 550
    assert 978 <= ready[1] <= 1000


def test_what_is_pending_is_expected_by_the_conditional_99_percent(make: Make) -> None:
    provider = make()
    provider.apply(command(1), 0.0)
    # At once: the 99 % of the start-up time. Later: of those times that are longer than its age.
    assert provider.observe(OD, 0.0).pending_ready_s == pytest.approx([120.0])
    startup = NormalDist(log(60.0), log(2.0) / NormalDist().inv_cdf(0.99))
    young = provider.observe(OD, 30.0)
    level = startup.cdf(log(30.0)) + 0.99 * (1 - startup.cdf(log(30.0)))
    assert young.pending_ready_s == pytest.approx([exp(startup.inv_cdf(level)) - 30.0])


def test_a_repeated_command_returns_its_stored_result_even_after_a_kill(make: Make, tmp_path: Path) -> None:
    first = make().apply(command(3), 1000.0)
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert list(files) == ["shop%2Fod-4.json"]
    successor = make()
    assert successor.apply(command(3), 5000.0) == first
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == files


def test_killed_while_writing_the_command_has_not_happened(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = make()
    provider.apply(command(3), 1000.0)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for step in ("json.dumps", "os.fsync", "pathlib.Path.replace"):
        provider = make()
        with monkeypatch.context() as patch:
            patch.setattr(step, killed)
            with pytest.raises(KeyboardInterrupt):
                provider.apply(command(5, epoch=2), 1060.0)
        assert make().observe(OD, 1060.0).pending + make().observe(OD, 1060.0).ready == 3
    assert make().apply(command(5, epoch=2), 1060.0).after == 5
    assert make().observe(OD, 1060.0).command_id == command(5, epoch=2)["id"]


def test_an_older_epoch_is_rejected(make: Make) -> None:
    provider = make()
    provider.apply(command(3, epoch=5), 0.0)
    with pytest.raises(Rejected, match="older-epoch"):
        provider.apply(command(4, epoch=4), 60.0)


@pytest.mark.parametrize(("rule", "left"), [("NEWEST", [1, 2]), ("OLDEST", [3, 4])])
def test_a_shrink_drains_by_the_victim_rule(make: Make, tmp_path: Path, rule: str, left: list[int]) -> None:
    provider = make()
    provider.start(OD, 4, 0.0)
    provider.apply(command(2, drain_s=90.0, victim_rule=rule), 600.0)
    assert counts(provider.observe(OD, 600.0)) == (2, 0, 2, 0, 0)
    assert counts(provider.observe(OD, 689.0)) == (2, 0, 2, 0, 0)
    assert counts(provider.observe(OD, 690.0)) == (2, 0, 0, 0, 0)
    state = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert [one["serial"] for one in state["instances"] if one["released_s"] > 1e9] == left


def test_a_shrink_takes_what_does_not_serve_first_and_at_once(make: Make) -> None:
    provider = make()
    provider.start(OD, 2, 0.0)
    provider.apply(command(4, epoch=1), 600.0)
    provider.apply(command(2, epoch=2, drain_s=90.0, victim_rule="OLDEST"), 601.0)
    assert counts(provider.observe(OD, 601.0)) == (2, 0, 0, 0, 0)


def test_failed_launches_are_tried_again_until_the_count_is_reached(make: Make) -> None:
    provider = make(Faults(launch_failure=0.5, launch_retry_s=30.0))
    provider.apply(command(100), 0.0)
    failed = [provider.observe(OD, at_s).failed for at_s in (60.0, 90.0)]
    assert all(10 < count < 60 for count in failed)
    # (1/2)^n * 100 < 1e-3 after 17 attempts of about 90 s each
    assert counts(provider.observe(OD, 4000.0)) == (100, 0, 0, 0, 0)


def test_permanent_failures_stay_until_a_shrink(make: Make) -> None:
    provider = make(Faults(permanent=frozenset({"shop/od-4"})))
    provider.start(OD, 1, 0.0)
    provider.apply(command(3), 0.0)
    assert counts(provider.observe(OD, 9e6)) == (1, 0, 0, 2, 0)
    provider.apply(command(1, epoch=2), 9e6)
    assert counts(provider.observe(OD, 9e6)) == (1, 0, 0, 0, 0)


def test_spot_is_interrupted_under_notice_and_replaced(make: Make) -> None:
    spot = price("spot-4", "SPOT", interruption=1.0, notice_s=120.0)
    provider = make(prices=[spot])
    provider.start(SPOT, 1, 0.0)
    notices = [at_s for at_s in range(0, 36_000, 20) if provider.observe(SPOT, at_s).interrupted]
    assert notices
    first = float(notices[0])
    assert counts(provider.observe(SPOT, first)) == (0, 1, 0, 0, 1)
    seen = provider.observe(SPOT, first + 140.0)  # the notice is over, and the successor may be ready
    assert seen.interrupted == 0
    assert seen.ready + seen.pending == 1
    assert provider.least_ready(SPOT, 0.0, first - 20.0) == 1
    assert provider.least_ready(SPOT, 0.0, first + 20.0) == 0


def test_interruptions_are_exponential_and_for_spot_alone(make: Make) -> None:
    wild: dict[str, Any] = {"interruption": 0.5, "startup_p50_s": 1e9, "startup_p99_s": 1e9}
    provider = make(prices=[price(**wild), price("spot-4", "SPOT", **wild)])
    for target in (OD, SPOT):
        provider.start(target, 400, 0.0)
    # Successors take 30 years. After an hour exp(-0.5) * 400 = 243 are left, deviation 10.
    assert provider.observe(OD, HOUR).ready == 400
    assert 210 <= provider.observe(SPOT, HOUR).ready <= 275


def test_least_ready_sees_a_dip_between_two_observations(make: Make) -> None:
    provider = make()
    provider.start(OD, 3, 0.0)
    provider.apply(command(1, epoch=1), 100.0)
    provider.apply(command(3, epoch=2), 101.0)
    assert provider.observe(OD, 99.0, 0.0).least_ready == 3
    assert provider.observe(OD, 600.0, 0.0).least_ready == 1
    assert provider.observe(OD, 100.0, 0.0).least_ready == 3  # half-open: the shrink is at 100 s
    assert provider.least_ready(OD, 400.0, 600.0) == 3


def test_the_bill_is_from_the_request_to_the_end(make: Make) -> None:
    provider = make()
    provider.apply(command(2, epoch=1), 0.0)
    assert provider.billed_h(OD, HOUR) == pytest.approx(2.0)
    provider.apply(command(1, epoch=2, drain_s=360.0), HOUR)
    # one for 2 h, the other for 1 h and 360 s of draining
    assert provider.billed_h(OD, 2 * HOUR) == pytest.approx(3.1)
    provider.apply(command(2, epoch=3), 2 * HOUR)
    # and one more for at least 60 s
    assert provider.billed_h(OD, 2 * HOUR + 1) == pytest.approx(3.1 + 1 / 3600 + 60 / 3600)


def test_what_is_owned_is_billed_used_or_not(make: Make) -> None:
    provider = make()
    provider.start(RESERVED, 0, 0.0)
    provider.apply(command(2, ref=RESERVED.ref), 2 * HOUR)
    assert provider.billed_h(RESERVED, 4 * HOUR) == 12.0  # 3 owned * 4 h
    with pytest.raises(Rejected, match="only 3 are reserved"):
        provider.apply(command(4, ref=RESERVED.ref, epoch=2), 4 * HOUR)


def test_what_ended_long_ago_is_forgotten_but_not_its_bill(make: Make, tmp_path: Path) -> None:
    provider = make()
    provider.apply(command(2, epoch=1), 0.0)
    provider.apply(command(1, epoch=2), HOUR)
    provider.apply(command(2, epoch=3), 100 * HOUR)
    state = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert [one["serial"] for one in state["instances"]] == [1, 3]
    assert provider.billed_h(OD, 101 * HOUR) == pytest.approx(1 + 101 + 1)


def test_generations_and_who_set_them_can_be_asked_for_the_past(make: Make) -> None:
    provider = make()
    provider.start(OD, 1, 0.0)
    provider.apply(command(2, epoch=1), 60.0)
    provider.apply(command(2, epoch=2), 120.0)  # nothing changes
    seen = [provider.observe(OD, at_s) for at_s in (0.0, 60.0, 180.0)]
    assert [one.generation for one in seen] == [1, 2, 2]
    assert [one.command_id for one in seen] == ["", command(2, epoch=1)["id"], command(2, epoch=1)["id"]]


def test_an_existing_target_is_not_started_again(make: Make) -> None:
    provider = make()
    provider.start(OD, 1, 0.0)
    provider.start(OD, 5, 0.0)
    assert provider.observe(OD, 0.0).ready == 1


def test_the_version_of_an_offer_valid_at_the_launch_decides(make: Make) -> None:
    slow = price(version=2, valid_from_tick=10, startup_p50_s=6000.0, startup_p99_s=6000.0)
    provider = make(prices=[slow, price()])
    provider.apply(command(1, epoch=1), 599.0)
    provider.apply(command(2, epoch=2), 600.0)  # tick 10 of 60 s
    assert counts(provider.observe(OD, 1200.0)) == (1, 1, 0, 0, 0)
    assert counts(provider.observe(OD, 6601.0)) == (2, 0, 0, 0, 0)


def test_faults_of_calls(make: Make) -> None:
    slept: list[float] = []
    with pytest.raises(Rejected, match="by configuration"):
        make(Faults(rejected=frozenset({"shop/od-4"}))).apply(command(1), 0.0)
    with pytest.raises(Retryable) as unavailable:
        make(Faults(unavailable=1.0, retry_after_s=7.0)).apply(command(1), 0.0)
    assert unavailable.value.retry_after == 7.0
    with pytest.raises(Retryable, match="no answer"):
        make(Faults(hang=1.0, hang_s=99.0), sleep=slept.append).apply(command(1), 0.0)
    assert slept == [99.0]
    half = make(Faults(partial=1.0)).apply(command(5), 0.0)
    assert (half.before, half.after, half.partial) == (0, 2, True)
    with pytest.raises(Rejected, match="no offer 'other'"):
        make().observe(Target("local", "shop/other"), 0.0)


def test_faults_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    assert Faults.read(file) == Faults()
    file.write_text('{"launch_failure": 0.2, "permanent": ["a/b"]}')
    assert Faults.read(file) == Faults(launch_failure=0.2, permanent=frozenset({"a/b"}))
    file.write_text('{"lanch_failure": 0.2}')
    with pytest.raises(UsageError, match="lanch_failure"):
        Faults.read(file)


def test_one_process_at_a_time(make: Make, tmp_path: Path) -> None:
    make()
    with pytest.raises(UsageError, match="another actuator uses"):
        LocalProvider(tmp_path, tick_s=60)


WILD = (
    price(launch_failure=0.3),
    price("spot-4", "SPOT", interruption=4.0, notice_s=120.0, launch_failure=0.1),
)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 90.0])), min_size=1, max_size=6),
    looks=st.lists(st.floats(0, 4 * HOUR), max_size=12),
    spot=st.booleans(),
)
def test_the_future_does_not_depend_on_how_often_one_looks(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float]], looks: list[float], spot: bool
) -> None:
    target = SPOT if spot else OD
    asked = [float(at_s) for at_s in range(0, int(4 * HOUR), 300)]
    seen: list[list[Observation]] = []
    for looking in (False, True):
        provider = LocalProvider(tmp_path_factory.mktemp("local"), tick_s=60)
        for record in WILD:
            provider.offered(record)
        for number, (desired, drain_s) in enumerate(steps):
            if looking:
                for at_s in looks:  # into the past and the future, in any order
                    provider.observe(target, at_s, 0.0)
            provider.apply(
                command(desired, epoch=number, ref=target.ref, drain_s=drain_s), 600.0 * (number + 1)
            )
        seen.append([provider.observe(target, at_s, max(0.0, at_s - 300)) for at_s in asked])
        provider.close()
    assert seen[0] == seen[1]
    for before, after in pairwise(seen[0]):
        assert (before.billed_h or 0) <= (after.billed_h or 0)
    # The provider keeps the count: what is desired is ready, on its way, or failed.
    assert all(
        one.ready + one.pending + one.failed == steps[-1][0]
        for at_s, one in zip(asked, seen[0], strict=True)
        if at_s >= 600.0 * len(steps)
    )
