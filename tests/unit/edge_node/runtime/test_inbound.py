"""What arrives becomes an event, or is refused, counted and said once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_node.engine.events import (
    AnnouncementReceived,
    BrokerConnected,
    BrokerDisconnected,
    CommandReceived,
    CoordinatorStateReceived,
    MessageRefused,
    ModelChunkReceived,
    StopRequested,
)
from edge_node.runtime.inbound import DESCRIPTIONS_MAX, Inbound
from federation.errors import LocalProtocolError, TransportError
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import CoordinatorState, Message, Presence, Rebirth, Receipt, ReceiptStatus
from federation.protocol.signing import Sender, Writer
from federation.protocol.topics import Topics
from federation.protocol.wire import encode_message
from federation.runtime.transport import MessageReceived, TransportConnected, TransportDisconnected, TransportFailed
from federation.types import Epoch, FederationId, ModelVersion, NodeId, RoundId, update_id
from tests.rigs.node_doubles import NODE, RUN, announcement

TOPICS = Topics(FederationId("fed"))
STATE = CoordinatorState(presence=Presence.ONLINE, run=RUN, epoch=Epoch(1), protocol_min=1, protocol_max=1)
RECEIPT = Receipt(run=RUN, update=update_id(RoundId(7), NODE), status=ReceiptStatus.APPLIED, version=ModelVersion(5))


@pytest.fixture
def inbound() -> Inbound:
    return Inbound(TOPICS, NODE)


def message(topic: str, content: Message | bytes) -> MessageReceived:
    return MessageReceived(topic=topic, payload=content if isinstance(content, bytes) else encode_message(content))


class Signs:
    """Signs with the digest itself."""

    def sign(self, digest: bytes) -> bytes:
        return digest

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        return sender is None and digest == signature


@pytest.mark.parametrize("name", ["srv", "round", "cmd"])
def test_where_signatures_are_required_nothing_else_is_obeyed(name: str) -> None:
    """FED-76: counted and in the log, never an exception."""
    inbound = Inbound(TOPICS, NODE, Signs())
    places: dict[str, tuple[str, Message]] = {
        "srv": (TOPICS.coordinator_state, STATE),
        "round": (TOPICS.round, announcement()),
        "cmd": (TOPICS.node_command(NODE), RECEIPT),
    }
    topic, said = places[name]
    assert isinstance(inbound.translate(message(topic, said)), MessageRefused)
    assert inbound.refused == {"BadSignature": 1}
    assert not isinstance(
        inbound.translate(message(topic, Writer(TOPICS, Signs()).encode(topic, said))), MessageRefused
    )


def test_connection_becomes_an_event(inbound: Inbound) -> None:
    up = TransportConnected(connection="node", session_present=False, packet_bytes_max=262_144)
    assert inbound.translate(up) == BrokerConnected()
    assert inbound.translate(TransportDisconnected(connection="node", reason="x")) == BrokerDisconnected(reason="x")


def test_transport_that_gave_up_ends_the_loop(inbound: Inbound) -> None:
    with pytest.raises(TransportError, match="not authorized"):
        inbound.translate(TransportFailed(connection="node", reason="not authorized"))


def test_what_the_machine_knows_passes_through(inbound: Inbound) -> None:
    assert inbound.translate(StopRequested()) == StopRequested()


def test_what_nobody_handles_is_our_own_bug(inbound: Inbound) -> None:
    with pytest.raises(LocalProtocolError, match="str"):
        inbound.translate("surprise")


def test_messages_become_events(inbound: Inbound) -> None:
    heard = CoordinatorStateReceived(state=STATE, payload=encode_message(STATE))
    assert inbound.translate(message(TOPICS.coordinator_state, STATE)) == heard
    announced = announcement()
    heard_round = AnnouncementReceived(announcement=announced, payload=encode_message(announced))
    assert inbound.translate(message(TOPICS.round, announced)) == heard_round
    for command in (RECEIPT, Rebirth(), Receipt(run=RUN, update=RECEIPT.update, status=ReceiptStatus.STORED)):
        translated = inbound.translate(message(TOPICS.node_command(NODE), command))
        assert translated == CommandReceived(command=command, payload=encode_message(command))
    chunk = inbound.translate(message(TOPICS.model_chunk(ModelVersion(3), "d1", 9), b"body"))
    assert chunk == ModelChunkReceived(version=ModelVersion(3), segment="d1", index=9, body=b"body")
    assert not inbound.refused


def test_cleared_retained_message_is_no_event(inbound: Inbound) -> None:
    assert inbound.translate(message(TOPICS.round, b"")) is None


@pytest.mark.parametrize(
    ("topic", "content"),
    [
        (TOPICS.round, STATE),
        (TOPICS.round, RECEIPT),
        (TOPICS.coordinator_state, announcement()),
        (TOPICS.node_command(NODE), STATE),
        (TOPICS.node_command(NodeId("other")), RECEIPT),
        (TOPICS.node_state(NODE), STATE),
        (TOPICS.round, b"\xff\xff"),
        ("elsewhere/round", b"\xff"),
    ],
)
def test_message_on_a_topic_where_it_does_not_belong_is_refused(
    inbound: Inbound, topic: str, content: Message | bytes
) -> None:
    """[FED-5] The topic decides which message it may carry."""
    refused = inbound.translate(message(topic, content))
    assert isinstance(refused, MessageRefused)
    assert refused.topic == topic
    assert sum(inbound.refused.values()) == 1


def test_refusals_of_one_kind_are_counted_and_said_once(inbound: Inbound) -> None:
    with capture_logs() as said:
        for _ in range(3):
            inbound.translate(message(TOPICS.round, b"\xff"))
    assert inbound.refused == {"MalformedMessage": 3}
    assert [line["event"] for line in said] == ["message_refused"]


@given(st.sampled_from([TOPICS.round, TOPICS.coordinator_state, TOPICS.node_command(NODE)]), st.binary(min_size=1))
def test_random_bytes_are_refused_and_nothing_else_happens(topic: str, payload: bytes) -> None:
    assert isinstance(Inbound(TOPICS, NODE).translate(message(topic, payload)), MessageRefused)


def test_what_a_coordinator_says_of_the_inputs_is_found_by_its_digest(inbound: Inbound) -> None:
    """FED-126: of the newest four runs."""
    texts = [f'{{"features":["f{number}"]}}' for number in range(DESCRIPTIONS_MAX + 1)]
    for text in texts:
        assert inbound.inputs_of(payload_digest(text.encode())) is None
        inbound.translate(message(TOPICS.coordinator_state, replace(STATE, inputs=text)))
        assert inbound.inputs_of(payload_digest(text.encode())) == text
    inbound.translate(message(TOPICS.coordinator_state, STATE))
    assert inbound.inputs_of(payload_digest(texts[0].encode())) is None
    assert inbound.inputs_of(payload_digest(texts[1].encode())) == texts[1]
    assert inbound.inputs_of(None) is None


class TestInvitations:
    """FED-190: an announcement on this node's own command topic."""

    def test_it_is_an_announcement_that_was_meant_for_this_node_alone(self, inbound: Inbound) -> None:
        said = message(TOPICS.node_command(NODE), announcement())
        event = inbound.translate(said)
        assert event == AnnouncementReceived(announcement=announcement(), payload=said.payload, invited=True)
        assert inbound.translate(message(TOPICS.round, announcement())) == AnnouncementReceived(
            announcement=announcement(), payload=said.payload
        )

    def test_one_that_was_signed_for_everybody_or_for_another_node_is_refused(self) -> None:
        signed = Writer(TOPICS, Signs())
        inbound, own = Inbound(TOPICS, NODE, Signs()), TOPICS.node_command(NODE)
        for place in (TOPICS.round, TOPICS.node_command(NodeId("somebody-else"))):
            assert isinstance(inbound.translate(message(own, signed.encode(place, announcement()))), MessageRefused)
        found = inbound.translate(message(own, signed.encode(own, announcement())))
        assert isinstance(found, AnnouncementReceived)
        assert found.invited
        assert found.payload
