"""The model on the broker: retained chunks of the head's parts, each published once per broker session."""

from collections.abc import Callable
from typing import Protocol

from coordinator.records import VersionRecord
from coordinator.storage.store import CoordinatorStore
from federation.protocol.chunking import chunk_slice, segments
from federation.protocol.messages import ModelPart
from federation.protocol.topics import Topics

__all__ = ["CONTROL_BYTES_MAX", "ModelPublisher", "Publisher"]

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

    def clear(self, head: VersionRecord) -> None:
        """Remove what neither the head nor its predecessor lists: expiry alone does not free it (facts of 2.0.11).

        Raises:
            StorageError: The store cannot be read or written.
        """
        obsolete = self._store.obsolete_parts(head)
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
