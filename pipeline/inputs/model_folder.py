"""Behaviour models from folders, and the digest by which a result names the model that it came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.behaviour.compiled_step import BLOCK
from models.behaviour.lstm import CARD, WEIGHTS, BehaviourModel
from pipeline.errors import UsageError


def model_digest(folder: Path) -> bytes:
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


def load_model(folder: Path, block: int = BLOCK) -> BehaviourModel:
    """The model of a folder for steps of `block` users; models with the same weights share the compiled step.

    Raises:
        UsageError: the folder holds no model, or a model of another network.
    """
    try:
        return BehaviourModel.load(folder, block)
    except ValueError as error:
        raise UsageError(str(error)) from error
