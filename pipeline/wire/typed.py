"""Published records as frozen pydantic models, with typed attributes instead of keys, for programs that read them.

The stream itself works on decoded records. Fields and their meaning are the schema's (`schemas/plan`, docs/records.md).
"""

from decimal import Decimal

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)  # a field of a newer schema is left out: readers of today go on


class OfferCount(_Part):
    """Instances of an offer that are wanted, by step."""

    offer_id: str
    desired: tuple[int, ...]


class ConfidenceCost(_Part):
    """What keeping a confidence would cost an hour; None: no purchase keeps it."""

    confidence: float
    cost: Decimal | None


class BindingCell(_Part):
    """The metric and the step, in seconds ahead, that set the number of replicas."""

    metric: str
    step_s: int


class AlternativeCount(_Part):
    """Instances of an offer in a purchase that was not chosen."""

    offer_id: str
    desired: int


class Alternative(_Part):
    """A purchase that was not chosen: its cost an hour, the share of scenarios that it fails in, and why not."""

    counts: tuple[AlternativeCount, ...]
    cost: Decimal
    risk: float
    reason: str


class InputVersions(_Part):
    """Versions (`id@version`) of what the decision was made from; "" and (): none."""

    policy: str
    prices: tuple[str, ...]
    calendar: tuple[str, ...]
    model: str
    adjustment: str
    group_policy: str


class CostLevel(_Part):
    """Replicas, and what they cost an hour with commitments; None: no purchase holds."""

    replicas: int
    cost: Decimal | None


class Margin(_Part):
    """What risk adds: at mean demand and certain supply, at the asked confidence, and with supply as it is."""

    expected: CostLevel
    demand: CostLevel
    purchase: CostLevel


class ExcludedOffer(_Part):
    """An offer of which no more was bought, and why."""

    offer_id: str
    reason: str


class PromotionState(_Part):
    """How a policy's promotion gates stand: furthest mode, share of decisions covered (None: too few), how many."""

    mode: str
    coverage: float | None
    decisions: int


class GroupShare(_Part):
    """An app's part of an offer (instances), of `quota <group>` (instances) or of `budget` (an hour)."""

    of: str
    amount: float


class RefusedRecords(_Part):
    """Records of an app that ingest refused, by the reason of their dead letters."""

    reason: str
    records: int


class CommandAnswer(_Part):
    """The newest result of a command for a target: epoch of the command, status and reason as of `command_result`."""

    epoch: int
    status: str
    reason: str
    after: int | None
    generation: int | None


class ReportedAmount(_Part):
    """What one instance was reported to have of a metric for replicas."""

    metric: str
    value: float


class OfferCapacity(_Part):
    """What was observed of an offer, and what became of the commands for it.

    Attributes:
        tick: of the observation; -1: none was ever reported.
        ready, pending, draining, failed, interrupted: instances.
        generation, managed_by, command_id: who set the desired count last; see `capacity_observed`.
        answer: to the newest command.
        allocatable: by metric, what one instance was reported to have for replicas.
        pending_ready_s: for each pending instance that is expected, seconds until it serves.
        reason: why pending ones have no node; empty where they have.
        autoscaled: of the ready and pending ones, those beyond the desired count that an autoscaler holds.
        in_force: count that the provider last accepted; None: no command was sent yet.
        late: instances of it that should have been ready by now.
        state, detail: what is wrong, as a word and in words; empty where nothing is.
        again_s: event time before which no other command is sent.
    """

    offer_id: str
    tick: int
    ready: int
    pending: int
    draining: int
    failed: int
    interrupted: int
    generation: int
    managed_by: str
    command_id: str | None
    answer: CommandAnswer | None
    allocatable: tuple[ReportedAmount, ...]
    pending_ready_s: tuple[float, ...] = ()
    reason: str = ""
    autoscaled: int = 0
    in_force: int | None
    late: int
    state: str
    detail: str
    again_s: float


class ArmNeed(_Part):
    """Replicas needed with an arm's weights of the experts, at each confidence and then at each price of a curve.

    Attributes:
        arm: its name.
        wanted: in the window of the promise.
        soon: in the steps before it.
    """

    arm: str
    wanted: tuple[int, ...]
    soon: tuple[int, ...]


class NeedCurve(_Part):
    """Replicas needed at other settings; prices are of an hour's shortage, in those of a replica-hour."""

    confidences: tuple[float, ...]
    prices: tuple[float, ...]
    arms: tuple[ArmNeed, ...]


class GroupPart(_Part):
    """An app's part of the nodes that its allocation group shares.

    Attributes:
        app: its name.
        own: cost per hour of what it would need alone; None: not known.
        adds: cost per hour of what the group needs more with it than without it; None: not known.
        tail: its share of the group's need where that is largest.
        mean: the same on average.
    """

    app: str
    own: Decimal | None
    adds: Decimal | None
    tail: float
    mean: float


class PublishedPlan(_Part):
    """A plan from the topic `plans`: what an app needs, what is bought for it, and why.

    Attributes:
        plan_id: `app@tick`.
        allocation_group: apps that are planned together.
        app: its name.
        shard, seq: source partition, and the plan's number in it.
        mode: shadow, canary, auto or paused.
        tick, tick_s: number and seconds of the tick whose telemetry it was made from.
        confidence_asked, confidence_planned: of the policy; share of scenarios in which the instances suffice.
        confidence_of: of the policy: plan or time.
        realised_share: share of the ticks in which capacity sufficed; None: the learner did not measure it.
        steps: seconds ahead.
        metrics, required: names; demand to be carried by step and metric, in the metrics' units.
        alpha: level of the quantiles in `required` at which all hold at once with the confidence asked.
        window: first and last step, in seconds, that the promise covers.
        replicas: needed, by step.
        counts: instances by offer and step.
        cost, currency: of the first step's instances, an hour.
        cost_at: what other confidences would cost.
        binding: what sets the number; None: the policy's minimum.
        reactive_floor: replicas that the present usage needs.
        observed_generation, observed_tick: of the capacity that the plan started from; tick -1: none was reported.
        alternatives: purchases that were not chosen.
        guardrails: names of those that changed the purchase.
        feasible, reason: whether the confidence asked is kept; the decision in words.
        commands_issued: commands that follow from it on the topic `commands`.
        versions: of what it was made from.
        seed: of its scenarios.
        margin: what risk adds to expected demand; None: no offer can be used.
        sum_of_users: what the sum of every user's own 99 % quantile would have taken.
        excluded: offers of which no more was bought.
        promotion: None: the policy has no gates.
        shares: this app's part of what its allocation group shares.
        completeness: share of the app's telemetry that the plan is made from, 0 to 1.
        refused: the app's records that were refused since the tick before.
        unreported: governed metrics that nobody of the app reported in the tick.
        capacity: what was observed of each offer, and what became of the commands for it.
        curve: replicas needed at other settings; empty: the policy follows no learner.
        need: replicas that the tick's demand filled; None: not measured, or a lower bound alone.
        stopped: series that stopped while others of their user report; what they last used counts.
        level: what is counted: INSTANCES of the app alone, REPLICAS on shared nodes, or NODES that apps share.
        parts: of a plan of NODES, by app.
    """

    schema_version: int
    plan_id: str
    allocation_group: str
    app: str
    shard: int
    seq: int
    mode: str
    tick: int
    tick_s: int
    confidence_asked: float
    confidence_planned: float
    confidence_of: str
    realised_share: float | None
    steps: tuple[int, ...]
    metrics: tuple[str, ...]
    required: tuple[tuple[float, ...], ...]
    alpha: float
    window: tuple[int, ...]
    replicas: tuple[int, ...]
    counts: tuple[OfferCount, ...]
    cost: Decimal
    currency: str
    cost_at: tuple[ConfidenceCost, ...]
    binding: BindingCell | None
    reactive_floor: int
    observed_generation: int
    observed_tick: int
    alternatives: tuple[Alternative, ...]
    guardrails: tuple[str, ...]
    feasible: bool
    reason: str
    commands_issued: int
    versions: InputVersions
    seed: int
    margin: Margin | None
    sum_of_users: CostLevel | None
    excluded: tuple[ExcludedOffer, ...]
    promotion: PromotionState | None
    shares: tuple[GroupShare, ...]
    completeness: float
    refused: tuple[RefusedRecords, ...]
    unreported: tuple[str, ...]
    capacity: tuple[OfferCapacity, ...]
    curve: NeedCurve
    need: float | None
    stopped: int
    level: str
    parts: tuple[GroupPart, ...]
