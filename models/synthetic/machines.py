"""Simulated machines: telemetry of many kinds, so that what is learnt does not rest on a few traces alone.

Each machine has a few drivers of its own (drift, ramps that fall, a daily rhythm, scheduled jobs, bursts, phases of
work and rest), and each of its metrics is a sparse mixture of them with noise, sometimes rounded, sometimes zero
below a threshold. It is what KernelSynth is to Chronos (Ansari et al. 2024), for infrastructure.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from models.metrics import DAY_S, METRICS

SCHEDULES_S: Final = (300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
SCALES: Final = np.array([0.5, 2e9, 2e5, 1e5, 20.0])  # of METRICS: a small machine

Array = NDArray[np.float64]


def machines(*, seed: int, users: int, ticks: int, tick_s: int) -> NDArray[np.float32]:
    """Values (tick, user, 5) by METRICS of ticks from number 0; equal arguments give equal arrays."""
    rng = np.random.default_rng(seed)
    time = np.arange(ticks, dtype=np.float64) * tick_s
    return np.stack([_machine(rng, time, tick_s) for _ in range(users)], axis=1).astype(np.float32)


def _machine(rng: np.random.Generator, time: Array, tick_s: int) -> Array:
    """(tick, 5) of one machine."""
    drivers = np.stack(
        [
            _drift(rng, len(time), tick_s),
            _drift(rng, len(time), tick_s),
            _ramps(rng, len(time), tick_s),
            _rhythm(rng, time),
            _schedule(rng, time, tick_s),
            _schedule(rng, time, tick_s),
            _bursts(rng, len(time), tick_s),
        ],
        axis=1,
    )
    phases = _phases(rng, len(time), tick_s) if rng.random() < 0.2 else 1.0
    own = rng.lognormal(0, 1, (drivers.shape[1], len(METRICS)))
    own *= rng.random(own.shape) < 0.4
    load = rng.choice([0.0, 0.1, 1.0], len(METRICS)) + drivers @ own
    load *= np.reshape(phases, (-1, 1))
    noise = rng.lognormal(-3.5, 1.5, len(METRICS)) * rng.standard_t(rng.choice([3, 5, 30]), load.shape)
    load *= np.exp(np.clip(noise, -3, 3))
    for m in range(len(METRICS)):
        size = load[:, m].mean() + 1e-12
        if rng.random() < 0.25:  # nothing below a threshold
            load[:, m] = np.maximum(load[:, m] - np.quantile(load[:, m], rng.uniform(0.05, 0.95)), 0)
        if rng.random() < 0.5:  # a counter's resolution
            step = size * 10 ** rng.uniform(-4, -0.5)
            load[:, m] = np.round(load[:, m] / step) * step
    return np.maximum(load, 0) * SCALES * rng.lognormal(0, 1.5, len(METRICS))


def _drift(rng: np.random.Generator, n: int, tick_s: int) -> Array:
    """(n): the exponential of an Ornstein-Uhlenbeck process, that returns within minutes to days."""
    keep = np.exp(-tick_s / 10 ** rng.uniform(2, 5.5))
    shocks = rng.standard_normal(n) * np.sqrt(1 - keep**2)
    shocks[0] = rng.standard_normal()
    return np.exp(np.minimum(rng.lognormal(-1, 0.8), 1.5) * signal.lfilter([1.0], [1.0, -keep], shocks))


def _ramps(rng: np.random.Generator, n: int, tick_s: int) -> Array:
    """(n): grows from 0 to about 1 and falls back, as memory that is collected; or the mirror of it."""
    period = 10 ** rng.uniform(3, 5.5) / tick_s
    speed = np.exp(rng.normal(0, rng.uniform(0, 0.5), n)) / period
    ramp = np.cumsum(speed) % 1.0
    return ramp if rng.random() < 0.7 else 1.0 - ramp


def _rhythm(rng: np.random.Generator, time: Array) -> Array:
    """(n): a smooth day, quieter at the weekend, of mean about 1."""
    day = 2 * np.pi * time / DAY_S
    wave = sum(
        rng.normal(0, 1 / k) * np.cos(k * day + rng.uniform(0, 2 * np.pi))
        for k in range(1, rng.integers(2, 6))
    )
    weekend = (time // DAY_S + rng.integers(7)) % 7 >= 5
    return np.exp(np.clip(rng.uniform(0, 1) * wave, -4, 4)) * np.where(weekend, rng.uniform(0.2, 1), 1)


def _schedule(rng: np.random.Generator, time: Array, tick_s: int) -> Array:
    """(n): a job that runs every so often, for seconds to half an hour, now and then not."""
    period = rng.choice(SCHEDULES_S)
    length = min(10 ** rng.uniform(1.3, 3.3), 0.5 * period)
    phase = rng.uniform(0, period) if rng.random() < 0.5 else 0.0

    def run(until: Array) -> Array:
        """Seconds run until a time."""
        whole, part = np.divmod(until - phase, period)
        return whole * length + np.minimum(part, length)

    share = (run(time + tick_s) - run(time)) / tick_s
    number = ((time - phase) // period).astype(int)
    number -= number.min()
    effort = rng.lognormal(0, rng.uniform(0, 0.5), number.max() + 1) * (rng.random(number.max() + 1) > 0.05)
    return share * effort[number] * rng.lognormal(1, 1)


def _bursts(rng: np.random.Generator, n: int, tick_s: int) -> Array:
    """(n): bursts of heavy-tailed height at random times, over in minutes to hours."""
    keep = np.exp(-tick_s / 10 ** rng.uniform(1.5, 4))
    begins = rng.random(n) < tick_s / 10 ** rng.uniform(3, 5.5)
    height = np.minimum(rng.pareto(1.5, n) + 0.5, 100)
    return np.asarray(signal.lfilter([1.0], [1.0, -keep], begins * height))


def _phases(rng: np.random.Generator, n: int, tick_s: int) -> Array:
    """(n): work (1) and rest (a little) in turns, of minutes to days."""
    lengths = rng.exponential(10 ** rng.uniform(3, 5, 2) / tick_s, (n // 2 + 1, 2)) + 1
    ends = np.cumsum(lengths.ravel())
    state = np.searchsorted(ends[ends < n], np.arange(n), side="right") % 2
    return np.where(state == 0, 1.0, rng.uniform(0, 0.2))
