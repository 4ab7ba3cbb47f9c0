"""`leadtime scaler`: KEDA's external push scaler, in the foreground."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from pipeline.options import AsJson, Bootstrap, Prefix


def scaler(
    listen: Annotated[
        str, typer.Option(help="Address to listen on, host:port; port 0 is a free one.")
    ] = "127.0.0.1:9410",
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate, with its chain; default: no TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file of the authority whose certificates KEDA must have; default: none."),
    ] = None,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Answer KEDA, as its external push scaler, how many replicas are planned, until Ctrl-C or SIGTERM.

    Triggers name `app` and `offer` in their metadata. Plans are read, and nothing is written.
    """
    if (tls_cert is None) is not (tls_key is None):
        raise UsageError("give --tls-cert and --tls-key together")
    if client_ca is not None and tls_cert is None:
        raise UsageError("--client-ca: no effect without --tls-cert")

    from pipeline.kafka.connection import reachable
    from pipeline.settings import load_settings

    try:
        from pipeline.scaler import service
        from pipeline.scaler.listener import Tls
    except ModuleNotFoundError as error:
        raise UsageError(f"leadtime scaler needs {error.name}: pip install 'leadtime[keda]'") from None

    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)

    def started(address: str) -> None:
        if as_json:
            print(json.dumps({"address": address}), flush=True)
        else:
            print(f"answering KEDA on {address}", file=sys.stderr, flush=True)

    tls = None if tls_cert is None or tls_key is None else Tls(tls_cert, tls_key, client_ca)
    service.run(settings, listen, tls, started)
