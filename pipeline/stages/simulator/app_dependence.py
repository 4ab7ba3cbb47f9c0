"""Dependence of forecast errors of the apps of a shard: sums per app, a row per user, and their snapshot."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from models.behaviour.error_dependence import (
    EARLY_NONE,
    SUMS,
    USER,
    Dependence,
    estimate,
    learn,
    loadings,
    users,
)
from models.demand.turnover import Turnover, silent_ticks
from models.metrics import METRICS
from models.tick import Tick
from pipeline.security.pseudonyms import FORGET_S, PSEUDONYM_BYTES
from pipeline.wire import messages

FADED = 1.0
"""A user who is not forecast is forgotten once this little of its loading is known: a quarter of what the prior weighs,
which leaves the loading near the prior's 1."""
BLOCK_BYTES = messages.MESSAGE_BYTES * 9 // 10


NEVER = np.iinfo(np.uint16).max
"""Age of a metric that a user did not report yet, or long ago."""
_NAMES = np.dtype(f"S{PSEUDONYM_BYTES}")


@dataclass
class AppDependence:
    """Sums and user rows of one app.

    Attributes:
        tick: the last tick whose scores were added.
        present: number of users of that tick, which have the first rows.
        ids: pseudonyms of all rows, concatenated.
        sums: SUMS ().
        users: USER (row), in the order of `ids`: users of the last tick, then absent ones that are still kept.
        reported: pseudonyms of the users of the last turnover, concatenated.
        ages: (user, METRICS) uint16, of these, ticks since a metric was reported, 0 = in that tick, NEVER at most.
    """

    tick: int
    present: int
    ids: bytes
    sums: np.ndarray
    users: np.ndarray
    reported: bytes = b""
    ages: np.ndarray = field(default_factory=lambda: np.zeros((0, len(METRICS)), np.uint16))

    def seat(self, ids: bytes, tick: int) -> None:
        """Reorder the rows: the users `ids` of this tick, then at most as many absent users with `known` >= FADED.

        Early scores are cleared for absent users, and for all users if a tick was skipped.
        """
        if tick != self.tick + 1:
            self.users["early"] = EARLY_NONE
        self.tick, count = tick, len(ids) // PSEUDONYM_BYTES
        if count == self.present and self.ids.startswith(ids):
            return
        known, given = np.frombuffer(self.ids, _NAMES), np.frombuffer(ids, _NAMES)
        old = _places(known, given)
        gone = np.ones(len(known), bool)
        gone[old[old >= 0]] = False
        left = np.flatnonzero(gone & (self.users["known"] >= FADED))[:count]
        seated = users(count)
        seated[old >= 0] = self.users[old[old >= 0]]
        absent = self.users[left]
        absent["early"] = EARLY_NONE
        self.users = np.concatenate([seated, absent])
        self.ids, self.present = ids + known[left].tobytes(), count

    def rename(self, ids: bytes, previous: bytes) -> None:
        """Rename rows from `previous` to `ids`; rows that had these names before are dropped.

        Args:
            ids, previous: pseudonyms of the same users, concatenated; zeros in `previous` where a user is not renamed.
        """
        given, before, known = (np.frombuffer(part, _NAMES) for part in (ids, previous, self.ids))
        renamed = before != b""
        reported = np.frombuffer(self.reported, _NAMES).copy()
        places = _places(reported, before[renamed])
        reported[places[places >= 0]] = given[renamed][places >= 0]
        self.reported = reported.tobytes()
        rows = _places(known, before[renamed])
        given = given[renamed][rows >= 0]
        kept = np.ones(len(known), bool)
        held = _places(known, given)
        kept[held[held >= 0]] = False
        names = known.copy()
        names[rows[rows >= 0]] = given
        self.ids, self.users = names[kept].tobytes(), self.users[kept]
        self.present = int(kept[: self.present].sum())


def _places(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(id,) index of each pseudonym in `known`, -1 where it is absent."""
    if not len(known):
        return np.full(len(ids), -1)
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[at] == ids, at, -1)


class DependenceTable:
    """Dependence of the apps of one shard, by name.

    Args:
        prior: dependence of an app without data: the estimate of the released model.
    """

    def __init__(self, prior: Dependence) -> None:
        self.prior = prior
        self.apps: dict[str, AppDependence] = {}

    def learn(
        self, name: str, tick: int, ids: bytes, scores: np.ndarray, kept: np.ndarray
    ) -> tuple[Dependence, np.ndarray]:
        """Update an app's estimate with the scores of a tick; return its dependence, and the loadings (user) of `ids`.

        Args:
            name: of the app.
            tick: of the forecasts.
            ids: pseudonyms of the users, concatenated.
            scores: (user, metric, tracked).
            kept: of `models.behaviour.error_dependence.learn`.
        """
        app = self._app(name, tick)
        app.seat(ids, tick)
        now = slice(0, app.present)
        app.sums, app.users[now] = learn(app.sums, app.users[now], scores, kept, self.prior)
        return estimate(app.sums, self.prior), loadings(app.users[now])

    def turnover(
        self,
        name: str,
        at: Tick,
        ids: bytes,
        observed: np.ndarray,
        last: np.ndarray,
        columns: np.ndarray | None = None,
    ) -> Turnover:
        """Last usage of an app's users that are silent, went or came; who reported is kept for the next tick.

        Each metric by itself: a user who still reports another one is silent in it, for as long as a user would be
        forecast who reports nothing. Where nobody reported in the tick before, all come: who went may be of another
        shard, or have gone before a gap.

        Args:
            name: of the app.
            at: the tick of the forecasts.
            ids: pseudonyms of the users, concatenated.
            observed: (user, metric) usage in the tick, NaN where absent.
            last: (user, metric) the last usage known, NaN where there is none.
            columns: place in METRICS of those of `observed` and `last`; None: the first ones.
        """
        app = self._app(name, at.number)
        if app.reported != ids:  # in most ticks they are the same, and nothing is searched
            places = _places(np.frombuffer(app.reported, _NAMES), np.frombuffer(ids, _NAMES))
            ages = np.full((len(places), len(METRICS)), NEVER, np.uint16)
            ages[places >= 0] = app.ages[places[places >= 0]]
            app.reported, app.ages = ids, ages
        reports = np.isfinite(observed)
        columns = np.arange(observed.shape[1]) if columns is None else columns
        before = app.ages[:, columns] == 0
        app.ages = np.minimum(app.ages, NEVER - 1) + np.uint16(1)
        app.ages[:, columns] = np.where(reports, 0, app.ages[:, columns])
        silent = ~reports & (app.ages[:, columns] <= silent_ticks(at.length_s))
        level = np.where(reports, observed, np.nan_to_num(last)).astype(np.float64)
        return Turnover(
            *((level * rows).sum(axis=0) for rows in (silent, before & silent, reports & ~before))
        )

    def _app(self, name: str, tick: int) -> AppDependence:
        new = AppDependence(tick - 1, 0, b"", np.zeros((), SUMS), users(0))
        return self.apps.setdefault(name, new)

    def rename(self, name: str, ids: bytes, previous: bytes) -> None:
        """Rename users of an app that is known; see `AppDependence.rename`."""
        if name in self.apps:
            self.apps[name].rename(ids, previous)

    def forget(self, tick: int, tick_s: int) -> None:
        """Drop apps without forecasts for FORGET_S seconds before `tick`, as the profiler drops users."""
        oldest = tick - FORGET_S // tick_s
        self.apps = {name: app for name, app in self.apps.items() if app.tick >= oldest}

    def blocks(self) -> Iterable[bytes]:
        """All apps as one byte string, cut into blocks of at most BLOCK_BYTES."""
        head = [
            [name, app.tick, app.present, len(app.users), len(app.ages), len(METRICS)]
            for name, app in self.apps.items()
        ]
        text = json.dumps(head).encode()
        arrays = (
            app.sums.tobytes() + app.ids + app.users.tobytes() + app.reported + app.ages.tobytes()
            for app in self.apps.values()
        )
        whole = len(text).to_bytes(4, "little") + text + b"".join(arrays)
        return (whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES))

    def restore(self, blocks: Iterable[bytes]) -> None:
        """Restore what `blocks` returned; no blocks leave the table empty."""
        whole = b"".join(blocks)
        at = 4 + int.from_bytes(whole[:4], "little")
        for name, tick, present, count, *reporting in json.loads(whole[4:at] or b"[]"):
            # a snapshot of an older version has no ages, or not even who reported: all did, in its tick
            known, width = (*reporting, 0, 0)[:2]
            sizes = [SUMS.itemsize, PSEUDONYM_BYTES * count, USER.itemsize * count]
            sizes += [PSEUDONYM_BYTES * known, known * width * 2]
            ends = np.cumsum([at, *sizes]).tolist()
            sums, ids, rows, reported, ages = (whole[a:b] for a, b in pairwise(ends))
            at = ends[-1]
            reported = reported if reporting else ids[: PSEUDONYM_BYTES * present]
            unaged = np.zeros((len(reported) // PSEUDONYM_BYTES, len(METRICS)), np.uint16)
            self.apps[name] = AppDependence(
                tick,
                present,
                ids,
                np.frombuffer(sums, SUMS)[0:1].reshape(()),
                np.frombuffer(rows, USER).copy(),
                reported,
                np.frombuffer(ages, np.uint16).reshape(-1, width) if width else unaged,
            )
