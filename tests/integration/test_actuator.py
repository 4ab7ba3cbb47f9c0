"""The actuator on real Kafka: a scripted stream of plans and commands."""

import pytest

from pipeline.kafka.producer import Outputs
from pipeline.kafka.reader import records
from pipeline.kafka.topics import RAW
from pipeline.providers.local import Faults
from pipeline.settings import Settings
from pipeline.wire.commands import final
from pipeline.wire.messages import END_HEADER, header_of
from tests.integration.actuating import OFFERS, Run, command, observations, plan, publish, reached, results


def test_starting_capacity_is_there_before_the_first_plan(replay: Settings) -> None:
    seen = observations(replay)
    assert set(seen) == {(f"{app}/{offer}", 9) for app in ("shop", "bank") for offer in OFFERS}
    [record] = seen["shop/od-4", 9]
    assert (record["ready"], record["pending"], record["generation"], record["billed_h"]) == (2, 0, 1, 2 / 60)


def test_plans_and_commands_become_results_and_one_observation_a_tick(replay: Settings, run: Run) -> None:
    run.start()
    grow = command(replay, 10, 4, order=0)
    reserve = command(replay, 10, 1, offer_id="re-4", order=1)
    publish(replay, plan(10, issued=2), plan(10, issued=0, app="bank"), grow, reserve)
    publish(replay, command(replay, 11, 1), plan(11, issued=1), plan(12, issued=0))
    run.until(reached(replay, 12))

    outcome = [(one["target"], one["status"], one["before"], one["after"]) for one in results(replay)]
    assert sorted(outcome) == [
        ("shop/od-4", "APPLIED", 2, 4),
        ("shop/od-4", "APPLIED", 4, 1),
        ("shop/re-4", "APPLIED", 0, 1),
    ]
    seen = observations(replay)
    assert all(len(said) == 1 for said in seen.values())
    assert {key for key in seen if key[1] >= 10} == {
        *((f"shop/{offer}", tick) for offer in OFFERS for tick in (10, 11, 12)),
        *((f"bank/{offer}", 10) for offer in OFFERS),
    }
    # The plan of tick 10 acts at 660 s, its end; launched then, ready about 40 s later: within tick 11.
    [at_10], [at_11], [at_12] = (seen["shop/od-4", tick] for tick in (10, 11, 12))
    assert (at_10["ready"], at_10["pending"], at_10["least_ready"], at_10["generation"]) == (2, 2, 2, 2)
    assert len(at_10["pending_ready_s"]) == 2
    # At 720 s the plan of tick 11 has just let three of four go.
    assert (at_11["ready"], at_11["pending"], at_11["least_ready"], at_11["generation"]) == (1, 0, 2, 3)
    assert (at_12["ready"], at_12["least_ready"]) == (1, 1)
    # Reserved: 4 owned since 600 s, used or not; at 660 s 4 * 60 s.
    assert seen["shop/re-4", 10][0]["billed_h"] == pytest.approx(4 / 60)


def test_what_must_be_refused_is(replay: Settings, run: Run) -> None:
    run.start()
    first = command(replay, 10, 3)
    forged = command(replay, 11, 8) | {"max_allowed": 99}
    publish(replay, first, plan(10, issued=1), forged)
    run.until(reached(replay, 10))
    publish(
        replay,
        first,  # replayed
        command(replay, 10, 5),  # another id of the same epoch
        command(replay, 11, 6, lifetime_s=-60.0),  # expired at 660 s, when it came
        command(replay, 12, 7, bounds=(0, 5)),
        plan(11, issued=0),
        plan(12, issued=1),
    )
    run.until(reached(replay, 12))
    reasons = [(one["epoch"], one["status"], one["reason"]) for one in results(replay)]
    assert sorted(reasons) == [
        (10, "APPLIED", ""),
        (10, "REFUSED", "older-epoch"),
        (10, "REFUSED", "replayed"),
        (11, "REFUSED", "expired"),
        (11, "REFUSED", "forged"),
        (12, "REFUSED", "out-of-bounds"),
    ]
    assert final(results(replay))[first["id"]]["status"] == "APPLIED"
    assert observations(replay)["shop/od-4", 12][0]["generation"] == 2


def test_an_unreadable_command_is_a_dead_letter_and_the_next_one_works(replay: Settings, run: Run) -> None:
    actuator = run.start()
    outputs = Outputs(replay)
    for value in (b"\xc3\x01nonsense", None):
        outputs.send("commands", value, key="shop/od-4")
    outputs.flush()
    publish(replay, command(replay, 10, 3), plan(10, issued=1))
    run.until(reached(replay, 10))
    letters = [record for _, record in records(replay, "dead-letters")]
    assert sorted((letter["reason"], letter["value"]) for letter in letters) == [
        ("empty", None),
        ("unknown-schema", b"\xc3\x01nonsense"),
    ]
    assert {(letter["topic"], letter["key"]) for letter in letters} == {("commands", b"shop/od-4")}
    assert [one["status"] for one in results(replay)] == ["APPLIED"]
    assert actuator.positions.to_commit() == []


def test_live_commands_are_applied_at_once(replay: Settings, run: Run) -> None:
    live = replay.model_copy(update={"event_time": False})
    run.settings = live
    now = [700.0]
    run.start(clock=lambda: now[0])
    publish(live, command(live, 10, 4))
    run.until(lambda: bool(results(live)))
    [done] = results(live)
    assert (done["status"], done["accepted_ts"].timestamp()) == ("APPLIED", 700.0)
    [message] = [message for message, _ in records(live, "commands.results")]
    assert header_of(message, "command").endswith(":0")
    # After the change, as of the last whole tick; and then once per tick, for every target that is known.
    assert observations(live)["shop/od-4", 10][0]["pending"] == 2
    now[0] = 790.0
    run.until(lambda: ("shop/re-4", 12) in observations(live))
    assert observations(live)["shop/od-4", 12][0]["ready"] == 4
    assert observations(live)["bank/od-4", 12][0]["ready"] == 2
    assert not [key for key in observations(live) if key[1] == 11]


def test_a_command_that_is_tried_again_when_the_replay_ends_gets_its_final_result(
    replay: Settings, run: Run
) -> None:
    """Also after a restart; until the end is marked it waits, as event time may go on."""
    run.start(Faults(unavailable=1.0, retry_after_s=200.0))
    asked = command(replay, 10, 4)
    publish(replay, asked, plan(10, issued=1))
    run.until(reached(replay, 10))
    assert [one["status"] for one in results(replay)] == ["RETRYING"]
    actuator = run.start(Faults(unavailable=1.0, retry_after_s=200.0))
    for _ in range(40):
        actuator.step(0.05)
    assert [one["status"] for one in results(replay)] == ["RETRYING"]
    outputs = Outputs(replay)
    for topic in RAW:
        for number in range(replay.partitions):
            outputs.publish(
                topic, "watermark", {"ts": 660_000_000}, key=None, partition=number, headers={END_HEADER: "1"}
            )
    outputs.flush()
    run.until(lambda: len(results(replay)) == 3)
    # Issued at 660 s and good for 300 s: tried at 860 s, and due again at 1,060 s, after its end.
    assert [(one["status"], one["reason"]) for one in results(replay)] == [
        ("RETRYING", "unavailable"), ("RETRYING", "unavailable"), ("FAILED", "expired"),
    ]  # fmt: skip
    assert [one["requested_ts"].timestamp() for one in results(replay)] == [660.0, 860.0, 1060.0]
