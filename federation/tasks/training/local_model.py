"""One torch model whose tensors go in and out as NumPy arrays, on the device that the configuration chooses."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from federation.errors import ConfigError, TaskError
from federation.freed_memory import WORTH_RETURNING, return_freed_memory
from federation.task import Array, Parameters
from federation.tasks.drawing import drawn_alike
from federation.tasks.training.spec import TorchTaskSpec
from federation.tasks.training.tensors import as_array, layout_of, state_of
from federation.tasks.training.torch_arrays import TrainedOnDevice
from update_codec import Role, constant_digest


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


def module_of(task: TorchTaskSpec) -> nn.Module:
    """A new module of the task's own; call it where everything is `seeded`.

    What a model draws and keeps beside its tensors, such as a permutation, is so the same in every process: nobody
    sends it.

    Raises:
        TaskError: ``model`` does not make one, or the loss has parameters that nobody would train.
    """
    if isinstance(task.model, nn.Module):
        raise TaskError("model must be a function that makes the module: model=lambda: ...")
    module = task.model()
    if not isinstance(module, nn.Module):
        raise TaskError(f"model must make a torch.nn.Module, not {type(module).__name__}")
    if isinstance(task.loss, nn.Module):
        known = {id(each) for each in module.parameters()}
        own = [name for name, each in task.loss.named_parameters() if each.requires_grad and id(each) not in known]
        if own:
            raise TaskError(
                f"the loss has parameters of its own, which nobody trains ({own[0]}): keep them in the model"
            )
    return module


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from ``seed`` inside, with gradients and full precision, and leave the process's own state as it was.

    A default type of floats, or NumPy's error handling, that user code sets inside would else be that of the next
    model, and of the codec.

    Raises:
        TaskError: ``torch.autocast`` was entered inside and not left.
    """
    cuda = [torch.cuda.current_device()] if device is not None and device.type == "cuda" else []
    dtype = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=cuda), drawn_alike(seed), torch.enable_grad(), np.errstate(), _unmixed():
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def _unmixed() -> Iterator[None]:
    """Without the mixed precision that user code has entered and never left: it keeps weights as they were then."""
    kinds, cached, before = ("cpu", "cuda"), torch.is_autocast_cache_enabled(), _entered()
    entered = {kind: torch.is_autocast_enabled(kind) for kind in kinds}
    for kind in kinds:
        torch.set_autocast_enabled(kind, False)
    # Casts of weights are forgotten when the outermost is left, so within one that never is, there must be none.
    torch.set_autocast_cache_enabled(cached and not before)
    try:
        yield
        if any(map(torch.is_autocast_enabled, kinds)):
            raise TaskError("torch.autocast was entered and never left: write it as with torch.autocast(...):")
    finally:
        for kind in kinds:
            torch.set_autocast_enabled(kind, entered[kind])
        torch.set_autocast_cache_enabled(cached)
        for _ in range(_entered() - before):  # the next task's would be within it
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()


def _entered() -> int:
    """How often mixed precision was entered on this thread, and not left."""
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


class LocalModel:
    """A torch model whose tensors go in and out as NumPy arrays; the object is reused between rounds.

    The module is asked for its tensors at each use: a forward pass may replace them, or the storage of one.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, constant: Sequence[str] = (), changing: Sequence[str] = ()
    ) -> None:
        """Move the model to the device; the names, shapes and types of its tensors are fixed from here on.

        Args:
            model: As it was made.
            device: Where it is trained.
            constant: See `layout_of`.
            changing: See `layout_of`.
        """
        self.layout = layout_of(model, constant, changing)
        self.module = model.to(device)
        self.device = device
        first = state_of(self.module)
        self._kinds = {name: _kind(tensor) for name, tensor in first.items()}
        self._storages = {name: tensor.data_ptr() for name, tensor in first.items()}
        self._constants = {name: constant_digest(as_array(first[name])) for name in self.layout.constants}
        self._marks = dict[str, tuple[int, int]]()
        self._overwritten = dict[str, torch.Tensor]()
        self._names: Sequence[str] = self.layout.travelling
        self.trainable_names = tuple(name for name, each in self.module.named_parameters() if each.requires_grad)

    def _state(self) -> Mapping[str, torch.Tensor]:
        """All tensors, as the module has them now.

        Raises:
            TaskError: Names, shapes or types are not those that the model was made with.
        """
        now = state_of(self.module)
        for name in now.keys() ^ self._kinds.keys():
            came = "came into the model while it was used" if name in now else "has left the model"
            raise TaskError(f"{name} {came}: make all tensors with the model, and keep them")
        for name, tensor in now.items():
            if _kind(tensor) != self._kinds[name]:
                raise TaskError(
                    f"{name} was {self._kinds[name]} when the model was made, and is {_kind(tensor)} now: what travels"
                    " keeps its shape and type; what only this process needs is a buffer with persistent=False"
                )
        for name, source in self.layout.tied.items():
            if now[name] is not now[source]:
                raise TaskError(f"{name} and {source} were one tensor when the model was made, and are two now")
        return now

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What travels, as the module has it now: by name, sharing its storage, outside of any graph.

        Raises:
            TaskError: Names, shapes or types are not those that the model was made with.
        """
        now = self._state()
        return {name: now[name].detach() for name in self.layout.travelling}

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
        """Overwrite every tensor that travels; what does not is overwritten where it is given, and else as it was made.

        Runs that began under an earlier release give all of it.

        Raises:
            TaskError: Names or shapes are not this model's.
        """
        tensors, stays = self._state(), self.layout.constants.keys() | self.layout.tied.keys()
        if difference := sorted((parameters.keys() - stays) ^ set(self.layout.travelling)):
            raise TaskError(f"these tensors are in the model or in the parameters, but not in both: {difference}")
        given = self._given_constants(parameters, tensors)
        self._names = [name for name in tensors if name in parameters]
        for name in (*self.layout.travelling, *given):
            array, tensor = parameters[name], tensors[name].detach()
            if array.shape != tuple(tensor.shape):
                raise TaskError(f"{name} has shape {array.shape}, the model wants {tuple(tensor.shape)}")
            if tensor.data_ptr() != self._storages[name]:
                self._renew(tensors[name], name, array)
            elif tensor.is_cpu:
                np.copyto(tensor.numpy(), array, casting="same_kind")
            else:
                tensor.copy_(torch.from_numpy(np.array(array)))

    def _given_constants(self, parameters: Parameters, tensors: Mapping[str, torch.Tensor]) -> Sequence[str]:
        """Constants that are given with other values; what was made first is kept for runs that do not give them."""
        for name, first in self._overwritten.items():
            tensors[name].detach().copy_(first)
        self._overwritten = {}
        given = [
            name
            for name, digest in self._constants.items()
            if name in parameters and constant_digest(parameters[name]) != digest
        ]
        self._overwritten = {name: tensors[name].detach().clone() for name in given}
        return given

    def _renew(self, held: torch.Tensor, name: str, array: Array) -> None:
        """Give a tensor storage of its own: what a forward pass has put there may be the user's data."""
        held.data = torch.from_numpy(np.array(array)).to(held.device, held.dtype)
        self._storages[name] = held.data_ptr()

    def dump(self) -> Parameters:
        """Copies of the tensors that were given last: on a GPU they stay there until somebody asks for one.

        Raises:
            TaskError: One is not finite, is no longer what the model was made with, or should not have changed.
        """
        tensors = self._state()
        self._check_constants(tensors)
        chosen = {name: tensors[name].detach() for name in self._names}
        if self.device.type != "cpu":
            return TrainedOnDevice(chosen)
        if sum(tensor.nbytes for tensor in chosen.values()) >= WORTH_RETURNING:
            return_freed_memory()  # gradients and activations: the copies need their room
        arrays = {name: as_array(tensor) for name, tensor in chosen.items()}
        for name, array in arrays.items():
            if name not in self._constants and not np.isfinite(array).all():
                raise TaskError(f"{name} is not finite after training: lower learning_rate")
        return arrays

    def refuse_unmoved(self, since: Parameters, arrays: Parameters) -> None:
        """Refuse a training in which no step was taken.

        Args:
            since: What was loaded.
            arrays: What `dump` gave after the training.

        Raises:
            TaskError: No tensor that is trained has changed.
        """
        if all(np.array_equal(np.asarray(arrays[name]), since[name]) for name in self.trainable_names if name in since):
            raise TaskError(
                "step(module, batch, optimizer) has moved nothing: it never called optimizer.step() while a tensor of"
                " the module that it is given had a gradient"
            )

    def _check_constants(self, tensors: Mapping[str, torch.Tensor]) -> None:
        changed = []
        for name, digest in self._constants.items():
            tensor = tensors[name]
            mark = (tensor.data_ptr(), tensor._version)  # noqa: SLF001 - what autograd itself asks
            # At first all of it is looked at: changes through `.data` leave no mark, and most happen in each step.
            if name in self._overwritten or self._marks.get(name) == mark:
                continue
            if constant_digest(as_array(tensor)) != digest:
                changed.append(name)
            else:
                self._marks[name] = mark
        if changed:
            told = ", ".join(f"{name} ({self.layout.constants[name]})" for name in changed)
            quoted = ", ".join(f'"{name}"' for name in changed)
            raise TaskError(
                f"changed in training, and does not travel: {told}. Keep it as it is, or let it travel:"
                f" TorchTask(changing=[{quoted}])"
            )

    def roles(self) -> Mapping[str, Role]:
        """BatchNorm's running statistics and other float buffers are statistics; integer buffers are counters."""
        return self.layout.roles


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def arrays_of(module: nn.Module) -> dict[str, Array]:
    """Copies of all tensors by name; a second name has the very array of its first."""
    copies: dict[int, Array] = {}
    return {name: copies.setdefault(id(each), as_array(each)) for name, each in state_of(module).items()}
