"""A short visit to the broker as this node: what it may say, and what a coordinator has left there."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from edge_node.app import client_id
from edge_node.config import NodeConfig
from federation.errors import BadSignature, RemoteProtocolError
from federation.identity.signing_keys import Trust
from federation.protocol.messages import Activity, CoordinatorState, Progress, RoundAnnouncement
from federation.protocol.signing import Reader, Writer
from federation.protocol.topics import Topics
from federation.runtime.address import BrokerAddress
from federation.runtime.visit import Seen, stay_at_broker, visit_broker
from federation.types import FederationId, NodeId, RoundId

__all__ = ["Visit", "await_coordinator", "visit_as_node"]


@dataclass(slots=True, kw_only=True)
class Visit(Seen):
    """What was seen, and what it means to a node.

    Attributes:
        coordinator: Who coordinates, as retained.
        announcement: The current round, as retained.
        forged: What is not signed by the coordinator; None is nothing.
    """

    coordinator: CoordinatorState | None = None
    announcement: RoundAnnouncement | None = None
    forged: str | None = None


def visit_as_node(config: NodeConfig, address: BrokerAddress, trust: Trust) -> Visit:
    """Connect, look, and leave; a node that runs keeps its session."""
    node, topics = NodeId(config.node.id), Topics(FederationId(config.federation.id))
    # Telemetry of no round: nobody acts on it.
    topic = topics.node_telemetry(node)
    probe = topic, Writer(topics, trust.signer).encode(topic, Progress(round=RoundId(0), activity=Activity.IDLE))
    wanted = (topics.coordinator_state, topics.round)
    seen = visit_broker(
        address,
        f"{client_id(config, address)}-doctor",
        filters=wanted,
        probes=[probe],
        enough=lambda seen: set(wanted) <= seen.messages.keys(),
    )
    return _read(seen, Reader(topics, trust.verifier))


def await_coordinator(
    config: NodeConfig, address: BrokerAddress, trust: Trust, patience_s: float, told: Callable[[Visit], None]
) -> Visit:
    """Connect, and stay until a coordinator has spoken, so long at most; ``told`` hears of each change."""
    topics = Topics(FederationId(config.federation.id))
    reader = Reader(topics, trust.verifier)

    def spoken(seen: Seen) -> bool:
        visit = _read(seen, reader)
        if seen.answered:
            told(visit)
        return visit.coordinator is not None

    name, wanted = f"{client_id(config, address)}-doctor", (topics.coordinator_state,)
    return _read(stay_at_broker(address, name, filters=wanted, enough=spoken, patience_s=patience_s), reader)


def _read(seen: Seen, reader: Reader) -> Visit:
    visit = Visit(**asdict(seen))
    for topic, payload in seen.messages.items():
        _note(visit, reader, topic, payload)
    return visit


def _note(visit: Visit, reader: Reader, topic: str, payload: bytes) -> None:
    try:
        message = reader.decode(topic, payload)
    except BadSignature as error:
        visit.forged = f"{topic}: {error}"
        return
    except RemoteProtocolError:
        return
    if isinstance(message, CoordinatorState):
        visit.coordinator = message
    elif isinstance(message, RoundAnnouncement):
        visit.announcement = message
