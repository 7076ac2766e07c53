"""The tasks of the reference jobs: their data, their models, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks.builtin.boston import FEATURES, boston, build
from federation.tasks.check import check_task
from federation.tasks.registry import default_settings, load_task


def write_prices(folder: Path, rows: int = 130) -> None:
    """Prices that the number of rooms explains."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, 13))
    lines = [",".join(f'"{name}"' for name in (*FEATURES, "medv"))]
    for row in values:
        chas = int(row[3] > 1)
        cells = [f'"{chas}"' if index == 3 else f"{each:.5f}" for index, each in enumerate(row)]
        lines.append(",".join([*cells, f"{22 + 6 * row[5]:.3f}"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "BostonHousing.csv").write_text("\n".join(lines) + "\n")


def context(index: int | None, data: Path | None) -> TaskContext:
    return TaskContext(node_index=index, node_count=2, data=data, device="cpu")


@pytest.mark.parametrize("below", ["", "boston"])
def test_features_are_standardised_by_the_training_rows_but_the_river_is_not(tmp_path: Path, below: str) -> None:
    write_prices(tmp_path / below)
    features, prices = boston(tmp_path, train=True)
    tests, _ = boston(tmp_path, train=False)
    assert (features.shape, prices.shape, tests.shape) == ((30, 13), (30, 1), (100, 13))
    others = np.delete(features, 3, axis=1)
    assert np.allclose(others.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(others.std(axis=0), 1, atol=1e-5)
    assert set(np.unique(features[:, 3])) <= {0.0, 1.0}


def test_the_regression_keeps_the_contract_and_reports_no_accuracy(tmp_path: Path) -> None:
    write_prices(tmp_path)
    task = build(context(1, tmp_path))
    check_task(task)
    assert set(task.evaluate(task.initial_parameters(0))) == {"loss", "test_examples"}


def test_the_regression_learns(tmp_path: Path) -> None:
    write_prices(tmp_path, rows=400)
    task = build(context(0, tmp_path))
    initial = task.initial_parameters(0)
    trained = task.train(initial, TrainSettings(local_epochs=40, batch_size=8, learning_rate=0.001), bool)
    assert task.evaluate(trained.parameters)["loss"] < 0.2 * task.evaluate(initial)["loss"]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"crim"\nx\n'])
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "BostonHousing.csv").write_text(content)
    with pytest.raises(TaskError):
        boston(tmp_path, train=True)


def test_no_folder_and_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="BostonHousing"):
        boston(None, train=True)
    with pytest.raises(TaskError, match="BostonHousing"):
        boston(tmp_path, train=True)
    write_prices(tmp_path, rows=100)
    with pytest.raises(TaskError, match="only 100 rows"):
        boston(tmp_path, train=True)


@pytest.mark.data
@pytest.mark.parametrize(("name", "parameters"), [("mnist-wide", 203_530), ("mnist-cnn", 9_226)])
def test_the_mnist_jobs_have_their_model_and_keep_the_contract(data_dir: Path, name: str, parameters: int) -> None:
    task = load_task(name)(TaskContext(node_index=3, node_count=938, device="cpu", data=data_dir, partition="iid"))
    assert sum(array.size for array in task.initial_parameters(0).values()) == parameters
    check_task(task)
    assert default_settings(name).learning_rate > 0
