"""Former name of `pipeline.providers.base`; it goes with release 0.3.0."""

import warnings

from pipeline.errors import Rejected, Retryable
from pipeline.providers.base import Observation, Provider, Record, Result, Target

__all__ = ["Observation", "Provider", "Record", "Rejected", "Result", "Retryable", "Target"]
warnings.warn("pipeline.actuators.provider is now pipeline.providers.base", DeprecationWarning, stacklevel=2)
