"""A broker that was taken over: whatever it makes of a signed message is refused as a bad signature (FED-76)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import BadSeal, BadSignature, MalformedMessage
from federation.identity.signing_keys import CoordinatorKey, NodeKeys, SigningKey, node_keys_text, read_public_key
from federation.protocol.signing import Reader, Verifier, Writer
from federation.protocol.topics import Topics
from federation.types import FederationId, NodeId
from tests.golden.test_messages import EXAMPLES

TOPICS = Topics(FederationId("plant"))
NODE, OTHER = NodeId("press_01"), NodeId("press_02")
COORDINATOR, OWN, STRANGER = SigningKey.new(), SigningKey.new(), SigningKey.new()
FROM_NODE = {"node_state", "node_will", "update_offer", "inline_offer", "decline", "progress", "proof"}
TOPIC_OF = {
    "coordinator_state": TOPICS.coordinator_state,
    "round_announcement": TOPICS.round,
    "final_announcement": TOPICS.round,
    "node_state": TOPICS.node_state(NODE),
    "node_will": TOPICS.node_state(NODE),
    "update_offer": TOPICS.node_event(NODE),
    "inline_offer": TOPICS.node_event(NODE),
    "decline": TOPICS.node_event(NODE),
    "proof": TOPICS.node_event(NODE),
    "progress": TOPICS.node_telemetry(NODE),
}


def topic_of(name: str) -> str:
    return TOPIC_OF.get(name, TOPICS.node_command(NODE))


def signed(name: str, key: SigningKey | None = None) -> bytes:
    owner = OWN if name in FROM_NODE else COORDINATOR
    return Writer(TOPICS, key or owner).encode(topic_of(name), EXAMPLES[name])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Verifier:
    path: Path = tmp_path_factory.mktemp("keys") / "nodes.json"
    path.write_text(node_keys_text({NODE: [OWN.public_hex], OTHER: [STRANGER.public_hex]}))
    return NodeKeys(path)


@pytest.fixture(params=EXAMPLES)
def case(request: pytest.FixtureRequest, nodes: Verifier) -> tuple[str, Reader]:
    """One message, and the reader that it is for."""
    name = str(request.param)
    pinned = CoordinatorKey(read_public_key(COORDINATOR.public_pem, source="key"))
    return name, Reader(TOPICS, nodes if name in FROM_NODE else pinned)


def test_the_original_is_read(case: tuple[str, Reader]) -> None:
    name, reader = case
    if name == "sealed":  # its signature holds, and it is closed to whoever has no key
        with pytest.raises(BadSeal):
            reader.decode(topic_of(name), signed(name))
        return
    assert reader.decode(topic_of(name), signed(name)) == EXAMPLES[name]


def test_every_altered_byte_is_refused(case: tuple[str, Reader]) -> None:
    name, reader = case
    payload, topic = signed(name), topic_of(name)
    for at in range(len(payload)):
        for flip in (0x01, 0x80):
            altered = payload[:at] + bytes([payload[at] ^ flip]) + payload[at + 1 :]
            with pytest.raises(BadSignature):
                reader.decode(topic, altered)


def test_every_prefix_and_every_byte_more_is_refused(case: tuple[str, Reader]) -> None:
    name, reader = case
    payload, topic = signed(name), topic_of(name)
    for altered in (*(payload[:length] for length in range(len(payload))), payload + b"\0", b"\0" + payload):
        with pytest.raises(BadSignature):
            reader.decode(topic, altered)


def test_another_key_is_refused(case: tuple[str, Reader]) -> None:
    """Also the key of a node that is enrolled, and the coordinator's in a node's place."""
    name, reader = case
    for key in (STRANGER, COORDINATOR if name in FROM_NODE else OWN):
        with pytest.raises(BadSignature):
            reader.decode(topic_of(name), signed(name, key))


def test_no_message_can_be_moved_to_another_topic(case: tuple[str, Reader]) -> None:
    name, reader = case
    places = (
        TOPICS.coordinator_state,
        TOPICS.round,
        *(one(node) for node in (NODE, OTHER) for one in (TOPICS.node_state, TOPICS.node_event, TOPICS.node_command)),
        TOPICS.node_telemetry(NODE),
    )
    for place in places:
        if place != topic_of(name):
            with pytest.raises(BadSignature):
                reader.decode(place, signed(name))


def test_two_signed_messages_cannot_be_spliced(case: tuple[str, Reader]) -> None:
    name, reader = case
    others = ("node_will", "decline") if name in FROM_NODE else ("rebirth", "cancel")
    one, two = signed(name), signed(next(other for other in others if other != name))
    for spliced in (one[:-64] + two[-64:], two[:-64] + one[-64:], two + one, one + two):
        with pytest.raises(BadSignature):
            reader.decode(topic_of(name), spliced)


def test_an_owner_who_signs_what_is_no_message_is_refused_as_ever(nodes: Verifier) -> None:
    """A signature is no reason to trust the bytes."""
    writer = Writer(TOPICS, OWN)
    body = writer.encode(TOPICS.node_event(NODE), EXAMPLES["decline"])[:-64].replace(
        b"the battery is low", b"\xff" * 18
    )
    from federation.protocol.signing import signed_digest

    payload = body + OWN.sign(signed_digest(TOPICS, TOPICS.node_event(NODE), body))
    with pytest.raises(MalformedMessage):
        Reader(TOPICS, nodes).decode(TOPICS.node_event(NODE), payload)


@given(st.binary(max_size=300), st.binary(min_size=64, max_size=64))
def test_no_bytes_end_a_reader(body: bytes, tail: bytes) -> None:
    reader = Reader(TOPICS, CoordinatorKey(read_public_key(COORDINATOR.public_pem, source="key")))
    for payload in (body, body + b"\xcc\xff\xc4\x40" + tail):
        with pytest.raises(BadSignature):
            reader.decode(TOPICS.round, payload)
