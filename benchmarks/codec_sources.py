"""What the codec's benchmarks encode: random sources, a layered model, J1's shapes, and its peers' measured rates."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec import Manifest, Vectors

F32 = NDArray[np.float32]


def _unit(values: NDArray[np.float64]) -> F32:
    """Scale to an rms of one."""
    unit: F32 = (values / np.sqrt(np.mean(values**2))).astype(np.float32)
    return unit


SOURCES: Final[Mapping[str, Callable[[np.random.Generator, int], F32]]] = {
    "gaussian": lambda rng, size: _unit(rng.normal(size=size)),
    "laplace": lambda rng, size: _unit(rng.laplace(size=size)),
    "student-t(4)": lambda rng, size: _unit(rng.standard_t(4, size=size)),
}

PEERS: Final = (
    ("Flower, float32", 32.0, 0.0),
    ("TensorFlow Federated, 8 bits", 8.0, 1e-4),
    ("hivemind", 8.03, 5e-4),
    ("FedSZ-like", 4.59, 0.0025),
    ("NVFlare nf4", 4.5, 0.01),
    ("top-k 5 % as FedML and FedLab send it", 4.80, 0.72),
    ("OpenFL KC", 3.81, 0.059),
    ("NVFlare adaquant", 2.22, 0.127),
    ("EDEN, 2 bits", 2.0, 0.133),
    ("OpenFL STC", 1.05, 0.92),
    ("EDEN, 1 bit", 1.0, 0.57),
)
"""Name, bits per parameter and NMSE, measured earlier with each peer's own code on a Gaussian vector."""


def layers(entries: int, *, equal: bool = False) -> dict[str, F32]:
    """22 Gaussian layers whose standard deviations span 1.5 decades.

    As in a convolutional network the small layers at the front move most, unless all are to have the same size.
    """
    rng = np.random.default_rng(6)
    spreads = np.logspace(0, -1.5, 22)
    shares = np.ones(22) if equal else np.logspace(0, 1.8, 22)
    rows = (shares / shares.sum() * entries / 100).astype(int)
    return {
        f"layer{index}": (rng.normal(size=(size, 100)) * spread).astype(np.float32)
        for index, (size, spread) in enumerate(zip(rows, spreads, strict=True))
    }


def network() -> tuple[Manifest, Vectors]:
    """The shapes of J1 with heavy-tailed values; each layer has its own scale."""
    rng = np.random.default_rng(7)
    arrays: dict[str, NDArray[Any]] = {}
    for name, (outputs, inputs) in {"0": (128, 784), "2": (64, 128), "4": (10, 64)}.items():
        spread = 0.02 / np.sqrt(inputs)
        arrays[f"{name}.weight"] = (rng.standard_t(4, size=(outputs, inputs)) * spread).astype(np.float32)
        arrays[f"{name}.bias"] = (rng.normal(size=outputs) * spread).astype(np.float32)
    manifest = Manifest.of(arrays)
    return manifest, manifest.flatten(arrays)


def entropy(symbols: NDArray[np.int8]) -> float:
    """Order-0 entropy in bits per symbol."""
    shares = np.bincount(symbols.astype(np.int64) + 127) / len(symbols)
    used = shares[shares > 0]
    return float(-np.dot(used, np.log2(used)))
