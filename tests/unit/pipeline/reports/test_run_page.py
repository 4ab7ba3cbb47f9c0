"""The page of a run: what it opens with, what it says, and that it survives what a run may be."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.reports import charts, run_page
from pipeline.reports.app_run import AppRun
from pipeline.reports.charts import Moment

START_S = 1_376_300_400


def app_run(name: str = "shop", ticks: int = 200, rise: int = 100) -> AppRun:
    """Demand 4, and 10 from `rise` on; ours is ready 3 ticks before, the reactive 2 ticks late."""
    tick = np.arange(ticks)
    demand = np.where(tick >= rise, 10.0, 4.0)
    ready = np.where(tick >= rise - 3, 12.0, 6.0)
    return AppRun(
        app=name,
        tick_s=300,
        start_s=START_S,
        demand=demand,
        low=demand - 1,
        mean=demand,
        high=demand + 1,
        required=ready,
        ready=ready,
        reactive=np.where(tick >= rise + 2, 12.0, 6.0),
        counts={
            "kept": np.minimum(ready, 4),
            "od": np.minimum(ready - 4, 2),
            "cheap": np.maximum(ready - 6, 0),
        },
        tiers={"kept": "RESERVED", "od": "ON_DEMAND", "cheap": "SPOT"},
        cost=np.full(ticks, 0.01),
        reactive_cost=np.full(ticks, 0.02),
        held=np.zeros(ticks, bool),
        warm_up=10,
    )


def blank(ticks: int) -> AppRun:
    """A run of which nothing is known."""
    run = app_run(ticks=ticks)
    nothing = np.full(ticks, np.nan)
    fields = ("demand", "low", "mean", "high", "required", "ready", "reactive", "cost", "reactive_cost")
    return replace(run, **dict.fromkeys(fields, nothing), counts=dict.fromkeys(run.counts, nothing))


def test_hero_is_where_the_reactive_policy_alone_misses_with_its_misses_in_the_middle() -> None:
    both = app_run("both", rise=60)
    both = replace(both, ready=np.where(np.arange(200) >= 63, 12.0, 6.0), reactive=np.full(200, 6.0))
    chosen = run_page.hero([both, app_run("shop"), app_run("later")])
    assert chosen is not None
    run, window = chosen
    assert run.app == "both"  # reactive misses 140 ticks; after our 3 misses there are windows without any
    assert not run.missed[window].any()
    assert run.reactive_missed[window].all()
    chosen = run_page.hero([app_run("shop"), app_run("later")])
    assert chosen is not None
    # misses at 100 and 101: their centre 100.5 is the centre of 65..136 (65 + 71 / 2 = 100.5)
    assert (chosen[0].app, chosen[1]) == ("shop", slice(65, 137))


def test_hero_prefers_a_window_without_our_misses_to_one_with_more_of_theirs() -> None:
    theirs = np.full(200, 12.0)
    theirs[50:70] = 3.0  # 20 misses
    worse = replace(
        app_run("worse", rise=300), reactive=theirs, ready=np.where(np.arange(200) % 20, 6.0, 3.0)
    )
    chosen = run_page.hero([worse, app_run("clean")])
    assert chosen is not None
    assert chosen[0].app == "clean"


def test_hero_of_nothing() -> None:
    assert run_page.hero([]) is None
    assert run_page.hero([app_run(ticks=0)]) is None
    chosen = run_page.hero([blank(5)])
    assert chosen is not None
    assert chosen[1] == slice(0, 5)


def test_moment_is_from_our_capacity_to_theirs() -> None:
    assert run_page.moment(app_run(), slice(65, 137)) == Moment(ready=97, short=100, over=102)
    # capacity that was there all along came at no known time
    assert run_page.moment(app_run(), slice(98, 137)) == Moment(ready=None, short=100, over=102)
    assert run_page.moment(app_run(), slice(0, 72)) is None
    # of two equally long stretches, the one that lacks more
    run = app_run()
    theirs = run.reactive.copy()
    theirs[120:122] = 1.0
    assert run_page.moment(replace(run, reactive=theirs), slice(65, 137)) == Moment(None, 120, 122)


def test_page_says_what_happened() -> None:
    summary = {
        "records": 2_592_301,
        "users": 125,
        "coverage_95": 0.9537,
        "hit_rate": 0.9912,
        "reactive_hit_rate": 0.8623,
        "cost": 412.38,
        "reactive_cost": 460.0,
    }
    text = run_page.page("Demo", [app_run()], summary, ["apps are artificial groupings"]).replace(
        "\u00a0", " "
    )
    assert "The reactive policy was short in 2 of 72 ticks; Leadtime in none." in text
    # 0.9912 - 0.8623 = 12.89 points; 412.38 / 460 - 1 = -10.352 %
    for said in (
        "99.12 %",
        "86.23 %",
        "+12.89 points",
        "$412.38",
        "$460.00",
        "−10.4 %",
        "95.37 %",
        "2,592,301",
    ):
        assert said in text
    # rises at tick 100: ready at 97 = 15 min before; reactive short for 2 ticks = 10 min
    assert "Leadtime ready 15 min ahead" in text
    assert "reactive policy short for 10 min" in text
    # 2 of 190 scored ticks missed: 1 - 2 / 190 = 98.95 %; they cost 0.01 and 0.02
    assert "hit rate 100 %, reactive 98.95 % · cost $1.90, reactive $3.80" in text
    assert "apps are artificial groupings" in text
    assert "12 Aug 2013 09:40 to 13 Aug 2013 02:20 UTC · 200 ticks of 300 s" in text


def test_page_loads_nothing_and_its_pictures_are_xml() -> None:
    text = run_page.page("Demo", [app_run()], {}, [])
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", text)
    assert not re.findall(r"url\((?!#)", text)
    pictures = re.findall(r'<svg role="img".*?</svg>', text, re.DOTALL)
    assert len(pictures) == 2  # the opening, and the app's own
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "var(--ours)" in picture
        assert charts.OURS not in picture
    assert text == run_page.page("Demo", [app_run()], {}, [])


def test_page_says_what_shared_nodes_cost_beside_nodes_of_each_apps_own() -> None:
    run = replace(app_run("<web>"), counts={"replicas": app_run().ready}, tiers={"replicas": "SHARED"})
    shared = {"apps": ["<web>", "shop"], "cost": 89.43, "cost_alone": 130.15}
    text = run_page.page("Demo", [run], {"shared_nodes": shared}, [])
    assert (
        "&lt;web&gt;, shop share nodes, which cost $89.43; nodes of each app's own would have cost $130.15"
        in text
    )
    assert "replicas on shared nodes</span>" in text
    assert "share nodes" not in run_page.page("Demo", [app_run()], {"shared_nodes": None}, [])


@pytest.mark.parametrize("runs", [[], [blank(1)], [blank(288)], [app_run(ticks=1)], [app_run(ticks=0)]])
def test_page_of_what_cannot_be_scored(runs: list[AppRun]) -> None:
    text = run_page.page("Demo", runs, {"cost": None, "hit_rate": float("nan"), "users": "many"}, [])
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).lower()
    assert text.rstrip().endswith("</html>")


def test_page_of_many_apps_stays_small_and_lists_the_rest() -> None:
    generator = np.random.default_rng(1)
    runs: list[AppRun] = []
    for number in range(14):
        run = app_run(f"app-{number}", ticks=288)
        demand = run.demand + generator.random(288)
        runs.append(replace(run, demand=demand, high=demand * 1.2, cost=run.cost * (14 - number)))
    text = run_page.page("Demo", runs, {}, [])
    assert len(text.encode()) < 3_000_000
    assert text.count("<figure>") == 12
    assert '<th scope="row">app-13</th>' in text
    assert "<figcaption><b>app-13</b>" not in text
    assert "the 12 of 14 that cost most" in text


def test_names_are_escaped_and_are_not_mathematics() -> None:
    run = replace(
        app_run("<script>$x^2$"), tiers={"kept": "<i>&", "od": "ON_DEMAND", "cheap": "SPOT"}, currency="<b>"
    )
    text = run_page.page("<title>", [run], {"currency": "<b>", "cost": 1.0}, ["<note>"])
    for raw in ("<script>", "<i>&<", "<b>\n", "<note>", "<title><", "1.00 <b>"):
        assert raw not in text
    for safe in ("&lt;script&gt;$x^2$", "&lt;i&gt;&amp; instances", "&lt;note&gt;", "1.00 &lt;b&gt;"):
        assert safe in text
    assert "&amp;lt;" not in text


def test_axis_is_cut_only_where_one_burst_dwarfs_the_rest() -> None:
    usual = np.full(100, 10.0)
    burst = usual.copy()
    burst[50] = 500.0
    none = np.array([])
    assert charts.top_of(usual, none, cut=True) == pytest.approx(1.08 * 10)
    assert charts.top_of(burst, none, cut=True) == pytest.approx(1.08 * 2 * 10)
    assert charts.top_of(burst, none, cut=False) == pytest.approx(1.08 * 500)
    # the fan gets half of the height again at most
    assert charts.top_of(usual, np.full(100, 1e9), cut=True) == pytest.approx(1.08 * 15)
    assert charts.top_of(np.full(3, np.nan), none, cut=True) == 1.0


def test_a_cut_burst_says_how_high_it_is() -> None:
    run = app_run(ticks=288, rise=300)
    demand = run.demand.copy()
    demand[200] = 498.0
    assert "up to 498" in charts.svg(charts.run_figure(replace(run, demand=demand), slice(0, 288)), "")
