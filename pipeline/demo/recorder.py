"""Follows a run's output topics: progress while it goes, and everything for its summary. Only reads."""

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from models.evaluation import interval_coverage
from models.metrics import METRICS
from models.quantile_function import QuantileFunction
from models.random_streams import stream
from models.totals import total
from pipeline.errors import Poison
from pipeline.kafka import reader, topics
from pipeline.security.pseudonyms import PSEUDONYM_BYTES
from pipeline.settings import Settings
from pipeline.wire import commands
from pipeline.wire.codec import Codec, Record
from pipeline.wire.forecasts import unpack

FOLLOWED = (
    "behaviour.frames", "forecasts", "forecasts.apps", "plans", "commands", "commands.results", "capacity.observed",
    "hold.notices", "dead-letters", "adjustments",
)  # fmt: skip

SHARDED = ("behaviour.frames", "forecasts", "forecasts.apps")
"""Topics with several parts for each tick of a shard."""


class Coverage:
    """Share of what happened that lay inside the 95 % intervals, over users, metrics and steps.

    By the randomised probability integral transform (docs/scoring.md): a seeded draw splits ties with a flat part.
    Censored samples are scored apart: what they were cannot be known.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scored = self.inside = self.censored = 0
        self._made: dict[int, dict[int, tuple[dict[bytes, int], list[str], list[int], QuantileFunction]]] = {}

    def add(self, parts: list[Record]) -> None:
        """A shard's forecasts of one tick: they hold what was observed in it, and what is expected next."""
        head = parts[0]
        shard, tick, tick_s = head["shard"], head["tick"], head["tick_s"]
        forecast, observed, censored, _ = unpack(parts)
        users = b"".join(part["users"] for part in parts)
        ids = [users[i : i + PSEUDONYM_BYTES] for i in range(0, len(users), PSEUDONYM_BYTES)]
        made = self._made.setdefault(shard, {})
        for before, (rows, metrics, steps, quantiles) in made.items():
            common = [m for m in head["metrics"] if m in metrics]
            known = [user for user in ids if user in rows]
            if (tick - before) * tick_s not in steps or not common or not known:
                continue
            observed_cells = np.ix_([ids.index(u) for u in known], [head["metrics"].index(m) for m in common])
            forecast_cells = np.ix_([rows[u] for u in known], [metrics.index(m) for m in common])
            step = steps.index((tick - before) * tick_s)
            part = QuantileFunction(
                *(getattr(quantiles, f)[:, :, step][forecast_cells] for f in ("location", "scale", "offsets"))
            )
            draws = stream(np, self.seed, b"coverage", shard, before, tick).random(part.shape)
            counted = interval_coverage.counts(
                part, observed[observed_cells], censored[observed_cells], draws
            )
            self.scored += counted.scored
            self.inside += counted.inside
            self.censored += counted.censored
        made[tick] = ({user: row for row, user in enumerate(ids)}, head["metrics"], head["steps"], forecast)
        for old in [t for t in made if (tick - t) * tick_s >= head["steps"][-1]]:
            del made[old]

    @property
    def share(self) -> float:
        """NaN before anything is scored."""
        return self.inside / self.scored if self.scored else float("nan")


class Watch:
    """Everything that a run publishes, without repeats."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.codec = settings, Codec(settings.registry_url)
        self.names = {topics.name(topic, settings): topic for topic in FOLLOWED}
        self.counts: Counter[str] = Counter()
        self.framed: dict[int, int] = {}
        self.usage: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        self.totals: dict[str, dict[int, Record]] = defaultdict(dict)
        self.plans: dict[str, dict[int, Record]] = defaultdict(dict)
        self.adjustments: dict[str, dict[int, Record]] = defaultdict(dict)
        self.commands: dict[str, Record] = {}
        self.results: list[Record] = []
        self.observed: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
        self.dead_letters: dict[tuple[str, int, int], Record] = {}
        self.notices: list[Record] = []
        self.coverage = Coverage(settings.seed)
        self._seen: set[tuple[str, int, int, int]] = set()
        self._parts: dict[tuple[int, int], list[Record]] = {}
        self._keep: dict[str, Callable[[Record], object]] = {
            "behaviour.frames": self._frame,
            "forecasts": self._forecast,
            "forecasts.apps": self._app_forecasts,
            "plans": lambda plan: self.plans[plan["app"]].setdefault(plan["tick"], plan),
            "adjustments": lambda made: self.adjustments[made["app"]].setdefault(made["version"], made),
            "commands": lambda command: self.commands.setdefault(command["id"], command),
            "commands.results": self.results.append,
            "capacity.observed": self._capacity,
            "hold.notices": self.notices.append,
            "dead-letters": self._dead_letter,
        }
        self._consumer = reader.reader(settings)
        self._consumer.assign([at for name in self.names for at in reader.whole(self._consumer, name)])

    def poll(self, timeout_s: float = 0.2) -> int:
        """Take what has come; say how many messages that was."""
        messages = reader.batch(self._consumer, 500, timeout_s)
        taken = 0
        for message in messages:
            if message.error() is None:
                self._take(self.names[message.topic() or ""], self.codec.decode(message.value() or b"")[1])
                taken += 1
        return taken

    def close(self) -> None:
        """Stop following."""
        self._consumer.close()

    def _new(self, topic: str, record: Record) -> bool:
        key = (topic, record["shard"], record["seq"], record["part"])
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _take(self, topic: str, record: Record) -> None:
        """Keep a record; a repeat of a part of a shard's tick is dropped."""
        if topic not in SHARDED or self._new(topic, record):
            self._keep[topic](record)

    def _app_forecasts(self, record: Record) -> None:
        for row, index in enumerate(np.frombuffer(record["app_index"], "<u4")):
            self.totals[record["apps"][index]][record["tick"]] = record | {"row": row}

    def _capacity(self, record: Record) -> None:
        self.observed[record["app"]][record["offer_id"]].setdefault(record["tick"], record)

    def _dead_letter(self, letter: Record) -> None:
        self.dead_letters.setdefault((letter["topic"], letter["partition"], letter["offset"]), letter)

    def _frame(self, frame: Record) -> None:
        users = len(frame["users"]) // PSEUDONYM_BYTES
        index = np.frombuffer(frame["app_index"], "<u4")
        values = np.frombuffer(frame["values"], "<f4").reshape(len(METRICS), users).astype(np.float64)
        self.counts["frames"] += frame["part"] == 0
        self.counts["samples"] += int(np.frombuffer(frame["samples"], "<u4").sum())
        self.counts["events"] += int(np.frombuffer(frame["events"], "<u4").sum())
        self.counts["late"] += frame["late"] if frame["part"] == 0 else 0
        self.framed[frame["shard"]] = max(self.framed.get(frame["shard"], 0), frame["tick"])
        for number, app in enumerate(frame["apps"]):
            mine = values[:, index == number]
            if not mine.shape[1]:
                continue
            before = self.usage[app].get(frame["tick"], np.full(len(METRICS), np.nan))
            self.usage[app][frame["tick"]] = total(np.stack([before, total(mine, axis=1)]))

    def _forecast(self, record: Record) -> None:
        self.counts["forecasts"] += len(record["users"]) // PSEUDONYM_BYTES
        key = (record["shard"], record["tick"])
        parts = self._parts.setdefault(key, [])
        parts.append(record)
        if len(parts) == record["of"]:
            self.coverage.add(sorted(self._parts.pop(key), key=lambda part: part["part"]))

    def framed_until(self) -> int | None:
        """The last tick that all shards have framed; None while a shard has no frame."""
        return min(self.framed.values()) if len(self.framed) == self.settings.partitions else None

    def planned_until(self) -> int | None:
        """The last tick for which all apps that were framed so far have a plan; None before the first.

        An app that comes late is waited for once it has come, one that ingest refuses altogether never.
        """
        newest = [max(self.plans[app], default=None) for app in self.usage]
        return None if None in newest or not newest else min(tick for tick in newest if tick is not None)

    def app_of(self, letter: Record) -> str:
        """The app that a dead letter's record names; "" where it cannot be read."""
        try:
            return self.codec.decode(letter["value"] or b"")[1].get("app", "")
        except Poison:
            return ""

    def settled(self) -> bool:
        """Whether every plan's commands are there and have a final result, and its targets are observed."""
        final = commands.final(self.results)
        issued = sum(plan["commands_issued"] for plans in self.plans.values() for plan in plans.values())
        if len(self.commands) < issued or not all(
            i in final and final[i]["status"] in commands.FINAL for i in self.commands
        ):
            return False
        return all(
            max(self.plans[app]) in ticks
            for app, offers in self.observed.items()
            if self.plans[app]  # capacity that was started with, of an app that never came
            for ticks in offers.values()
        )
