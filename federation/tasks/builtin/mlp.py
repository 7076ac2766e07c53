"""Multilayer perceptrons whose initial weights need no torch: a coordinator can start a run without it."""

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from federation.task import Parameters

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def mlp(*widths: int) -> "Module":
    """Linear layers ``fc1``, ``fc2`` and so on with ReLU between them; inputs are flattened.

    Args:
        widths: Inputs, hidden layers, outputs.
    """
    import torch  # noqa: PLC0415 - costs a second and 200 MB: only where the model trains

    layers: list[tuple[str, Module]] = [("flatten", torch.nn.Flatten())]
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        if number > 1:
            layers.append((f"relu{number - 1}", torch.nn.ReLU()))
        layers.append((f"fc{number}", torch.nn.Linear(inputs, outputs)))
    return torch.nn.Sequential(OrderedDict(layers))


def cross_entropy(output: "Tensor", target: "Tensor") -> "Tensor":
    """Mean cross-entropy of logits (n, classes) and labels (n,); torch is imported when it is first called."""
    from torch.nn import functional  # noqa: PLC0415 - as above

    return functional.cross_entropy(output, target)


def mean_squared_error(output: "Tensor", target: "Tensor") -> "Tensor":
    """Mean squared error of predictions and targets of one shape; torch is imported when it is first called."""
    from torch.nn import functional  # noqa: PLC0415 - as above

    return functional.mse_loss(output, target)


def initial_mlp(widths: tuple[int, ...], seed: int) -> Parameters:
    """Initial tensors of `mlp`, float32, distributed as torch draws them: U(-1/sqrt(inputs), 1/sqrt(inputs)).

    The numbers come from NumPy's PCG64, so that they are the same bits on every device.
    """
    rng = np.random.default_rng(abs(seed))
    parameters: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        bound = np.float32(1 / np.sqrt(inputs))
        for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
            parameters[f"fc{number}.{name}"] = (rng.random(shape, dtype=np.float32) * 2 - 1) * bound
    return parameters
