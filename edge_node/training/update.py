"""From a trained model to the bytes that travel: difference, clip, error feedback, codec; and back on a bad verdict.

Error feedback (Seide et al. 2014; arXiv 1901.09847) with several updates in flight. With d the fresh difference, e the
residual and C the codec, one round sends and keeps

    q_t = C(d_t + e_t),    e_{t+1} = d_t + e_t - q_t.

Law 9 of the design asks that the residual waits for the receipt: ``applied`` adopts e_{t+1}; ``stale`` or ``refused``
gives the whole difference back, so that the next residual is d_t + e_t. Here e_{t+1} is stored at once, together with
q_t in the outbox, and a verdict other than ``applied`` adds q_t back. Both are the same, because

    e_{t+1} + q_t = d_t + e_t,

and addition commutes, so it also holds when other updates were encoded in between. By induction, after any sequence of
rounds and verdicts, residual + (sent and not given back) = e_0 + sum of all d_t: nothing of what was learnt is lost,
and nothing counts twice. Each step rounds once in float32.

A bound of the norm is kept twice. A fresh difference that is longer is scaled down, and the rest is gone: it is the
sign of a training that went wrong. What is sent may be longer all the same, because e_t was added: it is scaled down,
too, and there the rest stays in e_{t+1}.

A node on 16 kbit/s and one on a LAN get the same announcement. The slow one sends less: with error feedback the rest is
not lost, it comes with its next updates.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from edge_node.records import Residual
from federation.errors import TaskError
from federation.freed_memory import WORTH_RETURNING, return_freed_memory
from federation.task import Array, Parameters, Resident
from update_codec import (
    CodecError,
    CodecSpec,
    Context,
    DeviceUpdate,
    Encoded,
    Manifest,
    NonFiniteError,
    Vectors,
    decode,
    encode,
    inspect,
)
from update_codec.arrays import HOST, root_mean_square

__all__ = [
    "BPP_MIN",
    "LINK_BYTES_MIN",
    "PROBE_BYTES",
    "EncodedUpdate",
    "ResidualAging",
    "ResidualChange",
    "Shared",
    "added",
    "clipped",
    "difference",
    "encode_update",
    "give_back",
    "merge",
    "moves",
    "taken",
    "within",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualAging:
    """How much a residual still counts after versions in which the node had no part.

    What it holds was learnt from a model that the others have changed since.

    Attributes:
        decay: Share that is left for each missed version.
        versions_max: Missed versions after which nothing is left.
    """

    decay: float = 1.0
    versions_max: int = 1_000

    def share(self, saved: int | None, base: int) -> float:
        """The share that is left.

        Args:
            saved: The version that the last update was trained from; None when it is not known.
            base: The version to train from now.
        """
        missed = 0 if saved is None else max(0, base - saved - 1)
        return 0.0 if missed > self.versions_max else float(self.decay**missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualChange:
    """What encoding did to the residual.

    Attributes:
        used: The residual that went in, or None for zero.
        left: What the codec did not send, or None when it works without feedback.
        context: What the frame needs to be decoded, should it come back.
    """

    used: Residual | None
    left: Residual | None
    context: Context | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What a frame's reader has or finds in the frame, besides the manifest.

    Attributes:
        seed: Of the codec's dither.
        context: Classes of the parameters that the coordinator has, too; None codes without.
    """

    seed: int = 0
    context: Context | None = None


NORM_TRIES = 4
"""How often an update is scaled down until its frame is within the bound; quantizers are linear, so one is enough."""

FIRST_ENTRIES = 4_096
"""Parameters that are looked at before all of them are."""

_NOTHING_SHARED = Shared()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUpdate:
    """One update as it travels.

    Attributes:
        frame: The codec frame.
        change: What encoding did to the residual.
        bits_per_parameter: Size of the frame per parameter.
    """

    frame: bytes
    change: ResidualChange
    bits_per_parameter: float


Delta = Vectors | DeviceUpdate
"""What training changed: in NumPy's memory, or on the device where it was trained."""


def difference(base: Vectors, trained: Parameters, manifest: Manifest, *, norm_max: float | None = None) -> Delta:
    """What training changed, clipped; what was trained on a device stays there.

    Args:
        base: The model that training started from.
        trained: All tensors after training; controls hold what this node adds to them. What `taken` made of them is
            empty afterwards.
        manifest: Names, shapes and types of the tensors.
        norm_max: The difference's L2 norm is scaled down to this; None leaves it.

    Raises:
        TaskError: Tensors are missing, extra, or of another shape or type.
    """
    try:
        if isinstance(trained, Resident):
            return clipped(trained.minus(base, manifest), norm_max)
        # A copy of its own, and in its memory the difference: another one would be as large as the model.
        delta = manifest.flatten(trained if isinstance(trained, _Leaving) else dict(trained))
        first_control = manifest.statistic_count - manifest.control_count
        controls = delta.statistics[first_control:].copy()
        delta.subtract(base)
    except CodecError as error:
        raise TaskError(f"the trained tensors do not fit the model: {error}") from error
    # What the task returns there is what it adds, and it must travel to the bit: no difference is taken.
    delta.statistics[first_control:] = controls
    if isinstance(trained, _Leaving):
        return_freed_memory()
    return clipped(delta, norm_max)


def taken(trained: Parameters) -> Parameters:
    """Trained tensors, to be let go of one by one: whoever has them still should forget them."""
    return trained if isinstance(trained, Resident) else _Leaving(dict(trained))


class _Leaving(Mapping[str, Array]):
    """A dict whose values leave it when they are asked for; what was freed before goes back to the kernel.

    Of a small model nothing does so on the way: whoever took all of it gives everything back at once.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays, self._bytes = arrays, sum(getattr(array, "nbytes", 0) for array in arrays.values())

    def __getitem__(self, name: str) -> Array:
        if self._bytes >= WORTH_RETURNING:
            return_freed_memory()
            self._bytes = 0
        array = self._arrays.pop(name)
        self._bytes += array.nbytes
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def encode_update(  # noqa: PLR0913 - what is sent, how, and what is left of before
    delta: Delta,
    manifest: Manifest,
    spec: CodecSpec,
    *,
    residual: Residual | None,
    share: float = 1.0,
    shared: Shared = _NOTHING_SHARED,
    norm_max: float | None = None,
    own: bool = False,
) -> EncodedUpdate:
    """Encode a difference, with what earlier updates left where the codec has feedback.

    Args:
        delta: What training changed.
        manifest: Of the model.
        spec: The codec that the announcement asks for.
        residual: What earlier rounds did not send, float32 (D,); None is zero.
        share: How much of it still counts, see `ResidualAging`; the rest is forgotten.
        shared: What the coordinator knows, too.
        norm_max: What is sent has at most this L2 norm; what it lacks stays in the residual. None is no bound.
        own: Whether the difference is not needed any more: what is left takes its place, see `update_codec.encode`.

    Raises:
        TaskError: A value is not finite.
    """
    used = residual if spec.feedback else None
    arrays = delta.arrays if isinstance(delta, DeviceUpdate) else HOST
    added = _part_of(used, share)
    try:
        before, seed, context = None if added is None else arrays.resident(added), shared.seed, shared.context
        encoded = encode(delta, manifest, spec, residual=before, seed=seed, context=context, own=own, remade=False)
        left = None
        if norm_max is not None and added is not None:
            is_summed = own and arrays is HOST
            wanted = partial(_together, delta, None if is_summed else before)
            encoded, left = _shortened(encoded, wanted, norm_max, shared=shared, manifest=manifest, spec=spec)
    except NonFiniteError as error:
        raise TaskError(f"training made values that are not finite: {error}") from error
    left = encoded.residual if left is None else left
    if own and delta.parameters.nbytes >= WORTH_RETURNING:
        return_freed_memory()
    change = ResidualChange(used=used, left=None if left is None else arrays.host(left), context=encoded.context)
    return EncodedUpdate(frame=encoded.frame, change=change, bits_per_parameter=encoded.bits_per_parameter)


def _together(delta: Delta, residual: Any) -> Delta:
    """Both as one difference; None was added already."""
    return delta if residual is None else replace(delta, parameters=delta.parameters + residual)


def _shortened(
    encoded: Encoded,
    sum_of: Callable[[], Delta],
    norm_max: float,
    *,
    shared: Shared,
    manifest: Manifest,
    spec: CodecSpec,
) -> tuple[Encoded, Any]:
    """The same with a smaller part of what was wanted, where its frame is longer than the bound; and what is left.

    What is left is None where the codec has no feedback, and where nothing was too long: the frame's residual says it.
    """
    part, wanted, kept = 1.0, None, None
    for _ in range(NORM_TRIES):
        norm = inspect(encoded.frame, manifest, context=encoded.context).parameter_norm
        if not norm > norm_max:
            break
        part *= norm_max / norm
        wanted = sum_of() if wanted is None else wanted
        kept = replace(wanted, parameters=wanted.parameters * part)
        encoded = encode(kept, manifest, spec, seed=shared.seed, context=shared.context, own=True, remade=False)
    if wanted is None or kept is None or not spec.feedback:
        return encoded, None
    rest: Any = wanted.parameters
    rest -= kept.parameters  # before what is left of it takes its place
    rest += encoded.residual
    return encoded, rest


def _part_of(residual: Residual | None, share: float) -> Residual | None:
    if residual is None or share == 0.0:
        return None
    return residual if share == 1.0 else residual * np.float32(share)


def clipped(delta: Delta, norm_max: float | None) -> Delta:
    """Scale the parameters' difference down to an L2 norm of ``norm_max``; statistics and counters stay."""
    if norm_max is None:
        return delta
    arrays = delta.arrays if isinstance(delta, DeviceUpdate) else HOST
    norm = root_mean_square(delta.parameters, arrays) * len(delta.parameters) ** 0.5
    if not norm > norm_max:  # also when it is NaN: the codec refuses that with a reason
        return delta
    factor: float | np.float32 = np.float32(norm_max / norm)
    if isinstance(delta, DeviceUpdate):
        factor = float(factor)
    return replace(delta, parameters=delta.parameters * factor)


def moves(delta: Delta, base: Vectors, steps: int = 0) -> bool:
    """Whether training has changed any parameter; of a model without parameters nothing is missed.

    Args:
        delta: What it has changed.
        base: What it began with.
        steps: Gradient steps that the task says. One that says none may count first, and change nothing else.
    """
    arrays, parameters = delta.arrays if isinstance(delta, DeviceUpdate) else HOST, delta.parameters
    counted = bool(delta.statistics.any()) or not np.array_equal(delta.counters, base.counters)
    if not len(parameters) or (counted and not steps):
        return True
    # Nearly always the first entries say it.
    return arrays.peak(parameters[:FIRST_ENTRIES]) != 0.0 or arrays.peak(parameters) != 0.0


def merge(current: Residual | None, change: ResidualChange) -> Residual | None:
    """The residual after an update was encoded from ``change.used`` while ``current`` may have moved on.

    A verdict that arrives during training gives an older update back: that must survive.
    """
    if change.left is None:
        return current
    if current is change.used:
        return change.left
    moved = change.left if current is None else change.left + current
    return moved if change.used is None else moved - change.used


def give_back(
    residual: Residual | None, frame: bytes, manifest: Manifest, context: bytes | None = None
) -> Residual | None:
    """The residual after the coordinator did not apply ``frame``: the whole difference goes back.

    A sum that is not finite is dropped: it could never be sent again.

    Args:
        residual: What it is added to.
        frame: What was sent.
        manifest: Of the model.
        context: `Context.to_bytes` of what the frame was coded with, if any.

    Raises:
        CodecError: The frame cannot be decoded with this manifest and context.
    """
    known = None if context is None else Context.from_bytes(context, manifest.parameter_count)
    return added(residual, decode(frame, manifest, context=known).parameters)


def added(residual: Residual | None, returned: Residual) -> Residual | None:
    """The residual with a difference that goes back into it; a sum that is not finite is dropped."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = returned if residual is None else residual + returned
    return total if np.isfinite(total).all() else None


BPP_MIN = 0.02
"""Less is not sent: the frame's header would be most of it."""

PROBE_BYTES = 8_192
"""What the `link` codec sends before anything was measured: 4 s at 16 kbit/s."""

LINK_BYTES_MIN = 256
"""The least that the `link` codec sends, in bytes: a header and a few of the largest entries."""


def within(spec: CodecSpec, budget_bytes: int | None, parameters: int) -> CodecSpec:
    """The codec at a size that fits the budget: never above the rate that was asked for.

    Args:
        spec: What was asked for; only a codec with a rate and with error feedback may be lowered.
        budget_bytes: What may be sent, or None: `link` then sends a probe, another codec what was asked for.
        parameters: Of the model.
    """
    if spec.link:
        budget = PROBE_BYTES if budget_bytes is None else max(budget_bytes, LINK_BYTES_MIN)
        return spec.within_bytes(budget, parameters)
    if budget_bytes is None or not spec.feedback or spec.bpp is None or not parameters:
        return spec
    bpp = max(BPP_MIN, 8 * budget_bytes / parameters)
    return spec if bpp >= spec.bpp else replace(spec.plain(), bpp=bpp)
