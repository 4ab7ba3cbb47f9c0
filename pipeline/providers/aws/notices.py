"""Spot warnings and rebalance recommendations, from an SQS queue that EventBridge fills.

A message is deleted once what it says is over, not when it was read: a restart reads it again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from pipeline.providers.aws.api import Call

BATCH: Final = 10
"""Messages in a request: the most that the API gives."""
BATCHES: Final = 10
"""Requests to a queue in one poll."""
HIDDEN_S: Final = 30
"""For how long a message that was read is not given again."""
WARNING: Final = "EC2 Spot Instance Interruption Warning"
REBALANCE: Final = "EC2 Instance Rebalance Recommendation"
LASTS_S: Final[Mapping[str, float]] = {WARNING: 300.0, REBALANCE: 900.0}
"""For how long a notice counts: an interruption comes two minutes after its warning."""


@dataclass(frozen=True)
class Notice:
    """That an instance will be taken back; kind: of the event; at_s: its time, unix seconds."""

    kind: str
    instance: str
    at_s: float

    def counts(self, now_s: float) -> bool:
        """Whether it is not over yet."""
        return now_s < self.at_s + LASTS_S[self.kind]


@dataclass
class Notices:
    """Notices of instances, by instance; a warning counts before a recommendation."""

    of: dict[str, Notice] = field(default_factory=dict[str, Notice])

    def read(self, call: Call, queue: str, now_s: float) -> None:
        """Read what a queue has.

        Raises:
            Retryable, Rejected: as AWS answers.
        """
        self.of = {name: notice for name, notice in self.of.items() if notice.counts(now_s)}
        for _ in range(BATCHES):
            answer = call.request(
                "ReceiveMessage",
                service="sqs",
                QueueUrl=queue,
                MaxNumberOfMessages=BATCH,
                VisibilityTimeout=HIDDEN_S,
            )
            messages: list[dict[str, Any]] = answer.get("Messages") or []
            over = [message for message in messages if not self._note(str(message.get("Body")), now_s)]
            if over:
                entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(over)]
                call.request("DeleteMessageBatch", service="sqs", QueueUrl=queue, Entries=entries)
            if len(messages) < BATCH:
                return

    def _note(self, body: str, now_s: float) -> bool:
        """Keep what a message says; returns whether it counts."""
        notice = parse(body)
        if notice is None or not notice.counts(now_s):
            return False
        known = self.of.get(notice.instance)
        if known is None or known.kind == REBALANCE:
            self.of[notice.instance] = notice
        return True


def parse(body: str) -> Notice | None:
    """The notice that a message has; None: none."""
    try:
        event: Any = json.loads(body)
        kind, at = event["detail-type"], datetime.fromisoformat(event["time"])
        instance = event["detail"]["instance-id"]
        if kind not in LASTS_S or not isinstance(instance, str) or at.tzinfo is None:
            return None
        return Notice(cast("str", kind), instance, at.timestamp())
    except (ValueError, TypeError, KeyError):
        return None
