"""Leadtime's public interface: what is named here is kept stable; everything else is private and may change.

    from leadtime import Telemetry                                  # send telemetry
    with Telemetry("localhost:9092") as telemetry:
        telemetry.metric(app="shop", user="ann", cpu=0.5)           # cores; see Telemetry.metric for units
        telemetry.event(app="shop", user="ann", kind="API_CALL")

    for plan in leadtime.plans("localhost:9092", app="shop"): ...   # read plans as they are made
    print(leadtime.decision("shop").text)                           # why it has the instances that it has
    leadtime.verify(message_value, "trusted.pem")                   # check a command's signature
    leadtime.run(leadtime.load_settings(), {"mine": MyProvider()})  # actuate a cloud of your own
    leadtime.backtest(frame).tables["policies"]                     # what would have held and cost, polars frames

Every error raised on purpose is a `LeadtimeError`: UsageError (change the request), Unreachable (Kafka or a registry
does not answer), NotDelivered (records that Kafka has not acknowledged), Poison (bytes that are no record). A provider
raises Retryable, Throttled, Rejected. Addresses and secrets come from arguments or LEADTIME_* in the environment.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.backtest.notebook import backtest
    from pipeline.backtest.run import Backtest, BacktestRequest
    from pipeline.errors import (
        LeadtimeError,
        NotDelivered,
        Poison,
        Rejected,
        Retryable,
        Throttled,
        Unreachable,
        UsageError,
    )
    from pipeline.providers.base import Observation, Provider, Result
    from pipeline.reports.decisions import Decision, decision, plans
    from pipeline.settings import Settings, load_settings
    from pipeline.sources.client import Telemetry
    from pipeline.stages.actuator.service import run
    from pipeline.wire.commands import Target
    from pipeline.wire.typed import PublishedPlan
    from pipeline.wire.verification import verify

    __version__: str
else:
    _PLACES = {
        "pipeline.backtest.notebook": "backtest",
        "pipeline.backtest.run": "Backtest BacktestRequest",
        "pipeline.errors": "LeadtimeError NotDelivered Poison Rejected Retryable Throttled Unreachable UsageError",
        "pipeline.providers.base": "Observation Provider Result",
        "pipeline.reports.decisions": "Decision decision plans",
        "pipeline.settings": "Settings load_settings",
        "pipeline.sources.client": "Telemetry",
        "pipeline.stages.actuator.service": "run",
        "pipeline.wire.commands": "Target",
        "pipeline.wire.typed": "PublishedPlan",
        "pipeline.wire.verification": "verify",
    }

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name == "__version__":
            return import_module("importlib.metadata").version("leadtime")
        for module, names in _PLACES.items():
            if name in names.split():
                return globals().setdefault(name, getattr(import_module(module), name))
        raise AttributeError(f"leadtime has no public name {name!r}")

    def __dir__() -> list[str]:
        """Public names, imported or not."""
        return [*__all__, "__version__"]


__all__ = [
    "Backtest", "BacktestRequest", "Decision", "LeadtimeError", "NotDelivered", "Observation", "Poison", "Provider",
    "PublishedPlan", "Rejected", "Result", "Retryable", "Settings", "Target", "Telemetry", "Throttled",
    "Unreachable", "UsageError", "backtest", "decision", "load_settings", "plans", "run", "verify",
]  # fmt: skip
