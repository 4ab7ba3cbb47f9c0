"""`leadtime targets`: check the file that says which object of a cluster each target of the commands is."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.command_line import command_group
from pipeline.errors import USAGE_EXIT, Retryable, UsageError
from pipeline.options import AsJson

targets_app = command_group(no_args_is_help=True, help="Check the targets of a provider.")


@targets_app.callback()
def _targets() -> None:
    """Check the targets of a provider."""


@targets_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="TOML file of [[target]] tables.")],
    live: Annotated[
        bool, typer.Option("--live", help="Also ask the API server for each target, and for our permissions.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a TOML file of [[target]] tables; every fault is one line, and the exit status is then 2.

    With --live, what would hinder a command is a fault too: a permission that is missing, an object that is not there,
    is paused or has another autoscaler. Nothing is changed.
    """
    from pipeline.providers.kubernetes.targets import parse_targets

    resources, faults = parse_targets(file)
    if live and not faults:
        from pipeline.providers.kubernetes import connected

        api = connected()
        from pipeline.providers.kubernetes.checks import live_faults

        try:
            faults = live_faults(api, resources)
        except Retryable as error:
            raise UsageError(str(error)) from None
        finally:
            api.close()
    _print([resource.ref for resource in resources], faults, file, as_json=as_json)


@targets_app.command("release")
def release(
    file: Annotated[Path, typer.Argument(help="TOML file of [[target]] tables.")], as_json: AsJson = False
) -> None:
    """Give targets back: the count that somebody else set last, and no annotation of ours. Stop the actuator before.

    What cannot be given back is one line each, and the exit status is then 2.
    """
    from pipeline.providers.kubernetes import connected
    from pipeline.providers.kubernetes.targets import read_targets

    resources, api = read_targets(file), connected()
    from pipeline.providers.kubernetes.release import release as give_back

    done, failed = give_back(api, resources)
    api.close()
    if as_json:
        print(json.dumps({"released": done, "faults": failed}))
    else:
        print("\n".join([*done, *failed]))
    if failed:
        raise typer.Exit(USAGE_EXIT)


def _print(refs: list[str], faults: list[str], file: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"targets": refs, "faults": faults}))
    else:
        print("\n".join(faults) or f"{file}: {len(refs)} good: {', '.join(refs)}")
    if faults:
        raise typer.Exit(USAGE_EXIT)
