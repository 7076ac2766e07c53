"""A model's first layer that puts its inputs on the scale of all nodes, from a scaler file.

```python
from federation.tasks.training.scaling import standardize

model = lambda: torch.nn.Sequential(standardize("scaler.json"), torch.nn.Linear(3, 2))
```

Mean and standard deviation are frozen: they do not travel, every node must have loaded the same, and one that has
another file is refused by their names (tensors.py). As they are part of the model, an exported one takes raw inputs.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from federation.errors import TaskError
from federation.tasks.statistics.scaler import Scaler

__all__ = ["Standardize", "standardize"]


class Standardize(nn.Module):
    """(x - mean) / std by column: the last axis, of pictures (n, channels, height, width) the channels.

    Args:
        scaler: Columns in the order of the inputs.
    """

    def __init__(self, scaler: Scaler) -> None:
        super().__init__()
        self.scaler_mean = nn.Parameter(torch.tensor(scaler.mean, dtype=torch.float32), requires_grad=False)
        self.scaler_std = nn.Parameter(torch.tensor(scaler.std, dtype=torch.float32), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of any floating type on the common scale, of the same shape.

        Raises:
            TaskError: They have another number of columns.
        """
        pictures = inputs.ndim == 4
        columns = inputs.shape[1 if pictures else -1]
        if columns != len(self.scaler_mean):
            raise TaskError(f"the scaler has {len(self.scaler_mean)} columns, and the inputs {columns}")
        mean, std = self.scaler_mean, self.scaler_std
        return (inputs - mean[:, None, None]) / std[:, None, None] if pictures else (inputs - mean) / std


def standardize(file: Path | str, columns: Sequence[str] = ()) -> Standardize:
    """The layer of a scaler file.

    Args:
        file: What ``coordinator analyze --scaler`` has written.
        columns: Names of the inputs in their order; empty takes all columns as the file has them.

    Raises:
        TaskError: The file cannot be read, or lacks a column.
    """
    scaler = Scaler.read(file)
    return Standardize(scaler.of(columns) if columns else scaler)
