"""What the broker says of a node whose connection is gone."""

from edge_node.storage.store import NodeStore
from federation.protocol.messages import NodeState, Presence
from federation.protocol.signing import Writer
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.runtime.transport import Will
from federation.types import NodeId

__all__ = ["node_will"]


def node_will(writer: Writer, node: NodeId, store: NodeStore) -> Will:
    """What the broker says for a node that is gone; signed now, because then nobody can."""
    lost = NodeState(
        presence=Presence.LOST,
        incarnation=store.incarnation,
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_VERSION,
        state_id=store.state_id,
    )
    topic = writer.topics.node_state(node)
    return Will(topic=topic, payload=writer.encode(topic, lost))
