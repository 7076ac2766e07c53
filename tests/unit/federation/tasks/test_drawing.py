"""What users' code draws without a seed is the same in every process, and changes nothing in the process."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks import TorchTask, drawing
from federation.tasks.data.examples import Examples
from federation.tasks.data.whole_data import WholeData, refuse_another
from federation.tasks.drawing import called, drawn_alike
from federation.tasks.registry import load_task, named_task
from federation.tasks.training.local_data import TensorData

X = torch.arange(40.0).reshape(20, 2)
Y = torch.arange(20) % 2


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))  # noqa: NPY002 - what users draw from


def elsewhere(seed: int) -> None:
    """Another process: its generators are where they are."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - as above
    torch.manual_seed(seed)


def test_all_three_generators_begin_alike_and_go_on_as_if_nothing_had_been_drawn() -> None:
    found = []
    for process in (1, 2):
        elsewhere(process)
        wanted = draw()
        elsewhere(process)
        with drawn_alike(7) as has_drawn:
            assert not has_drawn()
            found.append(draw())
            assert has_drawn()
        assert draw() == wanted
    assert found[0] == found[1]
    with drawn_alike(-8):
        assert draw() not in found


def divided() -> tuple[Any, Any]:
    """As scikit-learn's `train_test_split` divides rows where no seed is given."""
    order = np.random.permutation(20)  # noqa: NPY002 - as above
    return (X[order[5:]], Y[order[5:]]), (X[order[:5]], Y[order[:5]])


def in_the_factory(context: TaskContext) -> TorchTask:
    train, test = divided()
    return TorchTask(context, model=lambda: torch.nn.Linear(2, 2), loss=loss, train_data=train, test_data=test)


def in_functions(context: TaskContext) -> TorchTask:
    train, test = (lambda: divided()[0]), (lambda: divided()[1])
    return TorchTask(context, model=lambda: torch.nn.Linear(2, 2), loss=loss, train_data=train, test_data=test)


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output, target)


def rows_of(data: Any) -> set[int]:
    assert isinstance(data, TensorData)
    return {int(row) // 2 for batch in data.in_order(100) for row in batch[0][:, 0].tolist()}


@pytest.mark.parametrize("build", [in_the_factory, in_functions])
def test_no_node_trains_on_the_rows_that_another_process_tests_on(build: Callable[[TaskContext], TorchTask]) -> None:
    """Each process had divided the rows in its own way, and reported accuracies had rows in them that were learnt."""
    trained, tested = set[int](), set[int]()
    with named_task(build) as name:
        for index, process in ((0, 1), (1, 2), (None, 3)):
            elsewhere(process)
            task: Any = load_task(name)(TaskContext(node_index=index, node_count=2))
            if index is None:
                tested |= rows_of(task._training._test_data)
            else:
                trained |= rows_of(task._training._train_data)
    assert (len(trained), len(tested)) == (15, 5)
    assert not trained & tested


def test_other_libraries_data_is_drawn_alike_too() -> None:
    found = []
    for process in (1, 2):
        elsewhere(process)
        node = TaskContext(node_index=0, node_count=1)
        found.append(Examples(node, lambda: divided()[0], lambda: divided()[1]))
        found.append(Examples(node, WholeData(lambda: divided()[0])))
    np.testing.assert_array_equal(found[0].training[0], found[2].training[0])
    np.testing.assert_array_equal(found[1].training[0], found[3].training[0])
    evaluated = found[0].evaluation
    assert evaluated is not None
    assert not set(evaluated[0][:, 0].tolist()) & set(found[2].training[0][:, 0].tolist())


def test_a_data_function_that_draws_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants other rows on each node must say so by the node's index."""
    monkeypatch.setattr(drawing, "_told", set())
    with structlog.testing.capture_logs() as logs:
        assert called(divided, 1)
        assert called(divided, 1)
        assert called(lambda: np.random.default_rng(3).random(), 1)
    assert [(line["event"], line["function"]) for line in logs] == [("data_drawn_alike", "divided")]
    assert "context.node_index" in logs[0]["why"]


DRAWS = """
import random
import numpy as np
from numpy.random import default_rng

AT_IMPORT = [random.random(), np.random.random(), default_rng().random(), np.random.default_rng().random()]
import torch
AT_IMPORT += torch.rand(2).tolist()
from beside import DRAWN
AT_IMPORT.append(DRAWN)

class Task:
    def __init__(self):
        self.drawn = [torch.rand(1).item(), np.random.default_rng().random(), default_rng().random()]

def build(context):
    return Task()
"""


def test_what_is_drawn_at_import_is_the_same_in_every_process(tmp_path: Path) -> None:
    """A projection that each process had drawn for itself was another model on each node, without a word."""
    (tmp_path / "beside.py").write_text("import torch\nDRAWN = torch.rand(1).item()\n")
    (tmp_path / "mine.py").write_text(DRAWS)
    (tmp_path / "late.py").write_text(
        "import numpy as np\nclass Task:\n    pass\ndef build(context):\n    import torch\n    task = Task()\n"
        "    task.drawn = [torch.rand(1).item(), np.random.default_rng().random()]\n    return task\n"
    )
    asks = (
        "import sys; from federation.tasks.registry import load_task; from federation.task import TaskContext\n"
        "print(*load_task(sys.argv[1])(TaskContext(node_index=0, node_count=1)).drawn)\n"
        "print(*getattr(sys.modules[sys.argv[2]], 'AT_IMPORT', ()))\n"
        "import numpy as np, torch; print(np.random.default_rng().random(), torch.rand(1).item(), file=sys.stderr)\n"
    )
    for name in ("mine", "late"):
        command = [sys.executable, "-c", asks, str(tmp_path / f"{name}.py"), name]
        said = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
        assert said[0].stdout == said[1].stdout
        assert len(set(said[0].stdout.split())) == len(said[0].stdout.split())
        assert said[0].stderr.split()[0] != said[1].stderr.split()[0], "our own generators are anybody's"


def test_a_generator_without_a_seed_is_told_of_and_has_one_only_where_data_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "_told", set())
    with structlog.testing.capture_logs() as logs:
        found = [called(lambda: np.random.default_rng().random(3).tolist(), 1) for _ in range(2)]
    assert found[0] == found[1]
    assert [line["event"] for line in logs] == ["data_drawn_alike"]
    with drawn_alike(1):
        assert np.random.default_rng().random() != np.random.default_rng().random()
    assert np.random.default_rng(5).random() == np.random.Generator(np.random.PCG64(5)).random()


def test_data_of_the_whole_federation_that_two_have_drawn_is_refused_in_a_simulation() -> None:
    same = (X.clone(), Y.clone())
    for other in ((X, Y), same, None, lambda: same, [object(), object()], ((X, X), Y)):
        refuse_another((X, Y), other)
    gap = X.clone()
    gap[0, 0] = float("nan")
    refuse_another((gap, Y), (gap.clone(), Y))
    for changed, words in (((X.flip(0), Y), "inputs"), ((X, 1 - Y), "targets"), ((X[:4], Y[:4]), "inputs")):
        with pytest.raises(TaskError, match=f"the {words} of the whole federation are others each time"):
            refuse_another((X, Y), changed)
