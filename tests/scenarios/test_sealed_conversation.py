"""A node and a coordinator that seal: what each says opens for the other, and for nobody who only carries it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from coordinator.config.privacy import SealingSettings
from coordinator.runtime.sealing import CoordinatorSealing, check_room
from edge_node.runtime.sealing import NO_COORDINATOR_KEY, NO_KEY, NodeSealing
from federation.errors import BadSeal, BadSignature, ConfigError
from federation.identity.signing_keys import SigningKey, read_coordinator_key
from federation.privacy.boxes import Kem
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import HEADER_BYTES_MAX, INPUTS_BYTES_MAX
from federation.protocol.messages import (
    Activity,
    Cancel,
    CoordinatorState,
    Message,
    NodeState,
    PartKind,
    Presence,
    Progress,
    Proof,
    Rebirth,
    RoundAnnouncement,
)
from federation.protocol.sealed_messages import KeyWrap, Sealed, SealingKey
from federation.protocol.signing import Reader, Writer
from federation.protocol.wire import encode_message, split_signature
from federation.storage.sealing_keys import FILE, ROTATE, read_keys
from federation.types import (
    Epoch,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    Start,
    UpdateId,
)
from tests.rigs.sealing_values import (
    COMMANDS,
    DAY_S,
    DECLINE,
    DELTA,
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


@dataclass
class Pair:
    """Both ends, and what stands on the nodes' key topics."""

    folder: Path
    settings: SealingSettings = field(default_factory=lambda: SealingSettings(on=True))
    epoch: int = 1
    clock_s: float = 1e9
    wraps: dict[str, KeyWrap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coordinator = self.start()
        self.node = self.join(PRESS)

    def start(self) -> CoordinatorSealing:
        made = self.folder / "coordinator"
        made.mkdir(exist_ok=True)
        self.coordinator = CoordinatorSealing(
            TOPICS, (RUN, Epoch(self.epoch)), made, self.settings, now_s=lambda: self.clock_s
        )
        self.coordinator.publish = self.wraps.__setitem__
        return self.coordinator

    def join(self, node: NodeId) -> NodeSealing:
        made = self.folder / node
        made.mkdir(exist_ok=True)
        joined = NodeSealing(TOPICS, node, made)
        joined.start()
        return joined

    def meet(self, node: NodeSealing | None = None, name: NodeId = PRESS) -> None:
        """Each hears who the other is, and the node reads its key."""
        node = self.node if node is None else node
        node.hear(self.coordinator.stated(state(epoch=self.epoch)))
        self.coordinator.speaks()
        self.coordinator.hear(name, born(node))
        topic = TOPICS.node_key(name)
        node.wrapped(topic, self.wraps[topic])

    def ask(self, said: RoundAnnouncement, node: NodeSealing | None = None) -> RoundAnnouncement:
        return (self.node if node is None else node).announced(self.coordinator.announced(said))


@pytest.fixture(params=list(Kem), ids=lambda kem: kem.name.lower())
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return Pair(tmp_path, SealingSettings(on=True, kem=request.param))


def sealed(message: Message) -> Sealed:
    assert isinstance(message, Sealed)
    return message


def test_what_both_say_opens_for_the_other_only(pair: Pair) -> None:
    """FED-162: events, telemetry and commands; not the question who a node is."""
    pair.meet()
    progress = Progress(round=RoundId(3), activity=Activity.TRAINING)
    for topic, said in (
        (EVENTS, DECLINE),
        (EVENTS, offer(b"frame", inline=True)),
        (TOPICS.node_telemetry(PRESS), progress),
    ):
        assert pair.coordinator.opened(topic, sealed(pair.node.sealed(topic, said)))[0] == said
    assert pair.node.opened(COMMANDS, sealed(pair.coordinator.sealed(COMMANDS, RECEIPT)))[0] == RECEIPT
    assert pair.coordinator.sealed(COMMANDS, Rebirth()) == Rebirth()
    birth = born(pair.node)
    assert pair.node.sealed(TOPICS.node_state(PRESS), birth) == birth
    with pytest.raises(BadSeal):
        pair.join(MILL).opened(COMMANDS, sealed(pair.coordinator.sealed(COMMANDS, RECEIPT)))


def test_a_receipt_can_be_shown_to_whoever_leads_later(tmp_path: Path) -> None:
    """FED-174: what is in its envelope has the coordinator's signature, for the same topic."""
    own = SigningKey.new()
    folder = tmp_path / "signing"
    folder.mkdir()
    coordinator = CoordinatorSealing(TOPICS, (RUN, Epoch(1)), folder, SealingSettings(on=True), own)
    pair = Pair(tmp_path)
    pair.coordinator, coordinator.publish = coordinator, pair.wraps.__setitem__
    pair.meet()
    pem = tmp_path / "coordinator.pub"
    pem.write_text(own.public_pem)
    payload = Writer(TOPICS, own, coordinator).encode(COMMANDS, RECEIPT)
    said, shown = Reader(TOPICS, read_coordinator_key(pem), pair.node).read(COMMANDS, payload)
    assert said == RECEIPT
    assert shown != payload
    assert Reader(TOPICS, read_coordinator_key(pem)).decode(COMMANDS, shown) == RECEIPT
    with pytest.raises(BadSignature):
        Reader(TOPICS, read_coordinator_key(pem)).decode(TOPICS.node_command(MILL), shown)
    other = sealed(coordinator.sealed(COMMANDS, Cancel(run=RUN, round=RoundId(3))))
    assert split_signature(pair.node.opened(COMMANDS, other)[1])[1] == b""


def test_a_proof_is_for_the_copy_that_asks_and_not_for_the_one_that_is_obeyed(pair: Pair, tmp_path: Path) -> None:
    """FED-290: two copies of a run's store rotate apart, and the one that is behind must be able to read it."""
    pair.meet()
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / FILE).write_bytes((tmp_path / "coordinator" / FILE).read_bytes())
    copy = CoordinatorSealing(TOPICS, (RUN, Epoch(1)), copied, pair.settings, now_s=lambda: pair.clock_s)
    for _ in range(3):
        copy.rotate()
    assert copy.sealed(COMMANDS, Rebirth()) == Rebirth()
    asked = copy.sealed(COMMANDS, Rebirth(proof=True))
    assert isinstance(asked, Rebirth)
    shown = Proof(receipt=b"what cmd said")
    envelope = sealed(pair.node.sealed_for(asked.seal, EVENTS, shown))
    assert copy.opened(EVENTS, sealed(pair.node.sealed(EVENTS, envelope)))[0] == shown
    with pytest.raises(BadSeal):
        pair.coordinator.opened(EVENTS, envelope)
    own = sealed(pair.node.sealed(EVENTS, pair.node.sealed_for(None, EVENTS, shown)))
    assert pair.coordinator.opened(EVENTS, own)[0] == shown
    unknown = SealingKey(kem=1, key=bytes(32))
    assert pair.node.sealed_for(unknown, EVENTS, shown) == shown, "as good as no key: it is for whoever leads"


def test_in_a_run_that_is_not_sealed_no_key_closes_a_proof(tmp_path: Path) -> None:
    """FED-290: what asks for it there has no key, or is nobody's."""
    pair = Pair(tmp_path)
    key = pair.coordinator.stated(state()).seal
    assert key is not None
    assert pair.node.sealed_for(key, EVENTS, Proof(receipt=b"cmd")) == Proof(receipt=b"cmd")


def test_before_a_key_is_heard_nothing_that_matters_is_said(pair: Pair) -> None:
    """FED-162, FED-163."""
    assert pair.coordinator.sealed(COMMANDS, RECEIPT) == Rebirth()
    keyframe = part(PartKind.KEYFRAME, 1, KEYFRAME)
    pair.ask(announcement(keyframe))
    assert pair.node.lacks() == NO_COORDINATOR_KEY
    pair.node.hear(pair.coordinator.stated(state()))
    assert pair.node.lacks() == NO_KEY


def test_once_sealed_a_run_stays_so(pair: Pair) -> None:
    """FED-163: whoever repeats an older word, or a will, opens nothing again; also not after a restart."""
    pair.meet()
    pair.node.hear(state())
    pair.node.hear(state(presence=Presence.LOST))
    pair.node.hear(replace(pair.coordinator.stated(state()), epoch=Epoch(0)))
    again = pair.join(PRESS)
    for node in (pair.node, again):
        assert pair.coordinator.opened(EVENTS, sealed(node.sealed(EVENTS, DECLINE)))[0] == DECLINE
    assert born(again) == born(pair.node)


def test_a_run_that_is_not_sealed_is_as_ever(tmp_path: Path) -> None:
    """FED-164: of both sides, with a node that can seal and one that cannot."""
    pair = Pair(tmp_path, SealingSettings(on=False))
    said = state()
    assert pair.coordinator.stated(said) == said
    pair.node.hear(said)
    pair.coordinator.speaks()
    pair.coordinator.hear(PRESS, born(pair.node))
    assert pair.wraps == {}
    assert pair.node.sealed(EVENTS, DECLINE) == DECLINE
    assert pair.coordinator.sealed(COMMANDS, RECEIPT) == RECEIPT
    asked = announcement(part(PartKind.KEYFRAME, 1, KEYFRAME))
    assert pair.ask(asked) == asked
    assert pair.node.lacks() is None
    assert pair.coordinator.part_chunk(asked.model.parts[0], 0, b"body") == b"body"
    assert pair.node.part_chunk(ModelVersion(1), "k0", 0, b"body") == b"body"
    large = offer(bytes(100), inline=False)
    assert pair.node.offered(large) == large
    assert pair.node.chunk(large, 40, 0, b"body") == b"body"
    pair.coordinator.offered(PRESS, large)
    assert pair.coordinator.update_chunk(PRESS, large.update, 0, b"body") == b"body"
    assert not (tmp_path / "coordinator" / FILE).exists()
    assert pair.coordinator.row() == {}


def test_an_older_node_is_answered_as_ever(tmp_path: Path) -> None:
    """FED-164: it has no key, so it hears the verdict on what it has sent; it gets no key to the model."""
    pair = Pair(tmp_path)
    pair.coordinator.speaks()
    old = NodeState(presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
    pair.coordinator.hear(PRESS, old)
    assert pair.coordinator.sealed(COMMANDS, RECEIPT) == RECEIPT
    assert pair.wraps == {}
    assert pair.coordinator.update_chunk(PRESS, UpdateId("3-press"), 0, b"body") == b"body"


def test_a_large_update_goes_in_sealed_chunks(pair: Pair) -> None:
    """FED-165: cut anew it has another key, and a chunk that was swapped, altered or repeated elsewhere is refused."""
    pair.meet()
    payload = bytes(range(100))
    said = pair.node.offered(offer(payload, inline=False))
    assert said.content_key is not None
    assert said.payload_digest == payload_digest(payload)
    assert pair.node.offered(offer(payload, inline=False)) == said
    pair.coordinator.offered(PRESS, said)
    chunks = [pair.node.chunk(said, 40, index, payload[40 * index : 40 * index + 40]) for index in range(3)]
    arrived = [pair.coordinator.update_chunk(PRESS, said.update, index, body) for index, body in enumerate(chunks)]
    assert b"".join(arrived) == payload
    for index, body in ((1, chunks[0]), (0, chunks[0][:-1]), (2, pair.node.chunk(said, 20, 2, payload[40:60]))):
        with pytest.raises(BadSeal):
            pair.coordinator.update_chunk(PRESS, said.update, index, body)
    with pytest.raises(BadSeal, match="offered again"):
        pair.coordinator.update_chunk(PRESS, UpdateId("4-press"), 0, chunks[0])
    pair.coordinator.offered(PRESS, replace(said, chunk_bytes=20))
    again = pair.node.chunk(said, 20, 0, payload[:20])
    assert pair.coordinator.update_chunk(PRESS, said.update, 0, again) == payload[:20]


def test_after_a_restart_of_the_node_its_update_goes_on_under_another_secret(pair: Pair) -> None:
    """FED-165: nothing of an update but its frame is on the node's disk."""
    pair.meet()
    before = pair.node.offered(offer(bytes(100), inline=False))
    restarted = pair.join(PRESS)
    after = restarted.offered(offer(bytes(100), inline=False))
    assert after.content_key != before.content_key
    pair.coordinator.offered(PRESS, before)
    pair.coordinator.offered(PRESS, after)
    assert pair.coordinator.update_chunk(PRESS, after.update, 1, restarted.chunk(after, 40, 1, b"b" * 40)) == b"b" * 40


def test_the_model_opens_with_the_group_key(pair: Pair) -> None:
    """FED-166: the same bytes after a restart of the coordinator, and for a node that has begun again."""
    pair.meet()
    keyframe = part(PartKind.KEYFRAME, 1, KEYFRAME)
    assert pair.ask(announcement(keyframe)).model.parts == (keyframe,)
    assert pair.node.lacks() is None
    published = [pair.coordinator.part_chunk(keyframe, index, KEYFRAME[90 * index :][:90]) for index in range(3)]
    opened = [pair.node.part_chunk(ModelVersion(1), "k0", index, body) for index, body in enumerate(published)]
    assert b"".join(opened) == KEYFRAME
    assert not any(KEYFRAME[at : at + 8] in body for body in published for at in range(len(KEYFRAME) - 8))
    with pytest.raises(BadSeal):
        pair.node.part_chunk(ModelVersion(1), "k0", 1, published[0])
    with pytest.raises(BadSeal):
        pair.node.part_chunk(ModelVersion(1), "k1", 0, published[0])
    pair.epoch = 2
    pair.start()
    assert pair.coordinator.part_chunk(keyframe, 1, KEYFRAME[90:180]) == published[1]
    restarted = pair.join(PRESS)
    pair.ask(announcement(keyframe), restarted)
    assert restarted.lacks() == NO_KEY
    restarted.wrapped(TOPICS.node_key(PRESS), pair.wraps[TOPICS.node_key(PRESS)])  # it is retained
    assert restarted.lacks() is None
    assert restarted.part_chunk(ModelVersion(1), "k0", 1, published[1]) == KEYFRAME[90:180]


def test_a_small_delta_rides_sealed(pair: Pair) -> None:
    """FED-167: whoever lacks its key, or is shown another one, pulls it."""
    delta = part(PartKind.DELTA, 2, DELTA)
    said = announcement(delta, delta=DELTA)
    sent = pair.coordinator.announced(said)
    assert sent.model.delta is None
    assert sent.seal is not None
    assert sent.seal.delta is not None
    assert DELTA not in sent.seal.delta
    assert pair.node.announced(sent).model.delta is None
    pair.meet()
    assert pair.node.announced(sent).model.delta == DELTA
    another = replace(sent, seal=replace(sent.seal, delta=bytes([sent.seal.delta[0] ^ 1]) + sent.seal.delta[1:]))
    assert pair.node.announced(another).model.delta is None


def test_whoever_leaves_cannot_read_what_follows(pair: Pair) -> None:
    """FED-169."""
    mill = pair.join(MILL)
    assert not pair.coordinator.follow({PRESS, MILL})
    pair.meet()
    pair.meet(mill, MILL)
    before, first = dict(pair.wraps), pair.coordinator.key_epoch
    assert pair.coordinator.follow({PRESS})
    assert pair.coordinator.key_epoch == first + 1
    pair.coordinator.speak_again()
    assert pair.wraps[TOPICS.node_key(MILL)] == before[TOPICS.node_key(MILL)]
    delta = part(PartKind.DELTA, 2, DELTA)
    published = pair.coordinator.part_chunk(delta, 0, DELTA)
    for node in (pair.node, mill):
        pair.ask(announcement(delta), node)
        assert node.lacks() == NO_KEY
    pair.node.wrapped(TOPICS.node_key(PRESS), pair.wraps[TOPICS.node_key(PRESS)])
    assert pair.node.part_chunk(ModelVersion(2), "d0", 0, published) == DELTA
    with pytest.raises(BadSeal):
        mill.part_chunk(ModelVersion(2), "d0", 0, published)
    with pytest.raises(BadSeal):
        mill.wrapped(TOPICS.node_key(MILL), pair.wraps[TOPICS.node_key(PRESS)])


def test_who_was_shut_out_while_no_coordinator_ran_is_found_at_the_start(pair: Pair) -> None:
    """FED-169: who may read is on the disk, and so is the new key before anything is said under it."""
    assert not pair.coordinator.follow({PRESS, MILL})
    first = pair.coordinator.key_epoch
    pair.epoch = 7
    assert pair.start().follow({PRESS})
    second = pair.coordinator.key_epoch
    assert second >= 7 > first
    pair.epoch = 8
    assert not pair.start().follow({PRESS})
    assert not pair.coordinator.follow({PRESS, MILL})  # who joins reads what is there
    assert pair.coordinator.key_epoch == second


def test_the_key_rotates_and_the_one_before_still_opens(pair: Pair) -> None:
    """FED-170."""
    pair.meet()
    old = sealed(pair.node.sealed(EVENTS, DECLINE))
    pair.clock_s += DAY_S - 1
    assert not pair.coordinator.rotation_is_due()
    pair.clock_s += 1
    assert pair.coordinator.rotation_is_due()
    pair.coordinator.rotate()
    assert not pair.coordinator.rotation_is_due()
    assert pair.coordinator.opened(EVENTS, old)[0] == DECLINE
    pair.node.hear(pair.coordinator.stated(state()))
    new = sealed(pair.node.sealed(EVENTS, DECLINE))
    assert new.key_id != old.key_id
    assert pair.start().opened(EVENTS, new)[0] == DECLINE
    pair.coordinator.rotate()
    assert pair.coordinator.opened(EVENTS, new)[0] == DECLINE
    with pytest.raises(BadSeal):
        pair.coordinator.opened(EVENTS, old)
    assert len(read_keys(pair.folder / "coordinator").pairs) == 2
    (pair.folder / "coordinator" / ROTATE).touch()
    assert pair.coordinator.rotation_is_due()
    pair.coordinator.rotate()
    assert not pair.coordinator.rotation_is_due()


def test_every_key_of_a_run_is_of_the_coordinators_kind(tmp_path: Path) -> None:
    """FED-172: a group key is never wrapped for a key of another kind."""
    pair = Pair(tmp_path)
    pair.meet()
    pair.settings = SealingSettings(on=True, kem=Kem.MLKEM768_X25519)
    pair.epoch = 2
    pair.wraps.clear()
    pair.start()
    said: list[NodeState] = []
    pair.node.renewed = lambda: said.append(born(pair.node))
    pair.coordinator.speaks()
    pair.coordinator.hear(PRESS, born(pair.node))
    assert pair.wraps == {}
    pair.meet()
    assert [one.seal.kem for one in said if one.seal is not None] == [Kem.MLKEM768_X25519]
    assert len(pair.wraps[TOPICS.node_key(PRESS)].box) == 1_168
    assert pair.node.opened(COMMANDS, sealed(pair.coordinator.sealed(COMMANDS, RECEIPT)))[0] == RECEIPT
    assert pair.coordinator.row()["kem"] == "mlkem768_x25519"


def test_a_key_is_wrapped_once_for_each_connection(pair: Pair) -> None:
    """FED-168: and by nobody who does not speak for the run."""
    told: list[str] = []
    pair.coordinator.publish = lambda topic, _wrap: told.append(topic)
    pair.coordinator.hear(PRESS, born(pair.node))
    assert told == []
    pair.node.hear(pair.coordinator.stated(state()))
    pair.coordinator.speaks()
    pair.coordinator.hear(PRESS, born(pair.node))
    pair.coordinator.hear(PRESS, born(pair.node))
    assert told == [TOPICS.node_key(PRESS)]
    pair.coordinator.broker_connected()
    pair.coordinator.hear(PRESS, born(pair.node))
    assert len(told) == 1
    pair.coordinator.speaks()
    assert told == 2 * [TOPICS.node_key(PRESS)]
    pair.coordinator.forget(PRESS)
    pair.coordinator.speak_again()
    assert len(told) == 2


@pytest.mark.parametrize("kem", Kem)
def test_a_key_that_does_not_fit_beside_the_inputs_is_refused_at_the_start(kem: Kem) -> None:
    """FED-54: the longest description that is let through leaves room for all else that a state can say."""
    settings = SealingSettings(on=True, kem=kem)
    longest = next(size for size in range(INPUTS_BYTES_MAX, 0, -1) if _fits(settings, "i" * size))
    said = CoordinatorState(
        presence=Presence.ONLINE,
        run=RUN,
        epoch=Epoch(2**32 - 1),
        protocol_min=65_535,
        protocol_max=65_535,
        began_ms=2**53 - 1,
        start=Start(2**64 - 1),
        inputs="i" * longest,
        seal=SealingKey(kem=int(kem), key=bytes(kem.public_bytes)),
    )
    assert len(encode_message(said, sign=lambda _: bytes(64))) <= HEADER_BYTES_MAX
    assert _fits(SealingSettings(on=False, kem=kem), "i" * INPUTS_BYTES_MAX)
    assert longest == (INPUTS_BYTES_MAX if kem is Kem.X25519 else 2_580)


def _fits(settings: SealingSettings, inputs: str) -> bool:
    try:
        check_room(settings, inputs)
    except ConfigError:
        return False
    return True


def test_a_node_says_nothing_before_the_coordinators_key_has_come(pair: Pair) -> None:
    """FED-162: it may read that a round is sealed before it hears who coordinates."""
    progress = Progress(round=RoundId(3), activity=Activity.TRAINING)
    told = TOPICS.node_telemetry(PRESS)
    assert not pair.node.would_show(told, progress), "nothing is known of sealing yet"
    pair.ask(announcement(part(PartKind.DELTA, 1, DELTA)))
    for topic, said in ((told, progress), (EVENTS, DECLINE), (EVENTS, offer(b"frame", inline=True))):
        assert pair.node.would_show(topic, said)
    assert not pair.node.would_show(TOPICS.node_state(PRESS), born(pair.node)), "its key is in its birth"
    pair.meet()
    assert not pair.node.would_show(told, progress)
    assert not pair.node.would_show(EVENTS, DECLINE)


def test_a_restarted_node_says_nothing_of_a_run_before_it_has_heard_of_it(tmp_path: Path) -> None:
    """FED-336: what is in its outbox may be of a sealed run, whose coordinator's key has never come."""
    pair = Pair(tmp_path)
    pair.ask(announcement(part(PartKind.DELTA, 1, DELTA)))
    restarted, kept = pair.join(PRESS), offer(b"frame", inline=True)
    assert restarted.would_show(EVENTS, kept)
    restarted.hear(state(epoch=1))
    assert not restarted.would_show(EVENTS, kept), "this run is not sealed"
    other = replace(kept, run=RunId("fedcba9876543210"))
    assert restarted.would_show(EVENTS, other)
    restarted.announced(replace(announcement(part(PartKind.DELTA, 1, DELTA)), run=other.run))
    assert not restarted.would_show(EVENTS, other), "nor is that one"


def test_two_contents_never_have_one_secret(pair: Pair) -> None:
    """FED-335: ids begin anew in each run, so two updates of one node can have the same."""
    pair.meet()
    first, other = offer(bytes(100), inline=False), RunId("fedcba9876543210")
    pair.node.hear(replace(pair.coordinator.stated(state(epoch=1)), run=other))
    same_id = replace(first, run=other)
    other_content = offer(bytes(99) + b"x", inline=False)
    secrets = {pair.node.offered(one).content_key for one in (first, same_id, other_content)}
    assert len(secrets) == 3
    assert pair.node.chunk(first, 40, 0, bytes(40)) != pair.node.chunk(same_id, 40, 0, bytes(40))
