"""How a node comes to hold a model version: from its seed, or from the parts that it pulled. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_node.storage.store import HeldModel
from edge_node.training.worker import TrainingSetup
from federation.contract import described_model
from federation.errors import TaskError, user_code
from federation.protocol.messages import ModelPart, ModelRef, PartKind
from federation.task import Task
from federation.types import ModelVersion
from update_codec import CodecError, Manifest, Vectors, decode, moving_average

__all__ = ["AdoptionError", "compose", "initial_model", "manifest_of"]


_CONSTANTS_SHOWN = 8
"""Names that the reason of a refused model has."""


class AdoptionError(Exception):
    """The parts, or the seed, do not lead to the announced digest."""


def manifest_of(task: Task, seed: int = 0) -> Manifest:
    """Describe the task's model.

    Raises:
        TaskError: It has tensors that cannot travel.
    """
    return described_model(task, seed)[1]


@dataclass(slots=True)
class _Path:
    """Where the parts have led so far; the average is None where the way does not begin at version 0."""

    version: ModelVersion | None
    vectors: Vectors | None
    average: NDArray[np.float32] | None = None

    def begin(self, version: ModelVersion, vectors: Vectors) -> None:
        """A whole model."""
        self.version, self.vectors = version, vectors
        self.average = np.zeros_like(vectors.parameters) if version == 0 else None

    def follow(self, version: ModelVersion, change: Vectors) -> None:
        """A delta.

        Raises:
            AdoptionError: It does not follow.
        """
        if self.vectors is None or self.version is None or version != self.version + 1:
            raise AdoptionError(f"a delta to version {version} does not follow version {self.version}")
        self.version, self.vectors = version, self.vectors.plus(change)
        if self.average is not None:
            self.average = moving_average(self.average, change.parameters)


def compose(
    model: ModelRef,
    parts: Sequence[tuple[ModelPart, bytes]],
    held: HeldModel | None,
    setup: TrainingSetup,
    *,
    averaging: bool = False,
) -> HeldModel:
    """Lay parts on the held model; a first part that is a keyframe replaces it.

    Where they begin with the delta to version 1 and version 0 is not held, they are laid on the initial model, which
    the task makes from the announced seed.

    Args:
        model: What is announced.
        parts: Keyframe or not, then deltas.
        held: The model so far.
        setup: The task.
        averaging: Keep the average of the deltas, as far as all since version 0 were followed.

    Raises:
        AdoptionError: A part is malformed, the chain has a gap, or the digest is another one.
    """
    setup = setup.suited(model.manifest_digest)
    manifest = setup.manifest
    _check_manifest(model, manifest)
    path = _Path(None, None) if held is None else _Path(held.version, held.vectors, held.average)
    if path.version != 0 and model.seed is not None and parts and parts[0][0].version == 1:
        path.begin(ModelVersion(0), _from_seed(model.seed, setup))
    if not averaging:
        path.average = None
    for part, frame in parts:
        try:
            change = decode(frame, manifest)
        except CodecError as error:
            raise AdoptionError(f"part {part.kind} of version {part.version}: {error}") from error
        if part.kind is PartKind.KEYFRAME:
            path.begin(part.version, change)
        else:
            path.follow(part.version, change)
    if path.version != model.version or path.vectors is None:
        raise AdoptionError(f"the parts lead to version {path.version}, not to {model.version}")
    return replace(_checked(model, path.vectors, manifest), average=path.average if averaging else None)


def initial_model(model: ModelRef, setup: TrainingSetup, *, averaging: bool = False) -> HeldModel:
    """Make version 0 from the seed that the announcement names.

    Raises:
        AdoptionError: The task fails, or makes another model here than at the coordinator.
    """
    if model.seed is None:
        raise AdoptionError("the announcement names no seed")
    setup = setup.suited(model.manifest_digest)
    _check_manifest(model, setup.manifest)
    held = _checked(model, _from_seed(model.seed, setup), setup.manifest)
    return replace(held, average=np.zeros_like(held.vectors.parameters) if averaging else None)


def _from_seed(seed: int, setup: TrainingSetup) -> Vectors:
    try:
        with user_code("the task cannot make its initial model"):
            arrays = dict(setup.task.initial_parameters(seed))
        return setup.manifest.flatten(arrays)
    except (TaskError, CodecError) as error:
        raise AdoptionError(str(error)) from error


def _check_manifest(model: ModelRef, manifest: Manifest) -> None:
    if model.manifest_digest == manifest.digest:
        return
    if not manifest.constants:
        raise AdoptionError("the coordinator's task has another model (names, shapes or types) than this node's")
    names = ", ".join(manifest.constants[:_CONSTANTS_SHOWN])
    raise AdoptionError(
        "the coordinator's task has another model than this node's: other names, shapes or types, or other values of"
        f" what never changes ({names}), which every node must load from the same file"
    )


def _checked(model: ModelRef, vectors: Vectors, manifest: Manifest) -> HeldModel:
    if vectors.digest() != model.digest:
        raise AdoptionError(f"the digest of version {model.version} is another one")
    return HeldModel(version=model.version, digest=model.digest, manifest_digest=manifest.digest, vectors=vectors)
