"""Counter-based random numbers, keyed by what they are for."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np


def stream(xp: Any, *key: bytes | str | int) -> Any:
    """Counter-based (Philox) generator of the module, keyed by what it is for: same key, same numbers."""
    digest = blake2b(digest_size=16)
    for part in key:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    number = int.from_bytes(digest.digest(), "little")
    bits = xp.random.Philox(key=number) if xp is np else xp.random.Philox4x3210(number)
    return xp.random.Generator(bits)


def uniform(*key: str | int) -> float:
    """A number in (0, 1) that is a function of the key alone: 53 bits of BLAKE2b over its parts, a line each."""
    digest = blake2b("\n".join(str(part) for part in key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") // 2**11 + 0.5) / 2**53
