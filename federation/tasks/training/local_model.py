"""One torch model whose tensors go in and out as NumPy arrays, on the device that the configuration chooses."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

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
    """A torch model whose tensors go in and out as NumPy arrays; the object is reused between rounds.

    The module is asked for its tensors at each use: a forward pass may replace them, or the storage of one.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Move the model to the device; the names, shapes and types of its tensors are fixed from here on."""
        self.module = model.to(device)
        self.device = device
        first = tensors_of(self.module)
        self._kinds = {name: _kind(tensor) for name, tensor in first.items()}
        self._storages = {name: tensor.data_ptr() for name, tensor in first.items()}
        self.trainable_names = tuple(name for name, each in self.module.named_parameters() if each.requires_grad)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What travels, as the module has it now: by name, sharing its storage, outside of any graph.

        Raises:
            TaskError: Names, shapes or types are not those that the model was made with.
        """
        now = tensors_of(self.module)
        for name in now.keys() ^ self._kinds.keys():
            came = "came into the model while it was used" if name in now else "has left the model"
            raise TaskError(f"{name} {came}: make all tensors with the model, and keep them")
        for name, tensor in now.items():
            if _kind(tensor) != self._kinds[name]:
                raise TaskError(
                    f"{name} was {self._kinds[name]} when the model was made, and is {_kind(tensor)} now: what travels"
                    " keeps its shape and type; what only this process needs is a buffer with persistent=False"
                )
        return now

    @property
    def trainable(self) -> list[torch.Tensor]:
        """What is trained, as the module has it now, in the order of `trainable_names`.

        Raises:
            TaskError: It is not what was to be trained when the model was made.
        """
        now = {name: each for name, each in self.module.named_parameters() if each.requires_grad}
        if now.keys() != set(self.trainable_names):
            names = ", ".join(sorted(now.keys() ^ set(self.trainable_names))[:8])
            raise TaskError(
                f"{names}: came into the model, left it, was frozen or unfrozen while it was used: what is trained is"
                " fixed when the model is made"
            )
        return [now[name] for name in self.trainable_names]

    @property
    def normalizes_batches(self) -> bool:
        """Whether a batch of one cannot be trained on."""
        return any(isinstance(each, _BatchNorm) for each in self.module.modules())

    @property
    def replaced(self) -> bool:
        """Whether a tensor has another storage than the one that was loaded."""
        return any(tensor.data_ptr() != self._storages[name] for name, tensor in self.tensors.items())

    def load(self, parameters: Parameters) -> None:
        """Overwrite every tensor.

        Raises:
            TaskError: Names or shapes are not this model's.
        """
        tensors = self.tensors
        if parameters.keys() != tensors.keys():
            difference = sorted(parameters.keys() ^ tensors.keys())
            raise TaskError(f"these tensors are in the model or in the parameters, but not in both: {difference}")
        for name, tensor in tensors.items():
            array = parameters[name]
            if array.shape != tuple(tensor.shape):
                raise TaskError(f"{name} has shape {array.shape}, the model wants {tuple(tensor.shape)}")
            if tensor.data_ptr() != self._storages[name]:
                self._renew(name, array)
            elif tensor.is_cpu:
                np.copyto(tensor.numpy(), array, casting="same_kind")
            else:
                tensor.copy_(torch.from_numpy(np.array(array)))

    def _renew(self, name: str, array: Array) -> None:
        """Give a tensor storage of its own: what a forward pass has put there may be the user's data."""
        held = self.module.state_dict(keep_vars=True)[name]
        held.data = torch.from_numpy(np.array(array)).to(held.device, held.dtype)
        self._storages[name] = held.data_ptr()

    def dump(self) -> Parameters:
        """Copies of all tensors: arrays on the CPU; on a GPU they stay there until somebody asks for one.

        Raises:
            TaskError: One is not finite, or is no longer what the model was made with.
        """
        tensors = self.tensors
        if self.device.type != "cpu":
            return TrainedOnDevice(tensors)
        arrays = {name: np.array(tensor.cpu().numpy()) for name, tensor in tensors.items()}
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
    own = {id(each) for each in (*module.parameters(), *module.buffers())}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise TaskError(f"{name} of the model's state is no tensor and cannot be exchanged")
        if is_lazy(tensor):
            raise TaskError(f"{name} has no shape before the first input: give it its sizes, in place of a lazy module")
        if id(tensor) not in own:
            raise TaskError(
                f"{name} of the model's state is a copy, made by a hook or an own state_dict: what is loaded"
                " would not reach the model"
            )
        if tensor.is_complex() or tensor.dtype in {torch.bfloat16, torch.bool}:
            raise TaskError(f"{name} has dtype {tensor.dtype}: use float32, float16 or an integer type")
    return {name: tensor.detach() for name, tensor in state.items()}


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def arrays_of(module: nn.Module) -> dict[str, Array]:
    """Copies of the module's parameters and persistent buffers by name."""
    return {name: np.array(tensor.cpu().numpy()) for name, tensor in tensors_of(module).items()}
