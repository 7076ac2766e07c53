"""What nodes hold: the shadow of the global model, and the parts from which they reach it.

The coordinator publishes Q(w - shadow); the shadow advances by exactly what that frame decodes to, so all nodes hold
the same bits, and what was not sent stays in w - shadow: the server's error feedback. A lossless downlink keeps
w = shadow by definition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from coordinator.storage.store import ModelState
from coordinator.strategies.codecs import with_frame_min
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import PARTS_MAX
from federation.protocol.messages import ModelPart, PartKind
from federation.types import ModelVersion
from update_codec import CodecSpec, Manifest, Vectors, decode, encode

__all__ = [
    "DownlinkSettings",
    "Published",
    "advance",
    "first_model",
    "followed_model",
    "follows_initial",
    "keyframe",
    "parts_again",
]

_LOSSLESS = CodecSpec.parse("lossless")

DELTAS_MAX = PARTS_MAX - 1
"""What an announcement can list beside the keyframe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkSettings:
    """How the model travels down.

    Attributes:
        spec: Codec of the deltas; keyframes are lossless.
        plain: The same where a node reads no frames of the cosine kind, or the model is not of its size; None is the
            same.
        plain_outside: Models with fewer parameters than the first or more than the second take ``plain``: headers
            would be most of a frame, or the transform most of the time. None: no model does.
        chunk_bytes: Body size of a chunk.
        delta_chain_max: Deltas that a version lists at most; with the keyframe at most 16 parts.
        delta_worth: A delta is published when its frame is at most this share of the keyframe's.
        keyframe_reach: A keyframe is replaced once the deltas after it take more than this share of its bytes.
    """

    spec: CodecSpec = _LOSSLESS
    plain: CodecSpec | None = None
    plain_outside: tuple[int, int] | None = None
    chunk_bytes: int = 61_440
    delta_chain_max: int = DELTAS_MAX
    delta_worth: float = 0.75
    keyframe_reach: float = 0.25

    def plainly(self) -> Self:
        """As every node reads it."""
        return self if self.plain is None else replace(self, spec=self.plain)

    def with_frame_min(self, parameters: int) -> Self:
        """As it holds for a model of so many parameters, where nobody chose the codec."""
        if self.plain_outside is None:
            return self
        plain = None if self.plain is None else with_frame_min(self.plain, parameters)
        return replace(self, spec=with_frame_min(self.spec, parameters), plain=plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A model and how nodes get it.

    Attributes:
        model: The arrays.
        parts: Keyframe (of this version or an older one), newest delta, older deltas.
        frames: The codec frames of the parts that are new.
        change: What the newest delta decodes to; None at version 0.
    """

    model: ModelState
    parts: tuple[ModelPart, ...]
    frames: Mapping[ModelPart, bytes]
    change: Vectors | None = None


def first_model(model: Vectors, manifest: Manifest, settings: DownlinkSettings) -> Published:
    """Version 0, from the initial parameters."""
    # Adding zero turns -0.0 into 0.0, which a keyframe (an update against zero) could not tell apart.
    shadow = Vectors.zeros(manifest).plus(model)
    frame = encode(shadow, manifest, _LOSSLESS).frame
    part = _part(PartKind.KEYFRAME, ModelVersion(0), frame, settings)
    return Published(model=ModelState(version=ModelVersion(0), shadow=shadow), parts=(part,), frames={part: frame})


def advance(
    before: ModelState,
    step: Vectors,
    manifest: Manifest,
    settings: DownlinkSettings,
    older: Sequence[ModelPart] = (),
) -> Published:
    """The next version after the server's step.

    Args:
        before: The head.
        step: What the server adds: differences of parameters and statistics, absolute counters.
        manifest: The model's manifest.
        settings: How the model travels.
        older: The parts of the head.

    Returns:
        The model (the strategy's state is the old one) and its parts.

    Raises:
        NonFiniteError: The step leads out of float32.
    """
    version = ModelVersion(before.version + 1)
    fresh = Vectors(step.parameters, step.statistics, np.maximum(step.counters, before.shadow.counters))
    residual = None if before.exact is None else before.exact - before.shadow.parameters
    frame = encode(fresh, manifest, settings.spec, residual=residual).frame
    change = decode(frame, manifest)
    shadow = before.shadow.plus(change)
    exact = before.parameters + step.parameters if settings.spec.lossy else None
    model = ModelState(version=version, shadow=shadow, exact=exact, strategy=before.strategy)
    return replace(_published(model, frame, (manifest, settings), older), change=change)


def followed_model(
    before: ModelState, model: Vectors, version: ModelVersion, manifest: Manifest, settings: DownlinkSettings
) -> Published:
    """A version that was made elsewhere, bit by bit: as a keyframe, and as a lossless delta where that leads there.

    Args:
        before: The version before, which may be an older one than the last.
        model: What nodes hold at the version.
        version: Its number.
        manifest: The model's manifest.
        settings: How the model travels.
    """
    made = ModelState(version=version, shadow=model)
    whole = keyframe(made, manifest)
    key = _part(PartKind.KEYFRAME, version, whole, settings)
    frame = encode(model.minus(before.shadow), manifest, _LOSSLESS).frame
    delta = _part(PartKind.DELTA, version, frame, settings)
    leads_there = (
        before.version == version - 1 and before.shadow.plus(decode(frame, manifest)).digest() == model.digest()
    )
    if leads_there and _is_worth(delta, key, settings):
        return Published(model=made, parts=(key, delta), frames={key: whole, delta: frame})
    return Published(model=made, parts=(key,), frames={key: whole})


def follows_initial(parts: Sequence[ModelPart]) -> bool:
    """Whether the deltas lead on from version 0; they have no gap."""
    return any(part.kind is PartKind.DELTA and part.version == 1 for part in parts)


def parts_again(
    model: ModelState, manifest: Manifest, settings: DownlinkSettings, whole: Sequence[ModelPart]
) -> tuple[tuple[ModelPart, ...], Mapping[ModelPart, bytes]]:
    """The parts of a version of which only some are whole, and the frames that were made for it.

    No chunk is larger than the settings say now: the broker may be another one than before.

    Args:
        model: The version's arrays.
        manifest: The model's manifest.
        settings: How the model travels.
        whole: Parts whose frames are there.
    """
    cut = [replace(part, chunk_bytes=min(settings.chunk_bytes, part.chunk_bytes)) for part in whole]
    deltas = list[ModelPart]()
    for part in sorted((part for part in cut if part.kind is PartKind.DELTA), key=lambda part: -part.version):
        if part.version == model.version - len(deltas):
            deltas.append(part)
    known = next((part for part in cut if part.kind is PartKind.KEYFRAME), None)
    if known is not None and known.version >= model.version - len(deltas):
        return (known, *deltas), {}
    frame = keyframe(model, manifest)
    key = _part(PartKind.KEYFRAME, model.version, frame, settings)
    return (key, *deltas), {key: frame}


def keyframe(model: ModelState, manifest: Manifest) -> bytes:
    """The lossless frame of what nodes hold; deterministic for one release of the codec."""
    return encode(model.shadow, manifest, _LOSSLESS).frame


def _published(
    model: ModelState, delta: bytes, context: tuple[Manifest, DownlinkSettings], older: Sequence[ModelPart]
) -> Published:
    manifest, settings = context
    newest = _part(PartKind.DELTA, model.version, delta, settings)
    deltas = [newest, *(part for part in older if part.kind is PartKind.DELTA)]
    known = next((part for part in older if part.kind is PartKind.KEYFRAME), None)
    # A keyframe takes as many bytes as the one before, more or less: it is made only where it is published.
    if known is not None and _is_worth(newest, known, settings):
        chain = _chain(deltas, settings, known.payload_bytes)
        if _reaches(known, chain, settings):
            return Published(model=model, parts=(known, *chain), frames={newest: delta})
    whole = keyframe(model, manifest)
    key = _part(PartKind.KEYFRAME, model.version, whole, settings)
    if not _is_worth(newest, key, settings):
        return Published(model=model, parts=(key,), frames={key: whole})
    return Published(
        model=model, parts=(key, *_chain(deltas, settings, len(whole))), frames={key: whole, newest: delta}
    )


def _is_worth(delta: ModelPart, key: ModelPart, settings: DownlinkSettings) -> bool:
    return settings.delta_chain_max > 0 and delta.payload_bytes <= settings.delta_worth * key.payload_bytes


def _reaches(key: ModelPart, chain: Sequence[ModelPart], settings: DownlinkSettings) -> bool:
    """Whether an older keyframe still serves: the chain goes on from it, for few bytes more."""
    after = [part.payload_bytes for part in chain if part.version > key.version]
    gap = chain[-1].version > key.version + 1
    return not gap and sum(after) <= settings.keyframe_reach * key.payload_bytes


def _chain(deltas: Sequence[ModelPart], settings: DownlinkSettings, bytes_max: int) -> list[ModelPart]:
    """The newest delta, and older ones without a gap as long as all together are smaller than the keyframe."""
    newest, *older = sorted(deltas, key=lambda part: -part.version)
    chain, total = [newest], newest.payload_bytes
    for part in older:
        total += part.payload_bytes
        gap = part.version != chain[-1].version - 1
        if gap or len(chain) == settings.delta_chain_max or total > bytes_max:
            break
        chain.append(part)
    return chain


def _part(kind: PartKind, version: ModelVersion, frame: bytes, settings: DownlinkSettings) -> ModelPart:
    return ModelPart(
        kind=kind,
        version=version,
        payload_bytes=len(frame),
        payload_digest=payload_digest(frame),
        chunk_bytes=settings.chunk_bytes,
    )
