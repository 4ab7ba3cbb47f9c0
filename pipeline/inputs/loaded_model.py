"""Behaviour models from folders: known by their content, and compiled once a process."""

from __future__ import annotations

import gc
import hashlib
from functools import lru_cache
from pathlib import Path

from models.behaviour.compiled_step import BLOCK
from models.behaviour.lstm import CARD, WEIGHTS, BehaviourModel
from pipeline.errors import UsageError


def digest(folder: Path) -> bytes:
    """BLAKE2b of a model's card and weights: a model that is trained again in the same folder has another.

    Raises:
        UsageError: the folder holds no model.
    """
    digest = hashlib.blake2b()
    try:
        for name in (CARD, WEIGHTS):
            digest.update(hashlib.blake2b((folder / name).read_bytes()).digest())
    except OSError as error:
        raise UsageError(f"{folder} holds no model: {error}") from error
    return digest.digest()


def load(folder: Path, block: int = BLOCK) -> BehaviourModel:
    """The model of a folder for steps of `block` users; the last one is kept, as compiling takes ten seconds.

    It is shared: neither its weights nor its facts are to be changed.

    Raises:
        UsageError: the folder holds no model, or one of another network.
    """
    return _loaded(folder, block, digest(folder))


@lru_cache(maxsize=1)
def _loaded(folder: Path, block: int, content: bytes) -> BehaviourModel:
    del content  # a part of the key alone
    try:
        model = BehaviourModel.load(folder, block)
    except ValueError as error:
        raise UsageError(str(error)) from error
    gc.freeze()  # what is loaded stays: the collector takes half a second to look through it
    return model
