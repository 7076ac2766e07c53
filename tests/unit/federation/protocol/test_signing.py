"""What is signed is read by who should, on the topic that it was said on, and by nobody else in any other form."""

from dataclasses import dataclass, field

import pytest

from federation.errors import BadSignature, MalformedTopic
from federation.protocol.limits import SIGNATURE_BYTES
from federation.protocol.messages import Message, Rebirth, RoundAnnouncement
from federation.protocol.schema import SCHEMAS
from federation.protocol.sealed_messages import Sealed
from federation.protocol.signing import Reader, Sender, Writer, signed_digest
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, encode_message, split_signature
from federation.types import FederationId, HelperId, NodeId, SumHelper
from tests.golden.test_messages import EXAMPLES
from tests.unit.federation.protocol.test_wire import worst_announcement, worst_sums

TOPICS = Topics(FederationId("plant"))
NODE = NodeId("press_01")
HELPER = HelperId("press_01")  # the name of a node is no node's key
TOPIC_OF = {
    "CoordinatorState": TOPICS.coordinator_state,
    "RoundAnnouncement": TOPICS.round,
    "NodeState": TOPICS.node_state(NODE),
    "UpdateOffer": TOPICS.node_event(NODE),
    "Decline": TOPICS.node_event(NODE),
    "Progress": TOPICS.node_telemetry(NODE),
    "Ticket": TOPICS.node_ticket(NODE),
    "HelperState": TOPICS.helper_state(HELPER),
    "Held": TOPICS.helper_event(HELPER),
    "SumOffer": TOPICS.helper_event(HELPER),
    "SumRefusal": TOPICS.helper_event(HELPER),
    "SealedSeeds": TOPICS.helper_command(HELPER),
    "SumRequest": TOPICS.helper_command(HELPER),
}


OPEN = [name for name, message in EXAMPLES.items() if not isinstance(message, Sealed)]
"""An envelope is read by who has its key: test_sealing has that."""


def topic_of(message: Message) -> str:
    return TOPIC_OF.get(type(message).__name__, TOPICS.node_command(NODE))


class Echo:
    """Signs with the digest itself."""

    def sign(self, digest: bytes) -> bytes:
        return digest


@dataclass
class Asked:
    """Verifies what `Echo` signs, and remembers whose signature was asked for."""

    senders: list[Sender] = field(default_factory=list)

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        self.senders.append(sender)
        return digest == signature


def signed(message: Message) -> bytes:
    return Writer(TOPICS, Echo()).encode(topic_of(message), message)


@pytest.mark.parametrize("name", OPEN)
def test_a_signed_message_is_read_and_says_who_must_have_signed_it(name: str) -> None:
    """FED-75, FED-76; FED-140 of a helper's topics, FED-141 of a ticket's place."""
    message, asked = EXAMPLES[name], Asked()
    assert Reader(TOPICS, asked).decode(topic_of(message), signed(message)) == message
    topic = topic_of(message)
    owner = SumHelper(name=HELPER) if "/h/" in topic else NODE
    assert asked.senders == [None if topic.endswith(("srv", "round", "cmd")) else owner]


def a_round() -> Message:
    return next(message for message in EXAMPLES.values() if isinstance(message, RoundAnnouncement))


@dataclass
class Turned:
    """Seals a message on one topic by saying another one there, while it is on."""

    on: bool
    topic: str = TOPICS.node_command(NODE)

    def sealed(self, topic: str, message: Message) -> Message:
        return Rebirth() if topic == self.topic and self.on else message


@pytest.mark.parametrize("signer", [None, Echo()])
@pytest.mark.parametrize("sealer", [None, Turned(on=False), Turned(on=True)])
def test_what_many_readers_get_is_what_each_would_get(signer: Echo | None, sealer: Turned | None) -> None:
    writer, message = Writer(TOPICS, signer, sealer), a_round()
    topics = [TOPICS.node_command(NodeId(name)) for name in ("a", NODE, "b")]
    assert [*writer.encode_each(topics, message)] == [(topic, writer.encode(topic, message)) for topic in topics]
    assert [*writer.encode_each([], message)] == []


@pytest.mark.parametrize("name", OPEN)
def test_who_has_no_keys_reads_a_signed_message_like_any_other(name: str) -> None:
    """FED-75, FED-14: the signature is a field that nobody knows."""
    message = EXAMPLES[name]
    assert decode_message(signed(message)) == message
    assert Reader(TOPICS).decode(topic_of(message), signed(message)) == message
    assert Writer(TOPICS).encode(topic_of(message), message) == encode_message(message)


def test_the_signature_is_the_last_entry_and_covers_all_before_it() -> None:
    """FED-75."""
    message = EXAMPLES["cancel"]
    payload, plain = signed(message), encode_message(message)
    assert len(payload) == len(plain) + SIGNATURE_BYTES + 4
    assert payload[1 : len(plain)] == plain[1:]  # the map has one entry more
    assert payload[len(plain) : -SIGNATURE_BYTES] == b"\xcc\xff\xc4\x40"
    body, signature = split_signature(payload)
    assert signature == signed_digest(TOPICS, topic_of(message), body)
    assert split_signature(plain) == (plain, b"")


def test_a_signature_is_bound_to_federation_and_topic_but_not_to_the_root() -> None:
    """FED-75: a bridge may give the tree another root."""
    message = EXAMPLES["rebirth"]
    payload = signed(message)
    moved = Topics(FederationId("plant"), root="site-7")
    assert Reader(moved, Asked()).decode(moved.node_command(NODE), payload) == message
    for topics, topic in (
        (Topics(FederationId("other")), Topics(FederationId("other")).node_command(NODE)),
        (TOPICS, TOPICS.node_command(NodeId("press_02"))),
        (TOPICS, TOPICS.round),
    ):
        with pytest.raises(BadSignature):
            Reader(topics, Asked()).decode(topic, payload)


def test_a_topic_of_another_tree_is_no_place_to_sign_for() -> None:
    with pytest.raises(MalformedTopic):
        Reader(TOPICS, Asked()).decode("fl/other/round", signed(EXAMPLES["cancel"]))
    with pytest.raises(MalformedTopic):
        TOPICS.below("fl/plantation/round")


WORST = (
    worst_announcement(),
    worst_announcement(described=True),
    worst_announcement(described=True, masked=True),
    *worst_sums(),
)


@pytest.mark.parametrize("message", [*EXAMPLES.values(), *WORST], ids=lambda one: type(one).__name__)
def test_the_limits_hold_with_the_signature(message: Message) -> None:
    """FED-75, FED-25, FED-143: the longest announcement that the field limits allow stays within 4 KiB."""
    limit = next(schema.bytes_max for schema in SCHEMAS if schema.record.make is type(message))
    assert len(signed(message)) <= limit


def test_an_unsigned_message_is_refused_before_it_is_parsed() -> None:
    """FED-76: bytes that are no message are refused for their signature."""
    for payload in (b"", b"\xff" * 200, encode_message(EXAMPLES["cancel"])):
        with pytest.raises(BadSignature, match="not signed"):
            Reader(TOPICS, Asked()).decode(TOPICS.node_command(NODE), payload)


def test_a_receipt_cannot_be_turned_into_another_one() -> None:
    """FED-76: what it says, and of which update, is signed with it."""
    applied, stale = (split_signature(signed(EXAMPLES[name])) for name in ("applied_receipt", "stale_receipt"))
    with pytest.raises(BadSignature):
        Reader(TOPICS, Asked()).decode(TOPICS.node_command(NODE), applied[0] + stale[1])
