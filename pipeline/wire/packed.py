"""Arrays by name as compressed bytes, for a snapshot: the same arrays give the same bytes."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = 4  # bytes of the header's length


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Names, types and shapes as JSON, then the arrays' bytes, by name; all of it compressed."""
    named = sorted(arrays.items())
    header = json.dumps([(name, array.dtype.str, array.shape) for name, array in named]).encode()
    parts = [len(header).to_bytes(_LENGTH, "little"), header, *(array.tobytes() for _, array in named)]
    return zlib.compress(b"".join(parts), 6)


def unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """The inverse of `pack`; the arrays can be written to."""
    plain = zlib.decompress(data)
    begin = _LENGTH + int.from_bytes(plain[:_LENGTH], "little")
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind, shape in json.loads(plain[_LENGTH:begin]):
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(plain, np.dtype(kind), count, begin).reshape(shape).copy()
        begin, arrays[name] = begin + array.nbytes, array
    return arrays
