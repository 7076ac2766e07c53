"""A node codes with a context when it has followed every delta since version 0, and without when it has not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.engine.effects import AdoptModel, MakeInitialModel, SaveOutbox, SettleUpdate, StartTraining
from edge_node.engine.outbox import Outbox
from edge_node.engine.settings import NodeSettings, wants_context
from edge_node.records import OutboxEntry, RecoveredNode
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.storage.model_file import pack_model, read_model
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import HeldModel
from edge_node.training.adoption import compose, initial_model
from edge_node.training.worker import TrainingJob, TrainingSetup, run_round
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import (
    ModelPart,
    ModelRef,
    PartKind,
    Reason,
    Receipt,
    ReceiptStatus,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.topics import Topics
from federation.task import Array, Parameters, Stop, TrainResult
from federation.testing import FakeClock
from federation.types import Digest, FederationId, Incarnation, ModelVersion, RoundId, update_id
from tests.rigs.node_doubles import NODE, RUN, RecordingTrainer, RecordingTransport, ToyTask, announcement
from tests.rigs.node_rig import Script, entry, holding
from tests.rigs.node_rig import announcement as script_announcement
from tests.rigs.node_rig import model as model_of
from tests.rigs.stores import in_own_folder
from tests.unit.edge_node.training.test_worker import never
from update_codec import CodecSpec, Context, ContextMismatch, Manifest, Vectors, decode, encode, moving_average

SIDE = 140
SHAPE = (SIDE, SIDE)
MANIFEST = Manifest.of({"weight": np.zeros(SHAPE, np.float32)})
CODEC = "deadzone(bpp=0.35,feedback=1,context=1)"
UPDATE = update_id(RoundId(7), NODE)


class WideTask(ToyTask):
    """Moves every weight by another amount."""

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        return {"weight": np.full(SHAPE, seed, np.float32)}

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        moved = np.random.default_rng(5).laplace(size=SHAPE).astype(np.float32)
        weight = np.asarray(parameters["weight"], np.float32)
        return TrainResult(parameters={"weight": weight + moved}, num_examples=3)


SETUP = TrainingSetup(node=NODE, task=WideTask(), manifest=MANIFEST)


def change(seed: int) -> Vectors:
    moved = np.random.default_rng(seed).laplace(size=SHAPE).astype(np.float32)
    return MANIFEST.flatten({"weight": moved})


def part(kind: PartKind, version: int, content: Vectors) -> tuple[ModelPart, bytes]:
    frame = encode(content, MANIFEST, CodecSpec.parse("lossless")).frame
    digest = payload_digest(frame)
    described = ModelPart(
        kind=kind, version=ModelVersion(version), payload_bytes=len(frame), payload_digest=digest, chunk_bytes=61_440
    )
    return described, frame


def reached(version: int) -> tuple[Vectors, NDArray[np.float32]]:
    """The model at a version, and the average of the deltas that lead to it from version 0."""
    vectors, average = Vectors.zeros(MANIFEST), np.zeros(MANIFEST.parameter_count, np.float32)
    for number in range(1, version + 1):
        vectors = vectors.plus(change(number))
        average = moving_average(average, change(number).parameters)
    return vectors, average


def ref(version: int, seed: int | None = 0) -> ModelRef:
    vectors, _ = reached(version)
    plain = announcement().model
    return replace(
        plain,
        version=ModelVersion(version),
        digest=Digest(vectors.digest()),
        manifest_digest=Digest(MANIFEST.digest),
        seed=seed,
    )


def deltas(first: int, last: int) -> list[tuple[ModelPart, bytes]]:
    return [part(PartKind.DELTA, number, change(number)) for number in range(first, last + 1)]


def held(version: int) -> HeldModel:
    """A node that has followed from the start."""
    return compose(ref(version), deltas(1, version), None, SETUP, averaging=True)


def test_the_average_follows_the_deltas_from_the_seed_on() -> None:
    np.testing.assert_array_equal(held(3).average, reached(3)[1])
    further = compose(ref(5), deltas(4, 5), held(3), SETUP, averaging=True)
    np.testing.assert_array_equal(further.average, reached(5)[1])
    first = initial_model(ref(0), SETUP, averaging=True)
    assert first.average is not None
    np.testing.assert_array_equal(compose(ref(2), deltas(1, 2), first, SETUP, averaging=True).average, reached(2)[1])


def test_a_keyframe_on_the_way_ends_it_unless_it_is_version_0() -> None:
    key = [part(PartKind.KEYFRAME, 2, reached(2)[0]), *deltas(3, 3)]
    assert compose(ref(3), key, held(1), SETUP, averaging=True).average is None
    zero = [part(PartKind.KEYFRAME, 0, reached(0)[0]), *deltas(1, 2)]
    np.testing.assert_array_equal(compose(ref(2, None), zero, None, SETUP, averaging=True).average, reached(2)[1])


def test_a_codec_without_a_context_costs_no_memory() -> None:
    assert compose(ref(2), deltas(1, 2), None, SETUP).average is None
    assert compose(ref(4), deltas(4, 4), held(3), SETUP).average is None
    assert initial_model(ref(0), SETUP).average is None


def test_a_damaged_average_is_not_read_and_the_model_is(tmp_path: Path) -> None:
    path, model = tmp_path / "model", held(2)
    assert model.average is not None
    path.write_bytes(pack_model(model))
    found = read_model(path)
    assert found is not None
    np.testing.assert_array_equal(found.average, model.average)
    data = bytearray(path.read_bytes())
    place = data.index(model.average.tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    found = read_model(path)
    assert found is not None
    assert found.average is None
    assert found.vectors.digest() == model.digest


@pytest.mark.parametrize(("codec", "wanted"), [(CODEC, True), ("edge", False)])
def test_the_announced_codec_decides(codec: str, wanted: bool) -> None:
    assert wants_context(codec) is wanted
    assert not wants_context("a codec of a newer version")
    node = Script(holding(3))
    node.announce(script_announcement(5, model_of(0, seed=3), codec=codec))
    made = [effect for effect in node.effects if isinstance(effect, MakeInitialModel)]
    assert [effect.averaging for effect in made] == [wanted]


def _settings() -> NodeSettings:
    return NodeSettings(node=NODE, task="toy")


def job(average: NDArray[np.float32] | None, codec: str = CODEC) -> TrainingJob:
    return TrainingJob(
        announcement=announcement(codec=codec), base=Vectors.zeros(MANIFEST), residual=None, average=average
    )


def test_a_round_is_coded_with_the_classes_of_its_base() -> None:
    """FED-59."""
    finished = run_round(SETUP, job(reached(3)[1]), never, FakeClock())
    context = Context.of(reached(3)[1])
    assert finished.codec == CODEC
    assert finished.token.context.digest == context.digest  # type: ignore[attr-defined]
    assert decode(finished.frame, MANIFEST, context=context).parameters.any()
    with pytest.raises(ContextMismatch):
        decode(finished.frame, MANIFEST)


def test_a_slow_link_lowers_the_rate_and_keeps_the_context() -> None:
    slow = replace(job(reached(3)[1]), payload_bytes_max=500)
    finished = run_round(SETUP, slow, never, FakeClock())
    assert CodecSpec.parse(finished.codec).bpp == pytest.approx(8 * 500 / SIDE**2, rel=1e-3)
    assert finished.token.context is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("average", "codec"),
    [(None, CODEC), (np.zeros(SIDE * SIDE, np.float32), CODEC), (np.ones(SIDE * SIDE, np.float32), "edge")],
)
def test_without_an_average_or_when_it_is_not_asked_for_the_frame_is_plain(
    average: NDArray[np.float32] | None, codec: str
) -> None:
    finished = run_round(SETUP, job(average, codec), never, FakeClock())
    assert finished.token.context is None  # type: ignore[attr-defined]
    assert decode(finished.frame, MANIFEST).parameters.any()


def saved() -> tuple[NodeExecutor, SqliteNodeStore, bytes]:
    """A node whose outbox has an update that was coded with a context; its model has moved on since."""
    store, trainer = in_own_folder(SqliteNodeStore), RecordingTrainer()
    parts = NodeParts(
        setup=SETUP,
        store=store,
        trainer=trainer,
        transport=RecordingTransport(),
        topics=Topics(FederationId("f")),
    )
    executor = NodeExecutor(parts)
    executor.execute(AdoptModel(model=ref(2), parts=tuple(deltas(1, 2)), averaging=True))
    executor.execute(StartTraining(announcement=replace(announcement(codec=CODEC), model=ref(2))))
    result = run_round(SETUP, trainer.jobs[-1], never, FakeClock())
    offer = UpdateOffer(
        run=RUN,
        round=RoundId(7),
        update=UPDATE,
        incarnation=Incarnation(1),
        base_version=ModelVersion(2),
        base_digest=ref(2).digest,
        num_examples=3,
        metrics={},
        codec=result.codec,
        payload_bytes=len(result.frame),
        payload_digest=payload_digest(result.frame),
        chunk_bytes=61_440,
    )
    executor.execute(SaveOutbox(offer=offer, result=result))
    executor.execute(AdoptModel(model=ref(3), parts=tuple(deltas(3, 3)), averaging=True))
    return executor, store, result.frame


def test_a_stale_update_goes_back_with_the_context_of_its_own_base_and_the_node_goes_on_with_one() -> None:
    executor, store, frame = saved()
    kept = store.residual()
    assert kept is not None
    executor.execute(SettleUpdate(update=UPDATE, applied=False))
    sent = decode(frame, MANIFEST, context=Context.of(reached(2)[1])).parameters
    np.testing.assert_array_equal(store.residual(), kept + sent)
    assert executor._held is not None
    np.testing.assert_array_equal(executor._held.average, reached(3)[1])


def test_an_update_that_the_coordinator_could_not_read_goes_back_and_the_node_goes_on_without() -> None:
    """FED-59."""
    executor, store, frame = saved()
    kept = store.residual()
    assert kept is not None
    executor.execute(SettleUpdate(update=UPDATE, applied=False, misread=True))
    sent = decode(frame, MANIFEST, context=Context.of(reached(2)[1])).parameters
    np.testing.assert_array_equal(store.residual(), kept + sent)
    assert executor._held is not None
    assert executor._held.average is None
    assert executor._unsaved


def test_a_verdict_about_the_codec_says_that_it_was_misread() -> None:
    outbox = Outbox(_settings(), RecoveredNode(run=RUN, outbox=(entry(5),)), lambda: 0.0)
    offer = entry(5).offer
    receipt = Receipt(run=offer.run, update=offer.update, status=ReceiptStatus.REFUSED, reason=Reason.CODEC)
    assert outbox.receipt(receipt, 1.0) == [SettleUpdate(update=offer.update, applied=False, misread=True)]
    assert OutboxEntry(offer=offer) == entry(5)
