"""Entropy-coded quantizers under a rate target: choose the step, quantize, lay out, measure the real size, correct."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from update_codec.arrays import HOST, Arrays, Vector, root_mean_square
from update_codec.coders.cosine_coder import CosineCoder
from update_codec.coders.deadzone_coder import DeadzoneCoder, Division, Trial, divide, write_outliers
from update_codec.context import Context
from update_codec.layouts.layout import write_symbols
from update_codec.limits import CHUNK_ENTRIES, STEP_RMS_MAX, STEP_RMS_MIN
from update_codec.manifest import Manifest
from update_codec.partition import Partition
from update_codec.quantizers.dithered import DitherRate, quantize_dithered, undither
from update_codec.segments import Tag
from update_codec.spec import CodecSpec, Kind

__all__ = ["Rated", "Trial", "encode_rated", "step_for"]

PARTITION_PARAMETERS_MIN: Final = 16_384
"""Smaller models are one group: a second segment would cost more than it gives."""
_TRIALS: Final = 6
_STEP_TOLERANCE: Final = 1e-3
"""Relative error of the step: a tenth of what the real size may be below its target."""
_REACH: Final = 64.0
"""Largest step in units of the largest magnitude: every symbol is zero there."""
_FIRST_SHARE: Final = 0.985
"""Of the target that the symbols' entropy may take: their coding costs a little more, and one trial is enough."""
_USED_MIN: Final = 0.75
"""Share of the target below which a frame is so much smaller that no step fits."""
_SPARE_BYTES: Final = 4
"""What a frame may stay below its target: of a small one 2 % are a byte, which no step may hit."""
_COUNT_STEPS: Final = 32
"""Of the entries that are kept; a count that is right within this share of itself is right enough."""
_OUTGROWN: Final = 64.0
"""A vector so many times as large as the update in it is made of a residual from training that diverged."""
_TYPICAL_STEP_RMS: Final = 2.0
_GROUP_BYTES: Final = 24
"""What a further group costs: fields, streams' headers, tables of its own."""
_ENVELOPE_BYTES: Final = 56
_SEGMENT_BYTES: Final = 16
_STEP_MIN: Final = 2.0**-100
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """What the encoder needs to know besides the vector."""

    manifest: Manifest
    spec: CodecSpec
    fresh_rms: float
    """Of the update without the residual: a step taken from the augmented vector grows with it and collapses."""
    peak: float
    """The largest magnitude of the vector."""
    seed: int
    context: Context | None
    other_bytes: int
    """Statistics and counters."""
    arrays: Arrays = HOST
    """Where the vector is; the dither works on the host."""
    is_remade: bool = True
    """Whether somebody makes the same frame again, in this release or a later one."""


class _Coder(Protocol):
    """A quantizer with its estimate of the rate."""

    groups: int

    def bits(self, step: float) -> float: ...
    def write(self, step: float) -> Trial: ...


def encode_rated(wanted: Vector, job: Rated) -> Trial:
    """Encode at the step that the specification asks for.

    Args:
        wanted: update plus residual, float32, finite, not empty.
        job: everything else.
    """
    low = max(STEP_RMS_MIN * job.fresh_rms, _STEP_MIN)
    high = min(max(STEP_RMS_MAX * job.fresh_rms, _STEP_MIN), _FLOAT_MAX)
    if job.fresh_rms == 0:  # nothing was learned: send nothing, the residual stays
        wanted, job = job.arrays.zeros_like(wanted), replace(job, peak=0.0)
    # A vector that is zero, or below the smallest step, must not become noise.
    is_dithered = job.spec.kind is Kind.DITHER and job.fresh_rms > _STEP_MIN / STEP_RMS_MIN
    coder: _Coder = _DitherCoder(wanted, job.seed) if is_dithered else _undithered(wanted, job)
    if job.spec.step is not None:
        return coder.write(_float32(min(max(job.spec.step * job.fresh_rms, low), high)))
    overhead = _ENVELOPE_BYTES + len(str(job.spec)) + _SEGMENT_BYTES * coder.groups
    target = _target_bytes(len(wanted), overhead, job)
    # A promised size holds even where the residual outgrows the update: there the step leaves the range of fresh ones.
    search = _Search(
        target, overhead - _SEGMENT_BYTES * coder.groups, low, max(high, min(_REACH * job.peak, _FLOAT_MAX))
    )
    trial = search.best(coder)
    finer = _float32(trial.step / (1 + 2 * _STEP_TOLERANCE))
    if is_dithered or finer <= low or search.size(trial) >= _USED_MIN * target:
        return trial
    if root_mean_square(wanted, job.arrays) > _OUTGROWN * job.fresh_rms:  # nobody would take such a residual
        return trial
    return _thinned(wanted, job, search, finer) or trial


def _thinned(wanted: Vector, job: Rated, search: "_Search", step: float) -> Trial | None:
    """Encode the largest entries alone, as many as fit at this step; None where not one does.

    A vector of few magnitudes, such as one decoded update, takes more than the target up to some step, and next to
    nothing beyond: no step makes use of the target. Of equal magnitudes those are kept that the seed chooses, so that
    no tensor always waits.
    """
    values = job.arrays.host(wanted)
    mixed = np.random.default_rng(job.seed).permutation(np.flatnonzero(values))
    order = mixed[np.argsort(-np.abs(values[mixed]), kind="stable")]
    best, few, many = None, 0, len(order) + 1
    while many - few > 1 + few // _COUNT_STEPS:
        # Most often all of them fit: a smaller step took more, for the same magnitudes.
        middle = (few + many) // 2 if many <= len(order) else len(order)
        kept = np.zeros_like(values)
        kept[order[:middle]] = values[order[:middle]]
        trial = _undithered(job.arrays.resident(kept), job).write(step)
        if search.size(trial) <= search.target:
            best, few = trial, middle
        else:
            many = middle
    return best


def step_for(estimate: Callable[[float], float], bits: float, low: float, high: float) -> float:
    """Return the step between `low` and `high` whose estimated bits are closest to `bits` from below."""
    if estimate(low) <= bits:
        return low
    while high / low > 1 + _STEP_TOLERANCE:
        middle = (low * high) ** 0.5
        if estimate(middle) > bits:
            low = middle
        else:
            high = middle
    return high


def _target_bytes(parameters: int, overhead: int, job: Rated) -> int:
    """Bytes that the envelope and the segments of the parameters may take.

    Statistics and counters are not in a target of bits per parameter. The envelope is, except that a small model
    gets at least three fifths of its target for the symbols themselves.
    """
    if job.spec.bytes is not None:
        return max(job.spec.bytes - job.other_bytes, 1)
    assert job.spec.bpp is not None  # noqa: S101 - the specification has one of step, bytes and bpp
    nominal = job.spec.bpp * parameters / 8
    return int(max(nominal, overhead + 0.6 * nominal))


@dataclass(frozen=True, slots=True)
class _Search:
    """The step whose frame is as large as wanted.

    Attributes:
        target: Bytes of envelope and segments.
        envelope: Those of the envelope.
        low: Smallest step.
        high: Largest.
    """

    target: int
    envelope: int
    low: float
    high: float

    def size(self, trial: Trial) -> int:
        """Bytes of envelope and segments."""
        return self.envelope + sum(map(len, trial.segments))

    def best(self, coder: _Coder) -> Trial:
        """Try entropy budgets until the real size is next to the target; return the best that fits.

        The steps tried are part of a run's bits: an audit makes its versions again, those of former releases, too.
        """
        estimate = cache(coder.bits)  # every attempt begins with the same steps
        best, best_size, sizes = None, 0, dict[float, int]()
        budget = 8.0 * max(_FIRST_SHARE * self.target - self.envelope, 1)
        enough = self.target - max(0.02 * self.target, _SPARE_BYTES)
        for _ in range(_TRIALS):
            step = _float32(step_for(estimate, budget, self.low, self.high))
            if step not in sizes:
                trial = coder.write(step)
                size = sizes[step] = self.size(trial)
                fits = size <= self.target
                if best is None or (best_size > self.target and size < best_size) or (fits and size > best_size):
                    best, best_size = trial, size
                if fits and size >= enough:
                    break
            size = sizes[step]
            budget = max(budget + 8.0 * (0.995 * self.target - size), 0.25 * budget)
        assert best is not None  # noqa: S101 - the loop runs
        return best


def _undithered(wanted: Vector, job: Rated) -> _Coder:
    is_turned = job.spec.kind is Kind.COSINE
    return CosineCoder(wanted, job.manifest) if is_turned else _deadzone(wanted, job)


def _deadzone(wanted: Vector, job: Rated) -> DeadzoneCoder:
    """Choose how to divide the parameters."""

    def divided(partition: Partition, context: Context | None = None) -> Division:
        return divide(wanted, job.manifest, partition, context=context, arrays=job.arrays)

    def coder(division: Division) -> DeadzoneCoder:
        return DeadzoneCoder(wanted, division, job.peak, job.arrays, keeps_layouts=not job.is_remade)

    if len(wanted) < PARTITION_PARAMETERS_MIN:
        return coder(divided(Partition.WHOLE))
    if job.context is not None:
        return coder(divided(Partition.BY_CONTEXT, job.context))
    plain, by_spread = coder(divided(Partition.BY_RANK)), divided(Partition.BY_SPREAD)
    extra = 8 * _GROUP_BYTES * (len(by_spread.groups) - plain.groups)
    if not extra:  # all matrices are of one class
        return plain
    spread, step = coder(by_spread), (job.spec.step or _TYPICAL_STEP_RMS) * max(job.fresh_rms, _STEP_MIN)
    return spread if spread.bits(step) + extra < plain.bits(step) else plain


class _DitherCoder:
    groups = 1

    def __init__(self, wanted: F32, seed: int) -> None:
        self._wanted = wanted
        self._seed = seed
        self._rate = DitherRate(wanted, seed)

    def bits(self, step: float) -> float:
        return self._rate.bits(step)

    def write(self, step: float) -> Trial:
        symbols, positions = quantize_dithered(self._wanted, step, self._seed)
        exact = self._wanted[positions]
        segments = [bytes([Tag.SYMBOLS]) + write_symbols(symbols), *write_outliers(positions, exact)]

        def decode() -> F32:
            decoded = np.empty_like(self._wanted)
            for start in range(0, len(decoded), CHUNK_ENTRIES):
                end = start + CHUNK_ENTRIES
                decoded[start:end] = undither(symbols[start:end], start, step, self._seed)
            decoded[positions] = exact
            return decoded

        return Trial(kind=Kind.DITHER, seed=self._seed, step=step, segments=segments, decode=decode)


def _float32(value: float) -> float:
    return float(np.float32(value))
