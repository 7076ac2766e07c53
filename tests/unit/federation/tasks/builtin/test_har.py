"""UCI HAR: who trains, who is the test, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.builtin.har import build, build_held_out, training_subjects
from federation.tasks.check import check_task
from federation.tasks.registry import default_settings, load_task
from federation.tasks.training.torch_task import TorchTask

SUBJECTS = np.array([1, 3, 5, 25, 26, 30], np.int64)


def context(index: int | None, count: int, data: Path | None = None) -> TaskContext:
    return TaskContext(node_index=index, node_count=count, data=data, device="cpu")


def write_set(folder: Path, **changes: object) -> None:
    """Ten windows of each subject; a feature says the label."""
    folder.mkdir(parents=True, exist_ok=True)
    subjects = np.repeat(SUBJECTS, 10)
    labels = np.arange(len(subjects), dtype=np.int64) % 6 + 1
    windows = np.zeros((len(subjects), 561), np.float32)
    windows[np.arange(len(subjects)), labels] = 1.0
    arrays = {"x": windows, "y": labels, "subject": subjects} | changes
    np.savez(folder / "uci_har_train_561.npz", **arrays)  # type: ignore[arg-type]  # numpy types its own keyword


def test_every_training_subject_has_one_node_and_no_test_subject_has_any(tmp_path: Path) -> None:
    write_set(tmp_path)
    sizes = [
        len(build(context(index, 3, tmp_path)).train_data.part(context(index, 3), "natural")[1]) for index in range(3)
    ]
    assert sizes == [20, 10, 10]  # subjects 1 and 25, 3, 5


def test_subjects_that_are_held_out_do_not_train_and_no_test_subject_is_looked_at(tmp_path: Path) -> None:
    write_set(tmp_path)
    assert training_subjects(tmp_path) == [1, 3, 5, 25]
    task = build_held_out(context(0, 1, tmp_path), (3, 25, 30))
    trained, tests = task.train_data.part(context(0, 1), "iid")[0], task.test_data()
    assert (len(trained), len(tests[1])) == (20, 20)
    assert build_held_out(context(0, 2, tmp_path), (3, 25)).train_data.part(context(0, 2), "natural")[1].shape == (10,)


@pytest.mark.parametrize(("index", "count"), [(None, 2), (2, 2), (-1, 2), (0, 5)])
def test_a_part_that_does_not_exist_is_the_tasks_error(tmp_path: Path, index: int | None, count: int) -> None:
    write_set(tmp_path)
    task = build(context(index, count, tmp_path))
    with pytest.raises(TaskError):
        task.train_data.part(task.context, task.split)


@pytest.mark.parametrize("below", ["", "uci-har"])
def test_it_trains_on_its_subjects_and_is_tested_on_unseen_ones(tmp_path: Path, below: str) -> None:
    write_set(tmp_path / below)
    task = build(context(0, 4, tmp_path))
    result = task.train(task.initial_parameters(0), default_settings("har"), lambda: False)
    assert result.num_examples == 10
    assert 0 <= build(context(None, 4, tmp_path)).evaluate(result.parameters)["accuracy"] <= 1


def test_it_keeps_the_contract_of_a_task(tmp_path: Path) -> None:
    write_set(tmp_path)
    check_task(build(context(1, 2, tmp_path)))


def test_no_folder_or_no_file_says_what_is_needed(tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(TaskError, match="uci_har_train_561"):
            build(context(None, 2, data)).evaluate(build(context(None, 2)).initial_parameters(0))


@pytest.mark.parametrize(
    "changes", [{"y": np.ones(3, np.int64)}, {"x": np.ones((60, 7), np.float32)}, {"subject": np.ones(2, np.int64)}]
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    write_set(tmp_path, **changes)
    with pytest.raises(TaskError, match="UCI HAR has"):
        evaluate(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK nothing", b"\x93NUMPY"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "uci_har_train_561.npz").write_bytes(content)
    with pytest.raises(TaskError, match="cannot be read"):
        evaluate(tmp_path)


def evaluate(data: Path) -> None:
    task = build(context(None, 2, data))
    task.evaluate(task.initial_parameters(0))


@pytest.mark.data
def test_the_real_set_has_sixteen_subjects_to_train_and_five_to_test(data_dir: Path) -> None:
    task = load_task("har")(context(0, 16, data_dir))
    assert isinstance(task, TorchTask)
    result = task.train(task.initial_parameters(0), default_settings("har"), lambda: False)
    assert result.num_examples == 347
    coordinator = load_task("har")(context(None, 16, data_dir))
    assert 0 < coordinator.evaluate(result.parameters)["accuracy"] < 1
