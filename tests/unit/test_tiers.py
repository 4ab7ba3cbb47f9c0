"""Both tiers together are all tests, no test is in both, and none is left out or skipped unnoticed."""

import ast
import re
from pathlib import Path

import pytest

from tests import tiers

ROOT = Path(__file__).parents[2]
OUTSIDE = ("tests/rivals/", "tests/peers/")
"""Run by `uv run --group rivals pytest tests/rivals`, which needs 3 GB of libraries that nothing else does, and by
`make test-peers`, which builds its peers first."""


def test_each_collected_test_is_in_exactly_one_tier(request: pytest.FixtureRequest) -> None:
    items = request.config.stash[tiers.COLLECTED]
    assert items
    assert [item.nodeid for item in items if len(tiers.tiers_of(item)) != 1] == []


def test_make_runs_each_tier_once_in_test_all_and_in_ci() -> None:
    make = (ROOT / "Makefile").read_text()
    tier_of = dict(re.findall(r"^(test[\w-]*):.*\n(?:\t@echo .*\n)?\t@\$\(TIER\) (\w+) ", make, re.M))
    assert sorted(tier_of.values()) == sorted(tiers.TIERS)
    (everything,) = re.findall(r"^test-all: (.*)$", make, re.M)
    assert sorted(everything.split()) == sorted(tier_of)
    assert re.findall(r"^step (test\S*)", (ROOT / ".ci/run").read_text(), re.M) == everything.split()


def test_each_file_with_tests_is_collected(pytestconfig: pytest.Config) -> None:
    places = tuple(f"{place}/" for place in pytestconfig.getini("testpaths"))
    with_tests = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            for node in ast.parse(path.read_text()).body
        )
    }
    hidden = {name for name in with_tests if not name.startswith(places)}
    hidden |= {name for name in with_tests if not Path(name).name.startswith("test_")}
    assert {name for name in hidden if not name.startswith(OUTSIDE)} == set()


def inner(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    """Run tests with the plugin alone."""
    pytester.makepyfile("import pytest\n" + body)
    return pytester.runpytest_inprocess("-p", "tests.tiers", "--strict-markers", *options)


def test_what_is_not_slow_is_fast(pytester: pytest.Pytester) -> None:
    body = "def test_a(): pass\n@pytest.mark.slow\ndef test_b(): pass\n"
    inner(pytester, body, "-m", "fast").assert_outcomes(passed=1, deselected=1)
    inner(pytester, body, "-m", "slow").assert_outcomes(passed=1, deselected=1)
    inner(pytester, body).assert_outcomes(passed=2)


def test_a_test_in_both_tiers_is_refused(pytester: pytest.Pytester) -> None:
    result = inner(pytester, "pytestmark = pytest.mark.slow\n@pytest.mark.fast\ndef test_a(): pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*test_a is in more than one tier: fast, slow")


@pytest.mark.parametrize(
    "body",
    [
        "def test_a(): pytest.skip('later')\n",
        "@pytest.mark.skipif(True, reason='later')\ndef test_a(): pass\n",
        "pytest.importorskip('no_such_module')\ndef test_a(): pass\n",
        "@pytest.mark.xfail\ndef test_a(): assert False\n",
    ],
)
def test_a_skip_fails_the_session_unless_it_is_allowed(
    body: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    body += "def test_b(): pass\n"
    result = inner(pytester, body)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines("SKIPPED, and not in tests.tiers.ALLOWED_SKIPS: *")
    monkeypatch.setattr(tiers, "ALLOWED_SKIPS", {"test_a_skip": "a file of this test"})
    assert inner(pytester, body).ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
