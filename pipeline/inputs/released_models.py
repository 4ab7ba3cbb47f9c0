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
        for candidate in (Path(settings.model), RELEASED / settings.model):
            if (candidate / "model.json").is_file():
                return candidate
        raise UsageError(f"no model {settings.model!r}: neither a folder with model.json nor a released one")
    folders = sorted(path.parent for path in RELEASED.glob("*/model.json"))
    if not folders:
        raise UsageError("no model is released: `leadtime train` makes one")
    return folders[-1]
