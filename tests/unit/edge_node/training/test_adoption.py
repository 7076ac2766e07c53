"""How a node comes to hold a version, and what it refuses to hold."""

from collections.abc import Mapping

import numpy as np
import pytest

from edge_node.storage.store import HeldModel
from edge_node.training.adoption import AdoptionError, compose, initial_model, manifest_of
from federation.errors import TaskError
from federation.protocol.messages import PartKind
from federation.task import Parameters
from federation.types import Digest, ModelVersion
from tests.rigs.node_doubles import MANIFEST, ToyTask, model_ref, part, tensors, training_setup, vectors
from update_codec import Role, Vectors

KEYFRAME, DELTA = PartKind.KEYFRAME, PartKind.DELTA


def held(version: int, content: Vectors) -> HeldModel:
    return HeldModel(
        version=ModelVersion(version),
        digest=Digest(content.digest()),
        manifest_digest=MANIFEST.digest,
        vectors=content,
    )


def test_keyframe_needs_no_held_model() -> None:
    target = vectors(2.0)
    adopted = compose(model_ref(3, target), [part(KEYFRAME, 3, target)], None, training_setup())
    assert (adopted.version, adopted.digest, adopted.manifest_digest) == (3, target.digest(), MANIFEST.digest)


def test_keyframe_keeps_negative_zeros_so_that_the_digest_is_right() -> None:
    target = MANIFEST.flatten(tensors() | {"weight": np.full((4, 3), -0.0, np.float32)})
    assert compose(model_ref(3, target), [part(KEYFRAME, 3, target)], None, training_setup()).digest == target.digest()


def test_deltas_are_added_to_the_held_model_in_order() -> None:
    first, second, third = vectors(1.0), vectors(2.5), vectors(4.0)
    parts = [part(DELTA, 4, second.minus(first)), part(DELTA, 5, third.minus(second))]
    adopted = compose(model_ref(5, third), parts, held(3, first), training_setup())
    np.testing.assert_array_equal(adopted.vectors.parameters, third.parameters)


def test_deltas_can_follow_a_keyframe() -> None:
    first, second = vectors(1.0), vectors(2.5)
    parts = [part(KEYFRAME, 3, first), part(DELTA, 4, second.minus(first))]
    assert compose(model_ref(4, second), parts, None, training_setup()).version == 4


def test_no_part_is_enough_when_the_version_is_held() -> None:
    assert compose(model_ref(3, vectors(1.0)), [], held(3, vectors(1.0)), training_setup()).version == 3


def test_delta_without_the_version_before_is_rejected() -> None:
    change = part(DELTA, 5, vectors(1.0).minus(vectors()))
    for base in (None, held(3, vectors())):
        with pytest.raises(AdoptionError, match="does not follow"):
            compose(model_ref(5, vectors(1.0)), [change], base, training_setup())


def test_chain_that_ends_early_is_rejected() -> None:
    with pytest.raises(AdoptionError, match="lead to version 3"):
        compose(model_ref(4, vectors()), [part(KEYFRAME, 3, vectors())], None, training_setup())
    with pytest.raises(AdoptionError, match="lead to version None"):
        compose(model_ref(4, vectors()), [], None, training_setup())


def test_another_digest_is_rejected() -> None:
    with pytest.raises(AdoptionError, match="digest"):
        compose(model_ref(3, vectors(1.0)), [part(KEYFRAME, 3, vectors(2.0))], None, training_setup())


def test_another_model_is_rejected_before_anything_is_decoded() -> None:
    described, _ = part(KEYFRAME, 3, vectors())
    with pytest.raises(AdoptionError, match="another model"):
        compose(model_ref(3, vectors(), manifest_digest=bytes(16)), [(described, b"")], None, training_setup())


def test_malformed_part_is_rejected_with_its_name() -> None:
    described, frame = part(KEYFRAME, 3, vectors())
    with pytest.raises(AdoptionError, match="keyframe of version 3"):
        compose(model_ref(3, vectors()), [(described, frame[:-1])], None, training_setup())


def test_initial_model_comes_from_the_announced_seed() -> None:
    adopted = initial_model(model_ref(0, vectors(6.0), seed=6), training_setup())
    assert (adopted.version, adopted.digest) == (0, vectors(6.0).digest())


def test_seed_that_gives_another_model_here_is_rejected() -> None:
    with pytest.raises(AdoptionError, match="digest"):
        initial_model(model_ref(0, vectors(6.0), seed=7), training_setup())
    with pytest.raises(AdoptionError, match="no seed"):
        initial_model(model_ref(0, vectors(6.0)), training_setup())
    with pytest.raises(AdoptionError, match="another model"):
        initial_model(model_ref(0, vectors(6.0), seed=6, manifest_digest=bytes(16)), training_setup())


class BrokenTask(ToyTask):
    """A task that cannot make its model."""

    def initial_parameters(self, seed: int) -> Parameters:
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("version", [None, 4])
def test_deltas_since_version_0_are_laid_on_the_model_of_the_seed(version: int | None) -> None:
    """FED-38."""
    first, second = vectors(7.0), vectors(9.0)
    parts = [part(DELTA, 1, first.minus(vectors(6.0))), part(DELTA, 2, second.minus(first))]
    base = None if version is None else held(version, vectors(1.0))
    adopted = compose(model_ref(2, second, seed=6), parts, base, training_setup())
    assert (adopted.version, adopted.digest) == (2, second.digest())


def test_held_version_0_is_not_made_again() -> None:
    change = part(DELTA, 1, vectors(7.0).minus(vectors(6.0)))
    ref = model_ref(1, vectors(7.0), seed=6)
    adopted = compose(ref, [change], held(0, vectors(6.0)), training_setup(BrokenTask()))
    assert adopted.digest == vectors(7.0).digest()


def test_deltas_since_version_0_are_rejected_without_a_seed_and_after_a_wrong_one() -> None:
    """FED-38, FED-39."""
    change = part(DELTA, 1, vectors(7.0).minus(vectors(6.0)))
    with pytest.raises(AdoptionError, match="does not follow"):
        compose(model_ref(1, vectors(7.0)), [change], None, training_setup())
    with pytest.raises(AdoptionError, match="digest"):
        compose(model_ref(1, vectors(7.0), seed=5), [change], None, training_setup())
    with pytest.raises(AdoptionError, match="out of memory"):
        compose(model_ref(1, vectors(7.0), seed=6), [change], None, training_setup(BrokenTask()))


def test_task_that_fails_to_make_its_model_is_rejected_with_its_reason() -> None:
    with pytest.raises(AdoptionError, match="out of memory"):
        initial_model(model_ref(0, vectors(), seed=0), training_setup(BrokenTask()))


def test_manifest_follows_the_tasks_roles() -> None:
    assert manifest_of(ToyTask()) == MANIFEST
    assert {tensor.name: tensor.role for tensor in MANIFEST.tensors}["mean"] is Role.STATISTIC


class StrangeTask(ToyTask):
    """A task that names roles of tensors that it does not have."""

    def roles(self) -> Mapping[str, Role]:
        return {"nowhere": Role.STATISTIC}


def test_model_that_cannot_be_described_is_the_tasks_error() -> None:
    with pytest.raises(TaskError, match="nowhere"):
        manifest_of(StrangeTask())
