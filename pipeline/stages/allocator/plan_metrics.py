"""Sets the Prometheus gauges of plans, of their due time and of stale prices."""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer
from models.metrics import METRICS
from models.tick import Tick
from pipeline.runtime import metrics
from pipeline.wire.codec import Record


def show_plan(plan: Record, usage: NDArray[np.float64], *, learner: bool) -> None:
    """Set the gauges of one app.

    Args:
        plan: record `plan`.
        usage: (METRICS) measured demand of the tick, NaN = not measured.
        learner: whether the policy has the learner on.
    """
    builtin_policy = plan["versions"]["policy"].endswith("@0")  # governs whatever is reported
    app, step = plan["app"], plan["steps"].index(plan["window"][0])
    metrics.COMPLETENESS.labels(app).set(plan["completeness"])
    metrics.FEASIBLE.labels(app).set(plan["feasible"])
    metrics.SHADOW.labels(app).set(plan["mode"] == "shadow")
    metrics.CONFIDENCE.labels(app, "asked").set(plan["confidence_asked"])
    metrics.CONFIDENCE.labels(app, "planned").set(plan["confidence_planned"])
    metrics.COST.labels(app, plan["currency"]).set(float(plan["cost"]))
    metrics.REPLICAS.labels(app).set(plan["replicas"][step])
    metrics.UNREPORTED.labels(app).set(0 if builtin_policy else len(plan["unreported"]))
    if learner:
        metrics.LEARNER_FOLLOWED.labels(app).set(plan["versions"]["adjustment"] != "")
    else:
        with suppress(KeyError):
            metrics.LEARNER_FOLLOWED.remove(app)
    for column, metric in enumerate(plan["metrics"]):
        metrics.REQUIRED.labels(app, metric).set(plan["required"][step][column])
        metrics.DEMAND.labels(app, metric).set(float(usage[METRICS.index(metric)]))


def show_due(shard: int, tick: Tick, lateness_s: int) -> None:
    """Set when the plans of the tick after `tick` are due."""
    metrics.PLAN_DUE.labels(str(shard)).set(tick.end_s + tick.length_s + lateness_s)


def show_prices(offers: Iterable[Offer]) -> None:
    """Set which offers have a stale price."""
    for offer in offers:
        metrics.PRICE_STALE.labels(offer.offer_id).set(bool(offer.stale))


def clear() -> None:
    """Remove what was set: another process may own the partitions from now on."""
    for gauge in metrics.OF_PLANS:
        gauge.clear()
