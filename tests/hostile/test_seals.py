"""A broker that injects, repeats, cuts or swaps what is sealed costs one refused message each, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.config.privacy import SealingSettings
from coordinator.engine.events import ChunkReceived, DeclineReceived, MessageRefused, OfferReceived
from coordinator.runtime.inbound import Inbound as CoordinatorInbound
from coordinator.runtime.incidents import Incidents
from coordinator.runtime.sealing import CoordinatorSealing
from coordinator.runtime.traffic import Traffic
from coordinator.storage.sqlite_store import SqliteStore
from edge_node.engine import events as node_events
from edge_node.runtime.inbound import Inbound as NodeInbound
from edge_node.runtime.sealing import NodeSealing
from federation.identity.signing_keys import NodeKeys, SigningKey, node_keys_text, read_coordinator_key
from federation.protocol.messages import NodeState, PartKind, Presence
from federation.protocol.signing import Writer
from federation.runtime.transport import MessageReceived
from federation.types import Incarnation, ModelVersion
from tests.rigs.model_values import initialised
from tests.rigs.sealing_values import (
    COMMANDS,
    DECLINE,
    EVENTS,
    KEYFRAME,
    MILL,
    PRESS,
    RECEIPT,
    RUN,
    TOPICS,
    announcement,
    born,
    offer,
    part,
    state,
)


class Wire:
    """Both ends with their inboxes, and a broker in between that may do what it likes."""

    def __init__(self, folder: Path) -> None:
        own, key = SigningKey.new(), SigningKey.new()
        other = SigningKey.new()
        (folder / "nodes.json").write_text(node_keys_text({PRESS: [own.public_hex], MILL: [other.public_hex]}))
        (folder / "coordinator.pub").write_text(key.public_pem)
        for name in ("c", "press", "mill"):
            (folder / name).mkdir()
        self.store = SqliteStore(folder / "store")
        initialised(self.store)
        self.sealing = CoordinatorSealing(TOPICS, (RUN, self.store.epoch), folder / "c", SealingSettings(on=True), key)
        self.node, self.other = NodeSealing(TOPICS, PRESS, folder / "press"), NodeSealing(TOPICS, MILL, folder / "mill")
        self.wraps: dict[str, bytes] = {}
        self.coordinates = Writer(TOPICS, key, self.sealing)
        self.says, self.says_too = Writer(TOPICS, own, self.node), Writer(TOPICS, other, self.other)
        self.sealing.publish = lambda topic, wrap: self.wraps.update({topic: self.coordinates.encode(topic, wrap)})
        self.incidents = Incidents()
        self.inbound = CoordinatorInbound(
            TOPICS,
            self.store,
            Traffic(),
            lambda: None,
            verifier=NodeKeys(folder / "nodes.json"),
            incidents=self.incidents,
            signer=key,
            sealing=self.sealing,
        )
        self.hears = NodeInbound(TOPICS, PRESS, read_coordinator_key(folder / "coordinator.pub"), self.node)
        self.sealing.speaks()
        for node, name, writer in ((self.node, PRESS, self.says), (self.other, MILL, self.says_too)):
            node.start()
            node.hear(self.sealing.stated(state()))
            topic = TOPICS.node_state(name)
            self.up(topic, writer.encode(topic, born(node)))

    def up(self, topic: str, payload: bytes) -> object:
        return self.inbound.translate(MessageReceived(topic=topic, payload=payload))

    def down(self, topic: str, payload: bytes) -> object:
        return self.hears.translate(MessageReceived(topic=topic, payload=payload))


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    made = Wire(tmp_path)
    yield made
    made.store.close()


def test_every_cut_of_an_envelope_is_refused(wire: Wire) -> None:
    """FED-171, FED-76."""
    payload = wire.says.encode(EVENTS, DECLINE)
    assert isinstance(wire.up(EVENTS, payload), DeclineReceived)
    for length in range(1, len(payload)):
        assert isinstance(wire.up(EVENTS, payload[:length]), MessageRefused)
    assert wire.incidents.counts()[PRESS] == {"bad_signature": len(payload) - 1}


def test_an_envelope_of_another_node_or_an_injected_one_is_refused(wire: Wire) -> None:
    """FED-161, FED-171: one refused message each, and what comes next is heard."""
    own, others = wire.says.encode(EVENTS, DECLINE), wire.says_too.encode(TOPICS.node_event(MILL), DECLINE)
    unsigned = Writer(TOPICS, None, wire.node).encode(EVENTS, DECLINE)
    for payload in (others, unsigned):
        assert isinstance(wire.up(EVENTS, payload), MessageRefused)
    assert isinstance(wire.up(EVENTS, own), DeclineReceived)
    assert isinstance(wire.up(EVENTS, own), DeclineReceived)  # a repeated one says the same once more
    assert wire.incidents.counts()[PRESS] == {"bad_signature": 2}


def test_a_node_that_seals_to_another_key_is_counted_and_not_answered(wire: Wire) -> None:
    """FED-171: signed, so it is the node's own doing."""
    wire.sealing.rotate()
    wire.sealing.rotate()
    assert isinstance(wire.up(EVENTS, wire.says.encode(EVENTS, DECLINE)), MessageRefused)
    assert wire.incidents.counts()[PRESS] == {"bad_seal": 1}


def test_a_chunk_that_is_swapped_or_altered_costs_itself(wire: Wire) -> None:
    """FED-165, FED-171: the transfer goes on."""
    payload = bytes(range(100))
    said = wire.node.offered(offer(payload, inline=False))
    assert isinstance(wire.up(EVENTS, wire.says.encode(EVENTS, said)), OfferReceived)
    chunks = [wire.node.chunk(said, 40, index, payload[40 * index :][:40]) for index in range(3)]
    bad = [(0, chunks[1]), (1, chunks[1][:-1]), (2, b""), (1, bytes([chunks[1][0] ^ 1]) + chunks[1][1:])]
    for index, body in bad:
        assert isinstance(wire.up(TOPICS.node_chunk(PRESS, said.update, index), body), MessageRefused)
    for index, body in enumerate(chunks):
        event = wire.up(TOPICS.node_chunk(PRESS, said.update, index), body)
        assert isinstance(event, ChunkReceived)
        assert event.body == payload[40 * index :][:40]
    assert wire.incidents.counts()[PRESS] == {"bad_seal": len(bad)}


def test_a_node_believes_no_swapped_key_and_no_altered_part(wire: Wire) -> None:
    """FED-166, FED-168, FED-171."""
    own, theirs = TOPICS.node_key(PRESS), TOPICS.node_key(MILL)
    assert isinstance(wire.down(own, wire.wraps[theirs]), node_events.MessageRefused)
    keyframe = part(PartKind.KEYFRAME, 1, KEYFRAME)
    announced = wire.sealing.announced(announcement(keyframe))
    assert isinstance(wire.down(TOPICS.round, wire.coordinates.encode(TOPICS.round, announced)), object)
    assert wire.node.lacks() is not None
    assert wire.down(own, wire.wraps[own]) is None
    assert wire.node.lacks() is None
    sealed = wire.sealing.part_chunk(keyframe, 0, KEYFRAME[:90])
    topic = TOPICS.model_chunk(ModelVersion(1), "k0", 0)
    for body in (sealed[:-1], KEYFRAME[:90], wire.sealing.part_chunk(keyframe, 1, KEYFRAME[90:180])):
        assert isinstance(wire.down(topic, body), node_events.MessageRefused)
    event = wire.down(topic, sealed)
    assert isinstance(event, node_events.ModelChunkReceived)
    assert event.body == KEYFRAME[:90]
    assert wire.hears.refused == {"BadSignature": 1, "BadSeal": 3}


def test_a_receipt_that_is_swapped_is_no_receipt(wire: Wire) -> None:
    """FED-161, FED-162."""
    theirs = wire.coordinates.encode(TOPICS.node_command(MILL), RECEIPT)
    assert isinstance(wire.down(COMMANDS, theirs), node_events.MessageRefused)
    event = wire.down(COMMANDS, wire.coordinates.encode(COMMANDS, RECEIPT))
    assert isinstance(event, node_events.CommandReceived)
    assert event.command == RECEIPT


def test_an_older_birth_that_is_repeated_gets_no_key_of_the_model_for_somebody_else(wire: Wire) -> None:
    """FED-168: what is wrapped is wrapped for a key that the node itself has signed."""
    forged = NodeState(presence=Presence.ONLINE, incarnation=Incarnation(9), protocol_min=1, protocol_max=1)
    before, topic = dict(wire.wraps), TOPICS.node_state(PRESS)
    stranger = Writer(TOPICS, SigningKey.new())
    assert isinstance(wire.up(topic, stranger.encode(topic, wire.other.stated(forged))), MessageRefused)
    assert wire.wraps == before
