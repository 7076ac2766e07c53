"""Everything that the codec raises, as one tree.

::

    CodecError
    ├── SpecError                 a codec specification cannot be read or is out of range
    ├── ManifestError             a manifest is malformed or beyond a limit
    │   └── ShapeError            arrays do not match the manifest (missing, extra, wrong shape or type)
    ├── NonFiniteError            an update holds NaN or infinity
    ├── HeadroomError             an update is too large for the fixed-point accumulator
    └── FrameError                bytes that are not a valid frame for this manifest
        ├── TruncatedFrame        the frame ends too early
        ├── TrailingBytes         bytes follow the end of the frame
        ├── UnknownVersion        not this format, or a version that this library does not know
        ├── DigestMismatch        the bytes were changed after they were written
        ├── ManifestMismatch      the frame was made for another model
        ├── MaskedFrame           the frame is masked: only the sum of a whole batch can be read
        ├── SummedFrame           the frame is the sum of several updates, or should be one and is not
        ├── ContextMismatch       the frame needs a context that the decoder does not have
        ├── HeaderError           a header field has a value that the format does not allow
        ├── SizeMismatch          a stated size differs from what the manifest implies
        ├── EntropyError          a compressed stream is malformed, too large or too small
        └── NonFiniteFrame        the frame is intact and holds NaN or infinity
"""

__all__ = [
    "CodecError",
    "ContextMismatch",
    "DigestMismatch",
    "EntropyError",
    "FrameError",
    "HeaderError",
    "HeadroomError",
    "ManifestError",
    "ManifestMismatch",
    "MaskedFrame",
    "NonFiniteError",
    "NonFiniteFrame",
    "ShapeError",
    "SizeMismatch",
    "SpecError",
    "SummedFrame",
    "TrailingBytes",
    "TruncatedFrame",
    "UnknownVersion",
]


class CodecError(Exception):
    """The root of every error that this package raises on purpose."""


class SpecError(CodecError):
    """A codec specification cannot be read or is out of range."""


class ManifestError(CodecError):
    """A manifest is malformed or beyond a limit."""


class ShapeError(ManifestError):
    """Arrays do not match the manifest: missing, extra, wrong shape or wrong type."""


class NonFiniteError(CodecError):
    """An update holds NaN or infinity."""


class HeadroomError(CodecError):
    """An update is too large for the fixed-point accumulator."""


class FrameError(CodecError):
    """Bytes that are not a valid frame for this manifest."""


class TruncatedFrame(FrameError):  # noqa: N818 - a verdict about a frame, not about the program
    """The frame ends too early."""


class TrailingBytes(FrameError):  # noqa: N818 - as above
    """Bytes follow the end of the frame."""


class UnknownVersion(FrameError):  # noqa: N818 - as above
    """Not this format, or a version that this library does not know."""


class DigestMismatch(FrameError):  # noqa: N818 - as above
    """The bytes were changed after they were written."""


class ManifestMismatch(FrameError):  # noqa: N818 - as above
    """The frame was made for another model."""


class SummedFrame(FrameError):  # noqa: N818 - as above
    """The frame is the exact sum of several updates, to be added to an `Accumulator`; or a sum was expected."""


class MaskedFrame(FrameError):  # noqa: N818 - as above
    """The frame is masked: without the masks its numbers mean nothing; add it to a `MaskedSum`."""


class ContextMismatch(FrameError):  # noqa: N818 - as above
    """The frame needs a context that the decoder does not have; ask for a frame without one."""


class HeaderError(FrameError):
    """A header field has a value that the format does not allow."""


class SizeMismatch(FrameError):  # noqa: N818 - as above
    """A stated size differs from what the manifest implies."""


class EntropyError(FrameError):
    """A compressed stream is malformed, too large or too small."""


class NonFiniteFrame(FrameError):  # noqa: N818 - as above
    """The frame is intact and holds NaN or infinity, which no encoder writes."""
