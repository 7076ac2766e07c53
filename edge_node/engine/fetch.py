"""Pulls one global model from retained chunks: which parts, one segment at a time, with a bounded patience."""

from collections.abc import Callable, Iterable
from typing import Final

from edge_node.engine.effects import Effect, Note, SubscribeSegment, UnsubscribeSegment
from edge_node.engine.events import ModelChunkReceived
from edge_node.engine.settings import NodeSettings
from edge_node.records import Held
from federation.errors import MalformedMessage
from federation.protocol.chunking import Assembly, Segment, payload_digest, segments
from federation.protocol.messages import ModelPart, ModelRef, PartKind
from federation.types import ModelVersion

__all__ = ["CHUNKS_MISSING", "Fetch", "plan"]

CHUNKS_MISSING = "model chunks do not come"
"""Why a fetch has failed whose chunks may have been wiped from the broker."""

KEY_LOOK_S: Final = 0.25
"""How often a node that waits for the key of a sealed model looks for it, in seconds."""

KEY_LOOKS_MAX: Final = 20
"""How often it looks at most: the key is retained, and has come before the announcement unless something is wrong."""


def _nothing() -> None:
    """Nothing is lacking."""


def plan(model: ModelRef, held: Held | None, *, from_seed: bool = True) -> tuple[ModelPart, ...] | None:
    """The parts that lead to ``model`` with the fewest bytes, in order; None when there is no way.

    Every delta after the held version, or a keyframe and every delta after that, or every delta since version 0, which
    the node makes from the announced seed. On equal bytes the shorter list wins. Whether the model at the start really
    is the right one shows in the final digest.

    Args:
        model: What is announced.
        held: What the node has, or None.
        from_seed: Whether version 0 may be made from the seed.
    """
    deltas = {part.version: part for part in model.parts if part.kind is PartKind.DELTA}
    paths = []
    if held is not None and held.version < model.version:
        paths.append(_chain((), held.version, model.version, deltas))
    if from_seed and model.seed is not None and model.version > 0:
        paths.append(_chain((), ModelVersion(0), model.version, deltas))
    keyframes = (part for part in model.parts if part.kind is PartKind.KEYFRAME and part.version <= model.version)
    paths += [_chain((part,), part.version, model.version, deltas) for part in keyframes]
    complete = [path for path in paths if path is not None]
    return min(complete, key=lambda path: (path_bytes(path), len(path)), default=None)


def path_bytes(parts: Iterable[ModelPart]) -> int:
    """What pulling these parts costs, in bytes."""
    return sum(part.payload_bytes for part in parts)


def _chain(
    start: tuple[ModelPart, ...], base: ModelVersion, target: ModelVersion, deltas: dict[ModelVersion, ModelPart]
) -> tuple[ModelPart, ...] | None:
    if target - base > len(deltas):  # also bounds the walk
        return None
    steps = [deltas.get(ModelVersion(version)) for version in range(base + 1, target + 1)]
    found = tuple(step for step in steps if step is not None)
    return (*start, *found) if len(found) == len(steps) else None


class Fetch:
    """The pull of one path: at most one segment is subscribed at any time.

    Args:
        parts: The path.
        settings: The patience.
        delta: What the announcement carries of the last part, unchecked.
        lacks: Says why the parts could not be read now, if they are sealed and their key has not come.

    Attributes:
        parts: The parts to pull, in order.
        done: The payloads of the first parts, complete and with the right digest.
        failed: Why it gave up, or None.
        received_bytes: Chunk bodies that came for it, duplicates included.
    """

    def __init__(
        self,
        parts: tuple[ModelPart, ...],
        settings: NodeSettings,
        delta: bytes | None = None,
        lacks: Callable[[], str | None] = _nothing,
    ) -> None:
        self.parts = parts
        self.done: list[bytes] = []
        self.failed: str | None = None
        self.received_bytes = 0
        self._settings = settings
        self._delta, self._lacks, self._looks = delta, lacks, 0
        self._assembly: Assembly | None = None
        self._todo: list[Segment] = []
        self._subscribed: SubscribeSegment | None = None
        self._missing = 0
        self._asked: set[int] = set()
        self._attempts = 0
        self._timeout_at: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every part is here."""
        return len(self.done) == len(self.parts)

    @property
    def is_empty_handed(self) -> bool:
        """Whether nothing of the segment at hand has come."""
        return not self._todo or self._missing == self._todo[0].chunks

    def is_named(self, models: Iterable[ModelRef]) -> bool:
        """Whether one of these models still lists the part at hand; the broker keeps no other."""
        return self.complete or any(self.parts[len(self.done)] in model.parts for model in models)

    def payloads(self) -> tuple[tuple[ModelPart, bytes], ...]:
        """Each part with its payload."""
        return tuple(zip(self.parts, self.done, strict=True))

    def deadline(self) -> float | None:
        """When the patience with the current segment ends."""
        return self._timeout_at

    def chunk(self, event: ModelChunkReceived, now: float) -> list[Effect]:
        """Take one chunk: of another segment or for nobody, it is ignored."""
        subscribed = self._subscribed
        if subscribed is None or (event.version, event.segment) != (subscribed.version, subscribed.segment):
            return []
        assert self._assembly is not None  # noqa: S101 - set before anything is subscribed
        segment = self._todo[0]
        try:
            new = event.index < segment.chunks and self._assembly.add(segment.first_chunk + event.index, event.body)
        except MalformedMessage:
            return []  # a cleared chunk is empty: what is missing shows at the timeout
        self.received_bytes += len(event.body)
        if not new:
            return []
        self._missing -= 1
        self._attempts = 0
        self._timeout_at = now + self._settings.fetch_timeout_s
        if not self._missing:
            return self._segment_done(now)
        self._asked.discard(event.index)
        if self._asked or not subscribed.indices:
            return []
        return [*self._unsubscribe(), *self._ask_by_name(now)]

    def connected(self, now: float) -> list[Effect]:
        """Begin, or ask again for what is missing of the current segment."""
        return self._begin(now) if self._assembly is None else self._ask_again(now)

    def disconnected(self) -> list[Effect]:
        """Nothing can arrive; forget the subscription, or the reconnect would pull the whole segment again."""
        return self.stop()

    def timeout(self, now: float) -> list[Effect]:
        """No new chunk for too long: ask again, a bounded number of times. Or the key may have come meanwhile."""
        if self._assembly is None:
            return self._begin(now)
        self._attempts += 1
        if self._attempts >= self._settings.fetch_attempts_max:
            return self._give_up(CHUNKS_MISSING)
        return [Note(event="fetch_repeated", fields={"missing": self._missing}), *self._ask_again(now)]

    def stop(self) -> list[Effect]:
        """No longer wanted."""
        self._timeout_at = None
        return self._unsubscribe()

    def _begin(self, now: float) -> list[Effect]:
        """Nothing is pulled that could not be read."""
        lacking = self._lacks()
        if lacking is None:
            return self._start_part(now)
        self._looks += 1
        if self._looks > KEY_LOOKS_MAX:
            return self._give_up(lacking)
        self._timeout_at = now + KEY_LOOK_S
        return []

    def _start_part(self, now: float) -> list[Effect]:
        part = self.parts[len(self.done)]
        if part is self.parts[-1] and self._delta is not None and payload_digest(self._delta) == part.payload_digest:
            return self._next_part(self._delta, now)  # the announcement carries it
        try:
            self._assembly = Assembly(
                payload_bytes=part.payload_bytes,
                digest=part.payload_digest,
                chunk_bytes=part.chunk_bytes,
                payload_bytes_max=self._settings.bounds.model_bytes_max,
            )
        except MalformedMessage as error:
            return self._give_up(str(error))
        self._todo = list(segments(part))
        return self._next_segment(now)

    def _next_segment(self, now: float) -> list[Effect]:
        self._missing = self._todo[0].chunks
        return self._ask(now)

    def _segment_done(self, now: float) -> list[Effect]:
        effects = self._unsubscribe()
        del self._todo[0]
        if self._todo:
            return effects + self._next_segment(now)
        return effects + self._part_done(now)

    def _part_done(self, now: float) -> list[Effect]:
        assert self._assembly is not None  # noqa: S101 - a part was being collected
        self._timeout_at = None
        try:
            payload = self._assembly.payload()
        except MalformedMessage as error:
            return self._give_up(str(error))
        finally:
            self._assembly = None
        return self._next_part(payload, now)

    def _next_part(self, payload: bytes, now: float) -> list[Effect]:
        self.done.append(payload)
        if self.complete:
            pulled = {"pulled": self.received_bytes} if self.received_bytes != path_bytes(self.parts) else {}
            fields = {"version": self.parts[-1].version, "bytes": path_bytes(self.parts), **pulled}
            return [Note(event="model_fetched", fields=fields)]
        return self._start_part(now)

    def _ask_again(self, now: float) -> list[Effect]:
        return [*self._unsubscribe(), *self._ask(now)]

    def _ask(self, now: float) -> list[Effect]:
        part, segment = self.parts[len(self.done)], self._todo[0]
        # Where some of it is here, one by one: a whole segment would be sent again in full.
        if self._settings.named_chunks_max is not None or self._missing < segment.chunks:
            return self._ask_by_name(now)
        return self._subscribe(SubscribeSegment(version=part.version, segment=segment.name), now)

    def _ask_by_name(self, now: float) -> list[Effect]:
        """The first chunks that are missing, as many at a time as the broker lets us."""
        assert self._assembly is not None  # noqa: S101 - a part is being collected
        part, segment = self.parts[len(self.done)], self._todo[0]
        wanted = self._assembly.missing_indices(min(self._missing, self._settings.named_chunks_max or self._missing))
        indices = tuple(index - segment.first_chunk for index in wanted)
        self._asked = set(indices)
        return self._subscribe(SubscribeSegment(version=part.version, segment=segment.name, indices=indices), now)

    def _subscribe(self, subscription: SubscribeSegment, now: float) -> list[Effect]:
        self._subscribed = subscription
        self._timeout_at = now + self._settings.fetch_timeout_s
        return [subscription]

    def _unsubscribe(self) -> list[Effect]:
        known, self._subscribed = self._subscribed, None
        if known is None:
            return []
        return [UnsubscribeSegment(version=known.version, segment=known.segment, indices=known.indices)]

    def _give_up(self, reason: str) -> list[Effect]:
        self.failed = reason
        self._todo = []
        self._assembly = None
        return self.stop()
