"""The held model as one safetensors file that proves itself by its digest."""

import contextlib
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edge_node.records import Held
from edge_node.storage.store import HeldModel
from federation.types import Digest, ModelVersion, RunId
from update_codec import CodecError, Vectors

__all__ = ["FORMER_MODEL", "is_model", "model_name", "pack_model", "read_held", "read_model"]

FORMER_MODEL = "model.safetensors"
"""Name of the file in a state folder of layout 1, which has had one run."""


def model_name(run: RunId) -> str:
    """Name of a run's file in the state folder."""
    return f"model-{run}.safetensors"


def is_model(name: str) -> bool:
    """Whether a file of the state folder is the model of a run."""
    return name.startswith("model") and name.endswith(".safetensors")


def pack_model(model: HeldModel) -> bytes:
    """The file's content."""
    vectors = model.vectors
    tensors: dict[str, NDArray[Any]] = {
        "parameters": np.ascontiguousarray(vectors.parameters),
        "statistics": np.ascontiguousarray(vectors.statistics),
        "counters": np.ascontiguousarray(vectors.counters),
    }
    labels = {
        "version": str(model.version),
        "digest": model.digest.hex(),
        "manifest": model.manifest_digest.hex(),
    }
    if model.average is not None:
        tensors["average"] = np.ascontiguousarray(model.average)
        labels["average"] = _digest(model.average)
    return save(tensors, metadata=labels)


def read_model(path: Path) -> HeldModel | None:
    """The model in a file, or None when it is missing, damaged, or not the model that it says it is."""
    if not path.is_file():  # a pipe in its place would be waited for
        return None
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError, CodecError):
        with safe_open(path, framework="numpy") as file:
            labels = file.metadata() or {}
            vectors = Vectors(*(file.get_tensor(name) for name in ("parameters", "statistics", "counters")))
            average = file.get_tensor("average") if "average" in labels else None
        digest = Digest(bytes.fromhex(labels["digest"]))
        if vectors.digest() == digest:
            version = ModelVersion(int(labels["version"]))
            manifest = bytes.fromhex(labels["manifest"])
            if average is not None and _digest(average) != labels["average"]:
                average = None
            return HeldModel(version=version, digest=digest, manifest_digest=manifest, vectors=vectors, average=average)
    return None


def read_held(path: Path) -> Held | None:
    """The model that a file says it holds, unchecked; None where there is no such file."""
    if not path.is_file():
        return None
    with (
        contextlib.suppress(OSError, SafetensorError, KeyError, ValueError),
        safe_open(path, framework="numpy") as file,
    ):
        labels = file.metadata() or {}
        return Held(version=ModelVersion(int(labels["version"])), digest=Digest(bytes.fromhex(labels["digest"])))
    return None


def _digest(average: NDArray[np.float32]) -> str:
    return blake2b(np.ascontiguousarray(average, "<f4").data, digest_size=16).hexdigest()
