"""The page of a backtest: one file that leads with what came of it, at any number of apps and days."""

from pathlib import Path

import pytest

from pipeline.reports import backtest_page
from tests.unit.pipeline.reports.backtest_sample import LONG, outcome


@pytest.mark.parametrize(("apps", "days"), [(1, 1), (10, 2)])
def test_the_page_leads_with_costs_at_the_same_hit_rate(tmp_path: Path, apps: int, days: int) -> None:
    job, seen, ranked, facts = outcome(apps, days)
    backtest_page.write(tmp_path, job, seen, ranked, facts)
    page = (tmp_path / "report.html").read_text().replace("\u00a0", " ")
    assert "://" not in page.replace("http://www.w3.org", "")
    assert "of app-ticks served, Leadtime costs" in page
    assert ("One day gives no interval" in page) == (days == 1)
    assert LONG in page
    assert "<&>" not in page
    assert {path.name for path in tmp_path.glob("*.png")} == {"frontier.png", "misses.png", "demand.png"}


def test_a_rival_that_is_cheaper_is_named_with_its_reason(tmp_path: Path) -> None:
    job, seen, ranked, facts = outcome(2, 2, {"hpa": 0.3})
    assert "hpa" in facts["cheaper"]
    lead = backtest_page.lead_of(facts)
    assert lead is not None
    assert lead.rival == "hpa"
    assert "more than the best product, HPA" in backtest_page.headline(lead, facts)
    backtest_page.write(tmp_path, job, seen, ranked, facts)
    page = (tmp_path / "report.html").read_text().replace("\u00a0", " ")
    assert "less than Leadtime with 99 % served" in page
    assert "Nowhere in this run" not in page


def test_what_costs_more_than_the_best_product_removes_nothing() -> None:
    facts = outcome(2, 2, {"hpa": 0.3})[3]
    facts["summary"] |= {"avoidable_removed": -11.8, "cost_ratio_as_it_comes": 1.255}
    text = backtest_page.headline(backtest_page.lead_of(facts), facts).replace("\u00a0", " ")
    assert ", 25.5 % more than the best product at that share. Of its plans" in text
    assert "removed" not in text
    facts["summary"] |= {"avoidable_removed": 0.25, "cost_ratio_as_it_comes": 0.9}
    text = backtest_page.headline(backtest_page.lead_of(facts), facts).replace("\u00a0", " ")
    assert ", and removed 25.00 % of the cost that could have been avoided: the best product's less" in text


def test_shared_nodes_are_compared_with_own_ones_in_a_sentence() -> None:
    facts = outcome(2, 2, {"hpa": 0.3})[3]
    lead = backtest_page.lead_of(facts)
    alone = backtest_page.headline(lead, facts)
    facts["nodes"] = {"packed": {"all": None}}
    assert backtest_page.headline(lead, facts) == alone
    facts["nodes"] = {"packed": {"all": 0.993}}
    text = backtest_page.headline(lead, facts).replace("\u00a0", " ")
    assert text.endswith("On these nodes packing placed all replicas in 99.30 % of ticks.")
    facts["nodes"]["cost_to_own_at_99"] = {"leadtime": 0.625, "hpa": 0.7}
    text = backtest_page.headline(lead, facts).replace("\u00a0", " ")
    assert text.endswith("They cost 37.5 % less than nodes of each app's own, where 99 % is served on both.")


def test_a_run_alone_states_what_was_served(tmp_path: Path) -> None:
    job, seen, ranked, facts = outcome(2, 2, names=())
    assert backtest_page.lead_of(facts) is None
    assert backtest_page.headline(None, facts).startswith("Leadtime served ")
    backtest_page.write(tmp_path, job, seen, ranked, facts)
    assert "No other policy was run beside it." in (tmp_path / "report.html").read_text().replace(
        "\u00a0", " "
    )
