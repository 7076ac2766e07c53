"""Small, safe, self-describing frames for model updates: numpy and zstandard, nothing else.

>>> import numpy as np
>>> from update_codec import CodecSpec, Manifest, decode, encode
>>> model = {"weight": np.ones((64, 64), np.float32)}
>>> manifest = Manifest.of(model)
>>> update = manifest.flatten(model)
>>> encoded = encode(update, manifest, CodecSpec.parse("lossless"))
>>> bool((decode(encoded.frame, manifest).parameters == update.parameters).all())
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from update_codec.accumulator import Accumulator
    from update_codec.arrays import Arrays, DeviceUpdate
    from update_codec.chunks import iter_chunks
    from update_codec.context import Context, Contexts, moving_average
    from update_codec.decoding import FrameInfo, decode, inspect
    from update_codec.encoding import Encoded, encode
    from update_codec.errors import (
        CodecError,
        ContextMismatch,
        DigestMismatch,
        EntropyError,
        FrameError,
        HeaderError,
        HeadroomError,
        ManifestError,
        ManifestMismatch,
        MaskedFrame,
        NonFiniteError,
        NonFiniteFrame,
        ShapeError,
        SizeMismatch,
        SpecError,
        SummedFrame,
        TrailingBytes,
        TruncatedFrame,
        UnknownVersion,
    )
    from update_codec.frame import frame_kind, frame_manifest
    from update_codec.manifest import Manifest, Role, TensorSpec, constant_digest
    from update_codec.masking import Masked, MaskedSum, read_masked
    from update_codec.segments import SegmentInfo
    from update_codec.spec import PROFILES, CodecSpec
    from update_codec.sums import Sums, inspect_sum, is_sum, read_members, read_sum, sum_frame
    from update_codec.vectors import Vectors

__all__ = [
    "PROFILES",
    "Accumulator",
    "Arrays",
    "CodecError",
    "CodecSpec",
    "Context",
    "ContextMismatch",
    "Contexts",
    "DeviceUpdate",
    "DigestMismatch",
    "Encoded",
    "EntropyError",
    "FrameError",
    "FrameInfo",
    "HeaderError",
    "HeadroomError",
    "Manifest",
    "ManifestError",
    "ManifestMismatch",
    "Masked",
    "MaskedFrame",
    "MaskedSum",
    "NonFiniteError",
    "NonFiniteFrame",
    "Role",
    "SegmentInfo",
    "ShapeError",
    "SizeMismatch",
    "SpecError",
    "SummedFrame",
    "Sums",
    "TensorSpec",
    "TrailingBytes",
    "TruncatedFrame",
    "UnknownVersion",
    "Vectors",
    "constant_digest",
    "decode",
    "encode",
    "frame_kind",
    "frame_manifest",
    "inspect",
    "inspect_sum",
    "is_sum",
    "iter_chunks",
    "moving_average",
    "read_masked",
    "read_members",
    "read_sum",
    "sum_frame",
]

_WHERE = {
    "accumulator": "Accumulator",
    "arrays": "Arrays DeviceUpdate",
    "chunks": "iter_chunks",
    "context": "Context Contexts moving_average",
    "decoding": "FrameInfo decode inspect",
    "encoding": "Encoded encode",
    "frame": "frame_kind frame_manifest",
    "manifest": "Manifest Role TensorSpec constant_digest",
    "masking": "Masked MaskedSum read_masked",
    "segments": "SegmentInfo",
    "spec": "PROFILES CodecSpec",
    "sums": "Sums inspect_sum is_sum read_members read_sum sum_frame",
    "vectors": "Vectors",
}
"""What is imported when it is first asked for: a codec's name alone costs no arrays. All other names are errors."""

_MODULES = {name: module for module, names in _WHERE.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562).

    Raises:
        AttributeError: There is no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module 'update_codec' has no attribute {name!r}")
    return getattr(import_module(f"update_codec.{_MODULES.get(name, 'errors')}"), name)
