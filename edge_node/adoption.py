"""How a node comes to hold a model version: from its seed, or from the parts that it pulled. Pure."""

from collections.abc import Sequence

from edge_node.store import HeldModel
from edge_node.training import Workshop
from federation.errors import TaskError
from federation.protocol.messages import ModelPart, ModelRef, PartKind
from federation.task import Task
from federation.types import ModelVersion
from update_codec import CodecError, Manifest, Vectors, decode

__all__ = ["AdoptionError", "compose", "initial_model", "manifest_of"]


class AdoptionError(Exception):
    """The parts, or the seed, do not lead to the announced digest."""


def manifest_of(task: Task, seed: int = 0) -> Manifest:
    """Describe the task's model.

    Raises:
        TaskError: It has tensors that cannot travel.
    """
    try:
        return Manifest.of(dict(task.initial_parameters(seed)), task.roles())
    except CodecError as error:
        raise TaskError(f"the task's model cannot be described: {error}") from error


def compose(
    model: ModelRef, parts: Sequence[tuple[ModelPart, bytes]], held: HeldModel | None, workshop: Workshop
) -> HeldModel:
    """Lay parts on the held model; a first part that is a keyframe replaces it.

    Where they begin with the delta to version 1 and version 0 is not held, they are laid on the initial model, which
    the task makes from the announced seed.

    Raises:
        AdoptionError: A part is malformed, the chain has a gap, or the digest is another one.
    """
    workshop = workshop.suited(model.manifest_digest)
    manifest = workshop.manifest
    _check_manifest(model, manifest)
    version, vectors = (None, None) if held is None else (held.version, held.vectors)
    if version != 0 and model.seed is not None and parts and parts[0][0].version == 1:
        version, vectors = ModelVersion(0), _from_seed(model.seed, workshop)
    for part, frame in parts:
        try:
            change = decode(frame, manifest)
        except CodecError as error:
            raise AdoptionError(f"part {part.kind} of version {part.version}: {error}") from error
        if part.kind is PartKind.KEYFRAME:
            vectors = change
        elif vectors is not None and version is not None and part.version == version + 1:
            vectors = vectors.plus(change)
        else:
            raise AdoptionError(f"a delta to version {part.version} does not follow version {version}")
        version = part.version
    if version != model.version or vectors is None:
        raise AdoptionError(f"the parts lead to version {version}, not to {model.version}")
    return _checked(model, vectors, manifest)


def initial_model(model: ModelRef, workshop: Workshop) -> HeldModel:
    """Make version 0 from the seed that the announcement names.

    Raises:
        AdoptionError: The task fails, or makes another model here than at the coordinator.
    """
    if model.seed is None:
        raise AdoptionError("the announcement names no seed")
    workshop = workshop.suited(model.manifest_digest)
    _check_manifest(model, workshop.manifest)
    return _checked(model, _from_seed(model.seed, workshop), workshop.manifest)


def _from_seed(seed: int, workshop: Workshop) -> Vectors:
    try:
        return workshop.manifest.flatten(dict(workshop.task.initial_parameters(seed)))
    except Exception as error:  # whatever the user's task raises
        raise AdoptionError(f"the task cannot make its initial model: {error}") from error


def _check_manifest(model: ModelRef, manifest: Manifest) -> None:
    if model.manifest_digest != manifest.digest:
        raise AdoptionError("the coordinator's task has another model (names, shapes or types) than this node's")


def _checked(model: ModelRef, vectors: Vectors, manifest: Manifest) -> HeldModel:
    if vectors.digest() != model.digest:
        raise AdoptionError(f"the digest of version {model.version} is another one")
    return HeldModel(version=model.version, digest=model.digest, manifest_digest=manifest.digest, vectors=vectors)
