"""A version's arrays as a file; apart from the files' names, so that whoever shows a run loads no arrays."""

from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from coordinator.storage.files import reading
from coordinator.storage.store import ModelState
from federation.types import ModelVersion
from update_codec import Vectors

__all__ = ["model_from_bytes", "model_to_bytes"]


def model_to_bytes(model: ModelState) -> bytes:
    """Write a version's arrays as safetensors."""
    tensors: dict[str, np.ndarray] = {
        "shadow.parameters": model.shadow.parameters,
        "shadow.statistics": model.shadow.statistics,
        "shadow.counters": model.shadow.counters,
    }
    if model.exact is not None:
        tensors["exact.parameters"] = model.exact
    tensors |= {f"strategy.{name}": array for name, array in model.strategy.items()}
    return safetensors.numpy.save(tensors)


def model_from_bytes(version: ModelVersion, body: bytes) -> ModelState:
    """Read what `model_to_bytes` wrote.

    Raises:
        StorageError: The bytes are something else.
    """
    with reading(f"model of version {version}"):
        try:
            tensors: Mapping[str, np.ndarray] = safetensors.numpy.load(body)
        except SafetensorError as error:
            raise ValueError(error) from error
        shadow = Vectors(tensors["shadow.parameters"], tensors["shadow.statistics"], tensors["shadow.counters"])
    prefix = "strategy."
    return ModelState(
        version=version,
        shadow=shadow,
        exact=tensors.get("exact.parameters"),
        strategy={name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)},
    )
