"""Former name of `pipeline.wire.codec`; it goes with release 0.3.0."""

import warnings

from pipeline.wire.codec import DEFAULT, Codec, Record, decode, encode

__all__ = ["DEFAULT", "Codec", "Record", "decode", "encode"]
warnings.warn("pipeline.codec is now pipeline.wire.codec", DeprecationWarning, stacklevel=2)
