"""A model of any inputs becomes a program that gives the answers that the module gives."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from federation.errors import TaskError
from federation.task import ProgramForm, TaskContext
from federation.tasks import TorchTask, csv_data

pytestmark = pytest.mark.xdist_group("export")  # what torch loads for it takes seconds, in each process

TOKENS, PLACES = 20, 3
ROWS = torch.arange(30 * PLACES).reshape(30, PLACES) % TOKENS
FLOATS = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(30) % 2


class Next(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(TOKENS, 8), nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, TOKENS)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.mix(self.embed(x))[0])


def each_alone() -> nn.Module:
    return nn.Sequential(nn.Embedding(TOKENS, 8), nn.Linear(8, TOKENS))


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(TOKENS, 4), nn.Linear(8, 2)

    def forward(self, tokens: torch.Tensor, numbers: torch.Tensor) -> Any:
        return self.out(torch.cat([self.embed(tokens).mean(1), numbers], dim=1))


def compiled() -> Any:
    return torch.compile(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))


def partly_compiled() -> nn.Module:
    first: Any = torch.compile(nn.Linear(4, 8))
    return nn.Sequential(first, nn.Linear(8, 2))


def task(model: Callable[[], Any], test: Any = None, **more: Any) -> TorchTask:
    context = TaskContext(node_index=None, node_count=1, device="cpu")
    loss = nn.functional.cross_entropy
    return TorchTask(context, model=model, loss=loss, train_data=lambda: None, test_data=test, **more)


CASES = [
    pytest.param(task(Next, (ROWS, ROWS)), (ROWS[:5],), id="tokens of test data"),
    pytest.param(task(each_alone, (ROWS, ROWS), input_shape=(PLACES,)), (ROWS[:5],), id="tokens and a shape"),
    pytest.param(task(each_alone, input_shape=(PLACES,)), (ROWS[:5],), id="tokens of a shape alone"),
    pytest.param(task(compiled, (FLOATS, LABELS)), (FLOATS[:5],), id="compiled"),
    pytest.param(task(partly_compiled, (FLOATS, LABELS)), (FLOATS[:5],), id="compiled within"),
    pytest.param(task(lambda: nn.Linear(4, 2), input_shape=(4,)), (FLOATS[:5],), id="numbers of a shape"),
    pytest.param(
        task(lambda: nn.Linear(4, 2), lambda: DataLoader(TensorDataset(FLOATS[:1], LABELS[:1]))),
        (FLOATS[:5],),
        id="a loader of single rows",
    ),
    pytest.param(task(Both, (ROWS, FLOATS, LABELS)), (ROWS[:5], FLOATS[:5]), id="two inputs"),
    pytest.param(
        task(Both, {"numbers": FLOATS, "tokens": ROWS, "labels": LABELS}), (ROWS[:5], FLOATS[:5]), id="inputs by name"
    ),
]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize(("exported", "inputs"), CASES)
def test_both_programs_answer_as_the_module_does(exported: TorchTask, inputs: tuple[torch.Tensor, ...]) -> None:
    parameters = exported.initial_parameters(3)
    module = exported.module_with(parameters)
    wanted = getattr(module, "_orig_mod", module)(*inputs).detach().numpy()

    program = torch.export.load(io.BytesIO(exported.export(parameters, ProgramForm.PT2, {}))).module()
    named = {} if len(inputs) == 1 else dict(zip(("tokens", "numbers"), inputs, strict=True))
    by_name = isinstance(exported.test_data, dict)
    answer = program(**named) if by_name else program(*inputs)
    np.testing.assert_allclose(answer.detach().numpy(), wanted, atol=1e-5)

    model: Any = onnx.load_from_string(exported.export(parameters, ProgramForm.ONNX, {}))
    onnx.checker.check_model(model, full_check=True)
    names = {each.name for each in model.graph.input}
    assert names == ({"input"} if len(inputs) == 1 else {"tokens", "numbers"})
    given = {"input": inputs[0].numpy()} if len(inputs) == 1 else {name: named[name].numpy() for name in names}
    found: Any = ReferenceEvaluator(model).run(None, given)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_a_machine_without_the_test_data_exports_by_the_shape(tmp_path: Path) -> None:
    data = csv_data(TaskContext(node_index=None, node_count=1, data=tmp_path), "not-here.csv", target="y")
    shaped = task(lambda: nn.Linear(4, 2), data.test, input_shape=(4,))
    assert shaped.export(shaped.initial_parameters(0), ProgramForm.PT2, {})
    unknown = task(lambda: nn.Linear(4, 2), data.test)
    with pytest.raises(TaskError, match=r"not-here\.csv"):
        unknown.export(unknown.initial_parameters(0), ProgramForm.PT2, {})
    with pytest.raises(TaskError, match="input_shape"):
        task(lambda: nn.Linear(4, 2)).export(unknown.initial_parameters(0), ProgramForm.PT2, {})
