"""Runs a TensorFlow graph for many users in blocks of one size: compiled once by XLA, blocks in parallel on all cores.

Users are the last axis inside a block, so that every operation runs over long rows, and the first axis outside.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import METRICS, STEPS
from models.quantile_function import LEVELS

# A multiple of the 16 float32 of a vector register; 1,024 would put a column's values, 4,096 bytes apart, into one
# set of the cache: the copies at the border then take nine times as long.
BLOCK: Final = 1008
# For a few hundred users: less than a quarter of the time of one of 1,008 that is mostly empty. One number in some
# 100,000 differs in its last bit from that of blocks of 1,008 (of sizes that are no multiple of 48 many do): not for
# bytes that are to be those of a worker.
SMALL_BLOCKS: Final = (144, 240, 336)
OFFSETS: Final = len(METRICS) * STEPS * LEVELS
_ALIGNED: Final = 64  # bytes, for TensorFlow to take an array as it is

Shapes = Sequence[tuple[int, ...]]


def small_block(users: int) -> int:
    """The size of SMALL_BLOCKS that leaves the fewest places empty for so many users; of equal ones the larger."""
    return min(SMALL_BLOCKS, key=lambda size: (-(-users // size) * size, -size))


def empty(n: int, kinds: Sequence[tuple[tuple[int, ...], Any]]) -> list[NDArray[Any]]:
    """Uninitialised arrays (n, *shape), one for each shape and dtype, in one block of memory.

    One block is backed by large pages: page faults of many small arrays take a fifth of a step's time. The memory is
    freed with the last of the arrays.
    """
    sizes = [n * int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in kinds]
    starts = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]).tolist()
    memory = np.empty(starts[-1], np.uint8)
    return [
        memory[start : start + size].view(kind).reshape(n, *shape)
        for start, size, (shape, kind) in zip(starts, sizes, kinds, strict=False)
    ]


class Blocks:
    """A graph compiled for `block` users, called for any number of users.

    The last block is filled up with zeros. As only one size is compiled, a user's result does not depend on the batch
    or the place in it, to the bit.
    """

    def __init__(
        self,
        tf: Any,
        graph: Callable[..., tuple[Sequence[Any], Any]],
        given: Shapes,
        shared: Shapes,
        block: int = BLOCK,
    ) -> None:
        """Describe the graph; it is compiled by the first call.

        Args:
            tf: the tensorflow module.
            graph: takes arrays (*shape, block) for `given`, then (*shape, 1) for `shared`; returns a list of float32
                arrays (..., block) and a list of the forecasts' offsets, (5, 6, block) for each level.
            given: shape per user of each array.
            shared: shape of each array that is the same for all users.
            block: users at a time.
        """
        self._tf, self._block = tf, block
        self._ends = np.cumsum([0, *(int(np.prod(shape)) for shape in given)]).tolist()
        self._local = threading.local()

        def compiled(packed: Any, *others: Any) -> Any:
            ends = zip(self._ends, self._ends[1:], given, strict=False)
            out, levels = graph(*(tf.reshape(packed[a:b], (*shape, block)) for a, b, shape in ends), *others)
            # Two numbers in one: half the moves when users become the first axis. The levels of two steps are an
            # even number.
            halves = [tf.bitcast(tf.cast(level, tf.float16), tf.uint16) for level in levels]
            two = [tf.reshape(tf.cast(half, tf.uint32), (-1, 2, block)) for half in halves]
            row = [level[:, k] for k in (0, 1) for level in two]
            pairs = tf.stack([a + 65_536 * b for a, b in zip(row[::2], row[1::2], strict=True)], axis=1)
            pairs = tf.reshape(pairs, (OFFSETS // 2, block))
            return tf.concat([tf.reshape(array, (-1, block)) for array in out], axis=0), pairs

        sizes = [(self._ends[-1], block), *((*shape, 1) for shape in shared)]
        signature = [tf.TensorSpec(size, tf.float32) for size in sizes]
        self.graph = tf.function(compiled, input_signature=signature, autograph=False, jit_compile=True)

    def __call__(
        self,
        given: Sequence[NDArray[Any]],
        shared: Sequence[NDArray[np.float32]],
        copies: Sequence[tuple[NDArray[Any], NDArray[Any]]],
        out: Sequence[NDArray[Any]],
        offsets: NDArray[np.float16],
    ) -> None:
        """Run the graph for n users.

        Args:
            given: arrays (n, *shape) of any dtype.
            shared: arrays (*shape, 1).
            copies: pairs of arrays (n, ...): the first is copied to the second, before `out` is written.
            out: arrays (n, ...), filled with the graph's first list.
            offsets: (n, 5, 6, level), filled with the graph's second list.
        """
        n = len(offsets)
        pairs = offsets.reshape(n, OFFSETS).view(np.uint32)
        constants = [self._tf.constant(array, self._tf.float32) for array in shared]
        graph = self.graph.get_concrete_function()

        def run(first: int) -> None:
            part = slice(first, min(n, first + self._block))
            size = part.stop - first
            packed, tensor = self._packed()
            packed[:, size:] = 0
            for a, b, array in zip(self._ends, self._ends[1:], given, strict=False):
                packed[a:b, :size] = array[part].reshape(size, -1).T
            results, packed_pairs = (np.asarray(result) for result in graph(tensor, *constants))
            for source, copy in copies:
                copy[part] = source[part]
            row = 0
            for array in out:
                rows = int(np.prod(array.shape[1:]))
                array[part] = results[row : row + rows, :size].T.reshape(size, *array.shape[1:])
                row += rows
            pairs[part] = packed_pairs[:, :size].T

        if 0 < n <= self._block:
            run(0)
        else:
            list(_pool().map(run, range(0, n, self._block)))

    def _packed(self) -> tuple[NDArray[np.float32], Any]:
        """This thread's input (row, block) and the tensor over the same memory."""
        if not hasattr(self._local, "packed"):
            shape = (self._ends[-1], self._block)
            memory = np.zeros(shape[0] * shape[1] * 4 + _ALIGNED, np.uint8)
            start = -memory.ctypes.data % _ALIGNED
            packed = memory[start : start + shape[0] * shape[1] * 4].view(np.float32).reshape(shape)
            self._local.packed = packed, self._tf.experimental.dlpack.from_dlpack(packed.__dlpack__())
        return self._local.packed


@functools.cache
def _pool() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, "step")
