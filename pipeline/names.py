"""What keeps a text from being the name of an app or a user, or the id of an offer.

Names are identities: compared byte by byte, in any script, with any separator; neither case nor Unicode's normal forms
nor white space are folded. What cannot stand in one line of a log or of a page is refused where it enters.
"""

import re
from typing import Final

import numpy as np
import polars as pl

from models import telemetry_rules
from models.telemetry_rules import CONTROL, MAX_ID_BYTES, Faults

_SHARES: Final = r"budget|quota .*"
"""What an app's share of its group is of, beside offers (`models.planning.groups`)."""
_REPLICAS: Final = "replicas"
"""Stands in an offer's place in the target of an app's replicas (`pipeline.wire.commands.REPLICAS`)."""


def name_fault(name: str) -> str | None:
    """What is wrong with an app's name, or None; the field's name belongs before it."""
    if not name:
        return "must not be empty"
    size = len(name.encode(errors="surrogatepass"))
    if size > MAX_ID_BYTES:
        return f"must have at most {MAX_ID_BYTES:,} bytes, has {size:,}: {name[:40]!r}…"
    if re.search(CONTROL, name):
        return f"must not have control characters or line ends, got {name[:80]!r}"
    return None


def offer_fault(offer_id: str) -> str | None:
    """What is wrong with an offer's id, or None: as a name, without slashes, since a target is `app/offer`."""
    if "/" in offer_id:
        return f"must not have a slash (a target is app/offer), got {offer_id[:80]!r}"
    if re.fullmatch(_SHARES, offer_id):
        return f"must not be 'budget' nor begin with 'quota ' (shares of a group are called so), got {offer_id[:80]!r}"
    if offer_id == _REPLICAS:
        return f"must not be {_REPLICAS!r} (the target app/{_REPLICAS} is an app's replicas on shared nodes)"
    return name_fault(offer_id)


def identity_faults(rows: pl.DataFrame, user_needed: np.ndarray | bool) -> Faults:
    """What is wrong with the columns `app` and `user` of records, as `models.telemetry_rules.identity_faults`."""
    control = rows["app"].str.contains(CONTROL).fill_null(False).to_numpy()
    return telemetry_rules.identity_faults(_bytes(rows["app"]), _bytes(rows["user"]), user_needed, control)


def _bytes(names: pl.Series) -> np.ndarray:
    """(row,) length of each name in UTF-8, -1 for an absent one."""
    return names.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy()
