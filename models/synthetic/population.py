"""A simulated population whose application events lead its demand: labelled data for demo and training.

Every user has a rhythm of day and week, works in sessions, and sends API calls, queries and interactions.
What an event asks for is consumed `lead_s` later, spread over a few minutes: a model that reads events can know
demand ahead of any model that reads usage alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import DAY_S, EVENT_KINDS, METRICS

# Cost of one event: cpu [core s], memory [B, held for MEMORY_HOLD_S], network [B], disk [B], requests [1]
COST: Final = np.array(
    [
        [0.02, 2e6, 4e4, 2e3, 1.0],  # API_CALL
        [0.08, 6e6, 2e4, 4e5, 1.0],  # DB_QUERY
        [0.04, 4e6, 2e5, 1e4, 1.0],  # INTERACTION
        [0.0, 0.0, 0.0, 0.0, 0.0],  # OTHER
    ]
)
MEMORY_HOLD_S: Final = 600.0
SMEAR_S: Final = 120.0  # the work of an event is done over about two minutes


@dataclass(frozen=True)
class Population:
    """A simulated population over consecutive ticks.

    ticks: (tick) absolute numbers; tick_s their length
    apps, users: (user) names
    values: (tick, user, 5) by METRICS; events: (tick, user, 4) by EVENT_KINDS in 1/s
    saturated: (tick, user, 5)
    lead_s: (user) seconds by which the user's events lead its demand: the label
    in_session: (tick, user): the label of the hidden state
    """

    ticks: NDArray[np.int64]
    tick_s: int
    apps: list[str]
    users: list[str]
    values: NDArray[np.float32]
    events: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    lead_s: NDArray[np.float32]
    in_session: NDArray[np.bool_]


def population(
    *,
    seed: int,
    apps: int = 3,
    users_per_app: int = 20,
    ticks: int = 1440,
    tick_s: int = 60,
    start_tick: int = 0,
    lead_s: tuple[float, float] = (60.0, 240.0),
) -> Population:
    """Simulate `apps * users_per_app` users from a seed.

    Args:
        seed: of all randomness: equal arguments give equal arrays.
        apps: count of applications; their users share bursts of attention.
        users_per_app: users of each.
        ticks: length, in ticks of `tick_s` seconds from `start_tick`.
        tick_s: tick length in seconds.
        start_tick: number of the first tick.
        lead_s: range of the seconds by which a user's events lead its demand.

    Raises:
        ValueError: a count or length is not positive.
    """
    if min(apps, users_per_app, ticks, tick_s) <= 0:
        raise ValueError("apps, users_per_app, ticks and tick_s must be positive")
    rng = np.random.default_rng(seed)
    n = apps * users_per_app
    number = start_tick + np.arange(ticks, dtype=np.int64)
    app = np.repeat(np.arange(apps), users_per_app)

    in_session = _sessions(rng, number * tick_s, n, tick_s)
    bursts = _bursts(rng, ticks, apps, tick_s)[:, app]
    rate = rng.lognormal(-2.5, 1.0, n) * np.where(in_session, 1.0, 0.01) * bursts  # events/s: median 0.08
    mix = rng.dirichlet([4, 2, 3, 0.5], n)  # of EVENT_KINDS, per user
    counts = rng.poisson(rate[..., None] * mix * tick_s)
    events = (counts / tick_s).astype(np.float32)

    lead = rng.uniform(*lead_s, n)
    work = np.stack([_later(events[:, u], lead[u] / tick_s, SMEAR_S / tick_s) for u in range(n)], axis=1)
    cost = COST * rng.lognormal(0, 0.3, (n, *COST.shape))
    load = np.einsum("tue,uem->tum", work, cost)
    memory = METRICS.index("memory")
    keep = np.exp(-tick_s / MEMORY_HOLD_S)
    load[..., memory] = _smooth(keep, (1 - keep) * load[..., memory] * MEMORY_HOLD_S)
    idle = np.array([0.01, 2e8, 100.0, 50.0, 0.0]) * rng.lognormal(0, 0.5, (n, len(METRICS)))
    values = idle + load * rng.lognormal(0, 0.08, load.shape)
    return Population(
        ticks=number,
        tick_s=tick_s,
        apps=[f"app-{a}" for a in app],
        users=[f"user-{u:04d}" for u in range(n)],
        values=values.astype(np.float32),
        events=events,
        saturated=np.zeros(values.shape, bool),
        lead_s=lead.astype(np.float32),
        in_session=in_session,
    )


def _sessions(rng: np.random.Generator, time_s: NDArray[np.int64], n: int, tick_s: int) -> NDArray[np.bool_]:
    """(tick, user): a two-state Markov chain; half-hour sessions, begun most often at the user's own hour."""
    peak_hour, busy = rng.normal(14, 3, n), rng.uniform(0.5, 4.0, n)  # sessions an hour at the peak
    hour = (time_s[:, None] / 3600) % 24
    weekend = time_s // DAY_S % 7 >= 5
    day = np.exp(2 * (np.cos(2 * np.pi * (hour - peak_hour) / 24) - 1))
    begin = 1 - np.exp(-busy * day * np.where(weekend[:, None], 0.3, 1.0) * tick_s / 3600)
    end = 1 - np.exp(-tick_s / 1800)
    draws = rng.random((len(time_s), n))
    active = np.zeros((len(time_s), n), bool)
    now = rng.random(n) < 0.3 * day[0]
    for t in range(len(time_s)):
        now = np.where(now, draws[t] >= end, draws[t] < begin[t])
        active[t] = now
    return active


def _bursts(rng: np.random.Generator, ticks: int, apps: int, tick_s: int) -> NDArray[np.float64]:
    """(tick, app): attention shared by an app's users; one burst a day, threefold, decaying in 20 minutes."""
    keep = np.exp(-tick_s / 1200)
    begins = rng.random((ticks, apps)) < tick_s / DAY_S
    return 1 + _smooth(keep, begins * rng.uniform(1, 4, (ticks, apps)))


def _later(events: NDArray[np.float32], lead: float, smear: float) -> NDArray[np.float64]:
    """Events (tick, 4) as work `lead` ticks later, split over the two nearest, smeared over about `smear`."""
    whole, share = int(lead), lead % 1
    delayed = np.zeros((len(events) + whole + 1, events.shape[1]))
    delayed[whole : whole + len(events)] = (1 - share) * events
    delayed[whole + 1 :] += share * events
    keep = np.exp(-1 / max(smear, 1e-3))
    return _smooth(keep, (1 - keep) * delayed[: len(events)])


def _smooth(keep: float, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """y[t] = keep y[t-1] + x[t], along the first axis."""
    from scipy import signal  # here: it brings scipy.stats, over a second that every command would pay

    return np.asarray(signal.lfilter([1.0], [1.0, -keep], x, axis=0))


def columns() -> list[str]:
    """Names of a population's arrays as columns of a trace file: metrics, then events."""
    return [*METRICS, *(f"events.{kind}" for kind in EVENT_KINDS)]
