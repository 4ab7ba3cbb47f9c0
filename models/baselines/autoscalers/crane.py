"""Crane's EffectiveHorizontalPodAutoscaler with its DSP prediction: an HPA that also looks at predicted metrics.

Source: gocrane/crane `pkg/prediction/dsp` (signal.go: periodicity; estimators.go: the FFT estimator; config.go: the
default estimators, seven days of history; prediction.go: renewed every 12 hours, best estimator by the last cycle),
`pkg/prediction/accuracy`, and `pkg/controller/ehpa/hpa.go` (predicted metrics become external metrics of the HPA with
the same target; what cannot be predicted is left out).

Loads are in replicas here, where Crane's are in cores or requests: its least amplitudes (1.0 and 0.05) and least value
(0.01) are taken in replicas. Samples are ticks, where Crane's default is a minute. Cycles of a week need two weeks of
history, so with the default of seven days only a day is ever found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.baselines.autoscalers.base import Array, Count, Facts
from models.baselines.autoscalers.hpa import HorizontalPodAutoscaler, HpaSettings
from models.metrics import DAY_S

GAP_S: Final = 3_600  # a larger one ends the history
OUTLIERS: Final = (0.001, 0.999)  # quantiles beyond which a sample is replaced by the one before
MOST_ITEMS: Final = 100
HIGH_HZ: Final = 1 / 3_600  # components below are kept whatever their amplitude
LEAST_VALUE: Final = 0.01
NEAR_ZERO: Final = 1e-3  # an actual value below makes the absolute error count instead of the relative
SAME_PERIOD: Final = 1e-3  # relative


@dataclass(frozen=True)
class Estimator:
    """An FFT estimator: components kept at least, amplitude of noise, and margin added."""

    least_items: int
    low_amplitude: float
    margin: float


ESTIMATORS: Final = tuple(
    Estimator(items, amplitude, margin)
    for items, amplitude in ((3, 1.0), (50, 0.05))
    for margin in (0.01, 0.10, 0.15, 0.20)
)


@dataclass(frozen=True)
class CraneSettings:
    """Crane's defaults; window_s is the documentation's predictionWindowSeconds."""

    history_s: int = 7 * DAY_S
    renew_s: int = 12 * 3_600
    window_s: int = 3_600
    estimators: tuple[Estimator, ...] = ESTIMATORS
    hpa: HpaSettings = field(default=HpaSettings())


class EffectiveHorizontalPodAutoscaler:
    """The knob is the target utilisation (setting), of measured and predicted metrics alike.

    The prediction is the largest value of the coming hour.
    """

    def __init__(self, facts: Facts, targets: Array, settings: CraneSettings | None = None) -> None:
        self.facts, self.settings = facts, settings or CraneSettings()
        self._hpa = HorizontalPodAutoscaler(facts, targets, self.settings.hpa)
        self._predicted = np.full((0, *facts.load.shape[1:]), np.nan)
        self._renewed: int | None = None

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`."""
        s, facts = self.settings, self.facts
        if self._renewed is None or row - self._renewed >= facts.ticks(s.renew_s):
            past = facts.load[max(0, row + 1 - facts.ticks(s.history_s)) : row + 1]
            self._predicted, self._renewed = predict(past, facts.tick_s, s.estimators), row
        begin = row - self._renewed
        window = self._predicted[begin : begin + facts.ticks(s.window_s)]
        top = np.where(np.isnan(window), -np.inf, window).max(axis=0, initial=-np.inf)
        ahead = np.where(np.isneginf(top), np.nan, top)
        load, now = np.concatenate([facts.load[row], ahead], axis=1), self._hpa.current(ready)
        shape = (*ready.shape, facts.load.shape[-1])
        serving = np.concatenate(
            [np.broadcast_to(ready[..., None], shape), np.broadcast_to(now[..., None], shape)], axis=-1
        )  # an external metric is spread over all replicas, ready or not
        specified = np.concatenate([self._hpa.specified(row), ~np.isnan(ahead)], axis=1)
        return self._hpa.steadied(self._hpa.proposed(load, serving, specified, ready), ready)


def predict(past: Array, tick_s: int, estimators: tuple[Estimator, ...]) -> Array:
    """The next day (tick, app, metric) of past (tick, app, metric); NaN where no daily cycle is found."""
    cycle = max(1, DAY_S // tick_s)
    out = np.full((cycle, *past.shape[1:]), np.nan)
    for app, metric in np.ndindex(past.shape[1:]):
        signal = prepared(past[:, app, metric], tick_s, cycle)
        if len(signal) >= 2 * cycle and periodic(signal, cycle):
            out[:, app, metric] = best(signal, cycle, tick_s, estimators)
    return out


def prepared(series: Array, tick_s: int, cycle: int) -> Array:
    """Whole cycles without gaps: what follows the last long gap, interpolated, outliers replaced.

    The newest ticks that are missing are taken to be as the last one measured.
    """
    known = np.flatnonzero(~np.isnan(series))
    if not len(known):
        return series[:0]
    breaks = np.flatnonzero(np.diff(known) * tick_s > max(GAP_S, tick_s))
    first = int(known[breaks[-1] + 1] if len(breaks) else known[0])
    filled = np.interp(np.arange(first, len(series)), known, series[known])
    filled = filled[len(filled) % cycle :]
    if not len(filled):
        return filled
    low, high = np.quantile(filled, OUTLIERS)
    for i in np.flatnonzero((filled > high) | (filled < low)):
        filled[i] = filled[i - 1] if i else filled[i]
    return filled


def periodic(signal: Array, cycle: int) -> bool:
    """Whether, of all components with a period of a cycle and longer, the cycle's is the strongest."""
    amplitudes = np.abs(np.fft.rfft(signal))[1 : len(signal) // 2]
    periods = len(signal) / np.arange(1, len(amplitudes) + 1)
    long = periods >= cycle * (1 - SAME_PERIOD)
    if not long.any() or not amplitudes[long].any():
        return False
    strongest = periods[long][amplitudes[long].argmax()]
    return bool(abs(strongest - cycle) / strongest < SAME_PERIOD)


def best(signal: Array, cycle: int, tick_s: int, estimators: tuple[Estimator, ...]) -> Array:
    """The next cycle by the estimator that would have erred least in the last one."""
    history, actual = signal[:-cycle], signal[-cycle:]
    # most differ by the margin alone, which is not part of the filter
    filters = {(e.least_items, e.low_amplitude): e for e in estimators}
    smooth = {key: filtered(history, cycle, tick_s, e) for key, e in filters.items()}
    errors = [error(actual, smooth[e.least_items, e.low_amplitude] * (1 + e.margin)) for e in estimators]
    chosen = estimators[int(np.argmin(errors))]
    return filtered(signal, cycle, tick_s, chosen) * (1 + chosen.margin)


def filtered(signal: Array, cycle: int, tick_s: int, estimator: Estimator) -> Array:
    """The last cycle without the components that are of high frequency and low amplitude; the margin not yet added."""
    n = len(signal)
    spectrum = np.fft.fft(signal)
    amplitudes = np.abs(spectrum) / n
    noise = noise_below(np.sort(amplitudes[1 : n // 2])[::-1], estimator)
    frequencies = np.arange(n) / (n * tick_s)  # of the mirrored half too, as in Crane
    spectrum[(amplitudes < noise) & (frequencies > HIGH_HZ)] = 0
    smooth = np.fft.ifft(spectrum).real[-cycle:]
    return np.where(smooth <= 0, LEAST_VALUE, smooth)


def noise_below(descending: NDArray[np.float64], estimator: Estimator) -> float:
    """Amplitude under which a component is noise: at most 100 are none, and at least the estimator's least."""
    if not len(descending):
        return 0.0
    noise = max(float(descending[min(MOST_ITEMS, len(descending)) - 1]), estimator.low_amplitude)
    if len(descending) >= estimator.least_items:
        noise = min(noise, float(descending[estimator.least_items - 1]))
    return noise


def error(actual: Array, predicted: Array) -> float:
    """Mean relative error, under-prediction amplified: −ln(1 − x) / ln 1.25; absolute where values are near zero."""
    if (actual < NEAR_ZERO).any():
        return float(np.abs(actual - predicted).mean())
    relative = (predicted - actual) / actual
    under = np.minimum(-relative, 1 - 1e-12)
    return float(np.where(relative < 0, -np.log1p(-np.maximum(under, 0)) / np.log(1.25), relative).mean())
