"""Commands: how one is made and signed, and when an actuator accepts one.

A command is the record `command`: the desired absolute count of one target, signed (`pipeline.wire.signatures`).

An actuator judges, in this order (the first that fails is the result's `reason`):
1. `forged`         no signature, a key that it does not trust, or a signature that does not fit;
2. `replayed`       an id that it has accepted before;
3. `older-epoch`    the target has followed a command of this epoch or a newer one;
4. `expired`        event time has reached `expires`;
5. `out-of-bounds`  `desired` outside [`min_allowed`, `max_allowed`], or negative;
6. `conflict`       somebody else changed the target since the plan saw it: `expected_generation` differs.
Only what is accepted moves the target's epoch, so an epoch never goes back, and a forged one moves nothing.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

from pipeline.security.signing_keys import Keyring, SigningKey
from pipeline.wire import signatures
from pipeline.wire.codec import Record

SCHEMA_VERSION = 3

REPLICAS: Final = "replicas"
"""Id of what an app on shared nodes has instead of offers: a target of kind REPLICAS is `app/replicas`."""

REMEMBERED = 100_000
"""Accepted ids kept for the reason `replayed` (about 10 MB). An id older than these is refused all the same,
as `older-epoch`: the epoch of a target is kept for good."""

FINAL = frozenset({"APPLIED", "NOOP", "REFUSED", "FAILED", "PARTIAL"})
"""Statuses after which nothing more happens to a command; RETRYING is the other."""


@dataclass(frozen=True)
class Target:
    """What a command changes: `ref` is `app/offer`; the rest says where it is.

    Its kind is NODES, instances of an app or of a group whose apps share them, or REPLICAS on shared nodes.
    """

    provider: str
    ref: str
    kind: str = "NODES"
    account: str = ""
    region: str = ""

    @classmethod
    def of(cls, command: Record) -> "Target":
        """The target of a decoded command."""
        return cls(**command["target"])

    @property
    def offer_id(self) -> str:
        """What is bought: the part after the last slash (an app's name may have slashes, an offer's id has
        none)."""
        return self.ref.rpartition("/")[2]

    @property
    def app(self) -> str:
        """Name of the app: the part of `ref` before the last slash."""
        return self.ref.rpartition("/")[0]

    @property
    def is_replicas(self) -> bool:
        """Whether its count is of replicas on shared nodes."""
        return self.kind == "REPLICAS"

    def record(self) -> Record:
        """The target as the field `target` of the schema `command`."""
        return {
            "kind": self.kind,
            "provider": self.provider,
            "account": self.account,
            "region": self.region,
            "ref": self.ref,
        }


def turn(command: Record, *, grows: bool) -> int:
    """Place among the commands of one tick in which no replica on shared nodes loses its room.

    Nodes that grow, replicas that shrink, replicas that grow, nodes that shrink.

    Args:
        command: its record.
        grows: whether it asks for as much as there is, or more.
    """
    if Target.of(command).is_replicas:
        return 2 if grows else 1
    return 0 if grows else 3


def command_id(plan_id: str, ref: str, desired: int) -> str:
    """BLAKE2b (16 bytes, hex) of plan, target and count, each ended by a line feed: the same plan asks
    once."""
    return blake2b(f"{plan_id}\n{ref}\n{desired}\n".encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class CommandSpec:
    """What a command asks for, before it is signed.

    Attributes:
        plan_id: of the plan that issues it.
        order: place among the plan's commands; they are applied in this order.
        target: whose count is set.
        desired: absolute count of instances.
        bounds: least and greatest count allowed.
        epoch: the plan's tick; a target follows no command of an older or the same epoch.
        issued_tick: tick at whose end it was issued.
        issued_s: event time from which it may be applied, unix seconds.
        lifetime_s: it expires so many seconds later.
        resources: per unit, by metric, for targets whose unit can be sized; None: as the offer says.
        drain_s: for how long a released instance finishes its work before it ends.
        victim_rule: which instances a shrink takes first, NEWEST or OLDEST.
        expected_generation: of the target as the plan saw it; None: whatever it is.
        dry_run: judged and answered with NOOP, not applied.
        group, priority: of replicas on shared nodes: the allocation group whose nodes they are on, and the app's place
            among the group's, the higher first.
        zone_share: likewise, largest share of them in one zone; None: no limit.
    """

    plan_id: str
    order: int
    target: Target
    desired: int
    bounds: tuple[int, int]
    epoch: int
    issued_tick: int
    issued_s: float
    lifetime_s: float
    resources: Mapping[str, float] | None = None
    drain_s: float = 0.0
    victim_rule: str = "NEWEST"
    expected_generation: int | None = None
    dry_run: bool = False
    group: str = ""
    priority: int = 0
    zone_share: float | None = None


def build(spec: CommandSpec, key: SigningKey) -> Record:
    """The record `command` of a specification, signed with a key."""
    resources = spec.resources
    command: Record = {
        "schema_version": SCHEMA_VERSION,
        "id": command_id(spec.plan_id, spec.target.ref, spec.desired),
        "plan_id": spec.plan_id,
        "order": spec.order,
        "target": spec.target.record(),
        "offer_id": spec.target.offer_id,
        "desired": spec.desired,
        "min_allowed": spec.bounds[0],
        "max_allowed": spec.bounds[1],
        "resources": None
        if resources is None
        else [{"metric": metric, "value": value} for metric, value in sorted(resources.items())],
        "drain_s": spec.drain_s,
        "victim_rule": spec.victim_rule,
        "expected_generation": spec.expected_generation,
        "epoch": spec.epoch,
        "issued_tick": spec.issued_tick,
        "not_before": datetime.fromtimestamp(spec.issued_s, UTC),
        "expires": datetime.fromtimestamp(spec.issued_s + spec.lifetime_s, UTC),
        "dry_run": spec.dry_run,
        "group": spec.group,
        "priority": spec.priority,
        "zone_share": spec.zone_share,
        "key_id": key.key_id,
        "signature": b"",
    }
    return sign(command, key)


def signed_bytes(command: Record) -> bytes:
    """Bytes that the signature covers (`pipeline.wire.signatures`).

    Raises:
        KeyError: a schema version that was never published.
    """
    return signatures.signed_bytes("command", command)


def sign(command: Record, key: SigningKey) -> Record:
    """The command with that key's id and signature."""
    return signatures.sign("command", command, key)


def verify(command: Record, ring: Keyring) -> bool:
    """Whether the signature is valid and by a key of the ring; False also for an unknown schema version."""
    return signatures.verify("command", command, ring)


@dataclass
class Ledger:
    """Commands that an actuator has accepted: the newest epoch by target, and the ids of recent ones.

    `epochs` never loses a target and never goes back; `ids` keeps the last `REMEMBERED`.
    """

    epochs: dict[str, int] = field(default_factory=dict[str, int])
    ids: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])

    def accept(self, ref: str, epoch: int, identity: str) -> None:
        """Note an accepted command; noting it again, or out of order, changes nothing that matters."""
        self.epochs[ref] = max(epoch, self.epochs.get(ref, epoch))
        self.ids[identity] = None
        if len(self.ids) > REMEMBERED:
            self.ids.popitem(last=False)


def refusal(
    command: Record, *, now_s: float, ledger: Ledger, ring: Keyring, generation: int | None = None
) -> str | None:
    """Why a command is refused, or None when it is accepted. Pure: the caller notes it in the ledger.

    Args:
        now_s: event time, unix seconds.
        ring: public keys by id.
        generation: of the target now, where somebody else than this actuator set it; None: not to be
            compared.
    """
    if not verify(command, ring):
        return "forged"
    if command["id"] in ledger.ids:
        return "replayed"
    last = ledger.epochs.get(command["target"]["ref"])
    if last is not None and command["epoch"] <= last:
        return "older-epoch"
    if now_s >= command["expires"].timestamp():
        return "expired"
    if not max(0, command["min_allowed"]) <= command["desired"] <= command["max_allowed"]:
        return "out-of-bounds"
    if (
        None not in (generation, command["expected_generation"])
        and generation != command["expected_generation"]
    ):
        return "conflict"
    return None


def final(results: Iterable[Record]) -> dict[str, Record]:
    """Last result of each command, by id; a refusal never replaces another result.

    A worker that restarts publishes its last commands again, and an attacker can, or can put a known id on a
    forged
    one: each copy is answered with a refusal, which says nothing about the command that was accepted.
    """
    outcome: dict[str, Record] = {}
    for result in results:
        if result["status"] != "REFUSED" or result["command_id"] not in outcome:
            outcome[result["command_id"]] = result
    return outcome
