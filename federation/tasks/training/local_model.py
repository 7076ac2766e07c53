"""One torch model whose tensors go in and out as NumPy arrays, on the device that the configuration chooses."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from federation.errors import ConfigError, TaskError
from federation.task import Array, Parameters
from federation.tasks.training.torch_arrays import TrainedOnDevice
from update_codec import Role


def choose_device(wanted: str) -> torch.device:
    """``auto`` is CUDA where there is a device, else the CPU.

    Raises:
        ConfigError: CUDA is asked for and there is none, or the name is unknown.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError("device", f"{wanted!r} is no device: use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", "cuda is asked for, but torch finds no CUDA device: use auto or cpu")
    return device


class LocalModel:
    """A torch model whose tensors go in and out as NumPy arrays; the object is reused between rounds."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Move the model to the device; its tensors keep their storage from here on."""
        self.module = model.to(device)
        self.device = device
        self.tensors = tensors_of(self.module)
        named = {name: tensor for name, tensor in self.module.named_parameters() if tensor.requires_grad}
        self.trainable, self.trainable_names = list(named.values()), tuple(named)
        self.normalizes_batches = any(isinstance(each, _BatchNorm) for each in self.module.modules())

    def load(self, parameters: Parameters) -> None:
        """Overwrite every tensor.

        Raises:
            TaskError: Names or shapes are not this model's.
        """
        if parameters.keys() != self.tensors.keys():
            difference = sorted(parameters.keys() ^ self.tensors.keys())
            raise TaskError(f"these tensors are in the model or in the parameters, but not in both: {difference}")
        for name, tensor in self.tensors.items():
            array = parameters[name]
            if array.shape != tuple(tensor.shape):
                raise TaskError(f"{name} has shape {array.shape}, the model wants {tuple(tensor.shape)}")
            if tensor.is_cpu:
                np.copyto(tensor.numpy(), array, casting="same_kind")
            else:
                tensor.copy_(torch.from_numpy(np.array(array)))

    def dump(self) -> Parameters:
        """Copies of all tensors: arrays on the CPU; on a GPU they stay there until somebody asks for one.

        Raises:
            TaskError: One is not finite.
        """
        if self.device.type != "cpu":
            return TrainedOnDevice(self.tensors)
        arrays = {name: np.array(tensor.cpu().numpy()) for name, tensor in self.tensors.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise TaskError(f"{name} is not finite after training: lower learning_rate")
        return arrays

    def roles(self) -> Mapping[str, Role]:
        """BatchNorm's running statistics and other float buffers are statistics; integer buffers are counters."""
        buffers = {name for name, _ in self.module.named_buffers()}
        return {
            name: Role.STATISTIC if tensor.is_floating_point() else Role.COUNTER
            for name, tensor in self.tensors.items()
            if name in buffers
        }


def tensors_of(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """The module's parameters and persistent buffers by name, sharing its storage, outside of any graph.

    Raises:
        TaskError: A tensor has a type that NumPy lacks, or the module keeps state that is no tensor.
    """
    state = module.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise TaskError(f"{name} of the model's state is no tensor and cannot be exchanged")
        if tensor.is_complex() or tensor.dtype in {torch.bfloat16, torch.bool}:
            raise TaskError(f"{name} has dtype {tensor.dtype}: use float32, float16 or an integer type")
    return {name: tensor.detach() for name, tensor in state.items()}


def arrays_of(module: nn.Module) -> dict[str, Array]:
    """Copies of the module's parameters and persistent buffers by name."""
    return {name: np.array(tensor.cpu().numpy()) for name, tensor in tensors_of(module).items()}
