"""A learner killed between its publication and its snapshot: adjustments, and the plans that follow them, are the same.

The learner's day of known demand is shortened to half an hour, so that its prices are in force within the window.
"""

from dataclasses import replace
from typing import Any

import pytest

from models.learning import schedule
from pipeline.inputs.example import Example
from pipeline.settings import Settings
from pipeline.wire.codec import decode
from tests.faults import replaying
from tests.faults.harm import Deaths, Fault
from tests.faults.replaying import COMPARED, Outcome, Records

STEPS = ["learner flushed 2", "learner folded 7", "learner committed 1"]


def learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn the learner on in the policies of replays."""
    made = Example.of

    def of(*args: Any, **more: Any) -> Example:
        example = made(*args, **more)
        on = {"learner": True, "confidence_of": "TIME"}
        return replace(example, policies=[policy | on for policy in example.policies])

    monkeypatch.setattr("pipeline.demo.run.Example.of", of)


def run(settings: Settings, name: str, fault: Fault) -> tuple[Outcome, Records]:
    """A replay, and its adjustments."""
    fault.environment["LEAST_S"] = "1800"
    folder = settings.data_dir / name
    outcome = replaying.run(settings, folder, fault)
    prefix = replaying.prefix(settings, folder)
    return outcome, replaying.published(settings.model_copy(update={"prefix": prefix}), ["adjustments"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_learner_killed_between_publication_and_snapshot(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning(monkeypatch)
    whole, adjustments = run(settings, "whole", Fault())
    broken, again = run(settings, "killed", Deaths(STEPS))
    replaying.assert_same(broken, whole)

    plans = [decode(value)[1] for value in whole.records["plans"].values()]
    last, tick_s = max(plan["tick"] for plan in plans), plans[0]["tick_s"]
    followed = {plan["versions"]["adjustment"] for plan in plans}
    assert len(followed) > len(plans) // 2
    # what no plan waited for may have come after the run's end
    waited = last - 1 - schedule.epoch_ticks(tick_s)
    records = {key: decode(value)[1] for key, value in adjustments["adjustments"].items()}
    due = {key: record for key, record in records.items() if record["version"] <= waited}
    assert followed - {""} <= {f"{record['app']}@{record['version']}" for record in due.values()}
    assert any(record["allocator"]["shortage_price"] is not None for record in due.values())
    assert {key: again["adjustments"][key] for key in due} == {
        key: adjustments["adjustments"][key] for key in due
    }
    assert "plans" in COMPARED
