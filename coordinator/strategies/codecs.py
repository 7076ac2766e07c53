"""Which codec updates and versions take: what is asked for, and what a node can read."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from federation.protocol.messages import NodeState
from federation.types import COSINE_FRAMES
from update_codec import CodecSpec
from update_codec.spec import PROFILES, Kind

__all__ = [
    "FRAME_BYTES_MIN",
    "LARGE",
    "SMALL",
    "CodecChoice",
    "codec_for",
    "down_codec",
    "everywhere",
    "fallbacks_of",
    "reads_cosine",
    "with_frame_min",
]

SMALL: Final = 16_384
"""Parameters below which a version goes down as `everywhere` says: headers would be most of a smaller frame."""

LARGE: Final = 1 << 22
"""Parameters above which it does, too: the transform would take seconds and 13 bytes for each of them."""

FRAME_BYTES_MIN: Final = 128
"""Bytes that a frame of a codec with feedback may take at least: fewer save nothing beside headers, and send so few
entries of a small model that what is under way makes training unstable."""

_BPP_MAX: Final = 12.0
"""Bits per parameter that a codec can be asked for."""

_DOWN_PART: Final = 3
"""Bits of an update over bits of a version: each node pulls every version, and sends an update for some."""

_DOWN_BPP_MIN: Final = 0.1
"""Bits per parameter of a version, at least: below, more is lost in versions than is saved in bytes."""

_DOWN_BPP_MAX: Final = 0.3
"""The same at most: what is left for later is a fifth of a step there."""


def down_codec(up: CodecSpec) -> CodecSpec:
    """The codec of the model's deltas that suits a codec of the updates."""
    if not up.lossy:
        return CodecSpec.parse("lossless")
    asked = _DOWN_PART * _DOWN_BPP_MAX if up.bits_per_parameter is None else up.bits_per_parameter
    bpp = asked if up.kind is Kind.COSINE else asked / _DOWN_PART
    return CodecSpec(kind=Kind.COSINE, bpp=min(max(bpp, _DOWN_BPP_MIN), _DOWN_BPP_MAX), feedback=True)


def everywhere(down: CodecSpec, up: CodecSpec) -> CodecSpec:
    """What takes the place of a codec of the model's deltas where a node reads no frames of the cosine kind."""
    if down.kind is not Kind.COSINE:
        return down
    return CodecSpec.parse("edge" if up.feedback else "lossless")


def with_frame_min(spec: CodecSpec, parameters: int) -> CodecSpec:
    """The same with `FRAME_BYTES_MIN` or more for a model of so many parameters, where it has feedback.

    With a share c of a model's entries in each frame, 1 / c steps of an entry are applied at once. Training whose step
    takes the part a of the way to a node's optimum is unstable where a / c is above 2. A rate that each node chooses by
    its link, and one in other units, is left alone.
    """
    if not spec.feedback or spec.bpp is None or spec.link or parameters < 1:
        return spec
    bpp = min(_BPP_MAX, 8 * FRAME_BYTES_MIN / parameters)
    return spec if bpp <= spec.bpp else replace(spec, bpp=bpp)


def codec_for(codec: str, parameters: int) -> str:
    """A codec of the updates for a model of so many parameters: a name stands for a rate that suits it.

    A specification that is written out is taken as it is.
    """
    return str(with_frame_min(CodecSpec.parse(codec), parameters)) if codec in PROFILES else codec


def fallbacks_of(up: str, fallbacks: tuple[str, ...]) -> tuple[str, ...]:
    """Further codecs of the updates, one of them for nodes that know no cosine kind."""
    known = any(CodecSpec.parse(codec).kind is not Kind.COSINE for codec in (up, *fallbacks))
    return fallbacks if known else (*fallbacks, "edge")


def reads_cosine(state: NodeState) -> bool:
    """Whether a node reads and writes frames of the cosine kind [FED-235]."""
    return bool((state.capabilities or {}).get(COSINE_FRAMES))


class CodecChoice:
    """The codecs of the updates.

    Args:
        codecs: The best first.
    """

    def __init__(self, codecs: Sequence[str]) -> None:
        self.best = codecs[0]
        self._codecs = [(codec, CodecSpec.parse(codec).kind is Kind.COSINE) for codec in codecs]

    def of(self, state: NodeState) -> str | None:
        """The first that is among the node's, by its spec or its kind; it may list none. None: there is none for it."""
        known = [codec for codec, turned in self._codecs if not turned or reads_cosine(state)]
        named = (codec for codec in known if not state.codecs or {codec, codec.partition("(")[0]} & set(state.codecs))
        return next(named, None)
