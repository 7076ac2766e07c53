"""One string that names a codec: a profile such as `edge`, or a kind with options such as `deadzone(bpp=0.35)`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Self

from update_codec.errors import SpecError
from update_codec.limits import SPEC_BYTES_MAX, STEP_RMS_MAX, STEP_RMS_MIN

__all__ = ["PROFILES", "CodecSpec", "Kind"]


class Kind(IntEnum):
    """The quantizers; the number is the frame's."""

    LOSSLESS = 0
    DEADZONE = 1
    """One global step, entropy coded."""
    DITHER = 2
    """One global step, subtractive dither: unbiased, no state between rounds."""
    EDEN = 3
    """Block Hadamard rotation and 1 to 4 bits per entry, no entropy stage."""
    COMMON = 4
    """A step that all nodes share, integers modulo 2^bits, no entropy stage."""
    MASKED = 5
    """The same plus random numbers that only the sum of a batch is without, see `masking`; written by no encoder."""
    COSINE = 6
    """The deadzone quantizer on the cosine transform of matrices, see `quantizers.cosine`."""
    SUM = 7
    """The exact sum of some updates, see `sums`; written by no encoder."""


_OPTIONS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {
        Kind.LOSSLESS: (),
        Kind.DEADZONE: ("bpp", "bytes", "step", "feedback", "link", "context"),
        Kind.DITHER: ("bpp", "bytes", "step"),
        Kind.EDEN: ("bits",),
        Kind.COMMON: ("bits", "delta", "feedback"),
        Kind.MASKED: ("feedback",),
        Kind.COSINE: ("bpp", "bytes", "step", "feedback", "link"),
        Kind.SUM: (),
    }
)
_ALL: Final = ("bpp", "bytes", "step", "bits", "delta", "feedback", "link", "context")
_RATES: Final = {"bpp", "bytes", "step"}
_FLAGS: Final = {"feedback", "link", "context"}
_RANGES: Final = (
    ("bpp", 0.001, 12),
    ("bytes", 16, 1 << 30),
    ("step", STEP_RMS_MIN, STEP_RMS_MAX),
    ("delta", 1e-6, 1e6),
)
_TEXT: Final = re.compile(r"([a-z]+)\(([a-z0-9=.,]*)\)")
_NUMBER: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")
_REMEMBERED: Final = 64
"""Texts and specifications that need not be read or spelled again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """What an encoder is asked to do; a decoder needs none of it.

    Raises:
        SpecError: if an option is missing, out of range or does not belong to the kind.
    """

    kind: Kind
    bpp: float | None = None
    """Target for the whole frame, in bits per parameter (statistics and counters not counted)."""
    bytes: int | None = None
    """The same target in bytes."""
    step: float | None = None
    """Step in rms of the fresh update, instead of a target."""
    bits: int | None = None
    """Bits per entry of the fixed-length kinds."""
    delta: float | None = None
    """Step in the units of the parameters, the same for all nodes."""
    feedback: bool = False
    """Whether the node keeps what was not sent and adds it to its next update."""
    link: bool = False
    """Whether each node takes the bytes that its uplink carries in time (see `within_bytes`); bpp is the most."""
    context: bool = False
    """Whether both ends keep the average of the global updates and code the parameters that usually move apart."""

    def __post_init__(self) -> None:
        given = {name for name in _ALL if getattr(self, name)}
        name_of_kind = self.kind.name.lower()
        if extra := given - set(_OPTIONS[self.kind]):
            raise SpecError(f"{name_of_kind} has no option {', '.join(sorted(extra))}")
        if self.kind in (Kind.DEADZONE, Kind.COSINE, Kind.DITHER) and len(given & _RATES) != 1:
            raise SpecError(f"{name_of_kind} needs exactly one of bpp, bytes and step")
        if self.link and not {"bpp", "feedback"} <= given:
            raise SpecError("link needs bpp, the most that is sent, and feedback, which keeps what is not")
        if self.kind in (Kind.EDEN, Kind.COMMON) and given != set(_OPTIONS[self.kind]) - {"feedback"} | (
            given & {"feedback"}
        ):
            raise SpecError(f"{name_of_kind} needs {' and '.join(sorted(set(_OPTIONS[self.kind]) - {'feedback'}))}")
        bits = (1, 4) if self.kind is Kind.EDEN else (2, 24)
        for name, low, high in (*_RANGES, ("bits", *bits)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SpecError(f"{name} must be between {low} and {high}, not {value}")
            if isinstance(value, float):  # the text has six decimals, and must give an equal specification back
                object.__setattr__(self, name, round(value, 6))
        if len(self._text()) > SPEC_BYTES_MAX:
            raise SpecError(f"{self._text()} is longer than {SPEC_BYTES_MAX} characters: take fewer digits")

    @property
    def lossy(self) -> bool:
        """Whether decoded parameters differ from the encoded ones."""
        return self.kind is not Kind.LOSSLESS

    @property
    def bits_per_parameter(self) -> float | None:
        """The rate that was asked for, where there is one."""
        return self.bpp if self.bits is None else float(self.bits)

    def plain(self) -> Self:
        """The same without what the two ends settle before they code: link and context."""
        return replace(self, link=False, context=False) if self.link or self.context else self

    def within_bytes(self, budget: int, parameters: int) -> Self:
        """The same at `budget` bytes for a whole frame, but never above its own rate.

        Args:
            budget: what may be sent, in bytes.
            parameters: of the model.
        """
        if self.bpp is None or budget >= self.bpp * parameters / 8:
            return self.plain()
        low, high = next((low, high) for name, low, high in _RANGES if name == "bytes")
        return replace(self.plain(), bpp=None, bytes=int(min(max(budget, low), high)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a profile's name or the parametrised form.

        Raises:
            SpecError: if the text is neither, with the profiles that exist.
        """
        found = _parsed(text)
        assert isinstance(found, cls)  # noqa: S101 - for the type checker: there are no subclasses
        return found

    def __str__(self) -> str:
        """Return the text that `parse` reads back: the profile's name if there is one."""
        return _spelled(self)

    def _text(self) -> str:
        given = ((name, getattr(self, name)) for name in _OPTIONS[self.kind])
        pairs = [f"{name}={value:.6f}".rstrip("0").rstrip(".") for name, value in given if value]
        return f"{self.kind.name.lower()}({','.join(pairs)})"


@lru_cache(maxsize=_REMEMBERED)
def _parsed(text: str) -> CodecSpec:
    """One specification for each text: with every update comes one, and nearly always the same."""
    if text in _NAMED:
        return _NAMED[text]
    if text in _RETIRED:
        raise SpecError(f"there is no codec {text!r} any more: {_RETIRED[text]}")
    match = _TEXT.fullmatch(text) if len(text) <= SPEC_BYTES_MAX else None
    if match is None or match[1].upper() not in Kind.__members__:
        raise SpecError(f"unknown codec {text!r}; profiles are {', '.join(PROFILES)}")
    options: dict[str, Any] = {}
    for pair in match[2].split(",") if match[2] else ():
        name, _, value = pair.partition("=")
        if name in options or not _NUMBER.fullmatch(value):
            raise SpecError(f"{pair!r} in {text!r} is not a new option with a number")
        options[name] = _value(name, value)
    kind = Kind[match[1].upper()]
    if extra := options.keys() - set(_OPTIONS[kind]):
        raise SpecError(f"{match[1]} has no option {', '.join(sorted(extra))}")
    return CodecSpec(kind=kind, **options)


@lru_cache(maxsize=_REMEMBERED)
def _spelled(spec: CodecSpec) -> str:
    return next((name for name, named in _NAMED.items() if named == spec), None) or spec._text()  # noqa: SLF001 - the same class


def _value(name: str, text: str) -> float | int | bool:
    if name in ("bpp", "step", "delta"):
        return float(text)
    if "." in text:
        raise SpecError(f"{name} is a whole number, not {text}")
    if name in _FLAGS and int(text) > 1:
        raise SpecError(f"{name} is 0 or 1, not {text}")
    return bool(int(text)) if name in _FLAGS else int(text)


PROFILES: Final[Mapping[str, CodecSpec]] = MappingProxyType(
    {
        "lossless": CodecSpec(kind=Kind.LOSSLESS),
        "fine": CodecSpec(kind=Kind.DEADZONE, step=0.35),
        "balanced": CodecSpec(kind=Kind.DEADZONE, bpp=1.8),
        "edge": CodecSpec(kind=Kind.DEADZONE, bpp=0.35, feedback=True),
        "extreme": CodecSpec(kind=Kind.DEADZONE, bpp=0.1, feedback=True),
        "compact": CodecSpec(kind=Kind.COSINE, bpp=0.12, feedback=True),
        "link": CodecSpec(kind=Kind.DEADZONE, bpp=2.0, feedback=True, link=True),
        "stateless": CodecSpec(kind=Kind.DITHER, bpp=1.0),
        **{f"eden{bits}": CodecSpec(kind=Kind.EDEN, bits=bits) for bits in (1, 2, 3, 4)},
    }
)
"""Named codecs; every name is also what `str` gives for an equal specification."""
_NAMED: Final[Mapping[str, CodecSpec]] = MappingProxyType(
    {**PROFILES, "masked": CodecSpec(kind=Kind.MASKED, feedback=True), "sum": CodecSpec(kind=Kind.SUM)}
)
"""With those that no encoder writes by itself."""
_RETIRED: Final[Mapping[str, str]] = MappingProxyType(
    {"secagg": "its sums had no room for a second member; masked sums have `masked`"}
)
"""Names of earlier releases; their frames are read as ever."""
