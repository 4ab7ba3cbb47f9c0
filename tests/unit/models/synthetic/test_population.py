import numpy as np
import pytest

from models.synthetic.population import population


def test_a_seed_gives_one_population() -> None:
    a, b, c = (population(seed=s, apps=2, users_per_app=3, ticks=50) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.events, b.events)
    assert not np.array_equal(a.values, c.values)


def test_shapes_names_and_signs() -> None:
    p = population(seed=0, apps=2, users_per_app=3, ticks=40, tick_s=10, start_tick=7)
    assert p.ticks.tolist() == list(range(7, 47))
    assert p.values.shape == p.saturated.shape == (40, 6, 5)
    assert p.events.shape == (40, 6, 4)
    assert p.apps == ["app-0"] * 3 + ["app-1"] * 3
    assert len(set(p.users)) == 6
    assert p.values.min() >= 0
    assert np.isfinite(p.values).all()
    # a rate is a count over the tick
    np.testing.assert_allclose(p.events * 10, np.round(p.events * 10), atol=1e-4)


def test_events_lead_demand_by_the_labelled_time() -> None:
    p = population(seed=3, apps=1, users_per_app=8, ticks=3 * 1440, lead_s=(180.0, 180.0))
    for u in range(8):
        if p.events[:, u].sum() < 50:
            continue
        event = p.events[:, u, :3].sum(1)
        correlation = [np.corrcoef(event[: -lag or None], p.values[lag:, u, 4])[0, 1] for lag in range(9)]
        # 180 s are 3 ticks; the work then fades over two more
        assert np.argmax(correlation) in (3, 4)
        assert correlation[3] > correlation[0] + 0.1


def test_demand_follows_sessions_and_the_day() -> None:
    p = population(seed=4, apps=2, users_per_app=20, ticks=5 * 1440)
    busy = p.in_session & (p.events.sum(-1) >= 0)
    assert p.events[busy].mean() > 10 * p.events[~busy].mean()
    hour = p.ticks * 60 // 3600 % 24
    share = np.array([p.in_session[hour == h].mean() for h in range(24)])
    assert share[10:18].mean() > 2 * share[0:4].mean()


def test_counts_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        population(seed=0, apps=0)
