"""Bytes on the way up and down, headers included, counted between two commits."""

from dataclasses import dataclass, field

from federation.protocol.messages import Presence
from federation.types import NodeId

__all__ = ["PACKET_HEADER_BYTES", "Traffic"]

PACKET_HEADER_BYTES = 10
"""Bytes of an MQTT PUBLISH beside its topic and its payload: type, length, topic length, packet id, properties."""

DOWN_BYTES_MAX = 2**62
"""Bytes down of one version, at most."""


@dataclass(slots=True)
class Traffic:
    """What has been sent since `take` was called last.

    Attributes:
        up: Bytes of what nodes published.
        down: Bytes of what nodes were sent: commands once, announcements once per node that is online, and the model
            parts that nodes say they pulled.
    """

    up: int = 0
    down: int = 0
    _online: set[NodeId] = field(default_factory=set)

    def received(self, topic: str, payload_bytes: int) -> None:
        """A node published."""
        self.up += _packet_bytes(topic, payload_bytes)

    def commanded(self, topic: str, payload_bytes: int) -> None:
        """One node was sent something."""
        self.down += _packet_bytes(topic, payload_bytes)

    def announced(self, topic: str, payload_bytes: int) -> None:
        """Every node that is online was sent something."""
        self.down += _packet_bytes(topic, payload_bytes) * len(self._online)

    def pulled(self, model_bytes: int) -> None:
        """A node says that it pulled model parts: its word, so that the sum is bounded by what a row can hold."""
        self.down = min(self.down + model_bytes, DOWN_BYTES_MAX)

    def presence(self, node: NodeId, presence: Presence) -> None:
        """A node came or went."""
        if presence is Presence.ONLINE:
            self._online.add(node)
        else:
            self._online.discard(node)

    def take(self) -> tuple[int, int]:
        """Bytes up and down since the last call."""
        taken, self.up, self.down = (self.up, self.down), 0, 0
        return taken


def _packet_bytes(topic: str, payload_bytes: int) -> int:
    return PACKET_HEADER_BYTES + len(topic) + payload_bytes
