"""From an update to a frame: checks, error feedback, the quantizer that the specification names, seal."""

from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from update_codec.arrays import HOST, Arrays, DeviceUpdate, Vector, root_mean_square
from update_codec.coders.rated import Rated, Trial, encode_rated
from update_codec.context import Context
from update_codec.errors import NonFiniteError, ShapeError, SpecError
from update_codec.frame import Header, seal_frame
from update_codec.layouts.planes import write_counters, write_floats
from update_codec.manifest import Manifest
from update_codec.partition import Partition
from update_codec.quantizers.codes import Common, pack_codes, quantize_common
from update_codec.quantizers.eden import Eden, eden_bytes, write_eden
from update_codec.segments import Pieces, Tag
from update_codec.spec import CodecSpec, Kind
from update_codec.vectors import Vectors

__all__ = ["Encoded", "encode"]

F32 = NDArray[np.float32]


class _Unsent:
    """What was to be sent, and once it is asked for what a decoder will not get.

    Args:
        coded: what a decoder gets.
        wanted: what was to be sent.
        arrays: where it is.
        is_own: whether what is unsent takes its place.
    """

    def __init__(self, coded: Trial, wanted: Vector, arrays: Arrays, *, is_own: bool) -> None:
        self._coded, self._wanted, self._arrays, self._is_own = coded, wanted, arrays, is_own
        self._norm: float | None = None
        self._vector: Vector | None = None

    def vector(self) -> Vector:
        """What is unsent."""
        if self._vector is None:
            if self._is_own:
                self._norm = self._arrays.energy(self._wanted)
            self._vector = self._less()
        return self._vector

    def share(self) -> float:
        """Its squares over those of what was to be sent; 0 for a zero vector."""
        left = self._less() if self._vector is None and not self._is_own else self.vector()
        norm = self._arrays.energy(self._wanted) if self._norm is None else self._norm
        return self._arrays.energy(left) / norm if norm else 0.0

    def _less(self) -> Vector:
        with np.errstate(over="ignore"):  # near the largest float32 an error may be infinite; it is only reported
            if self._coded.subtract is None:
                return self._wanted - self._coded.decode()
            left = self._wanted if self._is_own else self._wanted.copy()
            self._coded.subtract(left)
            return left


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A frame and what the encoder knows about it."""

    frame: bytes
    feedback: bool
    """Whether the specification has error feedback."""
    unsent: _Unsent = field(repr=False, compare=False)
    bits_per_parameter: float
    """Bits of the whole frame per parameter; 0 if there are none."""
    context: Context | None = None
    """The one that a decoder needs, where one was used."""

    @property
    def residual(self) -> Vector | None:
        """What was not sent, float32, shape (D,): adopt it when the receipt says `applied`. None without feedback.

        Where the update was a `DeviceUpdate` it is a vector of its backend.
        """
        return self.unsent.vector() if self.feedback else None

    @property
    def nmse(self) -> float:
        """Squared error over squared norm of what was to be sent (update and residual); 0 for a zero vector.

        Measured when it is asked for, which is as much work as decoding: until then the update must be as it was.
        """
        return self.unsent.share()


def encode(  # noqa: PLR0913 - what is sent, how, and what it may be made of
    update: Vectors | DeviceUpdate,
    manifest: Manifest,
    spec: CodecSpec,
    *,
    residual: Vector | None = None,
    seed: int = 0,
    context: Context | None = None,
    own: bool = False,
    remade: bool = True,
) -> Encoded:
    """Encode an update.

    Args:
        update: float differences and absolute counters, see `Vectors.minus`; or the same on another device, which
            gives the same frame.
        manifest: the model that both ends agreed on.
        spec: what to do.
        residual: float32, shape (D,), where the update is: what earlier frames did not send. It is added under every
            specification.
        seed: for the randomised kinds; the lower 32 bits count. Use another one for every frame.
        context: classes of the parameters that the decoder has too; used by the deadzone quantizer on larger models.
        own: whether the update's parameters may be overwritten, where they are NumPy's: with the sum at once, and with
            what is not sent when that is asked for. Nothing else of their size is then allocated.
        remade: whether somebody makes the same frame again, as an audit does with versions: every release gives the
            same then. Where nobody does, layouts are chosen once for all steps that are tried, in half of the time.

    Returns:
        The frame, the new residual, the rate and the error.

    Raises:
        ShapeError: if a vector or the context does not fit the manifest.
        NonFiniteError: if a value, or a sum with the residual, is NaN or infinite.
        SpecError: if the specification is `masked`.
    """
    arrays = update.arrays if isinstance(update, DeviceUpdate) else HOST
    manifest.check_counts(len(update.parameters), len(update.statistics), len(update.counters))
    if context is not None and len(context.classes) != manifest.parameter_count:
        raise ShapeError("the context was made for another model")
    peak, is_own = arrays.peak(update.parameters), own and arrays is HOST
    fresh_rms = root_mean_square(update.parameters, arrays, peak)
    wanted = _with_residual(update.parameters, residual, is_own=is_own)
    if residual is not None:
        peak, is_own = arrays.peak(wanted), arrays is HOST  # the sum is our own
    if not (np.isfinite(peak) and np.isfinite(update.statistics).all()):
        raise NonFiniteError("the update holds NaN or infinity: the training diverged; do not send it")
    others = _other_segments(update)
    other_bytes = sum(map(len, others))
    job = Rated(
        manifest=manifest,
        spec=spec,
        fresh_rms=fresh_rms,
        peak=peak,
        seed=seed & 0xFFFFFFFF,
        context=context,
        other_bytes=other_bytes,
        arrays=arrays,
        is_remade=remade,
    )
    coded = _encode_parameters(wanted, job)
    header = Header(
        kind=coded.kind,
        segments=len(coded.segments) + len(others),
        manifest_digest=manifest.digest,
        step=coded.step,
        seed=coded.seed,
        partition=coded.partition,
        bits=coded.bits,
        spec=str(spec),
    )
    frame = seal_frame(header, coded.segments + others)
    encoded = Encoded(
        frame=frame,
        feedback=spec.feedback,
        unsent=_Unsent(coded, wanted, arrays, is_own=is_own),
        bits_per_parameter=8 * len(frame) / len(wanted) if len(wanted) else 0.0,
        context=context if coded.partition is Partition.BY_CONTEXT else None,
    )
    if spec.feedback and not own:
        encoded.unsent.vector()  # before the caller changes the update
    return encoded


def _encode_parameters(wanted: Vector, job: Rated) -> Trial:
    if job.spec.kind in (Kind.DEADZONE, Kind.LOSSLESS) or job.arrays is HOST:
        return _encode_kind(wanted, job)
    coded = _encode_kind(job.arrays.host(wanted), replace(job, arrays=HOST))
    return replace(coded, decode=lambda: job.arrays.resident(coded.decode()))


def _encode_kind(wanted: Vector, job: Rated) -> Trial:
    spec, size = job.spec, len(wanted)
    match spec.kind:
        case Kind.LOSSLESS:
            segments = [bytes([Tag.VALUES]) + write_floats(job.arrays.host(wanted))] if size else []
            return Trial(kind=spec.kind, segments=segments, decode=lambda: wanted)
        case Kind.DEADZONE | Kind.COSINE | Kind.DITHER:
            if not size:
                return Trial(kind=Kind.DEADZONE, segments=[], decode=lambda: wanted, step=1.0)
            return encode_rated(wanted, job)
        case Kind.EDEN:
            return _encode_eden(wanted, spec.bits or 1, job.seed)
        case Kind.COMMON:
            return _encode_common(wanted, spec.bits or 2, float(np.float32(spec.delta)))
        case Kind.MASKED:
            raise SpecError("a masked update needs seeds: see update_codec.masking")
        case Kind.SUM:
            raise SpecError("one update is no sum of several: see update_codec.sums")
        case kind:
            assert_never(kind)


def _encode_eden(wanted: F32, bits: int, seed: int) -> Trial:
    size, body = len(wanted), write_eden(wanted, bits, seed)
    scale_bytes, _ = eden_bytes(size, bits)
    coded = Eden(np.frombuffer(body[:scale_bytes], "<f4"), memoryview(body)[scale_bytes:], size, (bits, seed))
    segments = [bytes([Tag.CODES]) + body] if size else []
    return Trial(kind=Kind.EDEN, segments=segments, decode=lambda: _collect(coded, size), seed=seed, bits=bits)


def _encode_common(wanted: F32, bits: int, delta: float) -> Trial:
    size, body = len(wanted), pack_codes(quantize_common(wanted, delta, bits), bits)
    coded = Common(memoryview(body), size, (bits, delta))
    segments = [bytes([Tag.CODES]) + body] if size else []
    return Trial(kind=Kind.COMMON, segments=segments, decode=lambda: _collect(coded, size), step=delta, bits=bits)


def _collect(values: Pieces, size: int) -> F32:
    out = np.empty(size, np.float32)
    for start, piece in values.pieces():
        out[start : start + len(piece)] = piece
    return out


def _other_segments(update: Vectors | DeviceUpdate) -> list[bytes]:
    segments = []
    if len(update.statistics):
        segments.append(bytes([Tag.STATISTICS]) + write_floats(update.statistics))
    if len(update.counters):
        segments.append(bytes([Tag.COUNTERS]) + write_counters(update.counters))
    return segments


def _with_residual(parameters: Vector, residual: Vector | None, *, is_own: bool) -> Vector:
    if residual is None:
        return parameters
    if residual.shape != parameters.shape or residual.dtype != parameters.dtype:
        raise ShapeError(f"the residual must be float32 of shape {parameters.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.add(parameters, residual, out=parameters) if is_own else parameters + residual
