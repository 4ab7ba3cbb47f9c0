import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.behaviour.compiled_step import SMALL_BLOCKS, small_block
from models.behaviour.features import CHANGE_FLOOR, DAILY_CODES, HOURLY_CODES, TINY, UNKNOWN
from models.behaviour.lstm import (
    CAP_PEAKS,
    DEFAULT_MODEL,
    STATE,
    BehaviourModel,
    Network,
    State,
    seasonal,
    state_bytes,
    tensorflow,
)
from models.metrics import STEPS

TICKS = 6
USERS = 2500  # two full blocks and a part of one


@pytest.fixture(scope="module")
def model() -> BehaviourModel:
    import keras

    tensorflow()
    keras.utils.set_random_seed(7)
    network = Network()
    rng = np.random.default_rng(7)
    for variable in network.variables:  # wild weights: nothing is hidden by a zero
        variable.assign(np.asarray(variable) + 0.1 * rng.standard_normal(variable.shape))
    return BehaviourModel(network, {"model_id": "untrained"})


def samples(seed: int = 0, users: int = USERS) -> tuple[Any, Any, Any]:
    """Values (tick, user, 5) over many magnitudes with a fifth absent, events (tick, user, 4), saturated."""
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0, 3, (TICKS, users, 5)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    events = rng.lognormal(0, 1, (TICKS, users, 4)).astype(np.float32)
    events[rng.random(events.shape) < 0.2] = np.nan
    return values, events, rng.random(values.shape) < 0.1


def run(
    model: BehaviourModel, values: Any, events: Any, saturated: Any, *, tick_s: int = 300
) -> tuple[State, Any, Any]:
    state, out = model.initial_state(values.shape[1]), (None, None)
    for t in range(len(values)):
        state, *out = model.step(state, values[t], events[t], saturated[t], tick=4_000_000 + t, tick_s=tick_s)
    return state, out[0], out[1]


def steady(value: float, ticks: int, users: int = 1) -> tuple[Any, Any, Any]:
    values = np.full((ticks, users, 5), value, np.float32)
    return values, np.full((ticks, users, 4), np.nan, np.float32), np.zeros(values.shape, bool)


@pytest.mark.parametrize("n", [1, 7, 125, 1000, pytest.param(2500, marks=pytest.mark.slow)])
def test_a_row_does_not_depend_on_its_batch_to_the_bit(model: BehaviourModel, n: int) -> None:
    values, events, saturated = samples()
    state, forecast, said = run(model, values, events, saturated)
    rows = np.random.default_rng(n).permutation(USERS)[:n]
    some, part, fewer = run(model, values[:, rows], events[:, rows], saturated[:, rows])
    for name, array in state.items():
        np.testing.assert_array_equal(some[name], array[rows], err_msg=name)
    for name in ("location", "scale", "offsets"):
        np.testing.assert_array_equal(getattr(part, name), getattr(forecast, name)[rows], err_msg=name)
    np.testing.assert_array_equal(fewer["scores"], said["scores"][rows])


@pytest.mark.parametrize(
    ("users", "block"), [(126, 144), (190, 240), (245, 144), (300, 336), (400, 144), (5_000, 336)]
)
def test_the_small_block_that_leaves_least_empty(users: int, block: int) -> None:
    assert small_block(users) == block


@pytest.mark.parametrize(
    "block", [SMALL_BLOCKS[0], *(pytest.param(block, marks=pytest.mark.slow) for block in SMALL_BLOCKS[1:])]
)
def test_small_blocks_give_the_same_but_for_rare_last_bits(model: BehaviourModel, block: int) -> None:
    small = BehaviourModel(model.network, model.facts, block=block)
    values, events, saturated = samples(users=300)
    whole, parts = (run(one, values, events, saturated) for one in (model, small))
    pairs = [(parts[0][name], array) for name, array in whole[0].items()]
    pairs += [(getattr(parts[1], name), getattr(whole[1], name)) for name in ("location", "scale", "offsets")]
    for ours, theirs in pairs:
        same = (ours == theirs) | ((ours != ours) & (theirs != theirs))
        assert same.mean() > 0.999
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_a_tick_scores_what_was_said_of_it(model: BehaviourModel) -> None:
    values, events, saturated = samples(users=50)
    state = model.initial_state(50)
    for t in range(TICKS):
        state, _, said = model.step(state, values[t], events[t], saturated[t], tick=4_000_003 + t, tick_s=300)
        known, scores = ~np.isnan(values[t]) & ~saturated[t], said["scores"]
        assert not (np.isfinite(scores) & ~known[..., None]).any()
        # 4,000,003 = 7 × 571,429: of the third step what is said then comes due three ticks later, of the sixth six
        assert [bool(np.isfinite(scores[..., k]).any()) for k in range(3)] == [t > 0, t == 3, False]
        if t == 1:  # those that had a value a tick before
            np.testing.assert_array_equal(np.isfinite(scores[..., 0]), known & ~np.isnan(values[0]))


def test_stream_and_training_are_the_same_network(model: BehaviourModel) -> None:
    rng = np.random.default_rng(3)
    h, c = (rng.standard_normal((9, 64)).astype(np.float32) for _ in range(2))
    inputs = rng.standard_normal((9, 40, model.network.lstm.cell.kernel.shape[0])).astype(np.float32)
    whole, last_h, last_c = model.network.sequence(inputs, h, c)
    turned, h, c = model.network.turned(), h.T, c.T
    for t in range(inputs.shape[1]):
        one, h, c = model.network.step(turned, inputs[:, t].T, h, c)
        np.testing.assert_allclose(np.moveaxis(np.asarray(one), -1, 0), np.asarray(whole)[:, t], atol=1e-5)
    np.testing.assert_allclose(np.asarray(h).T, np.asarray(last_h), atol=1e-5)
    np.testing.assert_allclose(np.asarray(c).T, np.asarray(last_c), atol=1e-5)


def test_state_fits_its_budget(model: BehaviourModel) -> None:
    state = model.initial_state(3)
    assert sum(array.nbytes for array in state.values()) == 3 * state_bytes()
    assert state_bytes() <= 2_500  # docs/operations.md, "Sizing"
    kinds = {name: np.dtype(kind) for name, (_, kind) in STATE.items()}
    assert {name: array.dtype for name, array in state.items()} == kinds
    after, _, _ = model.step(state, *(part[0] for part in steady(1.0, 1, users=3)), tick=5, tick_s=60)
    assert {name: array.dtype for name, array in after.items()} == kinds


def test_no_retracing_and_no_change_of_the_given_state(model: BehaviourModel) -> None:
    values, events, saturated = samples()
    state = model.initial_state(USERS)
    before = {name: array.copy() for name, array in state.items()}
    for n, tick_s in ((1, 10), (50, 60), (1000, 300)):
        part = {name: array[:n] for name, array in state.items()}
        model.step(part, values[0, :n], events[0, :n], saturated[0, :n], tick=5, tick_s=tick_s)
    assert model._blocks.graph.experimental_get_tracing_count() == 1  # pyright: ignore[reportPrivateUsage]
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)


def test_forecasts_are_finite_monotone_and_capped(model: BehaviourModel) -> None:
    state, forecast, _ = run(model, *samples())
    assert forecast.shape == (USERS, 5, STEPS)
    assert forecast.offsets.dtype == np.float16
    seen = state["seen"] > 0
    assert np.isfinite(forecast.grid()[seen]).all()
    assert (np.diff(forecast.offsets[seen].astype(np.float32)) >= 0).all()
    unit = np.maximum(state["root_change"] ** 2, CHANGE_FLOOR * state["level"] + TINY)
    ceiling = CAP_PEAKS * (state["peak"] + unit)[seen][:, None] * (1 + 1e-6)
    location_or_cap = np.maximum(forecast.location[seen], ceiling)
    # float16 keeps 11 bits of an offset; the cap is in the offsets
    slack = forecast.scale[seen] * np.abs(forecast.offsets[seen].astype(np.float32)).max(-1) * 2**-10
    assert (forecast.at(3.5)[seen] <= location_or_cap + slack).all()


def test_a_new_user_begins_at_the_populations_calibration(model: BehaviourModel) -> None:
    shift = [[[row] * 3] for row in (-400.0, 0.0, 0.0, 0.0, 200.0, 100.0)]
    wide = BehaviourModel(model.network, {"model_id": "wide", "prior": {"shift": shift}})
    assert wide.initial_state(2)["shift"][1, 0].tolist() == [[-400] * 3] * 5
    assert (wide.initial_state(2)["shift"][1, 4] == 200).all()
    assert (wide.initial_state(2)["odds"] == 0).all()
    values, events, saturated = samples(users=20)
    values = np.nan_to_num(values, nan=1.0)
    a, b = (run(m, values[:1], events[:1], saturated[:1])[1] for m in (model, wide))
    assert (b.at(1.96) >= a.at(1.96)).all()
    assert (b.at(1.96) > a.at(1.96)).any()
    np.testing.assert_array_equal(b.at(0.7), a.at(0.7))


def test_the_released_model_loads_and_knows_its_dependence() -> None:
    released = BehaviourModel.load(DEFAULT_MODEL)
    assert released.model_id == DEFAULT_MODEL.name
    assert released.dependence.shared.shape == (5,)
    assert (released.dependence.shared >= 0).all()
    assert set(released.facts["prior"]) == {"shift", "odds"}
    assert (DEFAULT_MODEL / "MODEL_CARD.md").is_file()


def test_a_metric_never_seen_is_not_forecast(model: BehaviourModel) -> None:
    values, events, saturated = steady(3.0, 4, users=2)
    values[:, 0, 1] = np.nan
    values[1:, 1, 2] = np.nan  # seen once, then silent: forecast from then on
    _, forecast, _ = run(model, values, events, saturated)
    assert np.isnan(forecast.location[0, 1]).all()
    assert not np.isnan(np.delete(forecast.location[0], 1, axis=0)).any()
    assert not np.isnan(forecast.location[1]).any()


def test_running_statistics() -> None:
    network = Network()
    model = BehaviourModel(network, {"model_id": "fresh"}, block=SMALL_BLOCKS[0])
    values, events, saturated = steady(4.0, 3)
    values[1:, 0, 0] = (6.0, 3.0)
    state, _, _ = run(model, values, events, saturated)
    at = {name: array[0, 0] for name, array in state.items() if array.ndim == 2}
    assert at["last"] == 3
    assert at["seen"] == at["ticks"] == 3
    assert at["level"] == pytest.approx((4 + 6 + 3) / 3, rel=1e-6)  # plain mean until a day has passed
    assert at["peak"] == pytest.approx(6 * 0.5 ** (300 / (7 * 86_400)), rel=1e-6)
    # prior 0.1 * 4 counts as two samples: changes 2 at weight 1/3, then 3 at weight 1/4
    first = 0.4 + (2 - 0.4) / 3
    assert at["change"] == pytest.approx(first + (3 - first) / 4, rel=1e-6)
    assert at["repeats"] == 0
    assert state["repeats"][0, 1] == pytest.approx(1 - 1 / 3)  # the first sample has no one before it


def test_seasonal_memory_holds_codes_of_the_slots_of_day_and_hour(model: BehaviourModel) -> None:
    state = model.initial_state(1)
    _, events, saturated = steady(0.0, 1)
    day = 86_400 // 600
    # a jump at the tenth slot of the day (01:40, the ninth of the hour), on two days
    for tick, value in ((9, 2.0), (10, 6.0), (11, 2.0), (10 + day, 6.0)):
        state, _, _ = model.step(
            state, np.full((1, 5), value, np.float32), events[0], saturated[0], tick=tick, tick_s=600
        )
        codes = (tick % day, DAILY_CODES), (tick * 2 % 12, HOURLY_CODES["five minutes"])
        apart = (state["lately"] - state["level"]) / state["spread"]
        for memory, (slot, per_unit) in zip(seasonal(state, 600), codes, strict=True):
            assert (np.abs(memory[0, slot] - np.arcsinh(apart) * per_unit) <= 0.51).all() or tick > day
    assert state["daily"].dtype == np.int8
    assert (state["daily"][0, 10] > state["daily"][0, 11]).all()
    assert (state["daily"][0, 12] == UNKNOWN["daily"]).all()
    assert (state["hourly"][0, [8, 10]] > UNKNOWN["hourly"]).all()
    assert (state["hourly"][0, 1] == UNKNOWN["hourly"]).all()


def test_below_five_minutes_the_hour_has_a_slot_for_each_minute(model: BehaviourModel) -> None:
    model = BehaviourModel(model.network, model.facts, block=SMALL_BLOCKS[0])  # compiled sooner
    state = model.initial_state(2)
    rng = np.random.default_rng(0)
    for tick in range(601):  # a job at the eighth minute of every ten
        value = rng.uniform(1, 2, (2, 5)) + (20 if tick % 10 == 8 else 0)
        state, _, _ = model.step(
            state,
            value.astype(np.float32),
            np.full((2, 4), np.nan, np.float32),
            np.zeros((2, 5), bool),
            tick=tick,
            tick_s=60,
        )
    memory = seasonal(state, 60)[1]
    assert memory.shape == (2, 60, 5)
    assert np.shares_memory(memory, state["hourly"])
    level, spread = state["level"][:, None], state["spread"][:, None]
    mean = level + spread * np.sinh(memory / DAILY_CODES)
    assert (mean[:, 8::10] > 15).all()
    assert (np.delete(mean, np.s_[8::10], axis=1) < 5).all()


def test_saturated_samples_do_not_pull_demand_down(model: BehaviourModel) -> None:
    values, events, saturated = steady(10.0, 3)
    values[2, 0, :2] = (4.0, 12.0)
    saturated[2] = True
    state, _, flags = run(model, values, events, saturated)
    assert state["last"][0, 0] == pytest.approx(10 - 0.05 * 6)
    assert state["last"][0, 1] == 12
    assert flags["censored"].all()
    values[2] = np.nan
    assert not run(model, values, events, saturated)[2]["censored"].any()


def test_cold_start_is_said(model: BehaviourModel) -> None:
    _, _, early = run(model, *steady(1.0, 11))
    _, _, warm = run(model, *steady(1.0, 12))
    assert early["cold_start"].tolist() == [True]
    assert warm["cold_start"].tolist() == [False]


def test_saved_and_loaded_bit_for_bit(model: BehaviourModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    again = BehaviourModel.load(tmp_path / "m")
    assert again.model_id == "untrained"
    a, b = (run(m, *samples(users=5))[1] for m in (model, again))
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.location, b.location)


def test_what_is_no_model_is_refused(model: BehaviourModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model"):
        BehaviourModel.load(tmp_path)
    model.save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(facts | {"weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="is not the file"):
        BehaviourModel.load(tmp_path)
    with np.load(tmp_path / "weights.npz") as weights:
        arrays = {name: weights[name] for name in weights}
    arrays["hidden/kernel"] = np.zeros((3, 2))
    np.savez(tmp_path / "weights.npz", **arrays)  # pyright: ignore[reportArgumentType]
    digest = hashlib.sha256((tmp_path / "weights.npz").read_bytes()).hexdigest()
    (tmp_path / "model.json").write_text(json.dumps(facts | {"weights_sha256": digest}))
    with pytest.raises(ValueError, match=r"another network: hidden/kernel is \(3, 2\)"):
        BehaviourModel.load(tmp_path)
    model.save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(facts | {"prior": {"shift": [[0.0]] * 3}}))
    with pytest.raises(ValueError, match="another network: prior shift has 3 rows"):
        BehaviourModel.load(tmp_path)


def odd_series(ticks: int) -> dict[str, Any]:
    """CPU of users as the world has them, (tick): what a forecast must survive."""
    t = np.arange(ticks)
    gap = np.where((t > 100) & (t < 1100), np.nan, 5.0 + t % 3)
    return {
        "constant": np.full(ticks, 3.0),
        "zero": np.zeros(ticks),
        "one sample": np.where(t == 0, 3.0, np.nan),
        "gap of days": gap,
        "jump": np.where(t < 600, 1.0, 1e6) * (1 + t % 2),
        "vanishes": np.where(t < 600, 1.0 + t % 4, np.nan),
        "appears": np.where(t < 600, np.nan, 1.0 + t % 4),
        "at its limit": np.full(ticks, 4.0),
        "tiny": 1e-12 * (1 + t % 5),
        "huge": 1e15 * (1 + t % 5),
    }


@pytest.mark.slow
def test_odd_series_are_forecast_and_lost_knowledge_widens() -> None:
    released = BehaviourModel.load(DEFAULT_MODEL)
    series = odd_series(1200)
    names = list(series)
    state = released.initial_state(len(names))
    width: list[Any] = []
    for t in range(1200):
        values = np.full((len(names), 5), np.nan, np.float32)
        values[:, 0] = [series[name][t] for name in names]
        hit = np.zeros(values.shape, bool)
        hit[names.index("at its limit"), 0] = True
        events = np.full((len(names), 4), np.nan, np.float32)
        state, forecast, _ = released.step(state, values, events, hit, tick=4_000_000 + t, tick_s=300)
        seen = state["seen"][:, 0] > 0
        assert np.isfinite(forecast.grid()[seen, 0]).all()
        lo, hi = forecast.interval()
        assert (hi[seen, 0] >= lo[seen, 0]).all()
        width.append((hi - lo)[:, 0, 0])
    for name, last, silent in (("gap of days", 100, 1099), ("vanishes", 599, 1199)):
        u = names.index(name)
        assert width[silent][u] > 1.2 * width[last][u], name
    assert width[-1][names.index("zero")] < 1e-6
    assert width[-1][names.index("constant")] < 0.3


def test_tensorflow_loads_silently_and_late() -> None:
    code = "import sys, models.behaviour.lstm; assert 'tensorflow' not in sys.modules; models.behaviour.lstm.Network()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
