"""What a node keeps of a masked update: its seeds until the verdict, which alone can take the masks off again."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_node.engine.assignment import Assignment, offer_of
from edge_node.engine.effects import EnterRun, SaveOutbox, SettleUpdate
from edge_node.engine.events import OutboxSaved
from edge_node.engine.settings import NodeSettings
from edge_node.records import FinishedTraining
from edge_node.runtime import known_helpers
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.runtime.inbound import Inbound
from edge_node.runtime.known_helpers import FILE
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.training.masking import Learnt, Masking, mask_update
from federation.identity.helper_keys import PinnedHelper
from federation.identity.signing_keys import SigningKey
from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.tail import tail_length
from federation.protocol.messages import Presence
from federation.protocol.signing import Writer
from federation.protocol.sum_messages import HelperState, PrivacyTerms
from federation.protocol.topics import Topics
from federation.protocol.wire import encode_message
from federation.runtime.transport import MessageReceived
from federation.types import Digest, FederationId, HelperId, Incarnation, StateId, update_id
from tests.rigs.node_doubles import MANIFEST, NODE, RUN, RecordingTransport, announcement, training_setup
from update_codec import Vectors

TOPICS = Topics(FederationId("f"))
TERMS = PrivacyTerms(
    scheme=1,
    helpers=Digest(b"h" * 16),
    count=2,
    threshold=2,
    dimension=MANIFEST.parameter_count,
    tail=tail_length(MANIFEST.statistic_count),
    step=0.01,
    levels=1,
    members=8,
    bits=5,
)


class IdleTrainer:
    """Trains nothing."""

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: True


def executor(folder: Path) -> tuple[NodeExecutor, SqliteNodeStore]:
    store = SqliteNodeStore(folder)
    parts = NodeParts(
        setup=training_setup(),
        store=store,
        trainer=IdleTrainer(),  # type: ignore[arg-type]
        transport=RecordingTransport(),
        topics=TOPICS,
    )
    return NodeExecutor(parts), store


@pytest.mark.parametrize("applied", [True, False])
def test_the_seeds_are_kept_with_the_update_and_give_it_back(applied: bool, tmp_path: Path) -> None:
    """Also after a restart: what is not applied comes back whole."""
    asked = replace(announcement(7, codec="masked"), privacy=TERMS)
    values = np.linspace(-0.05, 0.05, MANIFEST.parameter_count).astype(np.float32)
    delta = Vectors(values, np.zeros(MANIFEST.statistic_count, np.float32), np.zeros(MANIFEST.counter_count, np.int64))
    pairs = [KeyPair.make(Kem.X25519) for _ in range(2)]
    masking = Masking(keys=[pair.public for pair in pairs], draw=os.urandom, sign=encode_message)
    name = update_id(asked.round, NODE)
    made = mask_update(Learnt(delta=delta, num_examples=10, loss=None), asked, name, MANIFEST, masking)
    result = FinishedTraining(
        round=asked.round,
        frame=made.frame,
        num_examples=10,
        metrics={},
        train_s=1.0,
        token=made.change,
        masked=made.offer,
    )
    job = Assignment(announcement=asked, model=asked.model, due_at=0.0, lease_at=60.0)
    offer = offer_of(job, result, NodeSettings(node=NODE, task="toy"), Incarnation(1))
    runner, store = executor(tmp_path)
    list(runner.execute(EnterRun(run=RUN)))
    assert isinstance(next(iter(runner.execute(SaveOutbox(offer=offer, result=result)))), OutboxSaved)
    assert store.context(name) == made.offer.seeds
    store.close()
    runner, store = executor(tmp_path)
    list(runner.execute(SettleUpdate(update=name, applied=applied)))
    residual, expected = store.residual(), made.change.left if applied else values
    assert residual is not None
    assert expected is not None
    np.testing.assert_allclose(residual, expected, atol=1e-6)
    assert store.context(name) is None
    store.close()


def helper_state(key: bytes = b"k" * 32, incarnation: int = 1) -> HelperState:
    return HelperState(
        presence=Presence.LOST,
        incarnation=Incarnation(incarnation),
        state_id=StateId(1),
        protocol_min=1,
        protocol_max=1,
        kem=Kem.X25519.value,
        key=key,
        members_min=8,
    )


def test_a_helper_is_heard_only_with_the_key_that_is_pinned() -> None:
    """FED-156: nobody else can say where to seal to, and one that is missing is named."""
    own, forged = SigningKey.new(), SigningKey.new()
    name = HelperId("alder")
    inbound = Inbound(TOPICS, NODE, helpers=[PinnedHelper.from_text(f"alder={own.public_hex}")])
    topic = TOPICS.helper_state(name)

    def said(key: SigningKey, state: HelperState) -> None:
        payload = Writer(TOPICS, key).encode(topic, state)
        inbound.translate(MessageReceived(topic=topic, payload=payload))

    said(forged, helper_state())
    missing = inbound.masking(encode_message)
    assert isinstance(missing, str)
    assert missing.startswith("helpers: alder")
    said(own, helper_state(incarnation=2))
    said(own, helper_state(key=b"o" * 32))  # of an older process
    found = inbound.masking(encode_message)
    assert isinstance(found, Masking)
    assert [key.raw for key in found.keys] == [b"k" * 32], "one that is away has said it all the same"


def test_a_helpers_word_is_known_after_a_restart_whatever_the_broker_has_lost(tmp_path: Path) -> None:
    """One that is away for good would else keep a node that starts again from every round."""
    own, other = SigningKey.new(), SigningKey.new()
    pinned = [PinnedHelper.from_text(f"alder={own.public_hex}")]
    topic = TOPICS.helper_state(HelperId("alder"))
    file = tmp_path / FILE

    def started(helpers: list[PinnedHelper] = pinned) -> Masking | str:
        return Inbound(TOPICS, NODE, helpers=helpers, folder=tmp_path).masking(encode_message)

    def hear(state: HelperState) -> None:
        inbound = Inbound(TOPICS, NODE, helpers=pinned, folder=tmp_path)
        inbound.translate(MessageReceived(topic=topic, payload=Writer(TOPICS, own).encode(topic, state)))

    assert isinstance(started(), str)
    hear(helper_state(incarnation=2))
    written = file.read_bytes()
    hear(helper_state(key=b"o" * 32))  # of an older process
    hear(helper_state(incarnation=3))  # the same key
    assert file.read_bytes() == written, "nothing that has to be kept was said"
    found = started()
    assert isinstance(found, Masking)
    assert [key.raw for key in found.keys] == [b"k" * 32]
    assert isinstance(started([PinnedHelper.from_text(f"alder={other.public_hex}")]), str), "not signed by this one"
    for damaged in (b"", b"[1]", b'{"alder": 1}', b'{"alder": "zz"}', written[: len(written) // 2], b"\xff" * 9):
        file.write_bytes(damaged)
        assert isinstance(started(), str)
    file.unlink()
    tmp_path.chmod(0o500)
    hear(helper_state())  # a disk that cannot be written to costs nothing now
    tmp_path.chmod(0o700)


def test_a_word_that_the_disk_did_not_take_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper may have left for good by then: the node would have to decline for ever after its next start."""
    own = SigningKey.new()
    pinned = [PinnedHelper.from_text(f"alder={own.public_hex}")]
    topic = TOPICS.helper_state(HelperId("alder"))
    inbound = Inbound(TOPICS, NODE, helpers=pinned, folder=tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(known_helpers, "write_file", full)
        inbound.translate(MessageReceived(topic=topic, payload=Writer(TOPICS, own).encode(topic, helper_state())))
        inbound.keep_helpers()
        assert isinstance(inbound.masking(encode_message), Masking), "known, as long as this process lives"
        assert not inbound.keeps_helpers
    inbound.keep_helpers()
    assert inbound.keeps_helpers
    again = Inbound(TOPICS, NODE, helpers=pinned, folder=tmp_path)
    assert isinstance(again.masking(encode_message), Masking)
