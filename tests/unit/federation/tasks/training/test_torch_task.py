"""`TorchTask`: a model, data and a loss keep the contract of a task."""

import io
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from federation.errors import ConfigError, TaskError
from federation.inputs import Inputs
from federation.protocol.messages import TrainSettings
from federation.task import Parameters, ProgramForm, TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.registry import load_task
from update_codec import Role

NODE = TaskContext(node_index=0, node_count=2)
SETTINGS = TrainSettings(local_epochs=2, batch_size=8, learning_rate=0.1)

OWN_TASK = """
import torch
from federation.tasks import TorchTask

def build(context):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    return TorchTask(
        context, model=lambda: torch.nn.Linear(3, 2), train_data=(x, y), loss=torch.nn.functional.cross_entropy
    )
"""


def never() -> bool:
    return False


def classes(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


def linear() -> nn.Module:
    return nn.Linear(6, 3)


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))


def task_of(model: Any = linear, context: TaskContext = NODE, **changes: Any) -> TorchTask:
    arguments: dict[str, Any] = {"train_data": classes(), "test_data": classes(30), "loss": cross_entropy} | changes
    return TorchTask(context, model=model, **arguments)


def bits(parameters: Parameters) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in parameters.items()}


@pytest.mark.parametrize("model", [linear, normalized])
def test_it_keeps_the_contract_of_a_task(model: Any) -> None:
    check_task(task_of(model), SETTINGS)


def test_an_own_task_of_ten_lines_trains(tmp_path: Path) -> None:
    path = tmp_path / "my_task.py"
    path.write_text(OWN_TASK)
    task = load_task(f"{path}:build")(NODE)
    check_task(task, SETTINGS)
    assert task.evaluate(task.initial_parameters(0)) == {}


def test_training_lowers_the_loss_and_raises_the_accuracy() -> None:
    task = task_of()
    before = task.initial_parameters(1)
    result = task.train(before, replace(SETTINGS, local_epochs=40), never)
    after = task.evaluate(result.parameters)
    assert after["loss"] < task.evaluate(before)["loss"]
    assert after["accuracy"] > 0.8
    assert result.num_examples == 32


def test_the_same_seed_gives_the_same_bits_in_every_task_object() -> None:
    some, other = task_of(normalized), task_of(normalized)
    assert bits(some.initial_parameters(3)) == bits(other.initial_parameters(3))
    start = some.initial_parameters(3)
    first = some.train(start, SETTINGS, never)
    some.train(first.parameters, SETTINGS, never)
    torch.manual_seed(99)
    again = other.train(start, SETTINGS, never)
    assert bits(first.parameters) == bits(again.parameters)
    assert bits(some.train(start, SETTINGS, never).parameters) == bits(first.parameters)


def test_nodes_and_rounds_shuffle_differently() -> None:
    own = {"train_data": classes}
    results = set()
    for index in (0, 1):
        task = task_of(context=replace(NODE, node_index=index), **own)
        start = task.initial_parameters(0)
        for seed in (0, 1, -1):
            trained = task.train(start, replace(SETTINGS, local_epochs=1, seed=seed), never).parameters
            results.add(trained["weight"].tobytes())
    # abs(seed) is what counts, so -1 repeats 1; nodes differ even where all see the same data.
    assert len(results) == 4


def test_training_leaves_the_processs_random_state_alone() -> None:
    task = task_of(normalized)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    task.train(task.initial_parameters(0), SETTINGS, never)
    assert torch.equal(torch.rand(3), expected)


def test_batch_statistics_and_counters_have_their_roles_and_travel() -> None:
    task = task_of(normalized)
    assert task.roles() == {
        "1.running_mean": Role.STATISTIC,
        "1.running_var": Role.STATISTIC,
        "1.num_batches_tracked": Role.COUNTER,
    }
    result = task.train(task.initial_parameters(0), SETTINGS, never)
    assert int(result.parameters["1.num_batches_tracked"]) == 8
    assert np.abs(np.asarray(result.parameters["1.running_mean"], np.float32)).max() > 0


def test_evaluation_changes_nothing_and_counts_the_last_small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(normalized)
    start = task.initial_parameters(0)
    whole = task.evaluate(start)
    monkeypatch.setattr("federation.tasks.training.metrics.EVALUATION_BATCH", 7)
    assert task.evaluate(start) == pytest.approx(whole)
    assert bits(task.train(start, SETTINGS, never).parameters) == bits(
        task_of(normalized).train(start, SETTINGS, never).parameters
    )


def test_regression_reports_a_loss_and_no_accuracy() -> None:
    inputs, _ = classes()
    data = (inputs, inputs[:, :3])
    task = task_of(train_data=data, test_data=data, loss=mse_loss)
    assert set(task.evaluate(task.initial_parameters(0))) == {"loss", "test_examples"}
    assert set(task_of(accuracy=False).evaluate(task.initial_parameters(0))) == {"loss", "test_examples"}


def test_the_coordinator_builds_and_evaluates_without_training_data() -> None:
    def forbidden() -> None:
        raise AssertionError("the coordinator must not read training data")

    task = task_of(context=TaskContext(node_index=None, node_count=2), train_data=forbidden)
    assert "accuracy" in task.evaluate(task.initial_parameters(0))
    whole = task_of(context=TaskContext(node_index=None, node_count=2))
    with pytest.raises(TaskError, match="coordinator"):
        whole.train(whole.initial_parameters(0), SETTINGS, never)


def test_parameters_of_another_model_are_refused() -> None:
    task = task_of()
    right = dict(task.initial_parameters(0))
    for wrong, problem in (
        ({"weight": right["weight"]}, r"not in both: \['bias'\]"),
        (right | {"bias": np.zeros(4, np.float32)}, "bias has shape"),
        (right | {"bias": np.zeros(3, complex)}, "failed"),
    ):
        with pytest.raises(TaskError, match=problem):
            task.train(wrong, SETTINGS, never)


def test_what_the_users_code_raises_becomes_a_task_error_with_its_text() -> None:
    with pytest.raises(TaskError, match="mat1 and mat2"):
        task_of(lambda: nn.Linear(5, 3)).prepare()

    def broken() -> None:
        raise FileNotFoundError("measurements.csv")

    with pytest.raises(TaskError, match=r"FileNotFoundError: measurements\.csv"):
        task_of(train_data=broken).prepare()


class Unusual(nn.Module):
    """A model whose state has something that cannot be exchanged."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("odd", tensor)


class Extra(nn.Module):
    def get_extra_state(self) -> str:
        return "text"

    def set_extra_state(self, state: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (Extra, "no tensor"),
        (lambda: Unusual(torch.zeros(2, dtype=torch.bfloat16)), "bfloat16"),
        (lambda: Unusual(torch.zeros(2, dtype=torch.complex64)), "complex64"),
    ],
)
def test_state_that_cannot_be_exchanged_is_named(model: Any, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        task_of(model).initial_parameters(0)


def test_a_model_that_is_not_finite_after_training_is_refused() -> None:
    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6, 3))
            self.seen: torch.Tensor
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.seen.fill_(torch.inf)
            return inputs @ self.weight

    task = task_of(Overflow)
    with pytest.raises(TaskError, match="seen is not finite"):
        task.train(task.initial_parameters(0), SETTINGS, never)


def test_preparing_reads_the_data_once_and_changes_no_result() -> None:
    reads = []

    def data() -> tuple[torch.Tensor, torch.Tensor]:
        reads.append(1)
        return classes()

    task = task_of(normalized, train_data=data)
    prepare(task)
    prepare(task)
    start = task.initial_parameters(0)
    prepared = task.train(start, SETTINGS, never).parameters
    assert bits(prepared) == bits(task_of(normalized, train_data=classes).train(start, SETTINGS, never).parameters)
    assert len(reads) == 1


def test_preparing_a_task_that_cannot_is_nothing() -> None:
    task = load_task("null")(NODE)
    prepare(task)
    assert task.initial_parameters(0).keys() == {"weights"}


def test_a_device_that_is_not_there_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        task_of(context=replace(NODE, device="cuda")).prepare()
    with pytest.raises(ConfigError, match="use auto, cpu or cuda"):
        task_of(context=replace(NODE, device="abacus")).prepare()
    assert task_of(context=replace(NODE, device="auto")).device == "cpu"
    assert task_of(context=replace(NODE, device="cpu")).device == "cpu"


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert task_of(context=replace(NODE, device="auto")).device == "cuda"


def test_the_thread_that_trains_gets_the_threads_of_the_task() -> None:
    counts = []

    def counting(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        counts.append(torch.get_num_threads())
        return cross_entropy(output, target)

    before = torch.get_num_threads()
    task = task_of(loss=counting, threads=before + 1)
    worker = threading.Thread(target=lambda: task.train(task.initial_parameters(0), SETTINGS, never))
    try:
        worker.start()
        worker.join(timeout=60)
    finally:
        torch.set_num_threads(before)
    assert set(counts) == {before + 1}


def test_importing_the_adapter_does_not_import_torch() -> None:
    code = "import sys\nfrom federation.tasks import TorchTask, split\nprint('torch' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "federation.tasks.training.local_training", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TaskError, match=r"fedmq\[torch\]"):
        task_of().prepare()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_what_the_cpu_trains() -> None:
    check_task(task_of(normalized, context=replace(NODE, device="cuda")), SETTINGS)
    results = []
    for device in ("cpu", "cuda"):
        task = task_of(context=replace(NODE, device=device))
        results.append(task.train(task.initial_parameters(0), SETTINGS, never).parameters)
    for name, array in results[0].items():
        np.testing.assert_allclose(np.asarray(array, float), np.asarray(results[1][name], float), rtol=1e-3, atol=1e-4)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(self.embed(inputs))
        return output


@pytest.mark.parametrize("model", [Tokens, lambda: torch.compile(Tokens(), backend="eager")])
def test_a_model_of_tokens_is_exported_with_whole_numbers_as_its_example(model: Any) -> None:
    numbers = torch.arange(30).reshape(6, 5) % 9
    loss: Any = lambda output, target: cross_entropy(output.flatten(0, 1), target.flatten())  # noqa: E731 - one use
    data = (numbers, numbers)
    task = task_of(model, replace(NODE, node_index=None), train_data=data, test_data=data, loss=loss, input_shape=(5,))
    content = task.export(task.initial_parameters(0), ProgramForm.PT2, {})
    program = torch.export.load(io.BytesIO(content))
    assert program.module()(numbers[:3]).shape == (3, 5, 9)


@pytest.mark.parametrize(
    ("error", "words"),
    [(SystemExit(2), "SystemExit: 2"), (StopIteration(), "StopIteration"), (AttributeError("x"), "x")],
)
def test_whatever_the_model_or_the_data_raises_is_the_tasks_error_with_its_node(
    error: BaseException, words: str
) -> None:
    def broken() -> Any:
        raise error

    with pytest.raises(TaskError, match=rf"failed on node 0: .*{words}.*in broken"):
        prepare(task_of(train_data=broken))
    with pytest.raises(TaskError, match=rf"failed on node 0: .*{words}.*in broken"):
        task_of(broken).train({}, SETTINGS, never)


SPAWNED = """
import torch
from federation.tasks import TorchTask
from torch.utils.data import DataLoader, Dataset

class Rows(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((3,), float(index)), index % 2

def build(context):
    loader = lambda: DataLoader(Rows(), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    return TorchTask(
        context, model=lambda: torch.nn.Linear(3, 2), loss=torch.nn.functional.cross_entropy, train_data=loader
    )
"""


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_workers_that_are_spawned_find_the_tasks_module(tmp_path: Path) -> None:
    path = tmp_path / "rows_for_spawned_workers.py"
    path.write_text(SPAWNED)
    task = load_task(f"{path}:build")(NODE)
    assert task.train(task.initial_parameters(0), replace(SETTINGS, local_epochs=1), never).num_examples == 8


class Frame:
    """A data frame as far as it is asked, of a library that is not installed."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def get_column(self, name: str) -> Any:
        return self._columns[name]

    def to_series(self, place: int) -> Any:
        return self._columns[self.columns[place]]

    def select(self, names: list[str]) -> "Frame":
        return Frame(**{name: self._columns[name] for name in names})


def test_the_columns_of_a_nodes_own_frame_are_told_where_nobody_has_said_an_order() -> None:
    """FED-304: of the others the coordinator knows, or they are the same on every node."""
    frame, target = Frame(b=np.arange(4.0), a=np.ones(4)), np.array([0, 1, 0, 1])

    def of(data: Any, index: int | None = 0, **more: Any) -> TorchTask:
        made = TorchTask(
            TaskContext(node_index=index, node_count=1),
            model=lambda: torch.nn.Linear(2, 2),
            loss=torch.nn.functional.cross_entropy,
            train_data=data,
            **more,
        )
        if index is not None:
            made.prepare()
        return made

    own = of(lambda: (frame, target))
    assert own.columns_unsaid() == ("b", "a")
    assert of(lambda: (frame, target), features=("a", "b")).columns_unsaid() == ()
    assert of((frame, target)).columns_unsaid() == ()
    assert of(lambda: (np.zeros((4, 2), np.float32), target)).columns_unsaid() == ()
    assert of(lambda: (frame, target), None).columns_unsaid() == ()
    own.adopt_inputs(Inputs(features=("a", "b")))
    assert own.columns_unsaid() == ()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"classes": {"ok", "worn"}}, r"classes must be a list of names in a fixed order, not a set: sorted"),
        ({"features": ["heat", "flow", "heat"]}, r"features has 'heat' twice"),
        ({"local": "head"}, r"local must be a list of names, such as \['head'\], not one text"),
        ({"constant": "table"}, "constant must be a list"),
        ({"changing": "teacher.*"}, "changing must be a list"),
        ({"classes": "ab"}, "classes must be a list"),
        ({"features": "heat"}, "features must be a list"),
        ({"threads": -1}, "threads must be a whole number of at least 0, not -1"),
        ({"threads": "2"}, "threads must be a whole number of at least 0, not '2'"),
        ({"finetune_epochs": -1}, "finetune_epochs must be a whole number"),
        ({"accuracy": "no"}, "accuracy must be True or False, not 'no'"),
        ({"input_shape": 20}, "input_shape must be the lengths of one input's axes"),
        ({"split": "dirichlet"}, "split: .*dirichlet needs a number"),
        ({"loss": nn.CrossEntropyLoss}, r"loss is the class CrossEntropyLoss: give an object of it"),
        ({"metrics": {"f1": Exception}}, "metrics: f1 is the class Exception: give an object of it"),
        (
            {"metrics": {f"m{number}": max for number in range(14)}},
            "metrics: 14 are more than a message carries: at most 13",
        ),
        ({"metrics": {"x" * 40: max, "x" * 41: max}}, "of each name 32 bytes are told, and two begin with 'x"),
        ({"metrics": {"share": 3}}, r"metrics: share must be a function of \(output, target\), not int"),
    ],
)
def test_a_field_that_cannot_be_is_named_before_anything_is_loaded(field: dict[str, Any], words: str) -> None:
    """A text is a list of its letters; a metric that is none was found at the first evaluation, and only logged."""
    with pytest.raises(TaskError, match=words):
        TorchTask(
            TaskContext(node_index=None, node_count=1),
            **{"model": nn.Identity, "loss": max, "train_data": None, **field},
        )
