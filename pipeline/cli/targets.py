"""`leadtime targets`: check the file that says which object of a cluster or cloud each target of the commands is."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.command_line import command_group
from pipeline.errors import USAGE_EXIT, Rejected, Retryable, UsageError
from pipeline.options import AsJson

targets_app = command_group(no_args_is_help=True, help="Check, find and give back the targets of providers.")


@targets_app.callback()
def _targets() -> None:
    """Check, find and give back the targets of providers."""


@targets_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="TOML file of [[target]] tables.")],
    live: Annotated[
        bool,
        typer.Option("--live", help="Also ask the provider's API for each target, and for our permissions."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a TOML file of [[target]] tables; every fault is one line, and the exit status is then 2.

    With --live, what would hinder a command is a fault too: a permission that is missing, an object that is not there,
    is paused or has another autoscaler. Nothing is changed.
    """
    from pipeline.providers.integrations import INTEGRATIONS
    from pipeline.providers.targets import parse_targets

    parsed = parse_targets(file, INTEGRATIONS)
    faults = [*parsed.faults]
    if live and not faults:
        try:
            for name, resources in parsed.by_provider().items():
                faults += INTEGRATIONS[name].live_faults(resources)
        except Retryable as error:
            raise UsageError(str(error)) from None
    _print(parsed.refs, faults, file, as_json=as_json)


@targets_app.command("release")
def release(
    file: Annotated[Path, typer.Argument(help="TOML file of [[target]] tables.")], as_json: AsJson = False
) -> None:
    """Give targets back: the count that somebody else set last, and no annotation or tag of ours.

    Stop the actuator before. What cannot be given back is one line each, and the exit status is then 2.
    """
    from pipeline.providers.integrations import INTEGRATIONS
    from pipeline.providers.targets import read_targets

    done: list[str] = []
    failed: list[str] = []
    for name, resources in read_targets(file, INTEGRATIONS).by_provider().items():
        of_done, of_failed = INTEGRATIONS[name].release(resources)
        done, failed = done + of_done, failed + of_failed
    if as_json:
        print(json.dumps({"released": done, "faults": failed}))
    else:
        print("\n".join([*done, *failed]))
    if failed:
        raise typer.Exit(USAGE_EXIT)


@targets_app.command("discover")
def discover(
    region: Annotated[str, typer.Option(help="Region of AWS, as eu-west-1.")] = "",
    profile: Annotated[
        str, typer.Option(help="Profile of ~/.aws/config; default: the SDK's own credentials.")
    ] = "",
    project: Annotated[str, typer.Option(help="Project of GCP, all its zones and regions.")] = "",
    subscription: Annotated[str, typer.Option(help="Subscription of Azure, by id.")] = "",
    resource_group: Annotated[str, typer.Option(help="Of the subscription; default: all of them.")] = "",
    endpoint: Annotated[str, typer.Option(help="URL of the cloud's API where it is a private one.")] = "",
    namespace: Annotated[
        str, typer.Option(help="Namespace of the Kubernetes cluster of this machine's credentials.")
    ] = "",
    context: Annotated[str, typer.Option(help="Context of the kubeconfig; default: the current one.")] = "",
) -> None:
    """Print a targets file of groups whose tag leadtime.dev/target says app/offer.

    At Azure the tag is leadtime-target; at GCP it is in the description.

    In Kubernetes of autoscalers and Deployments whose label leadtime.dev/app names the app (and leadtime.dev/offer the
    offer, else "pod").

    A comment above a target says what would hinder its commands. Nothing is changed.
    """
    from pipeline.providers.integrations import INTEGRATIONS

    options = {
        "region": region,
        "profile": profile,
        "project": project,
        "subscription": subscription,
        "resource_group": resource_group,
        "endpoint": endpoint,
        "namespace": namespace,
        "context": context,
    }
    where = {name: value for name, value in options.items() if value}
    scopes = {of.scope: of for of in INTEGRATIONS.values() if of.scope}
    of = [scope for scope in scopes if scope in where]
    if len(of) != 1:
        raise UsageError(f"say where: {' or '.join(f'--{scope}' for scope in scopes)}")
    try:
        print(scopes[of[0]].discover(where))
    except (Retryable, Rejected) as error:
        raise UsageError(str(error)) from None


def _print(refs: list[str], faults: list[str], file: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"targets": refs, "faults": faults}))
    else:
        print("\n".join(faults) or f"{file}: {len(refs)} good: {', '.join(refs)}")
    if faults:
        raise typer.Exit(USAGE_EXIT)
