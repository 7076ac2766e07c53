"""What a transport received becomes an event, or is refused; nothing that a stranger sends can do more."""

import threading
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from coordinator.engine import events
from coordinator.engine.events import BrokerDropped, CoordinatorStateReceived, MessageRefused
from coordinator.records import Verdict
from coordinator.runtime import retained_mail
from coordinator.runtime.connections import DROPPED_TOPIC
from coordinator.runtime.inbound import BURST_BIRTHS, BURST_MESSAGES, Inbound
from coordinator.runtime.incidents import Incidents
from coordinator.runtime.retained_mail import CLEARED_PER_S, RetainedMail
from coordinator.runtime.traffic import PACKET_HEADER_BYTES, Traffic
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import StorageError, TransportError
from federation.identity.signing_keys import SigningKey
from federation.protocol.messages import (
    Activity,
    CoordinatorState,
    Decline,
    Message,
    NodeState,
    Presence,
    Progress,
    Proof,
    Reason,
    Receipt,
    ReceiptStatus,
    UpdateOffer,
)
from federation.protocol.signing import Sender, Writer
from federation.protocol.topics import Topics
from federation.protocol.wire import encode_message
from federation.runtime.transport import (
    MessageReceived,
    TransportAnswered,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
)
from federation.types import (
    Digest,
    Epoch,
    FederationId,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    SeenRun,
    Start,
    UpdateId,
)
from tests.rigs.model_values import arrived, initialised, update
from tests.rigs.node_rig import announcement
from tests.rigs.stores import in_own_folder

TOPICS = Topics(FederationId("t"))
ANN = NodeId("ann")
STATE = NodeState(presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
OFFER = UpdateOffer(
    run=RunId("0" * 16),
    round=RoundId(0),
    update=UpdateId("0-ann"),
    incarnation=Incarnation(1),
    base_version=ModelVersion(0),
    base_digest=Digest(b"d" * 16),
    num_examples=3,
    metrics={},
    codec="edge",
    payload_bytes=5,
    payload_digest=Digest(b"p" * 16),
    chunk_bytes=61_440,
    inline=b"frame",
)
DECLINE = Decline(run=RunId("0" * 16), round=RoundId(0), reason="busy")
PROGRESS = Progress(round=RoundId(0), activity=Activity.TRAINING)


@dataclass
class Bench:
    store: SqliteStore = field(default_factory=partial(in_own_folder, SqliteStore))
    traffic: Traffic = field(default_factory=Traffic)
    connected: int = 0
    inbound: Inbound = field(init=False)

    def __post_init__(self) -> None:
        initialised(self.store)
        self.inbound = Inbound(TOPICS, self.store, self.traffic, self._on_connected)

    def _on_connected(self) -> None:
        self.connected += 1

    def hear(self, topic: str, payload: bytes) -> events.Event | None:
        return self.inbound.translate(MessageReceived(topic=topic, payload=payload))

    def say(self, topic: str, message: Message) -> events.Event | None:
        return self.hear(topic, encode_message(message))


def test_births_offers_declines_and_progress_become_events() -> None:
    bench = Bench()
    assert bench.say(TOPICS.node_state(ANN), STATE) == events.NodeStateReceived(node=ANN, state=STATE)
    assert bench.say(TOPICS.node_event(ANN), OFFER) == events.OfferReceived(node=ANN, offer=OFFER)
    assert bench.say(TOPICS.node_event(ANN), DECLINE) == events.DeclineReceived(node=ANN, decline=DECLINE)
    assert bench.say(TOPICS.node_telemetry(ANN), PROGRESS) == events.ProgressReceived(node=ANN, progress=PROGRESS)


def test_a_chunk_is_passed_on_as_it_is() -> None:
    topic = TOPICS.node_chunk(ANN, UpdateId("0-ann"), 7)
    expected = events.ChunkReceived(node=ANN, update=UpdateId("0-ann"), index=7, body=b"\x00raw")
    assert Bench().hear(topic, b"\x00raw") == expected


def test_an_offer_comes_with_the_verdict_that_is_known() -> None:
    bench, sent = Bench(), arrived("ann", update(1.0))
    bench.store.save_update(sent.record, sent.payload)
    event = bench.say(TOPICS.node_event(ANN), OFFER)
    assert isinstance(event, events.OfferReceived)
    assert event.known == Verdict(update=UpdateId("0-ann"), node=ANN, status=ReceiptStatus.STORED, reason=Reason.NONE)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPICS.node_event(ANN), b"\xff not msgpack"),
        (TOPICS.node_state(ANN), encode_message(DECLINE)),
        (TOPICS.node_event(ANN), encode_message(STATE)),
        (TOPICS.node_telemetry(ANN), encode_message(OFFER)),
        ("fl/other/n/ann/evt", encode_message(DECLINE)),
        ("fl/t/n/ann/up/0-bob/0", b"x"),
        ("x/$SYS/broker/version", b"x"),
    ],
)
def test_what_is_no_message_here_is_refused_and_named(topic: str, payload: bytes) -> None:
    event = Bench().hear(topic, payload)
    assert isinstance(event, MessageRefused)
    assert event.topic == topic
    assert event.reason


def test_what_a_doctor_s_visit_has_asked_the_broker_for_is_nobody_s_forgery() -> None:
    """With certificates it shares the coordinator's session, and leaves its subscription there."""
    assert Bench().hear("$SYS/broker/version", b"mosquitto version 2.0.11") is None


@settings(max_examples=60, deadline=None)
@given(topic=some.sampled_from([TOPICS.node_event(ANN), TOPICS.node_state(ANN), "x"]), payload=some.binary(min_size=1))
def test_random_bytes_are_refused_and_never_raise(topic: str, payload: bytes) -> None:
    assert isinstance(Bench().hear(topic, payload), MessageRefused)


def test_what_stands_in_the_coordinators_own_topic_is_heard() -> None:
    """FED-63, FED-64."""
    state = CoordinatorState(
        presence=Presence.ONLINE, run=RunId("0" * 16), epoch=Epoch(3), protocol_min=1, protocol_max=1
    )
    heard = Bench().hear(TOPICS.coordinator_state, encode_message(state))
    assert heard == CoordinatorStateReceived(state=state)
    for body in (b"", b"junk", encode_message(STATE)):
        assert Bench().hear(TOPICS.coordinator_state, body) == CoordinatorStateReceived(state=None)


class Seal:
    """Signs and forgets: deterministic, as Ed25519 is."""

    def sign(self, digest: bytes) -> bytes:
        return digest[:64]


def test_with_a_key_only_what_it_has_signed_speaks_in_our_name() -> None:
    """FED-63: a broker must not be able to send a coordinator away."""
    state = CoordinatorState(
        presence=Presence.ONLINE, run=RunId("0" * 16), epoch=Epoch(3), protocol_min=1, protocol_max=1
    )
    store, topic = in_own_folder(SqliteStore), TOPICS.coordinator_state
    inbound = Inbound(TOPICS, store, Traffic(), lambda: None, signer=Seal())
    for payload, believed in (
        (encode_message(state), None),
        (Writer(TOPICS, Seal()).encode(topic, state), state),
        (Writer(TOPICS, Seal()).encode(TOPICS.round, state), None),
    ):
        heard = inbound.translate(MessageReceived(topic=topic, payload=payload))
        assert heard == CoordinatorStateReceived(state=believed)


class Shown:
    """A coordinator with a key, and what its key has signed for a later state of its run."""

    key, node_key = SigningKey.new(), SigningKey.new()

    def __init__(self) -> None:
        run, epoch = RunId("0" * 16), Epoch(9)
        self.incidents = Incidents()
        self.store = in_own_folder(SqliteStore)
        self.inbound = Inbound(
            TOPICS,
            self.store,
            Traffic(),
            lambda: None,
            signer=self.key,
            incidents=self.incidents,
            now=lambda: float("inf"),
        )
        self.state = CoordinatorState(
            presence=Presence.LOST, run=run, epoch=epoch, protocol_min=1, protocol_max=1, start=Start(2**64 - 1)
        )
        self.announcement = replace(announcement(40, 3), run=run, epoch=epoch)
        self.proof = Proof(
            state=self.signed(TOPICS.coordinator_state, self.state),
            announcement=self.signed(TOPICS.round, self.announcement),
        )

    def signed(self, topic: str, message: Message, key: SigningKey | None = None) -> bytes:
        return Writer(TOPICS, key or self.key).encode(topic, message)

    def hear(self, **changes: bytes | None) -> events.Event | None:
        shown = replace(self.proof, **changes)
        return self.inbound.translate(MessageReceived(topic=TOPICS.node_event(ANN), payload=encode_message(shown)))


def test_a_proof_is_what_our_own_key_has_signed() -> None:
    """FED-130."""
    shown = Shown()
    pair = SeenRun(run=RunId("0" * 16), epoch=Epoch(9), start=Start(2**64 - 1))
    rounds = SeenRun(run=RunId("0" * 16), epoch=Epoch(9), round=RoundId(40), version=ModelVersion(3))
    assert shown.hear() == events.ProofReceived(node=ANN, proved=(pair, rounds))
    assert shown.hear(announcement=None) == events.ProofReceived(node=ANN, proved=(pair,))
    assert shown.hear(state=None, announcement=None) == events.ProofReceived(node=ANN, proved=())
    older = shown.signed(TOPICS.coordinator_state, replace(shown.state, start=None))
    none = events.ProofReceived(node=ANN, proved=(replace(pair, start=Start(0)),))
    assert shown.hear(state=older, announcement=None) == none


def test_an_invitation_proves_its_round_to_the_node_that_was_invited() -> None:
    """FED-130: signed for its own topic, or for everybody's."""
    shown = Shown()
    rounds = SeenRun(run=RunId("0" * 16), epoch=Epoch(9), round=RoundId(40), version=ModelVersion(3))
    own = shown.signed(TOPICS.node_command(ANN), shown.announcement)
    assert shown.hear(state=None, announcement=own) == events.ProofReceived(node=ANN, proved=(rounds,))
    others = shown.signed(TOPICS.node_command(NodeId("bob")), shown.announcement)
    assert isinstance(shown.hear(state=None, announcement=others), MessageRefused)


def test_a_receipt_proves_the_version_that_it_names_to_its_own_node() -> None:
    """FED-130: of an update of a round that was asked then."""
    shown = Shown()
    applied = Receipt(
        run=shown.state.run, update=UpdateId("70-ann"), status=ReceiptStatus.APPLIED, version=ModelVersion(12)
    )
    proved = SeenRun(run=shown.state.run, epoch=Epoch(0), round=RoundId(70), version=ModelVersion(12))
    alone: dict[str, bytes | None] = {"state": None, "announcement": None}
    mine = shown.signed(TOPICS.node_command(ANN), applied)
    assert shown.hear(**alone, receipt=mine) == events.ProofReceived(node=ANN, proved=(proved,))
    for payload in (
        shown.signed(TOPICS.node_command(NodeId("bob")), applied),
        shown.signed(TOPICS.node_command(ANN), applied, shown.node_key),
        shown.signed(TOPICS.node_command(ANN), replace(applied, status=ReceiptStatus.STORED, version=None)),
        encode_message(applied),
    ):
        assert isinstance(shown.hear(**alone, receipt=payload), MessageRefused)


@pytest.mark.parametrize("version", [12, 13, None])
def test_a_receipt_whose_verdict_stands_here_tells_of_nothing_beyond(
    version: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FED-291: it names no start; a copy has asked for it, and whoever leads hears it as well."""
    shown = Shown()
    update = UpdateId("70-ann")
    applied = Receipt(run=shown.state.run, update=update, status=ReceiptStatus.APPLIED, version=ModelVersion(12))
    if version is not None:
        known = Verdict(update=update, node=ANN, status=ReceiptStatus.APPLIED, version=ModelVersion(version))
        monkeypatch.setattr(shown.store, "verdict", {update: known}.get)
    payload = shown.signed(TOPICS.node_command(ANN), applied)
    seen = SeenRun(run=shown.state.run, epoch=Epoch(0), round=RoundId(70), version=ModelVersion(12))
    heard = shown.hear(state=None, announcement=None, receipt=payload)
    assert heard == events.ProofReceived(node=ANN, proved=() if version == 12 else (seen,))


@pytest.mark.parametrize("part", ["state", "announcement"])
def test_a_proof_that_is_altered_by_one_bit_is_none(part: str) -> None:
    """FED-130: not one of them."""
    shown = Shown()
    payload = getattr(shown.proof, part)
    for bit in range(len(payload) * 8):
        altered = bytearray(payload)
        altered[bit // 8] ^= 1 << bit % 8
        assert isinstance(shown.hear(**{part: bytes(altered)}), MessageRefused)
    for length in range(1, len(payload)):
        assert isinstance(shown.hear(**{part: payload[:length]}), MessageRefused)
    assert shown.incidents.counts()["ann"].keys() == {"bad_signature"}


def test_a_proof_that_somebody_else_has_signed_or_for_another_topic_is_none() -> None:
    """FED-130: a member has a key as well, and may have heard what the coordinator said elsewhere."""
    shown = Shown()
    other = Topics(FederationId("other"))
    receipt = Receipt(run=shown.state.run, update=UpdateId("0-ann"), status=ReceiptStatus.STORED)
    for payload in (
        encode_message(shown.state),
        shown.signed(TOPICS.coordinator_state, shown.state, shown.node_key),
        shown.signed(TOPICS.node_state(ANN), shown.state, shown.node_key),
        shown.signed(TOPICS.node_command(ANN), receipt),
        Writer(other, shown.key).encode(other.coordinator_state, shown.state),
        shown.proof.announcement,
    ):
        assert isinstance(shown.hear(state=payload), MessageRefused)
    # Our own key has signed it for this topic, and it is of neither kind: nothing of ours says so.
    assert isinstance(shown.hear(state=shown.signed(TOPICS.coordinator_state, receipt)), MessageRefused)


def test_without_a_key_nothing_can_be_proved() -> None:
    assert Bench().say(TOPICS.node_event(ANN), Shown().proof) is None


def test_what_the_broker_has_dropped_is_a_number_or_nothing() -> None:
    assert Bench().hear(DROPPED_TOPIC, b"12") == BrokerDropped(total=12)
    for body in (b"", b"-1", b"many", b"1e3"):
        assert Bench().hear(DROPPED_TOPIC, body) is None


@pytest.mark.parametrize("topic", [TOPICS.round, TOPICS.node_command(ANN)])
def test_what_coordinators_say_is_not_for_us(topic: str) -> None:
    assert Bench().hear(topic, b"anything") is None


def test_a_state_that_was_removed_from_the_broker_is_no_news() -> None:
    assert Bench().hear(TOPICS.node_state(ANN), b"") is None


def test_the_control_connection_is_the_view_of_the_broker() -> None:
    bench = Bench()
    up = TransportConnected(connection="control", session_present=False, packet_bytes_max=1)
    down = TransportDisconnected(connection="control", reason="gone")
    assert bench.inbound.translate(up) == events.BrokerConnected(answered=False)
    assert bench.inbound.translate(TransportAnswered(connection="control")) == events.BrokerConnected()
    assert bench.connected == 1
    assert bench.inbound.translate(down) == events.BrokerDisconnected(reason="gone")


def test_the_data_connection_comes_and_goes_without_a_word() -> None:
    bench = Bench()
    up = TransportConnected(connection="data", session_present=False, packet_bytes_max=1)
    assert bench.inbound.translate(up) is None
    assert bench.inbound.translate(TransportDisconnected(connection="data", reason="gone")) is None
    assert bench.connected == 0


@pytest.mark.parametrize("present", [True, False])
def test_chunks_are_lost_until_the_broker_knows_a_new_session_of_the_data_connection(present: bool) -> None:
    """FED-329: where the session is there, the broker has kept them."""
    bench = Bench()
    up = TransportConnected(connection="data", session_present=present, packet_bytes_max=1)
    assert bench.inbound.translate(up) is None
    answered = TransportAnswered(connection="data")
    assert bench.inbound.translate(answered) == (None if present else events.ChunksLost())
    assert bench.connected == 0


def test_a_connection_that_is_refused_for_good_ends_the_process() -> None:
    with pytest.raises(TransportError, match="bad password"):
        Bench().inbound.translate(TransportFailed(connection="data", reason="bad password"))


def test_an_evaluation_is_remembered_before_the_machine_hears_of_it() -> None:
    bench = Bench()
    event = events.Evaluated(version=ModelVersion(0), metrics={"accuracy": 0.25})
    assert bench.inbound.translate(event) is event
    assert dict(bench.store.history()[0].metrics) == {"accuracy": 0.25}
    empty = events.Evaluated(version=ModelVersion(0), metrics={})
    assert bench.inbound.translate(empty) is empty
    assert dict(bench.store.history()[0].metrics) == {"accuracy": 0.25}


def test_an_evaluation_that_failed_is_remembered_and_a_skipped_one_is_not() -> None:
    bench = Bench()
    skipped = events.Evaluated(version=ModelVersion(0), metrics={}, skipped=True)
    assert bench.inbound.translate(skipped) is skipped
    assert bench.store.recovered(recent=1).evaluated == {}
    assert bench.inbound.translate(events.Evaluated(version=ModelVersion(0), metrics={})) is not None
    assert bench.store.recovered(recent=1).evaluated == {0: {}}
    assert bench.store.curves() == []


def test_a_full_disk_costs_an_evaluation_and_not_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by simulation: the coordinator died of it. What is not saved decides nothing: a restart would not know."""

    def full(_store: SqliteStore, _version: ModelVersion, _metrics: object) -> None:
        raise StorageError("no space left on device")

    monkeypatch.setattr(SqliteStore, "save_evaluation", full)
    event = events.Evaluated(version=ModelVersion(0), metrics={"accuracy": 0.25})
    assert Bench().inbound.translate(event) == replace(event, metrics={}, skipped=True)


def test_other_events_pass_unchanged() -> None:
    event = events.StopRequested()
    assert Bench().inbound.translate(event) is event


def test_every_byte_from_a_node_is_counted_with_its_header() -> None:
    bench = Bench()
    bench.hear("some/topic", b"12345")
    assert bench.traffic.up == PACKET_HEADER_BYTES + len("some/topic") + 5
    bench.traffic.pulled(100)
    bench.traffic.commanded("t", 9)
    assert bench.traffic.take()[1] == 100 + PACKET_HEADER_BYTES + 10
    assert (bench.traffic.up, bench.traffic.down) == (0, 0)


class OnlyAnn:
    """Verifies what `sign` makes, and hears nobody but ann."""

    def sign(self, digest: bytes) -> bytes:
        return digest

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        return sender == ANN and digest == signature


def test_where_signatures_are_required_only_their_owner_is_heard_and_the_rest_is_counted() -> None:
    """FED-76: by sender and kind, without an answer."""
    bench, incidents = Bench(), Incidents()
    bench.inbound = Inbound(TOPICS, bench.store, bench.traffic, lambda: None, verifier=OnlyAnn(), incidents=incidents)
    signed = Writer(TOPICS, OnlyAnn()).encode(TOPICS.node_event(ANN), DECLINE)
    assert bench.hear(TOPICS.node_event(ANN), signed) == events.DeclineReceived(node=ANN, decline=DECLINE)
    other = NodeId("bob")
    for topic, payload in (
        (TOPICS.node_event(ANN), encode_message(DECLINE)),
        (TOPICS.node_event(ANN), signed[:-1] + b"x"),
        (TOPICS.node_event(other), signed),
        (TOPICS.node_chunk(ANN, UpdateId("0-ann"), 0).replace("0-ann", "0-bob"), b"x"),
        ("elsewhere", b"x"),
    ):
        assert isinstance(bench.hear(topic, payload), MessageRefused)
    assert incidents.counts() == {
        "ann": {"bad_signature": 2, "forged_topic": 1},
        "bob": {"bad_signature": 1},
        "unknown": {"forged_topic": 1},
    }


def test_a_chunk_needs_no_signature() -> None:
    """FED-77: the signed offer names the digest of what they make."""
    bench = Bench()
    bench.inbound = Inbound(TOPICS, bench.store, bench.traffic, lambda: None, verifier=OnlyAnn())
    topic = TOPICS.node_chunk(ANN, UpdateId("0-ann"), 7)
    assert isinstance(bench.hear(topic, b"raw"), events.ChunkReceived)


class Cleared:
    """An inbound whose clearing, clock and counting the test sees."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.looked = threading.Event()
        self.now = 100.0
        self.incidents = Incidents()
        store = in_own_folder(SqliteStore)
        initialised(store)
        mail = RetainedMail(self.topics.append, self.looked.set, now=lambda: self.now)
        self.inbound = Inbound(
            TOPICS, store, Traffic(), lambda: None, incidents=self.incidents, retained=mail, now=lambda: self.now
        )

    def hear(self, topic: str, payload: bytes, *, retained: bool = False) -> events.Event | None:
        return self.inbound.translate(MessageReceived(topic=topic, payload=payload, retained=retained))

    def counted(self) -> dict[str, int]:
        return self.incidents.counts().get(ANN, {})


@pytest.mark.parametrize(
    "topic",
    ["t/n/ann/evt", "t/n/ann/tel", "t/n/ann/up/1-ann/0", "t/n/ann/up/junk-1/x1", "t/n/ann/up/", "t/n/ann/up/a/b/c/d"],
)
def test_what_is_retained_where_nothing_may_be_is_counted_unread_and_cleared(topic: str) -> None:
    """FED-102."""
    found, topic = Cleared(), f"fl/{topic}"
    event = found.hear(topic, encode_message(DECLINE), retained=True)
    assert isinstance(event, MessageRefused)
    assert found.topics == [topic]
    assert found.counted() == {"retained": 1}
    # Our own empty message comes back to us.
    assert found.hear(topic, b"", retained=True) is None
    assert (found.topics, found.counted()) == ([topic], {"retained": 1})


def test_a_state_is_retained_as_it_should_be() -> None:
    found = Cleared()
    topic = TOPICS.node_state(ANN)
    assert isinstance(found.hear(topic, encode_message(STATE), retained=True), events.NodeStateReceived)
    assert (found.topics, found.counted()) == ([], {})


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained_mail, "LOOK_AGAIN_S", 0.01)


@pytest.mark.usefixtures("soon")
def test_what_the_broker_has_dropped_is_looked_for_where_somebody_retains() -> None:
    """A message that did not fit into our queue stays at the broker all the same."""
    found = Cleared()
    found.hear(DROPPED_TOPIC, b"7")
    found.hear("fl/t/n/ann/up/a/0", b"x", retained=True)
    found.hear(DROPPED_TOPIC, b"7")
    assert not found.looked.wait(0.1)
    found.hear(DROPPED_TOPIC, b"9")
    assert found.looked.wait(10.0)
    found.looked.clear()
    found.hear(DROPPED_TOPIC, b"11")
    assert not found.looked.wait(0.1)


@pytest.mark.usefixtures("soon")
def test_more_than_can_be_cleared_at_once_is_looked_for_again() -> None:
    found = Cleared()
    for number in range(int(CLEARED_PER_S) + 50):
        found.hear(f"fl/t/n/ann/up/a/{number}", b"x", retained=True)
    assert len(found.topics) == CLEARED_PER_S
    assert found.looked.wait(10.0)


def test_a_node_that_is_born_all_the_time_is_counted_and_not_believed() -> None:
    found, topic = Cleared(), TOPICS.node_state(ANN)
    heard = [
        found.hear(topic, encode_message(replace(STATE, incarnation=Incarnation(number)))) for number in range(1, 201)
    ]
    assert sum(event is not None for event in heard) == BURST_BIRTHS
    assert found.counted() == {"birth_flood": 200 - BURST_BIRTHS}
    # What it says while it stays the same is no birth, and a device that starts anew now and then is heard.
    found.now += 10.0
    assert found.hear(topic, encode_message(replace(STATE, incarnation=Incarnation(500)))) is not None
    busy = replace(STATE, incarnation=Incarnation(500), activity=Activity.TRAINING)
    assert all(found.hear(topic, encode_message(busy)) is not None for _ in range(100))


def test_empty_messages_are_a_flood_like_others() -> None:
    found = Cleared()
    for _ in range(int(BURST_MESSAGES) + 10):
        assert found.hear("fl/t/n/ann/up/a/0", b"", retained=True) is None
    assert found.counted() == {"flood": 10}
