"""The model on the broker: retained chunks of the head's parts, each published once per broker session."""

from collections.abc import Callable, Collection
from typing import Protocol

from coordinator.records import VersionRecord
from coordinator.runtime.traffic import Traffic
from coordinator.storage.store import CoordinatorStore
from federation.protocol.chunking import chunk_slice, segments
from federation.protocol.messages import ModelPart, RoundAnnouncement
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.types import NodeId

__all__ = ["CONTROL_BYTES_MAX", "ModelPublisher", "Publisher", "RoundPublisher"]

CONTROL_BYTES_MAX = 1024 * 1024
"""Parts up to this size go over the control connection, so that the announcement follows them in order; in bytes."""


class Publisher(Protocol):
    """The part of a transport that is needed here."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, now or after the reconnect."""


class ModelPublisher:
    """Publishes and clears model parts.

    Args:
        store: Has the frames.
        control: Connection of the announcements.
        data: Connection for bulk.
        topics: The federation's tree.
        close: What is published of a part's chunk, by its index and body; None is the body itself.
    """

    def __init__(
        self,
        store: CoordinatorStore,
        control: Publisher,
        data: Publisher,
        topics: Topics,
        close: Callable[[ModelPart, int, bytes], bytes] | None = None,
    ) -> None:
        self._store, self._control, self._data, self._topics = store, control, data, topics
        self._close = close or (lambda _part, _index, body: body)
        self._published: set[ModelPart] = set()

    def forget(self) -> None:
        """The broker may have lost everything that it retained."""
        self._published.clear()

    def publish(self, record: VersionRecord) -> None:
        """Publish the parts of a version that the broker does not have yet.

        Raises:
            StorageError: A frame cannot be read.
        """
        for part in record.parts:
            if part not in self._published:
                self._publish_part(part)
                self._published.add(part)

    def clear(self, head: VersionRecord, named: Collection[ModelPart] = ()) -> None:
        """Remove what neither the head nor its predecessor lists: expiry alone does not free it (facts of 2.0.11).

        Args:
            head: What is pulled from now on.
            named: Stays, too: an announcement that nodes go by names it.

        Raises:
            StorageError: The store cannot be read or written.
        """
        obsolete = [part for part in self._store.obsolete_parts(head) if part not in named]
        if not obsolete:
            return
        for part in obsolete:
            connection = self._connection(part)
            for segment in segments(part):
                for index in range(segment.chunks):
                    connection.publish(self._topics.model_chunk(part.version, segment.name, index), b"", retain=True)
            self._published.discard(part)
        self._store.mark_cleared(obsolete)

    def _publish_part(self, part: ModelPart) -> None:
        frame, connection = self._store.frame(part), self._connection(part)
        for segment in segments(part):
            for index in range(segment.chunks):
                number = segment.first_chunk + index
                body = frame[chunk_slice(number, part.payload_bytes, part.chunk_bytes)]
                topic = self._topics.model_chunk(part.version, segment.name, index)
                connection.publish(topic, self._close(part, number, body), qos=1, retain=True)

    def _connection(self, part: ModelPart) -> Publisher:
        return self._control if part.payload_bytes <= CONTROL_BYTES_MAX else self._data


class RoundPublisher:
    """Says who is asked: to everybody, or to those alone.

    Args:
        control: Connection of the announcements.
        writer: Closes and signs what is said.
        traffic: Counts it.
    """

    def __init__(self, control: Publisher, writer: Writer, traffic: Traffic) -> None:
        self._control, self._writer, self._traffic = control, writer, traffic

    def say(self, announcement: RoundAnnouncement, nodes: Collection[NodeId] | None) -> None:
        """Say it to everybody, and to whoever comes later (None), or to these nodes, each on its own topic."""
        writer = self._writer
        if nodes is None:
            topic = writer.topics.round
            payload = writer.encode(topic, announcement)
            self._control.publish(topic, payload, qos=1, retain=True)
            self._traffic.announced(topic, len(payload))
            return
        for topic, payload in writer.encode_each(map(writer.topics.node_command, nodes), announcement):
            self._control.publish(topic, payload, qos=1)
            self._traffic.commanded(topic, len(payload))
