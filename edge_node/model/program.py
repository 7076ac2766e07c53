"""A version's model as a program: traced by the task once, and later only filled with other numbers.

Tracing takes seconds on a small machine, for a program that is the same each time but for the parameters. The third
and later ONNX programs are the traced one with its initializers replaced. That is right where each parameter is one
initializer, to the bit, and nothing else was computed from it: so the second program is made both ways and compared.
A model of which that is not so is traced each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from federation.errors import TaskError
from federation.task import Exportable, Parameters, ProgramForm

__all__ = ["Programs", "signature_of"]


@dataclass(slots=True)
class Programs:
    """Makes one task's programs.

    Attributes:
        task: Whose.
        form: As what.
        given: ONNX file of this model that was written elsewhere: it is filled, and nothing is traced here.
        traced: How often the task itself has written one.
    """

    task: Exportable
    form: ProgramForm
    given: Path | None = None
    traced: int = 0
    _template: bytes | None = None
    _in_it: Parameters = field(default_factory=dict)
    _verified: set[str] = field(default_factory=set)
    _fills: bool = True

    def make(self, parameters: Parameters, notes: Mapping[str, str]) -> bytes:
        """The program of a model.

        Args:
            parameters: All of it.
            notes: Kept in the file.

        Raises:
            TaskError: The task cannot write it.
        """
        if self.form is not ProgramForm.ONNX:
            return self._trace(parameters, notes)
        if self.given is not None:
            return _refilled(self.given, parameters, notes)
        filled, changed = None, _changed(self._in_it, parameters)
        if self._template is not None and self._fills:
            filled = _filled(self._template, self._in_it, parameters, changed, notes)
            if filled is not None and changed <= self._verified:
                return filled
        program = self._trace(parameters, notes)
        if self._template is not None and self._fills:
            # Said for what has changed alone: of what has not, nobody has seen where it stands.
            self._fills = filled is not None and _same(filled, program)
            self._verified |= changed
        self._template, self._in_it = program, parameters
        return program

    def _trace(self, parameters: Parameters, notes: Mapping[str, str]) -> bytes:
        self.traced += 1
        return self.task.export(parameters, self.form, notes)


def _changed(before: Parameters, after: Parameters) -> set[str]:
    return {
        name
        for name, array in after.items()
        if name not in before or np.asarray(before[name]).tobytes() != np.asarray(array).tobytes()
    }


def _filled(
    template: bytes, before: Parameters, after: Parameters, changed: set[str], notes: Mapping[str, str]
) -> bytes | None:
    """The template with other numbers; None where it is not known where they belong. What it lacks, it has no use for.

    Whether that is so, the comparison with a traced program says.
    """
    model = _onnx().load_from_string(template)
    places = {each.name: each for each in model.graph.initializer}
    if before.keys() != after.keys():
        return None
    for name in changed & places.keys():
        place, former, array = places[name], np.asarray(before[name]), np.asarray(after[name])
        if place.raw_data != former.tobytes() or former.shape != array.shape:
            return None
        place.raw_data = array.tobytes()
    _put_notes(model, notes)
    content: bytes = model.SerializeToString()
    return content


def _refilled(path: Path, parameters: Parameters, notes: Mapping[str, str]) -> bytes:
    """A program from elsewhere with these numbers.

    Raises:
        TaskError: It cannot be read, or a parameter has no place of its own in it.
    """
    try:
        model = _onnx().load_from_string(path.read_bytes())
    except Exception as error:  # the package lets protobuf's own errors through
        raise TaskError(f"model.program {path} cannot be read as ONNX: {error}") from error
    numbers = _onnx().numpy_helper
    places = {each.name: each for each in model.graph.initializer}
    for name, array in parameters.items():
        place, wanted = places.get(name), np.asarray(array)
        held = None if place is None else numbers.to_array(place)
        if place is None or held is None or (held.shape, held.dtype) != (wanted.shape, wanted.dtype):
            problem = f"model.program {path} has no place for {name} {list(wanted.shape)}"
            raise TaskError(f"{problem}: export it from this task, or leave model.program out")
        place.CopyFrom(numbers.from_array(np.ascontiguousarray(wanted).reshape(wanted.shape), name))
    _put_notes(model, notes)
    content: bytes = model.SerializeToString()
    return content


def _put_notes(model: Any, notes: Mapping[str, str]) -> None:
    del model.metadata_props[:]
    for key, text in notes.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text


def _same(one: bytes, other: bytes) -> bool:
    graphs = [_onnx().load_from_string(each).graph for each in (one, other)]
    return bool(graphs[0] == graphs[1])


def signature_of(program: bytes, form: ProgramForm) -> dict[str, list[dict[str, object]]]:
    """Names, types and shapes of a program's inputs and outputs; -1 is any number. Nothing is known of other forms."""
    if form is not ProgramForm.ONNX:
        return {}
    graph = _onnx().load_from_string(program).graph
    made = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in made]
    return {"inputs": [*map(_described, inputs)], "outputs": [*map(_described, graph.output)]}


def _described(value: Any) -> dict[str, object]:
    kind = value.type.tensor_type
    shape = [each.dim_value if each.HasField("dim_value") else -1 for each in kind.shape.dim]
    return {"name": value.name, "type": _onnx().TensorProto.DataType.Name(kind.elem_type).lower(), "shape": shape}


def _onnx() -> Any:
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise TaskError("ONNX programs need the extra onnx: pip install 'fedmq[onnx]'") from error
    return onnx
