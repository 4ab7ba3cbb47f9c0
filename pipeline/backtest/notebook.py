"""`leadtime.backtest`: a backtest called from a program or a notebook, with keywords instead of a request object."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pipeline.backtest import run
from pipeline.backtest.run import Backtest, BacktestRequest

_Fields = ParamSpec("_Fields")
_R = TypeVar("_R")


def _with_fields_of(
    request: Callable[_Fields, object],
) -> Callable[[Callable[..., _R]], Callable[_Fields, _R]]:
    """A decorator: to type checkers and `inspect`, the function takes what `request` takes."""

    def typed(function: Callable[..., _R]) -> Callable[_Fields, _R]:
        function.__wrapped__ = request  # pyright: ignore[reportFunctionMemberAccess]  # read by inspect.signature
        return function

    return typed


@_with_fields_of(BacktestRequest)
def backtest(*fields: object, **named: object) -> Backtest:
    """Backtest the planner on a trace or topics against baseline autoscalers at an equal hit rate.

        result = leadtime.backtest(frame, begin="2013-08-20", alone=True)
        result.tables["policies"], result.report["summary"]

    It uses two processes: a script calls it below `if __name__ == "__main__":`, or gives `processes=1`.

    Args:
        fields, named: those of `leadtime.BacktestRequest`; the first is `trace`, a polars frame or a path (columns ts,
            app, user and metrics: docs/telemetry.md).

    Returns:
        `tables`: polars frames `policies`, `apps`, `ticks` and `figures`; `report`: the figures that
        `leadtime backtest --json` prints (docs/scoring.md).

    Raises:
        UsageError: the request contradicts itself, a file cannot be read, or nothing can be scored.
        Unreachable: with topics, the cluster does not answer.
    """
    return run.run(BacktestRequest(*fields, **named))  # pyright: ignore[reportArgumentType]
