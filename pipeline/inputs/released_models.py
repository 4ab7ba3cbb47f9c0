"""Where released models are."""

from pathlib import Path

from models.behaviour.lstm import RELEASED
from pipeline.errors import UsageError
from pipeline.settings import Settings


def folder(settings: Settings) -> Path:
    """The folder of the model that an installation uses: the one that is set, else the newest released.

    Raises:
        UsageError: there is none.
    """
    if settings.model is not None:
        return named(settings.model)
    folders = sorted(path.parent for path in RELEASED.glob("*/model.json"))
    if not folders:
        raise UsageError("no model is released: `leadtime train` makes one")
    return folders[-1]


def named(model: str) -> Path:
    """The folder of a model.

    Args:
        model: a folder, or the name of a released one.

    Raises:
        UsageError: there is no such model.
    """
    for candidate in (Path(model), RELEASED / model):
        if (candidate / "model.json").is_file():
            return candidate
    raise UsageError(f"no model {model!r}: neither a folder with model.json nor a released one")
