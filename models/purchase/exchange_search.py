"""Exchange search: whole counts of many offers that hold in all but k scenarios, at a cost that no exchange lowers.

From a start the search first raises supply until at most k scenarios are not served, by the additions and exchanges
that remove most of what is lacking per cost; then it makes the exchange (some of one offer less, some of another
more or less) that saves most among those that leave at most k scenarios unserved, until there is none. Units shrink
from a sixteenth of the need to a 512th, or one instance. A local search for the chance-constrained covering problem
(Luedtke, Ahmed & Nemhauser 2010, doi:10.1007/s10107-008-0247-4); how far it is from the least cost is measured by
`leadtime bench allocator`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer
from models.purchase.constraints import TOLERANCE, UNLIMITED, Bounds, Counts
from models.purchase.market import EXACT, Array, Market
from models.purchase.supply import REFERENCE, Float, Supply

UNITS: Final[tuple[float, ...]] = (
    16,
    64,
    512,
)  # a unit is the need by these; 1 instance in 512 is 0.2 % of the cost
COARSER: Final[tuple[float, ...]] = (8, 32, 512)  # the same, for the second search
SOME: Final = (
    512  # replicas up to which a second search is made: an instance is a few thousandths of the cost
)
FEW: Final = (
    128  # replicas up to which exchanges of three are tried: an instance is at least 0.5 % of the cost
)
RAISED: Final = (
    1.0,
    1.01,
    1.03,
    1.08,
    1.2,
)  # times that a scaled start is raised by where it just does not hold
PART: Final = (
    384  # scenarios beyond k, those with the least margin, that moves are tried on before all scenarios
)
MORE: Final = (1, 2, 3, 4)  # units added: instances differ in size, and spot serves less than its size
LESS: Final = (1, 2)  # units removed
TAIL: Final = 160  # rows beyond k, those with the least margin, that a move is tried on before all scenarios
REFUSED: Final = 16  # moves that hold on the TAIL rows but not on all scenarios, after which the search stops
WORTH: Final = 1e-4  # least share of the cost that an exchange saves: a hundredth of the 1 % aimed at
WORST: Final = (
    24  # rows beyond k that a move is tried on first: they refuse most moves, at a third of the work
)
MOVES: Final = 48  # up to so many single moves are tried on all TAIL rows at once
CHUNK: Final = 512  # moves tried at once, cheapest first: 512 × 200 float32 are 0.4 MB and stay in the cache
MIXED: Final = 1024  # scenarios that mixes are compared on
MIX_SPOT: Final = 24  # spot offers of a mix at most
MIX_STABLE: Final = (
    2  # on-demand offers of a mix at most: where instances can be split, the cheapest suffices
)
MIXES: Final = 10  # rounds at most
FIRST: Final = (0.05, 0.2, 0.4)  # parts of the mix that are tried with every offer
FINER: Final = 4  # offers with the lowest cost of these, tried with all PARTS
PARTS: Final = np.array([0.03, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5])
STALL: Final = 1e-3  # a round that saves a smaller share is the last: a tenth of the 1 % aimed at
TINY: Final = 1e-6  # least supply that is divided by: a replica that is lost supplies 0
DEAR: Final = 1000.0  # penalty of a mix beyond the bounds, in instances of the dearest offer
ROUNDS: Final = 200  # exchanges of one unit at most; a search takes 5 to 40


@dataclass(frozen=True)
class _Tail:
    """Rows of need that moves are tried on: group and scenario of each, sorted by scenario; index of each first row."""

    group: NDArray[np.intp]
    scenario: NDArray[np.intp]
    first: NDArray[np.intp]


class Search(Supply):
    """Moves between counts of some of a market's offers, within bounds."""

    def __init__(self, market: Market, offers: Sequence[Offer], limits: Bounds) -> None:
        """limits: bounds of these offers."""
        super().__init__(market, offers)
        self.limits = limits

    def within(self, counts: Counts) -> Counts:
        """Counts within the bounds: the same, or fewer of the offers that cost most per replica."""
        counts = np.minimum(counts, self.limits.upper)
        for _ in range(ROUNDS):
            over = self.limits.excess(counts)
            index = np.flatnonzero(counts)
            if over <= 0 or not index.size:
                return counts
            tried = np.repeat(counts[None], 2 * index.size, axis=0)
            step = np.concatenate([np.ones_like(index), (counts[index] + 1) // 2])
            tried[np.arange(2 * index.size), np.tile(index, 2)] -= step
            saved = over - self.limits.excess(tried)
            if saved.max() <= 0:
                break
            counts = tried[int((saved / step).argmax())]
        return counts if self.limits.excess(counts) <= 0 else np.zeros_like(counts)

    def _cheapest(self, index: Counts) -> Counts:
        """Offers of a mix: the cheapest per surviving replica; all where more than the price decides."""
        if len(set(self.limits.names) - {"maximum", "budget"}):
            return index
        serving = self.survival[index].mean(axis=1) * (1 - self.fails[index]) * self.size[index]
        index = index[np.argsort(self.price[index] / np.maximum(serving, TINY), kind="stable")]
        spot = np.array([self.offers[i].tier == "SPOT" for i in index], dtype=bool)
        return np.sort(np.concatenate([index[spot][:MIX_SPOT], index[~spot][:MIX_STABLE]]))

    def starts(self, k: int) -> list[Counts]:
        """Counts to start from: the cheapest mix where instances may be split, and the cheapest offer where not.

        A mix is scaled so that it holds: by a quantile, over the scenarios, of need over supply. Beginning with the
        cheapest offer alone, each round moves a part of the mix to the offer that lowers the cost most (forward
        stage-wise; moves to a vertex as in Frank & Wolfe 1956, doi:10.1002/nav.3800030109), until none lowers it.
        """
        sample = slice(None, None, max(1, self.need.shape[1] // MIXED))
        counts = np.zeros(len(self.offers), np.int64)
        owned = np.array([o.tier == "RESERVED" for o in self.offers], dtype=bool)
        counts[owned] = self.limits.upper[owned]
        lacking = np.maximum(-self.margin(counts)[:, sample], 0)
        free = self._cheapest(np.flatnonzero(~owned & (self.limits.upper > 0)))
        if not free.size or not lacking.any():
            return [counts]
        rank = lacking.shape[1] - 1 - k * lacking.shape[1] // self.need.shape[1]
        each = self.survival[free][:, sample] * (1 - self.fails[free])[:, None]
        supply = each[:, None] * self.late[free][:, :, None]  # of one replica bought
        replica = np.zeros((free.size, len(self.offers)))  # instances of each offer that carry a replica
        replica[np.arange(free.size), free] = 1 / self.size[free]
        mix, served, best, start = np.zeros(len(self.offers)), np.zeros_like(supply[0]), np.inf, replica[0]

        def moved(index: Counts, parts: NDArray[np.float64]) -> tuple[Array, Array, Array]:
            """Cost, counts and supply of a replica when these parts of the mix go to these offers, (move, ...)."""
            p = parts.astype(np.float32)[:, None, None]
            then = (1 - p) * served + p * supply[index]
            factors = np.where(lacking > 0, lacking / np.maximum(then, TINY), 0).max(axis=1)
            mixes = (1 - parts)[:, None] * mix + parts[:, None] * replica[index]
            scale = np.minimum(np.partition(factors, rank, axis=1)[:, rank, None], UNLIMITED)
            bought = scale * mixes
            beyond = self.limits.excess(bought + counts)
            return bought @ self.price + DEAR * self.price.max() * beyond, bought, then

        every = np.arange(free.size)
        whole = np.minimum(np.ceil(moved(every, np.ones(free.size))[1]), self.limits.upper).astype(np.int64)
        beyond = DEAR * self.price.max() * self.limits.excess(whole + counts)
        alone = whole[int((whole @ self.price + beyond).argmin())]
        for turn in range(MIXES):
            tried = np.stack(
                [moved(every, np.full(free.size, part))[0] for part in (FIRST if turn else (1.0,))]
            )
            few = np.argsort(tried.min(axis=0), kind="stable")[: FINER if turn else 1]
            index, parts = (
                np.repeat(few, len(PARTS)),
                np.tile(PARTS if turn else np.ones_like(PARTS), few.size),
            )
            cost, bought, then = moved(index, parts)
            i = int(cost.argmin())
            if cost[i] >= best * (1 - STALL):
                break
            best, start, served = float(cost[i]), bought[i], then[i]
            mix = (1 - parts[i]) * mix + parts[i] * replica[index[i]]
        mixed = np.minimum(np.ceil(start), self.limits.upper).astype(np.int64)
        return [counts + mixed, counts + alone]

    def bounded(self, limits: Bounds) -> Search:
        """The same draws within other bounds."""
        other = copy.copy(self)
        other.limits = limits
        return other

    def best(self, k: int, runs: Counts) -> tuple[Counts, bool]:
        """The cheapest counts (offer) that searches from the mix and from the running instances find.

        In a small purchase an instance is a larger share of the cost, so small purchases are searched also with other
        units, from the cheapest offer alone, and by exchanges of three.
        """
        need = float(np.quantile(self.need.max(axis=0), 0.99))
        mixed, *alone = self.starts(k)
        tried: list[tuple[Counts, Sequence[float]]] = [(mixed, UNITS)]
        if runs.any():  # an earlier tick searched for these in all the ways below
            tried.append((runs, UNITS))
        else:
            tried += [(mixed, COARSER)] if need <= SOME else []
            tried += [(start, COARSER) for start in alone] if need <= FEW else []
        solutions = [self.solve(start, k, units) for start, units in tried]
        counts, holds = min(solutions, key=lambda solution: (not solution[1], self.cost(solution[0])))
        if holds and need <= FEW:
            counts = self._on_part(counts, k, lambda part, now: (part._lower(now, k, 1.0, deep=True), True))[
                0
            ]
        return counts, holds

    def solve(
        self, start: Counts, k: int, units: Sequence[float] = UNITS, rounds: int = ROUNDS
    ) -> tuple[Counts, bool]:
        """Counts within the bounds, and whether at most k scenarios are not served.

        units: an exchange moves the need divided by these; rounds: most exchanges that lower the cost, of each unit.
        """
        need = float(self.need.max(initial=1.0))
        sizes = dict.fromkeys(max(1.0, need / by) for by in units)

        def moved(part: Search, counts: Counts) -> tuple[Counts, bool]:
            for unit in sizes:
                counts = part._raise(counts, k, unit)
            if part.unserved(counts) > k:
                return counts, False
            for unit in sizes:
                counts = part._lower(counts, k, unit, rounds)
            return counts, True

        return self._on_part(self._scaled(self.within(start), k), k, moved)

    def _on_part(
        self, counts: Counts, k: int, moved: Callable[[Search, Counts], tuple[Counts, bool]]
    ) -> tuple[Counts, bool]:
        """Apply `moved` on the scenarios with the least margin, then also on those that its result leaves unserved."""
        spare = self.margin(counts).min(axis=0)
        size = min(k + PART, spare.size)
        some = np.argpartition(spare, size - 1)[:size]
        while True:
            part = copy.copy(self)
            if some.size < spare.size:
                some = np.sort(some)
                part.need, part.survival, part.normal, part.succeeds = (
                    np.ascontiguousarray(x[:, some])
                    for x in (self.need, self.survival, self.normal, self.succeeds)
                )
            exchanged, holds = moved(part, counts)
            lacks = np.flatnonzero(self.margin(exchanged).min(axis=0) < self.lost(exchanged))
            if not holds or lacks.size <= k or some.size == spare.size:
                return exchanged, holds
            more = np.union1d(some, lacks)  # adds none where float32 sums differ by the order of their parts
            some = more if some.size < more.size < spare.size // 2 else np.arange(spare.size)
            counts = exchanged

    def _scaled(self, counts: Counts, k: int) -> Counts:
        """The least multiple of a start that holds, by RAISED; the start itself where none within the bounds does."""
        served = self.margin(counts) + self.need - np.float32(self.lost(counts))
        factors = (self.need / np.maximum(served, TINY)).max(axis=0)
        by = float(np.partition(factors, factors.size - 1 - k)[factors.size - 1 - k])
        if np.isfinite(by) and by < 1 / TINY:
            for more in RAISED:
                tried = self.within(np.ceil(counts * (by * more) - TOLERANCE).astype(np.int64))
                if self.unserved(tried) <= k:
                    return tried
        return counts

    def _moves(self, counts: Counts, unit: float) -> tuple[Counts, Counts, int, int]:
        """Offer and change of the single moves: no change, then removals, additions of a unit, of several units.

        Returns also the index of the first addition, and of the first of several units.
        """
        units = np.maximum(1, np.rint(unit / self.size)).astype(np.int64)
        index, change = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
        used = np.flatnonzero(counts)
        for times in (*LESS, None):  # None: all of it
            taken = counts[used] if times is None else np.minimum(counts[used], times * units[used])
            index.append(used)
            change.append(-taken)
        less = once = sum(len(i) for i in index)
        for times in MORE:
            room = np.flatnonzero(counts + times * units <= self.limits.upper)
            index.append(room)
            change.append(times * units[room])
            once += len(room) if times == 1 else 0
        return np.concatenate(index), np.concatenate(change), less, once

    def _exchanges(self, counts: Counts, unit: float, *, deep: bool = False) -> tuple[Counts, Counts, Counts]:
        """Single moves (offer, change), and the exchanges made of three of them within the bounds, (exchange, 3).

        The first single move changes nothing. deep: exchanges of one offer for two others, and of two for one.
        """
        index, change, less, once = self._moves(counts, unit)
        if deep:
            a, b, c = (
                x.ravel()
                for x in np.meshgrid(np.arange(1, less), *[np.arange(less, once)] * 2, indexing="ij")
            )
            d, e, f = (
                x.ravel()
                for x in np.meshgrid(*[np.arange(1, less)] * 2, np.arange(less, len(index)), indexing="ij")
            )
            added, removed = b < c, d < e  # each pair of additions, of removals, once
            parts = np.concatenate([np.stack([a, b, c], 1)[added], np.stack([d, e, f], 1)[removed]])
        else:
            first, second = (x.ravel() for x in np.indices((less, len(index))))
            kept = (second >= less) | (first < second)
            parts = np.stack([first, second, np.zeros_like(first)], 1)[kept]
        offer = np.where(parts > 0, index[parts], -1 - np.arange(3))
        parts = parts[(offer != np.roll(offer, 1, axis=1)).all(axis=1)]
        rows = self.limits.rows[:, index] * change
        over = (self.limits.rows @ counts - self.limits.most)[:, None]
        for i in range(3):
            over = over + rows[:, parts[:, i]]
        return index, change, parts[(over <= TOLERANCE).all(axis=0)]

    def _tail(self, margin: Float, count: int) -> _Tail:
        """The `count` rows (group, scenario) with the least margin."""
        count = min(count, margin.size)
        row = np.argpartition(margin.ravel(), count - 1)[:count]
        group, scenario = np.divmod(row, margin.shape[1])
        order = np.lexsort((group, scenario))
        group, scenario = group[order], scenario[order]
        first = np.flatnonzero(np.diff(scenario, prepend=-1))
        return _Tail(group, scenario, first)

    def _lost_after(self, counts: Counts, index: Counts, change: Counts, parts: Counts) -> Float:
        """Replicas that the loss of a pool takes (`lost`) after each exchange, (exchange)."""
        if not self.market.pool_loss or not len(self.pools):
            return np.zeros(len(parts), np.float32)
        pools = self.pools[:, index] * change
        after = (self.pools @ counts)[:, None] + sum(pools[:, parts[:, i]] for i in range(3))
        return (self.market.pool_loss * after.max(axis=0)).astype(np.float32)

    def _lower(
        self, counts: Counts, k: int, unit: float, rounds: int = ROUNDS, *, deep: bool = False
    ) -> Counts:
        """Make exchanges that lower the cost, the largest saving first, while at most k scenarios are not served."""
        for _ in range(rounds):
            index, change, parts = self._exchanges(counts, unit, deep=deep)
            saved = -(self.price[index] * change)[parts].sum(axis=1)
            order = np.argsort(-saved, kind="stable")
            parts = parts[order[saved[order] > WORTH * self.cost(counts)]]
            margin, tried = self.margin(counts), (WORST, TAIL) if len(index) > MOVES else (TAIL,)
            tails = [
                (tail, margin[tail.group, tail.scenario], self._changes(counts, index, change, tail))
                for tail in (self._tail(margin, k + rows) for rows in tried)
            ]
            # a move that takes more, on average over the short rows, than the best of these has to spare cannot hold
            near, delta = tails[0][1:]
            parts = parts[delta.mean(axis=1)[parts].sum(axis=1) >= -max(float(near.max()), 0.0)]
            lost = self._lost_after(counts, index, change, parts)
            cheaper, refused = None, 0
            for start in range(0, len(parts), CHUNK):
                some, limit = parts[start : start + CHUNK], lost[start : start + CHUNK]
                for tail, near, delta in tails:
                    left = near + delta[some[:, 0]]
                    left += delta[some[:, 1]]
                    if deep:
                        left += delta[some[:, 2]]
                    lacks = np.logical_or.reduceat(left < limit[:, None], tail.first, axis=1)
                    holding = lacks.sum(axis=1) <= k
                    some, limit = some[holding], limit[holding]
                for part in some:
                    after = self._after(counts, index, change, part)
                    if self.unserved(after) <= k:
                        cheaper = after
                        break
                    refused += 1
                if cheaper is not None or refused > REFUSED:
                    break
            if cheaper is None:
                return counts
            counts = cheaper
        return counts

    def _raise(self, counts: Counts, k: int, unit: float) -> Counts:
        """Make additions and exchanges that remove most shortage per cost, until at most k scenarios are unserved."""
        tail, least = None, float(self.price[self.price > 2 * REFERENCE * self.price.max()].min(initial=1.0))
        for _ in range(ROUNDS):
            margin, lost = self.margin(counts), float(self.lost(counts))
            lacking = margin.min(axis=0) < lost
            if int(lacking.sum()) <= k:
                return counts
            # the same rows until they are served, or the search could go in circles
            if tail is None or (margin[tail.group, tail.scenario] >= lost).all():
                worst = np.argpartition(margin.min(axis=0), k)[:k] if k else []
                spared = margin.copy()
                spared[:, worst] = np.inf
                tail = self._tail(spared, TAIL)
            index, change, parts = self._exchanges(counts, unit)
            delta = self._changes(counts, index, change, tail)
            near = margin[tail.group, tail.scenario]
            now = float(np.maximum(lost - near, 0).sum())
            after = self._lost_after(counts, index, change, parts)
            gain, cost = np.zeros(len(parts)), (self.price[index] * change)[parts].sum(axis=1)
            for start in range(0, len(parts), CHUNK):
                some = parts[start : start + CHUNK]
                left = after[start : start + CHUNK, None] - near - delta[some[:, 0]]
                left -= delta[some[:, 1]]
                gain[start : start + CHUNK] = now - np.maximum(left, 0, out=left).sum(axis=1)
            better = gain > EXACT * max(1.0, now)
            if not better.any():
                return counts
            counts = self._after(
                counts,
                index,
                change,
                parts[int(np.where(better, gain / np.maximum(cost, least), 0.0).argmax())],
            )
        return counts

    @staticmethod
    def _after(counts: Counts, index: Counts, change: Counts, parts: Counts) -> Counts:
        counts = counts.copy()
        np.add.at(counts, index[parts], change[parts])
        return counts

    def _changes(self, counts: Counts, index: Counts, change: Counts, tail: _Tail) -> Float:
        """Change of the supply by each single move, (move, row)."""
        part = tail.scenario
        moves, offers = len(index), np.arange(len(counts))
        ready, every = self.supply(
            np.concatenate([index, offers]), np.concatenate([counts[index] + change, counts]), part
        )
        late = self.late[index][:, tail.group]
        return np.where(late, every[:moves] - every[moves:][index], ready[:moves] - ready[moves:][index])
