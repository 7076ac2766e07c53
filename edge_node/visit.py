"""A short visit to the broker as this node: what it may say, and what a coordinator has left there."""

from dataclasses import dataclass

from edge_node.config import NodeConfig
from federation.errors import RemoteProtocolError
from federation.protocol.messages import Activity, CoordinatorState, Progress, RoundAnnouncement
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.address import BrokerAddress
from federation.runtime.visit import visit_broker
from federation.types import FederationId, NodeId, RoundId

__all__ = ["Visit", "visit_as_node"]


@dataclass(slots=True, kw_only=True)
class Visit:
    """What was seen.

    Attributes:
        accepted: Whether the broker accepted the connection.
        reason: Why not.
        packet_bytes_max: The largest packet that it takes.
        publish_refused: Whether it refused a publish to the node's own topic.
        coordinator: Who coordinates, as retained.
        announcement: The current round, as retained.
    """

    accepted: bool = False
    reason: str = "no answer"
    packet_bytes_max: int = 0
    publish_refused: bool = False
    coordinator: CoordinatorState | None = None
    announcement: RoundAnnouncement | None = None


def visit_as_node(config: NodeConfig, address: BrokerAddress) -> Visit:
    """Connect, look, and leave; a node that runs keeps its session."""
    node, topics = NodeId(config.node.id), Topics(FederationId(config.federation.id))
    # Telemetry of no round: nobody acts on it.
    probe = topics.node_telemetry(node), encode_message(Progress(round=RoundId(0), activity=Activity.IDLE))
    wanted = (topics.coordinator_state, topics.round)
    seen = visit_broker(
        address,
        f"{node}-doctor",
        filters=wanted,
        probes=[probe],
        enough=lambda seen: set(wanted) <= seen.messages.keys(),
    )
    visit = Visit(
        accepted=seen.accepted,
        reason=seen.reason,
        packet_bytes_max=seen.packet_bytes_max,
        publish_refused=seen.refused > 0,
    )
    for payload in seen.messages.values():
        _note(visit, payload)
    return visit


def _note(visit: Visit, payload: bytes) -> None:
    try:
        message = decode_message(payload)
    except RemoteProtocolError:
        return
    if isinstance(message, CoordinatorState):
        visit.coordinator = message
    elif isinstance(message, RoundAnnouncement):
        visit.announcement = message
