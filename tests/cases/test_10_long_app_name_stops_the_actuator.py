"""No name of an app or an offer keeps the actuator from the targets of the others."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.providers.local import LocalProvider
from pipeline.security.signing_keys import demo_key
from pipeline.stages.actuator.executor import Executor
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command

PRICE = {
    "version": 1,
    "valid_from_tick": 0,
    "tier": "ON_DEMAND",
    "region": "",
    "zone": "",
    "capacity": [{"metric": "cpu", "value": 2.0}],
    "reserved_overhead": [],
    "startup_p50_s": 5.0,
    "startup_p99_s": 10.0,
    "launch_failure": 0.0,
    "interruption": 0.0,
    "notice_s": 0.0,
    "billing_min_s": 0.0,
    "owned_count": None,
}
APPS = (
    "shop",
    "購物車服務" * 6,
    "x" * 1024,
    "x" * 1023 + "y",
    "🛒" * 256,
    "..",
    ".",
    "a/b",
    "a%2Fb",
    "A/B",
    " ",
)


def provider_of(folder: Path, *offers: str) -> LocalProvider:
    provider = LocalProvider(folder, tick_s=60)
    for offer in offers:
        provider.offered(PRICE | {"offer_id": offer})
    return provider


def test_every_name_has_a_file_and_a_count_of_its_own(tmp_path: Path) -> None:
    provider = provider_of(tmp_path, "od")
    for count, app in enumerate(APPS):
        provider.start(Target("local", f"{app}/od"), count, 0.0)
    provider.close()
    again = provider_of(tmp_path, "od")  # read from the files
    assert [again.observe(Target("local", f"{app}/od"), 60.0).ready for app in APPS] == list(range(len(APPS)))
    assert len({path.name for path in tmp_path.glob("*.json")}) == len(APPS)
    assert (tmp_path / "shop%2Fod.json").exists()  # as before
    again.close()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), min_size=2, unique=True
    )
)
def test_distinct_targets_have_distinct_files(
    tmp_path_factory: pytest.TempPathFactory, apps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("local")
    provider = provider_of(folder, "od")
    for app in apps:
        provider.start(Target("local", f"{app}/od"), 1, 0.0)
    provider.close()
    assert len(list(folder.glob("*.json"))) == len(apps)


class Failing(LocalProvider):
    """Fails as an operating system does for one app's files."""

    def _path(self, ref: str) -> Path:
        if ref.startswith("bad/"):
            raise OSError(36, "File name too long")
        return super()._path(ref)


def test_a_provider_that_fails_for_one_target_serves_the_others(tmp_path: Path) -> None:
    provider = Failing(tmp_path, tick_s=60)
    provider.offered(PRICE | {"offer_id": "od"})
    executor = Executor({"local": provider}, {demo_key().key_id: demo_key().public})
    bad, good = command(ref="bad/od"), command(ref="good/od")
    ((_, failed),) = executor.submit(bad, 660.0)
    assert (failed["status"], failed["reason"]) == (
        "FAILED",
        "defect of the provider: OSError: [Errno 36] File name too long",
    )
    assert executor.observe(Target.of(bad), 11, 60, 720.0) is None
    ((_, applied),) = executor.submit(good, 660.0)
    assert (applied["status"], applied["after"]) == ("APPLIED", 3)
    record = executor.observe(Target.of(good), 11, 60, 720.0)
    assert record is not None
    assert (record["app"], record["ready"] + record["pending"]) == ("good", 3)
    provider.close()
