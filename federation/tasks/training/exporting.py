"""A torch model as a program that runs without its Python code: ``torch.export`` (.pt2) and ONNX."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from federation.errors import TaskError
from federation.task import ProgramForm
from federation.tasks.training.batches import mapped, tensors_in

__all__ = ["Example", "two_rows", "write_program", "zeros_for"]

INPUT, OUTPUT = "input", "output"
"""Names in an ONNX file, where there is one of each."""

Example = tuple[tuple[Any, ...], Mapping[str, Any]]
"""What a model is called with, by place and by name: tensors of two rows, on the CPU."""


def two_rows(places: tuple[Any, ...], names: Mapping[str, Any]) -> Example:
    """Two rows of a batch of any size: one would be taken for the only number there can be."""

    def of(leaf: Any) -> Any:
        return torch.cat([leaf, leaf])[:2] if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf

    return mapped(of, places), mapped(of, dict(names))


def zeros_for(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Two inputs of zeros, whole numbers where the model takes nothing else, as one of tokens does."""
    zeros = torch.zeros(2, *shape)
    try:
        with torch.no_grad():
            module(zeros)
    except (RuntimeError, TypeError, IndexError):
        return zeros.long()
    return zeros


def write_program(module: nn.Module, example: Example, form: ProgramForm, notes: Mapping[str, str]) -> bytes:
    """Trace a module in evaluation mode with two examples; how many inputs come later is free.

    Args:
        module: As it is trained; what ``torch.compile`` has put around it is left out.
        example: Of the types that it will be given.
        form: As what.
        notes: Kept in the file.

    Raises:
        TaskError: It cannot be traced, or what writes ONNX is not installed.
    """
    program = _traced(module, example)
    if form is ProgramForm.ONNX:
        return _onnx(program, notes, alone=len(list(tensors_in(example))) == 1)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=dict(notes))
    return file.getvalue()


def _traced(module: nn.Module, example: Example) -> torch.export.ExportedProgram:
    places, names = example
    free = mapped(lambda leaf: {0: torch.export.Dim.DYNAMIC} if getattr(leaf, "ndim", 0) else None, names or places)
    try:
        with warnings.catch_warnings():
            # Torch's own recurrent layers put their weights into a list as they run.
            warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights", UserWarning)
            plain = getattr(module, "_orig_mod", module)
            # Releases before 2.8 trace by their compiler unless told otherwise.
            return torch.export.export(plain, places, dict(names), dynamic_shapes=free, strict=False)
    except Exception as error:
        raise TaskError(f"torch.export cannot trace this model: {type(error).__name__}: {error}") from error


def _onnx(program: torch.export.ExportedProgram, notes: Mapping[str, str], *, alone: bool) -> bytes:
    try:
        import onnxscript  # noqa: F401, PLC0415 - an extra; asked for here so that it is named when it is missing
    except ModuleNotFoundError as error:
        raise TaskError(f"ONNX files need {error.name}: pip install 'fedmq[onnx]'") from error
    try:
        with _quiet():
            # Several keep the names that the model has for them.
            names = [INPUT] if alone else None
            made = torch.onnx.export(program, (), input_names=names, output_names=[OUTPUT], dynamo=True, verbose=False)
    except Exception as error:
        raise TaskError(f"torch cannot write this model as ONNX: {type(error).__name__}: {error}") from error
    if made is None:
        raise TaskError("torch has made no ONNX program of this model")
    made.model.metadata_props.update(notes)
    content: bytes = made.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch 2.13's exporter warns about its own use of torch, and logs which optional operators it did not find."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)
