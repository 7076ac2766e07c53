"""The codec's whole-vector operations on a torch device, and trained parameters that stay there until they are coded.

What encoding copies to the host are symbols, a sample of at most 2^16 entries and a few outliers; the frame is the one
that the CPU makes. The residual comes to the host too, once, because it must be on disk before the update is offered.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import Array
from update_codec import DeviceUpdate, Manifest, Role, ShapeError, Vectors
from update_codec.arrays import FOLD, Quantized
from update_codec.limits import SYMBOL_MAX
from update_codec.manifest import STAYS

__all__ = ["TorchArrays", "TrainedOnDevice", "loss_for"]

F32 = NDArray[np.float32]
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)


class TorchArrays:
    """`update_codec.Arrays` on a device; single operations, never fused, so that the bits are NumPy's.

    Args:
        device: Where the vectors are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def resident(self, values: F32) -> torch.Tensor:
        """Bring a vector of the host here."""
        return torch.from_numpy(np.array(values)).to(self.device)

    def host(self, vector: torch.Tensor) -> F32:
        """Copy a vector to the host."""
        return np.array(vector.cpu().numpy())

    def peak(self, vector: torch.Tensor) -> float:
        """The largest magnitude; 0 for an empty vector."""
        return float(vector.abs().max()) if len(vector) else 0.0

    def row_sums(self, vector: torch.Tensor) -> F32:
        """Sums of squares of each row of `FOLD` entries, by halving."""
        rows = -(-len(vector) // FOLD)
        squares = torch.zeros(rows * FOLD, dtype=torch.float32, device=self.device)
        torch.mul(vector, vector, out=squares[: len(vector)])
        folded = squares.reshape(rows, FOLD)
        while (half := folded.shape[1] // 2) > 0:
            folded = folded[:, :half] + folded[:, half:]
        return self.host(folded[:, 0])

    def energy(self, vector: torch.Tensor) -> float:
        """The sum of squares, in float64."""
        return float(torch.sum(vector.to(torch.float64) ** 2))

    def zeros_like(self, vector: torch.Tensor) -> torch.Tensor:
        """A vector of zeros of the same size."""
        return torch.zeros_like(vector)

    def quantize(self, runs: Sequence[torch.Tensor], step: float, rounding: float, peak: float) -> Quantized:
        """See `update_codec.quantizers.deadzone.quantize_runs`."""
        del peak
        vector = runs[0] if len(runs) == 1 else torch.cat(list(runs))
        scaled = vector.abs()
        scaled *= float(np.float32(min(1.0 / step, _FLOAT_MAX)))
        scaled += float(np.float32(rounding))
        beyond = torch.nonzero(scaled >= SYMBOL_MAX + 1).reshape(-1)
        scaled[beyond] = 0
        symbols = scaled.to(torch.int8)
        symbols = torch.where(vector < 0, -symbols, symbols)
        outliers = beyond.cpu().numpy().astype(np.int64)
        return Quantized(symbols=symbols.cpu().numpy(), resident=symbols, outliers=outliers)

    def look_up(self, table: F32, symbols: torch.Tensor) -> torch.Tensor:
        """Values of resident symbols."""
        shifted = self.resident(np.roll(table, -SYMBOL_MAX))  # a negative symbol counts from the end
        return shifted[torch.remainder(symbols.to(torch.int64), len(table))]

    def put(self, vector: torch.Tensor, positions: NDArray[np.int64], values: F32) -> None:
        """Set single entries from the host."""
        vector[torch.from_numpy(positions).to(self.device)] = self.resident(values)

    def take(self, vector: torch.Tensor, positions: NDArray[np.int64]) -> F32:
        """Copy single entries to the host."""
        return self.host(vector[torch.from_numpy(positions).to(self.device)])


def loss_for(targets: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss that suits these targets: cross entropy for whole numbers, else the mean squared error."""
    kind = torch.as_tensor(targets[:1])
    if not kind.is_floating_point():
        return torch.nn.functional.cross_entropy
    return _mean_squared_error


def _mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of outputs (n, 1) and targets (n,) too: they would be spread over each other to (n, n)."""
    return torch.nn.functional.mse_loss(outputs.reshape(targets.shape), targets)


class TrainedOnDevice(Mapping[str, Array]):
    """All tensors after training, still on their device: a mapping that copies what is asked for to the host.

    Args:
        tensors: By name; copied, because the model is used again.

    Raises:
        TaskError: One is not finite.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise TaskError(f"{name} is not finite after training: lower learning_rate")
        self._tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def __getitem__(self, name: str) -> Array:
        return np.array(self._tensors[name].cpu().numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def minus(self, base: Vectors, manifest: Manifest) -> DeviceUpdate:
        """What training changed: see `federation.task.Resident`."""
        rest = Manifest(tuple(each for each in manifest.tensors if each.role not in {Role.PARAMETER, *STAYS}))
        others = {tensor.name: self[tensor.name] for tensor in rest.tensors}
        flat = rest.flatten(others)
        arrays = TorchArrays(next(iter(self._tensors.values())).device)
        return DeviceUpdate(
            arrays=arrays,
            parameters=self._parameters(manifest) - arrays.resident(base.parameters),
            statistics=flat.statistics - base.statistics,
            counters=flat.counters,
        )

    def _parameters(self, manifest: Manifest) -> torch.Tensor:
        stays = {tensor.name for tensor in manifest.tensors if tensor.role in STAYS}
        if difference := sorted(self._tensors.keys() - stays ^ ({tensor.name for tensor in manifest.tensors} - stays)):
            raise ShapeError(f"tensors missing or extra: {', '.join(difference[:8])}")
        pieces = []
        for tensor in manifest.tensors:
            if tensor.role is Role.PARAMETER:
                found = self._tensors[tensor.name]
                if tuple(found.shape) != tensor.shape or str(found.dtype) != f"torch.{tensor.dtype}":
                    raise ShapeError(
                        f"{tensor.name}: expected {tensor.dtype}{tensor.shape}, found {tuple(found.shape)}"
                    )
                pieces.append(found.reshape(-1).to(torch.float32))
        return torch.cat(pieces)
