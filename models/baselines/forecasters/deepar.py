"""DeepAR of gluonts on torch, trained before it forecasts; it needs the dependency group `rivals`."""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.baselines.forecasters.observations import Array, Observations
from models.metrics import DAY_S, EVENT_KINDS, METRICS, horizon_steps

HIDDEN: Final = 64
CONTEXT: Final = 72  # ticks
EPOCHS: Final = 60
BATCHES: Final = 100  # an epoch
BATCH: Final = 64
SAMPLES: Final = 200
LEARNING_RATE: Final = 1e-2  # halved by gluonts where the loss stops falling
MINIMUM_SCALE: Final = 0.01  # of a series' mean: an all-zero context would blow its lags up by 1e10
LONGEST: Final = 1_500  # ticks of the longest lag: a day of minutes


def frequency(tick_s: int) -> str:
    """The tick length as pandas names it."""
    return f"{tick_s // 60}min" if tick_s % 60 == 0 else f"{tick_s}s"


def lags(known: list[int], tick_s: int) -> list[int]:
    """gluonts' own lags up to LONGEST, and a day with its neighbours where that is not longer."""
    day = DAY_S // tick_s
    wanted = {*known, day - 1, day, day + 1}
    return sorted(lag for lag in wanted if 1 <= lag <= LONGEST)


class DeepAR:
    """One DeepAR over every user and metric, the metric as category; time, age, lags and the user's covariates.

    Two layers of 64 units, Student-t, mean scaling. Forecasts are quantiles of 200 sampled paths. DeepAR decodes with
    covariates, so that they have to be known over the horizon: the user's metrics and events enter as they were a
    horizon before (`covariates`).
    """

    name = "deepar"

    def __init__(
        self,
        train: Observations,
        observed: Observations,
        *,
        tick_s: int,
        warm_up: int,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        """Train, and prepare the inputs of all forecasts.

        Args:
            train: of users and times that are not scored, with events.
            observed: of the users to forecast, with events.
            tick_s: tick length in seconds.
            warm_up: rows of `observed` before the first that is scored, whose mean scales a series.
            seed: of weights, batches and samples.
            changes: arguments of gluonts' DeepAREstimator other than ours, for tuning.

        Raises:
            ImportError: the group `rivals` is not installed.
        """
        assert train.events is not None
        assert observed.events is not None
        self._torch: Any = importlib.import_module("torch")
        self._torch.set_num_threads(1)  # its matrices are small: faster, and the same numbers on any machine
        self._pandas: Any = importlib.import_module("pandas")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        importlib.import_module("lightning.pytorch").seed_everything(seed, verbose=False)
        values = observed.values
        self._freq, self._tick_s, self._values, self._first = (
            frequency(tick_s), tick_s, values, observed.first_tick
        )  # fmt: skip
        self._steps = horizon_steps(tick_s)
        ahead = self._steps[-1]
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = self._estimator(folder, changes)
            own = scale_of(train.values)
            beside = covariates(train.values / own, train.events, ahead)
            data = [
                self._entry(
                    train.values[:, u, m] / own[u, m], train.first_tick, m, beside[: len(train.values), u]
                )
                for u, m in _measured(train.values)
            ]
            trained = estimator.train_model(data, shuffle_buffer_length=20 * BATCH, cache_data=True)
        self._net: Any = trained.trained_net.model.eval()
        self._past: int = self._net._past_length
        self._scale = scale_of(values[:warm_up])
        beside = covariates(values / self._scale, observed.events, ahead)
        self._inputs = {
            (u, m): self._transformed(
                trained.transformation, values[:, u, m] / self._scale[u, m], m, beside[:, u]
            )
            for u, m in _measured(values)
        }
        self._sampled: tuple[int, range, Array] | None = None

    def _estimator(self, folder: str, changes: Mapping[str, Any]) -> Any:
        """gluonts' estimator with our arguments and `changes`, its scale bounded below; checkpoints go to `folder`."""
        deepar: Any = importlib.import_module("gluonts.torch.model.deepar")
        sampler: Any = importlib.import_module("gluonts.transform").ExpectedNumInstanceSampler
        known = importlib.import_module("gluonts.time_feature").get_lags_for_frequency(self._freq)
        ahead = self._steps[-1]
        estimator = deepar.DeepAREstimator(
            **{
                "freq": self._freq,
                "prediction_length": ahead,
                "context_length": CONTEXT,
                "hidden_size": HIDDEN,
                "lags_seq": lags(known, self._tick_s),
                "num_feat_static_cat": 1,
                "cardinality": [len(METRICS)],
                "num_feat_dynamic_real": len(METRICS) + len(EVENT_KINDS),
                "lr": LEARNING_RATE,
                "batch_size": BATCH,
                "num_batches_per_epoch": BATCHES,
                "train_sampler": sampler(num_instances=4.0, min_past=CONTEXT, min_future=ahead),
                "trainer_kwargs": {
                    "max_epochs": EPOCHS,
                    "accelerator": "cpu",
                    "logger": False,
                    "default_root_dir": folder,
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                },
                **changes,
            }
        )
        make = estimator.create_lightning_module

        def make_bounded() -> Any:
            module = make()
            module.model.scaler.minimum_scale = MINIMUM_SCALE
            return module

        estimator.create_lightning_module = make_bounded
        return estimator

    def quantiles(self, metric: int, rows: range, step: int, levels: NDArray[np.float64]) -> Array:
        """(level, row, user), never negative; NaN where the user has no such metric."""
        if self._sampled is None or self._sampled[:2] != (metric, rows):
            self._sampled = metric, rows, self._samples(metric, rows)
        paths = self._sampled[2][..., step - 1]
        return np.maximum(np.quantile(paths, levels, axis=-1), 0).astype(np.float32)

    def _entry(self, series: Array, first_tick: int, metric: int, beside: Array) -> dict[str, Any]:
        start = self._pandas.Timestamp(first_tick * self._tick_s, unit="s")
        return {
            "start": self._pandas.Period(start, freq=self._freq),
            "target": series,
            "feat_static_cat": np.array([metric]),
            "feat_dynamic_real": beside.T,
        }

    def _transformed(
        self, transformation: Any, series: Array, metric: int, beside: Array
    ) -> tuple[Any, Any, Any]:
        """Target, observed and features (tick, feature) of a whole series, each preceded by `past` empty ticks."""
        (entry,) = transformation([self._entry(series, self._first, metric, beside)], is_train=False)
        before = self._past
        return (
            np.pad(entry["target"], (before, 0)),
            np.pad(entry["observed_values"], (before, 0)),
            np.pad(entry["time_feat"].T, ((before, 0), (0, 0))),
        )

    def _samples(self, metric: int, rows: range) -> Array:
        """(row, user, path, step ahead) of every step, from what is known at each row."""
        users = [u for u, m in self._inputs if m == metric]
        ahead = self._steps[-1]
        out = np.full((len(rows), self._values.shape[1], SAMPLES, ahead), np.nan, np.float32)
        torch = self._torch
        for u in users:
            target, observed, features = self._inputs[u, metric]
            for begin in range(0, len(rows), BATCH):
                batch = np.array(rows[begin : begin + BATCH])
                past = batch[:, None] + 1 + np.arange(self._past)
                future = batch[:, None] + 1 + self._past + np.arange(ahead)
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    paths = self._net(
                        feat_static_cat=torch.full((len(batch), 1), metric, dtype=torch.long),
                        feat_static_real=torch.zeros((len(batch), 1)),
                        past_time_feat=torch.from_numpy(features[past]).float(),
                        past_target=torch.from_numpy(target[past]).float(),
                        past_observed_values=torch.from_numpy(observed[past]).float(),
                        future_time_feat=torch.from_numpy(features[future]).float(),
                        num_parallel_samples=SAMPLES,
                    )
                out[begin : begin + len(batch), u] = paths.numpy() * self._scale[u, metric]
        return out


def scale_of(values: Array) -> Array:
    """Mean |value| of each series (user, 5); 1 where there is none."""
    size, count = np.nansum(np.abs(values), axis=0, dtype=np.float64), (~np.isnan(values)).sum(0)
    return np.where(size > 0, size / np.maximum(count, 1), 1).astype(np.float32)


def covariates(values: Array, events: Array, ahead: int) -> Array:
    """Covariates known over the whole horizon: a user's metrics and events as they were `ahead` ticks before.

    asinh of the metrics and log(1 + rate) of the events, 0 where absent or before the first tick.

    Args:
        values: (tick, user, 5), each series on the scale of its mean.
        events: (tick, user, 4) in 1/s.
        ahead: ticks of the horizon.

    Returns:
        (tick + ahead, user, 9), up to the end of the last horizon.
    """
    known = np.concatenate([np.arcsinh(values), np.log1p(events)], axis=-1)
    return np.pad(np.nan_to_num(known), ((ahead, 0), (0, 0), (0, 0))).astype(np.float32)


def _measured(values: Array) -> list[tuple[int, int]]:
    """User and metric of each series that has a sample."""
    known = ~np.isnan(values).all(0)
    return [(int(u), int(m)) for u, m in np.argwhere(known)]
