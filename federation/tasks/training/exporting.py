"""A torch model as a program that runs without its Python code: ``torch.export`` (.pt2) and ONNX."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from federation.errors import TaskError
from federation.task import ProgramForm

__all__ = ["write_program"]

INPUT, OUTPUT = "input", "output"
"""Names in an ONNX file."""


def write_program(module: nn.Module, example: torch.Tensor, form: ProgramForm, notes: Mapping[str, str]) -> bytes:
    """Trace a module in evaluation mode with two examples; how many inputs come later is free.

    Raises:
        TaskError: It cannot be traced, or what writes ONNX is not installed.
    """
    program = _traced(module, example)
    if form is ProgramForm.ONNX:
        return _onnx(program, notes)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=dict(notes))
    return file.getvalue()


def _traced(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:
        raise TaskError(f"torch.export cannot trace this model: {type(error).__name__}: {error}") from error


def _onnx(program: torch.export.ExportedProgram, notes: Mapping[str, str]) -> bytes:
    try:
        import onnxscript  # noqa: F401, PLC0415 - an extra; asked for here so that it is named when it is missing
    except ModuleNotFoundError as error:
        raise TaskError(f"ONNX files need {error.name}: pip install 'fedmq[onnx]'") from error
    try:
        with _quiet():
            made = torch.onnx.export(
                program, (), input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
            )
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
