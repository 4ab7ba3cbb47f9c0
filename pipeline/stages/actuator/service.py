"""The actuator: applies the signed commands for its providers, and publishes results and the capacity of each target.

Protocol, which makes a kill at any moment safe:
1. at the start `commands.results` is read to its end: epochs and ids of accepted commands, and the message that each
   result answers (header `command`: partition and offset); then `capacity.observed`, for the known targets, and
   `prices`;
2. a command is applied; the provider keeps its result durably, by command id;
3. results and then observations are published (idempotent producer) and flushed;
4. only then are offsets committed, up to the oldest message that is not finished: a command that waits for its plan or
   is being retried, a plan that waits for its commands.
After a kill between 2 and 3 the command is read again, and the provider answers with the stored result. After one
between 3 and 4 it is read again and recognised by its offset, so that no result is published twice; observations are
published again with the same bytes. A new message with an id that was accepted before is a replay and is refused.

Time. In a replay (`event_time`) event time advances with the plans: once an app's plan for a tick and all of its
commands have been read, they are applied as of the end of that tick, growth before release, and each of the app's
targets is observed as of that moment. On shared nodes so are all plans of a group together (`plan_order`). When the
replay has ended (`replay_end`), commands that are still being retried are applied, or expire, at the times at which
they are due. Live, commands are applied when they arrive, and targets are observed after each change and once per tick;
after a change of shared nodes, replicas of all apps on them are.

One process runs per provider. It reads all partitions, because an app's plans and commands are in different ones.
"""

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import inf

from confluent_kafka import OFFSET_BEGINNING, Message

from pipeline.errors import Poison
from pipeline.kafka import installation, topics
from pipeline.kafka.producer import Outputs
from pipeline.kafka.reader import batch, bounds, reader, records, whole
from pipeline.logs import get_logger
from pipeline.providers.base import Provider, Record
from pipeline.providers.local import local_provider
from pipeline.providers.local_replicas import ReplicaSet
from pipeline.runtime import metrics
from pipeline.security.signing_keys import Keyring, keyring
from pipeline.settings import Settings
from pipeline.stages.actuator.executor import TELLS_NOTHING, Executor, Outcome, Stopped, observed, result
from pipeline.stages.actuator.offsets import TIMEOUT_S, Positions, offsets_call
from pipeline.stages.actuator.plan_order import PlanOrder, Queue, Unit, in_order
from pipeline.stages.actuator.replay_end import last_tick
from pipeline.wire.codec import Codec
from pipeline.wire.commands import FINAL, REPLICAS, Target, verify
from pipeline.wire.messages import Position, dead_letter, header_of, letter_key, position_of

BATCH = 1_000  # messages a poll: a plan's commands are a few
LOOK_FOR_END_S = 1.0
"""How often an idle actuator with commands that are being tried again looks whether the replay has ended."""
log = get_logger("leadtime.actuator")


class Actuator:
    """Consumes commands, plans and prices; publishes results and observed capacity.

    Args:
        settings: of the installation.
        providers: by the name in targets.
        ring: public keys whose commands are followed.
        clock: the wall clock in Unix seconds; only used live.
        timeout_s: longest time of a provider's call.
        stopping: returns whether to give up during long calls.
    """

    def __init__(
        self,
        settings: Settings,
        providers: Mapping[str, Provider],
        ring: Keyring,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = 10.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings, self.clock = settings, clock
        self.executor = Executor(providers, ring, timeout_s, stopping)
        self.order = PlanOrder()
        self.positions = Positions()
        self.codec = Codec(settings.registry_url)
        self.plans = topics.name("plans", settings)
        self.commands = topics.name("commands", settings)
        self.prices = topics.name("prices", settings)
        self.offers: dict[str, Record] = {}
        self.targets: dict[str, set[str]] = defaultdict(
            set
        )  # offer ids by app, or by group whose apps share nodes
        self._groups: dict[str, str] = {}  # on whose nodes an app's replicas are
        self._replicas_at: dict[str, str] = {}  # provider of an app's last command of replicas
        self._counts: dict[
            str, tuple[int, int]
        ] = {}  # tick and instances or replicas of a target's last observation
        self._answered: dict[tuple[int, int], Record] = {}  # last result by a command's partition and offset
        self._resuming: set[tuple[int, int]] = set()
        self._at: dict[str, Position] = {}  # of commands that are not finished, by id
        self._observed_to: dict[str, int] = defaultdict(lambda: -1)  # newest tick of an observation, by app
        self._committed: dict[tuple[str, int], int] = {}
        self._look_for_end_s = 0.0
        self._observed_tick = int(clock() // settings.tick_s) - 1
        self._outputs = Outputs(settings)
        self._consumer = reader(
            settings,
            f"actuator-{'-'.join(sorted(providers))}",
            {"error_cb": lambda error: log.warning("kafka", error=error.str()), "log_level": 0},
        )

    def restore(self) -> None:
        """Restore the state from the topics: step 1 of the module's protocol.

        Raises:
            Unreachable: Kafka does not answer.
        """
        mine = [*whole(self._consumer, self.plans), *whole(self._consumer, self.commands)]
        committed = offsets_call(lambda: self._consumer.committed(mine, timeout=TIMEOUT_S))
        for at in committed:
            at.offset = OFFSET_BEGINNING if at.offset < 0 else at.offset
        self._committed = {(at.topic, at.partition): at.offset for at in committed if at.offset >= 0}
        begin = {at.partition: max(at.offset, 0) for at in committed if at.topic == self.commands}
        for message, record in records(self.settings, "commands.results"):
            self.executor.note(record)
            if record["status"] != "REFUSED":
                self.executor.ledger.accept(record["target"], record["epoch"], record["command_id"])
            partition, _, offset = header_of(message, "command").partition(":")
            if offset and int(offset) >= begin.get(int(partition), 0):
                self._answered[int(partition), int(offset)] = record
        self._resuming = {at for at, last in self._answered.items() if last["status"] not in FINAL}
        for _, record in records(self.settings, "capacity.observed"):
            self.targets[record["app"]].add(record["offer_id"])
            self._observed_to[record["app"]] = max(self._observed_to[record["app"]], record["tick"])
            self._note_counts(record)
        followed: dict[int, int] = {}
        for message, record in records(self.settings, "prices"):
            self._price(record)
            _, partition, offset = position_of(message)
            followed[partition] = offset + 1
        if any(REPLICAS in offers for offers in self.targets.values()):
            for provider in self.executor.providers:
                self.executor.can_share_nodes(provider)
        for at in whole(self._consumer, self.prices):
            at.offset = followed.get(at.partition, OFFSET_BEGINNING)
            committed.append(at)
        self._consumer.assign(committed)

    def step(self, timeout_s: float) -> None:
        """Process the messages that arrive within `timeout_s`: steps 2 to 4 of the module's protocol.

        Raises:
            Unreachable: results could not be published; no offset is committed.
            Stopped: a provider's call was given up because the process is being stopped.
            Exhausted: a provider's call failed for the machine; results of the step are perhaps not published.
        """
        arrived = self._arrived(timeout_s)
        for position, record in arrived:
            if position[0] == self.plans:
                self._plan(position, record)
        commands = [item for item in arrived if item[0][0] == self.commands]
        commands.sort(key=lambda item: (item[1]["epoch"], item[1]["order"]))
        if not self.settings.event_time:
            commands = self._with_room(commands)
        for position, record in commands:
            self._command(position, record)
        if self.settings.event_time:
            self._advance()
            if not arrived and self.executor.retries:
                self._end()
        else:
            self._live()
        self._commit()

    def next_offsets(self) -> dict[tuple[str, int], int]:
        """Next offset to read, by (topic on the cluster, partition)."""
        at = self._consumer.position(self._consumer.assignment())
        return {(place.topic, place.partition): place.offset for place in at if place.offset >= 0}

    def close(self) -> None:
        """Leave the group; offsets of an interrupted step are not committed."""
        self._consumer.close()

    # What arrives.

    def _arrived(self, timeout_s: float) -> list[tuple[Position, Record]]:
        """Read a batch: prices are kept at once; plans and commands are returned with their positions."""
        arrived: list[tuple[Position, Record]] = []
        for message in batch(self._consumer, BATCH, timeout_s):
            error = message.error()
            if error is not None:
                log.warning("kafka", error=error.str())
                continue
            position = position_of(message)
            record = self._decode(message, position)
            if position[0] == self.prices:
                if record is not None:
                    self._price(record)
                continue
            self.positions.read(position)
            if record is None:
                self.positions.finish(position)
            else:
                arrived.append((position, record))
        return arrived

    def _price(self, price: Record) -> None:
        self.offers[price["offer_id"]] = price
        self.executor.offered(price)

    def _plan(self, position: Position, plan: Record) -> None:
        if self.settings.event_time:
            self.order.add_plan(position, plan)
        else:
            self._note_targets(plan)
            self.positions.finish(position)

    def _note_targets(self, plan: Record) -> None:
        self.targets[plan["app"]].update(count["offer_id"] for count in plan["counts"])
        if plan["level"] == "REPLICAS":
            self.targets[plan["app"]].add(REPLICAS)
        if REPLICAS in self.targets[plan["app"]]:
            self._groups[plan["app"]] = plan["allocation_group"]

    def _command(self, position: Position, command: Record) -> None:
        answer = self._answered.get(position[1:])
        if answer and position[1:] in self._resuming:
            self._resuming.discard(position[1:])
            self._at[command["id"]] = position
            self.executor.resume(command, answer)
        if not self.settings.event_time:
            self._submit(position, command, self.clock())
        elif not verify(command, self.executor.ring):
            self._refuse(position, command, "forged")
        elif not self.order.add_command(position, command):
            self._refuse(position, command, "replayed")

    def _refuse(self, position: Position, command: Record, reason: str) -> None:
        """Refuse a command of a replay as it is read; the result's time is the command's `not_before`."""
        if self.executor.owns(command) and self._answered.pop(position[1:], None) is None:
            now_s = command["not_before"].timestamp()
            self._answer(position, result(command, "REFUSED", reason, now_s))
        self.positions.finish(position)

    # What is done.

    def _submit(self, position: Position, command: Record, now_s: float) -> None:
        """Apply a command, unless its message was answered before or its provider is another actuator's."""
        answer = self._answered.pop(position[1:], None)
        self._note_replicas(command)
        if answer is None and self.executor.owns(command):
            outcomes = self.executor.submit(command, now_s)
            if outcomes[-1][1]["status"] == "REFUSED":  # perhaps a repeat of one that is being tried again
                self._answer(position, outcomes[-1][1])
                self.positions.finish(position)
                if not self.settings.event_time and outcomes[-1][1]["reason"] not in TELLS_NOTHING:
                    self._observe_now(command)
            else:
                self._at[command["id"]] = position
                self._settle(outcomes)
        elif answer is None or answer["status"] in FINAL:
            self.positions.finish(position)

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        for command, settled in outcomes:
            position = self._at[command["id"]]
            self._answer(position, settled)
            if settled["status"] in FINAL:
                self.positions.finish(position)
                del self._at[command["id"]]
            if not self.settings.event_time:
                self._observe_now(command)

    def _observe_now(self, command: Record) -> None:
        """Observe a command's target at once, for the last whole tick; live only.

        Of shared nodes, also what becomes of the replicas.
        """
        target, tick = Target.of(command), int(self.clock() // self.settings.tick_s) - 1
        self.targets[target.app].add(target.offer_id)
        self._observe(target.app, target.offer_id, tick)
        if not target.is_replicas:
            for app in sorted(app for app, group in self._groups.items() if group == target.app):
                self._observe(app, REPLICAS, tick)

    def _note_replicas(self, command: Record) -> None:
        target = Target.of(command)
        if target.is_replicas and self.executor.owns(command):
            self._groups[target.app], self._replicas_at[target.app] = command["group"], target.provider

    def _with_room(self, commands: list[tuple[Position, Record]]) -> list[tuple[Position, Record]]:
        """Commands by epoch, and within one those of shared nodes so that no replica loses its room."""
        for _, command in commands:
            self._note_replicas(command)
        shared = {*self._groups, *self._groups.values()}
        by_epoch: dict[int, list[tuple[Position, Record]]] = defaultdict(list)
        for item in commands:
            by_epoch[item[1]["epoch"]].append(item)

        def grows(command: Record) -> bool:
            return Target.of(command).app not in shared or self._grows(command)

        return [item for epoch in sorted(by_epoch) for item in in_order(by_epoch[epoch], grows)]

    def _grows(self, command: Record) -> bool:
        """Whether a command asks for as much as was accepted or, before the first one, observed, or for more."""
        ref, epoch = command["target"]["ref"], command["epoch"]
        before = self.executor.accepted(ref, epoch)
        if before is None:
            tick, count = self._counts.get(ref, (-1, 0))
            before = count if tick < epoch else 0
        return command["desired"] >= before

    def _note_counts(self, record: Record) -> None:
        count = record["ready"] + record["pending"] + record["failed"]
        self._counts[record["target"]] = record["tick"], count

    def _advance(self) -> None:
        """Process complete units of plans in order, then the commands that no plan can claim; in a replay only."""
        if self._resuming:
            return  # commands that were being tried again come first, or their retries would be late
        moved = True
        while moved:  # a unit of shared nodes may wait for a repeated plan of an app to be dropped
            moved = False
            for queue in self.order.queues():
                moved |= self._process(queue)
        for position, command, now_s in self.order.strays():
            self._submit(position, command, now_s)

    def _process(self, queue: Queue) -> bool:
        """Process a queue's complete units; whether there were any."""
        moved = False
        while (unit := self.order.head(queue)) is not None and self._apply(unit):
            self.order.pop(unit)
            for position, _ in unit.plans:
                self.positions.finish(position)
            moved = True
        return moved

    def _apply(self, unit: Unit) -> bool:
        """Apply a unit's commands and observe its targets, as of the end of its tick; False: a price is on the way."""
        if unit.repeated:
            return True
        bought = {count["offer_id"] for _, plan in unit.plans for count in plan["counts"]} - {REPLICAS}
        if not bought <= self.offers.keys():
            return False
        for _, plan in unit.plans:
            self._note_targets(plan)
        self._settle(self.executor.retry(unit.end_s, unit.names))
        for at, command in in_order(unit.commands, self._grows) if unit.shared else unit.commands:
            self._submit(at, command, unit.end_s)
        for app in unit.names:
            for offer_id in sorted(self.targets[app]):
                self._observe(app, offer_id, unit.tick, unit.tick_s)
        return True

    def _end(self) -> None:
        """Apply the commands that are still being retried when a replay has ended, at the times at which they are due.

        They would wait for ever otherwise, as no further plan advances event time. Each is applied by a retry, or
        FAILED with `expired`.
        """
        now_s = time.monotonic()
        if now_s < self._look_for_end_s or self.order.queues() or not self._caught_up():
            return
        self._look_for_end_s = now_s + LOOK_FOR_END_S
        last = last_tick(self.settings)
        if last is None:
            return
        for app in sorted({Target.of(retry.command).app for retry in self.executor.retries.values()}):
            if max(self.order.done(app), self._observed_to[app]) >= last:
                self._settle(self.executor.retry(inf, (app,)))

    def _caught_up(self) -> bool:
        """Whether all plans and commands that are in the topics have been read."""
        # A partition of which nothing has come since the start has no position: it stands where it was committed.
        read, ends = self._committed | self.next_offsets(), dict[tuple[str, int], int]()
        for topic in ("plans", "commands"):
            for number in range(self.settings.partitions):
                ends[topics.name(topic, self.settings), number] = bounds(self.settings, topic, number)[1]
        return all(read.get(at, 0) >= end for at, end in ends.items())

    def _live(self) -> None:
        self._settle(self.executor.retry(self.clock()))
        tick = int(self.clock() // self.settings.tick_s) - 1
        if tick > self._observed_tick:
            self._observed_tick = tick
            for app, offers in sorted(self.targets.items()):
                for offer_id in sorted(offers):
                    self._observe(app, offer_id, tick)

    def _observe(self, app: str, offer_id: str, tick: int, tick_s: int | None = None) -> None:
        """Publish `capacity.observed` of a target, if this actuator has the offer's provider."""
        target = self._target(app, offer_id)
        if target is None or target.provider not in self.executor.providers:
            return
        tick_s = tick_s or self.settings.tick_s
        now_s = float((tick + 1) * tick_s) if self.settings.event_time else self.clock()
        record = self.executor.observe(target, tick, tick_s, now_s)
        if record is not None:
            self._note_counts(record)
            self._outputs.publish("capacity.observed", "capacity_observed", record, key=target.ref)

    def _target(self, app: str, offer_id: str) -> Target | None:
        """A target; None while no price tells its provider.

        Replicas are at the provider of their last command; until one is known, at the first by name of those that have
        offers in the group's plan.
        """
        if offer_id != REPLICAS:
            price = self.offers.get(offer_id)
            return Target(price["provider"], f"{app}/{offer_id}", region=price["region"]) if price else None
        provider = self._replicas_at.get(app)
        if provider is None:
            nodes = self.targets.get(self._groups.get(app, ""), ())
            provider = min((self.offers[o]["provider"] for o in nodes if o in self.offers), default=None)
        return None if provider is None else Target(provider, f"{app}/{REPLICAS}", kind="REPLICAS")

    # Kafka.

    def _decode(self, message: Message, position: Position) -> Record | None:
        """Decode a message; publish a dead letter and return None if it cannot be decoded or has the wrong schema."""
        topic = {self.plans: "plans", self.commands: "commands", self.prices: "prices"}[position[0]]
        try:
            name, record = self.codec.decode(message.value() or b"")
            if name not in topics.TOPICS[topic].schemas:
                raise Poison("wrong-schema", f"a {name} on {topic}")
        except Poison as error:
            metrics.DROPPED.labels("actuator", error.reason).inc()
            letter = dead_letter(topic, message, error.reason, error.detail)
            self._outputs.publish("dead-letters", "dead_letter", letter, key=letter_key(letter))
            return None
        return record

    def _answer(self, at: Position, record: Record) -> None:
        self.executor.note(record)
        if record["status"] == "REFUSED":
            metrics.DROPPED.labels("actuator", record["reason"]).inc()
        headers = {"command": f"{at[1]}:{at[2]}"}
        self._outputs.publish(
            "commands.results", "command_result", record, key=record["target"], headers=headers
        )

    def _commit(self) -> None:
        self._outputs.flush()
        offsets = self.positions.to_commit()
        if offsets:
            offsets_call(lambda: self._consumer.commit(offsets=offsets, asynchronous=False))


def run(
    settings: Settings,
    providers: Mapping[str, Provider] | None = None,
    *,
    stop: threading.Event | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run an actuator until SIGTERM, SIGINT or `stop`.

    Args:
        settings: of the installation.
        providers: by the name in targets; None = the local provider in the data folder.
        stop: ends the run when set; in a thread other than the main one no signals are handled.
        ready: called when the actuator begins to follow commands.

    Raises:
        UsageError: no key to verify with, another actuator uses the local provider's folder, or the tick that is set
            is not the installation's.
        Unreachable: Kafka does not answer.
        Exhausted: the disk is full or read-only, or there are no file handles: run again once this has passed.
    """
    settings = installation.settled(settings)
    stopping = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
    ring = keyring(settings)
    local = None
    if providers is None:
        local = local_provider(settings)
        providers = {"local": local}
    actuator, vitals = Actuator(settings, providers, ring, stopping=stopping.is_set), metrics.Vitals()
    metrics.serve("actuator", vitals, settings)
    try:
        actuator.restore()
        metrics.watch_lag("actuator", actuator.next_offsets, settings)
        vitals.ready = True
        ready()
        while not stopping.is_set():
            actuator.step(0.1)
            vitals.beat()
    except Stopped:
        pass
    finally:
        actuator.close()
        if local is not None:
            local.close()


def starting_capacity(
    settings: Settings,
    counts: Mapping[str, Mapping[str, int]],
    tick: int,
    replicas: Mapping[str, ReplicaSet] | None = None,
) -> None:
    """Give targets of the local provider ready instances at the start of `tick`, and publish their observed capacity.

    The records `capacity.observed` are of `tick` - 1, from which the plan for `tick` starts. A target that exists
    already keeps its state. Reserved offers must be listed, with 0 too: they are billed from this moment on.

    Args:
        settings: of the installation.
        counts: instances by app, or by group whose apps share them, and offer id; the offers' prices must be on the
            topic `prices`.
        tick: number of the first tick that will be planned.
        replicas: by app, those on shared nodes, which serve at once as far as the nodes have room.

    Raises:
        UsageError: another process uses the local provider's folder.
        Unreachable: Kafka does not answer.
    """
    outputs, local = Outputs(settings), local_provider(settings)
    at_s = float(tick * settings.tick_s)
    try:
        prices = [price for _, price in records(settings, "prices")]
        regions = {price["offer_id"]: price["region"] for price in prices}
        for price in prices:
            local.offered(price)
        targets: list[Target] = []
        for app, offers in sorted(counts.items()):
            for offer_id, count in sorted(offers.items()):
                targets.append(Target("local", f"{app}/{offer_id}", region=regions.get(offer_id, "")))
                local.start(targets[-1], count, at_s)
        for app, wanted in sorted((replicas or {}).items()):
            targets.append(Target("local", f"{app}/{REPLICAS}", kind="REPLICAS"))
            local.start_replicas(targets[-1], wanted, at_s)
        for target in targets:
            record = observed(target, tick - 1, local.observe(target, at_s))
            outputs.publish("capacity.observed", "capacity_observed", record, key=target.ref)
        outputs.flush()
    finally:
        local.close()
