"""Public names of the last release still work, and say where they have gone."""

import importlib
import sys
from types import ModuleType

import pytest

from pipeline.providers import base
from pipeline.wire import codec


@pytest.mark.parametrize(
    ("former", "present", "names"),
    [
        ("pipeline.codec", codec, ("encode", "decode", "Codec")),
        ("pipeline.actuators.provider", base, ("Provider", "Observation", "Result", "Target")),
    ],
)
def test_a_former_module_gives_the_same_objects_with_a_warning(
    former: str, present: ModuleType, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {present.__name__}"):
        module = importlib.import_module(former)
    for name in names:
        assert getattr(module, name) is getattr(present, name)
