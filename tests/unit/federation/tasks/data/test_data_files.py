"""A device's own files become training and test data, and what is wrong with them is said by name and line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from federation.errors import TaskError
from federation.picture import PictureInput
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import TorchTask, csv_data, image_data, numpy_data
from federation.tasks.check import check_task
from federation.tasks.data.data_files import OwnData

GREY = PictureInput(height=4, width=4)


def context(folder: Path | None) -> TaskContext:
    return TaskContext(node_index=0, node_count=3, data=folder, device="cpu")


def table(folder: Path, text: str) -> TaskContext:
    (folder / "t.csv").write_text(text)
    return context(folder)


def rows(data: OwnData) -> list[list[float]]:
    """All inputs, in a fixed order."""
    return sorted(np.concatenate([data.train()[0], data.test()[0]]).tolist())


def test_a_table_becomes_inputs_and_class_numbers(tmp_path: Path) -> None:
    where = table(tmp_path, "heat,state,hum\n1,ok,2\n3,worn,4\n5, ok ,6\n7,worn,8\n9,ok,10\n")
    data = csv_data(where, "t.csv", target="state", classes=("ok", "worn"))
    assert rows(data) == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    inputs, targets = data.train()
    assert [str(inputs.dtype), str(targets.dtype)] == ["float32", "int64"]
    assert (len(data.train()[0]), len(data.test()[0])) == (4, 1)
    worn = inputs[targets == 1].tolist()
    assert all(row in ([3, 4], [7, 8]) for row in worn)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_numbers_has_its_target_as_a_column(tmp_path: Path, separator: str) -> None:
    lines = ["a,b,price", "1,2,3.5", "4,5,6.5", "7,8,9.5"]
    where = table(tmp_path, "\ufeff" + "\n".join(lines).replace(",", separator) + "\n\n")
    data = csv_data(where, "t.csv", target="price", features=["b"], test_share=0.5)
    assert rows(data) == [[2], [5], [8]]
    assert data.train()[1].shape == (1, 1)
    assert data.train()[1].dtype == np.float32


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n1,2\n3,4\n", "no column y"),
        ("y\n1\n2\n", "to predict from"),
        ("a,y\n1,2\n3\n", "line 3: 1 values"),
        ("a,y\n1,2\nx,2\n", "line 3: a is 'x'"),
        ("a,y\n1,2\nnan,2\n", "not finite"),
        ("a,y\n1,2\n", "at least two"),
        ("a,y\n", "has no row"),
        ("", "no column y"),
    ],
)
def test_a_broken_table_says_where(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        csv_data(table(tmp_path, text), "t.csv", target="y").train()


def test_a_column_of_an_array_that_float32_cannot_tell_apart_is_named(tmp_path: Path) -> None:
    x = np.stack([np.arange(20.0), 1.7e12 + np.arange(20.0)], 1)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 2)
    with pytest.raises(TaskError, match=r"column 1 of the inputs lies around 1\.7e\+12, .* take a constant off"):
        numpy_data(context(tmp_path), "d.npz").train()
    np.savez(tmp_path / "d.npz", x=x - [0, 1.7e12], y=np.arange(20) % 2)
    assert len(np.unique(numpy_data(context(tmp_path), "d.npz", test_share=0.0).train()[0][:, 1])) == 20


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    where = table(tmp_path, "a,y\n1,ok\n2,broken\n")
    with pytest.raises(TaskError, match=r"'broken', and the classes are ok, worn"):
        csv_data(where, "t.csv", target="y", classes=("ok", "worn")).train()


def test_a_table_that_is_no_text_is_a_task_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,y\n\xff\xfe\n")
    with pytest.raises(TaskError, match="cannot be read"):
        csv_data(context(tmp_path), "t.csv", target="y").train()


def test_a_coordinator_without_data_builds_the_task_and_is_told_when_it_asks(tmp_path: Path) -> None:
    data = csv_data(context(None), "t.csv", target="y")
    with pytest.raises(TaskError, match="--data"):
        data.train()
    with pytest.raises(TaskError, match=r"there is no .*t\.csv"):
        csv_data(context(tmp_path), "t.csv", target="y").train()


def test_the_held_out_rows_are_the_same_at_each_start_and_never_trained_on(tmp_path: Path) -> None:
    where = table(tmp_path, "a,y\n" + "".join(f"{n},{n}\n" for n in range(50)))
    first, second = (csv_data(where, "t.csv", target="y") for _ in range(2))
    np.testing.assert_array_equal(first.test()[0], second.test()[0])
    assert len(first.test()[0]) == 10
    assert set(first.test()[0].ravel()).isdisjoint(first.train()[0].ravel())
    everything = csv_data(where, "t.csv", target="y", test_share=0)
    assert len(everything.train()[0]) == 50
    with pytest.raises(TaskError, match="held out"):
        everything.test()
    with pytest.raises(TaskError, match="test_share"):
        csv_data(where, "t.csv", target="y", test_share=1.0).train()


def test_arrays_are_read_from_one_file_or_two(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((10, 3)), np.arange(10) % 2
    np.savez(tmp_path / "d.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    one, two = numpy_data(context(tmp_path), "d.npz"), numpy_data(context(tmp_path), "x.npy", "y.npy")
    np.testing.assert_array_equal(one.train()[0], two.train()[0])
    np.testing.assert_array_equal(one.test()[1], two.test()[1])


def test_pickled_arrays_and_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"evil": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    for arguments in (("x.npy", "x.npy"), ("x.npy",), ("other.npz",), ("text.npz",)):
        with pytest.raises(TaskError, match="cannot be read as"):
            numpy_data(context(tmp_path), *arguments).train()


def pictures(folder: Path, classes: dict[str, int]) -> TaskContext:
    for level, (name, count) in enumerate(classes.items()):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((9, 9), 40 + 170 * level, np.uint8)).save(
                folder / "photos" / name / f"{number}.png"
            )
    (folder / "photos" / "README.txt").write_text("not a picture")
    return context(folder)


def test_an_archive_that_unpacks_to_more_than_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((1000, 10)), y=np.zeros(1000))
    monkeypatch.setattr("federation.tasks.data.data_files.BYTES_MAX", 10_000)
    with pytest.raises(TaskError, match="at most 10,000 are read"):
        numpy_data(context(tmp_path), "d.npz").train()


def test_a_folder_of_pictures_has_one_folder_for_each_class(tmp_path: Path) -> None:
    where = pictures(tmp_path, {"cat": 6, "dog": 4})
    data = image_data(where, "photos", classes=("bird", "cat", "dog"), picture=GREY)
    inputs, targets = data.train()
    assert inputs.shape == (8, 1, 4, 4)
    assert set(targets) == {1, 2}
    assert float(inputs[targets == 1].max()) < 0.3 < float(inputs[targets == 2].min())


def test_a_folder_that_is_no_class_is_named(tmp_path: Path) -> None:
    where = pictures(tmp_path, {"cat": 2, "horse": 2})
    with pytest.raises(TaskError, match="horse"):
        image_data(where, "photos", classes=("cat", "dog"), picture=GREY).train()


def test_what_systems_put_into_folders_is_passed_over(tmp_path: Path) -> None:
    where = pictures(tmp_path, {"cat": 3, "0": 3})
    for stray in (".DS_Store", "Thumbs.db", "cat/._0.png", "cat/.DS_Store", ".thumbs/a.png", "__MACOSX/cat/0.png"):
        path = tmp_path / "photos" / stray
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"no picture")
    inputs, targets = image_data(where, "photos", classes=("cat", 0), picture=GREY, test_share=0).train()
    assert (len(inputs), sorted(targets)) == (6, [0, 0, 0, 1, 1, 1])


def test_pictures_in_folders_below_belong_to_the_class_and_of_unread_kinds_are_named(tmp_path: Path) -> None:
    where = pictures(tmp_path, {"cat": 2})
    (tmp_path / "photos" / "cat" / "2026").mkdir()
    (tmp_path / "photos" / "cat" / "0.png").rename(tmp_path / "photos" / "cat" / "2026" / "0.JPEG")
    assert len(image_data(where, "photos", classes=("cat",), picture=GREY, test_share=0).train()[0]) == 2
    (tmp_path / "photos" / "cat" / "2026" / "1.HEIC").write_bytes(b"")
    with pytest.raises(TaskError, match=r"1\.HEIC is a picture that is not read"):
        image_data(where, "photos", classes=("cat",), picture=GREY).train()


def test_pictures_that_would_be_left_out_are_named(tmp_path: Path) -> None:
    where = pictures(tmp_path, {"cat": 2})
    photos, data = tmp_path / "photos", image_data(where, "photos", classes=("cat",), picture=GREY)
    (photos / "cat" / "2.png").symlink_to(tmp_path / "card" / "2.png")
    with pytest.raises(TaskError, match=r"2\.png is a link to .*card/2\.png, which is not there"):
        data.train()
    (photos / "cat" / "2.png").unlink()
    (photos / "cat" / "1.png").rename(photos / "1.png")
    with pytest.raises(TaskError, match=r"1\.png lies beside the classes' folders"):
        data.train()
    (photos / "1.png").rename(photos / "cat" / "1")
    with pytest.raises(TaskError, match=r"cat/1 is a picture whose name does not say so: give it an ending"):
        data.train()
    (photos / "cat" / "1").write_text("notes")
    (photos / "cat" / "0.png").unlink()
    with pytest.raises(TaskError, match="photos has no picture in the folders of its classes: cat"):
        data.train()


def test_a_file_where_a_folder_of_pictures_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "photos").write_bytes(b"")
    with pytest.raises(TaskError, match="is no folder"):
        image_data(context(tmp_path), "photos", classes=("cat",), picture=GREY).train()


@pytest.mark.parametrize(
    ("x", "y", "classes", "problem"),
    [
        ([[1, 2], [3, np.nan]], [0, 1], (), "row 1, column 1 of the inputs is not finite"),
        ([[1, 2], [3, 4]], [0, np.inf], (), "row 1 of the targets is not finite"),
        ([[1, 2], [3, 4]], [0, 2], ("a", "b"), "row 1 of the targets is 2, and a, b are 0 to 1"),
        ([[1, 2], [3, 4]], [0.5, 1], ("a", "b"), "row 0 of the targets is 0.5"),
        ([["1", "2"], ["3", "4"]], [0, 1], (), "must be rows of numbers"),
        ([[1, 2], [3, 4]], 5, (), "must be rows of numbers"),
    ],
)
def test_gaps_and_strange_targets_of_arrays_are_named_by_their_row(
    tmp_path: Path, x: Any, y: Any, classes: tuple[str, ...], problem: str
) -> None:
    np.savez(tmp_path / "d.npz", x=x, y=y)
    with pytest.raises(TaskError, match=problem):
        numpy_data(context(tmp_path), "d.npz", classes=classes).train()


def test_numbers_of_classes_may_be_stored_as_floats_in_a_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=np.array([[0.0], [1.0], [1.0]], np.float32))
    targets = numpy_data(context(tmp_path), "d.npz", classes=("a", "b"), test_share=0).train()[1]
    assert (str(targets.dtype), sorted(targets.tolist())) == ("int64", [0, 1, 1])


def test_more_pictures_than_fit_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.tasks.data.data_files.BYTES_MAX", 100)
    where = pictures(tmp_path, {"cat": 2})
    with pytest.raises(TaskError, match="lazily"):
        image_data(where, "photos", classes=("cat",), picture=GREY).train()


def test_each_kind_trains_and_keeps_the_contract(tmp_path: Path) -> None:
    where = table(tmp_path, "a,y\n" + "".join(f"{n / 40},{n / 20}\n" for n in range(40)))
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((20, 1)), y=np.arange(20) % 2)
    pictures(tmp_path, {"cat": 6, "dog": 6})
    images = image_data(where, "photos", classes=("cat", "dog"), picture=GREY)
    cases: list[tuple[OwnData, Any, Any]] = [
        (csv_data(where, "t.csv", target="y"), lambda: torch.nn.Linear(1, 1), torch.nn.functional.mse_loss),
        (numpy_data(where, "d.npz"), lambda: torch.nn.Linear(1, 2), torch.nn.functional.cross_entropy),
        (
            images,
            lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)),
            torch.nn.functional.cross_entropy,
        ),
    ]
    for data, model, loss in cases:
        task = TorchTask(where, model=model, train_data=data.train, test_data=data.test, loss=loss)
        check_task(task)
        before = task.initial_parameters(0)
        settings = TrainSettings(local_epochs=20, batch_size=4, learning_rate=0.1)
        result = task.train(before, settings, lambda: False)
        assert result.num_examples == len(data.train()[0])
        assert result.metrics["loss"] < task.evaluate(before)["loss"]
