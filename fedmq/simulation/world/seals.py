"""Sealing in a simulation: what it is drawn from, who is shut out and when, and what the broker has seen of it.

- nothing that is sealed can be read on the way: no update, no part of the model, no event, no metric
- whoever was shut out gets no group key that was made since, and can open no later version with what it had
- one key and one nonce never meet two contents, whoever seals: their difference would be there to read
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import coordinator.runtime.sealing
import edge_node.runtime.sealing
from edge_node.runtime.sealing import NodeSealing
from federation.errors import BadSeal, RemoteProtocolError
from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.envelopes import ChunkKey
from federation.protocol.chunking import chunk_count, chunk_slice
from federation.protocol.messages import Rebirth, RoundAnnouncement
from federation.protocol.sealed_messages import KeyWrap, Sealed
from federation.protocol.topics import (
    ModelChunkTopic,
    NodeChunkTopic,
    NodeCommandTopic,
    NodeEventTopic,
    NodeKeyTopic,
    NodeTelemetryTopic,
    RoundTopic,
    Topics,
)
from federation.protocol.wire import decode_message
from federation.types import NodeId

__all__ = ["SealWitness", "repeatable_keys"]

HEAD_BYTES = 8
"""So many bytes of a chunk are looked for: no other content begins with the same ones."""


PUBLISHED_MAX = 1_000
"""Chunks of a model that wait for the announcement of what they are of."""


@contextmanager
def repeatable_keys(rng: random.Random) -> Iterator[None]:
    """Meanwhile both roles draw their keys from this, so that two runs of a simulation have the same bytes."""
    drawn: Any = SimpleNamespace(token_bytes=rng.randbytes, token_hex=lambda size: rng.randbytes(size).hex())
    modules: tuple[Any, ...] = (coordinator.runtime.sealing, edge_node.runtime.sealing)
    before, make = [module.secrets for module in modules], KeyPair.make

    def made(kem: Kem, draw: Callable[[int], bytes] = rng.randbytes) -> KeyPair:
        return make(kem, draw)

    for module in modules:
        module.secrets = drawn
    KeyPair.make = made  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, former in zip(modules, before, strict=True):
            module.secrets = former
        KeyPair.make = make  # type: ignore[method-assign]


class SealWitness:
    """Reads at the broker whatever it can.

    Args:
        violations: What must not be; shared with the actors.
        topics: The federation's tree.
        nodes: Who is enrolled in the beginning.

    Attributes:
        enrolled: Who is enrolled now.
        renewed: How often somebody was shut out by another group key.
        rotated: How often the coordinator has taken another key.
        sealed: How many messages and chunks were looked at.
    """

    def __init__(self, violations: list[str], topics: Topics, nodes: Iterable[NodeId]) -> None:
        self._violations, self._topics = violations, topics
        self.enrolled = frozenset(nodes)
        self.renewed = self.rotated = self.sealed = 0
        self._heads: set[bytes] = set()
        self._published = deque[tuple[ModelChunkTopic, bytes]](maxlen=PUBLISHED_MAX)
        self._spies: dict[NodeId, NodeSealing] = {}
        self._shut_out: dict[NodeId, tuple[int, int]] = {}
        self._contents: dict[tuple[bytes, int], bytes] = {}

    # --- what the participants do -----------------------------------------------------------------------------------

    def known(self, frame: bytes, chunk_bytes: int) -> None:
        """A frame that travels in chunks of this size: nobody may read one on the way."""
        for index in range(chunk_count(len(frame), chunk_bytes)):
            head = frame[chunk_slice(index, len(frame), chunk_bytes)][:HEAD_BYTES]
            if len(head) == HEAD_BYTES and any(head):
                self._heads.add(bytes(head))

    def shut_out(self, node: NodeId, had: NodeSealing | None) -> None:
        """The authority revokes a node; its thief goes on with what it ``had``."""
        self.enrolled -= {node}
        if had is not None:
            self._spies[node] = had

    def followed(self, key_epoch: int, head: int) -> None:
        """The coordinator has made another group key, after the version ``head``."""
        self.renewed += 1
        for node in self._spies:
            self._shut_out.setdefault(node, (key_epoch, head))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile it knows under which key and nonce each chunk is sealed, by whichever participant."""
        kind: Any = ChunkKey
        make, seal = kind.__init__, kind.seal
        keys = WeakKeyDictionary[ChunkKey, bytes]()

        def made(key: ChunkKey, secret: bytes, info: bytes) -> None:
            make(key, secret, info)
            keys[key] = blake2b(info, key=secret).digest()

        def sealed(key: ChunkKey, index: int, body: bytes) -> bytes:
            content = blake2b(body).digest()
            if self._contents.setdefault((keys[key], index), content) != content:
                self._say(f"two contents are sealed under one key and the nonce {index}")
            return bytes(seal(key, index, body))

        kind.__init__, kind.seal = made, sealed
        try:
            yield
        finally:
            kind.__init__, kind.seal = make, seal

    # --- what the broker sees ---------------------------------------------------------------------------------------

    def sees(self, topic: str, payload: bytes) -> None:
        """Something arrives at the broker."""
        if not payload:
            return
        match self._topics.parse(topic):
            case NodeEventTopic() | NodeTelemetryTopic():
                self._closed(topic, payload, Sealed)
            case NodeCommandTopic():
                self._closed(topic, payload, (Sealed, Rebirth))
            case NodeKeyTopic(node=node):
                wrap = decode_message(payload)
                least = self._shut_out.get(node)
                if least is not None and isinstance(wrap, KeyWrap) and wrap.key_epoch >= least[0]:
                    self._say(f"group key {wrap.key_epoch} is wrapped for {node}, which was shut out before")
            case NodeChunkTopic():
                self._chunk(topic, payload)
            case ModelChunkTopic() as place:
                self._chunk(topic, payload)
                if self._shut_out:
                    self._published.append((place, payload))
            case RoundTopic():
                self._announcement(payload)
            case _:
                pass

    def _closed(self, topic: str, payload: bytes, kinds: Any) -> None:
        self.sealed += 1
        message = decode_message(payload)
        if not isinstance(message, kinds):
            self._say(f"the broker reads a {type(message).__name__} on {topic}")

    def _chunk(self, topic: str, payload: bytes) -> None:
        self.sealed += 1
        if payload[:HEAD_BYTES] in self._heads:
            self._say(f"the broker reads a chunk on {topic}")

    def _announcement(self, payload: bytes) -> None:
        said = decode_message(payload)
        if not isinstance(said, RoundAnnouncement):
            return
        if said.model.parts and (said.seal is None or said.model.delta is not None):
            self._say(f"round {said.round} is announced with a model that the broker can read")
        for spy in self._spies.values():
            spy.announced(said)
        for place, chunk in self._published:
            self._spied(place, chunk)
        self._published.clear()

    def _spied(self, place: ModelChunkTopic, payload: bytes) -> None:
        for node, (_, head) in self._shut_out.items():
            if place.version <= head:
                continue  # what it could read when it was shut out
            with suppress(BadSeal, RemoteProtocolError):
                if self._spies[node].part_chunk(place.version, place.segment, place.index, payload) != payload:
                    self._say(f"{node}, which was shut out after version {head}, reads version {place.version}")

    def _say(self, text: str) -> None:
        self._violations.append(f"seal: {text}")
