"""Reading MNIST's idx files, and the tasks that use them."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks.builtin import mnist as mnist_module
from federation.tasks.builtin.mnist import mnist, read_idx, scaled
from federation.tasks.check import check_task
from federation.tasks.registry import load_task


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_set(folder: Path, count: int = 40, *, packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{stem}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw", "mnist", "mnist/MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_files_are_found_in_every_usual_place(tmp_path: Path, below: str, *, packed: bool) -> None:
    write_set(tmp_path / below, packed=packed)
    images, labels = mnist(tmp_path, train=True)
    assert (images.shape, str(images.dtype)) == ((40, 28, 28), "uint8")
    assert (labels.shape, str(labels.dtype)) == ((40,), "int64")


def test_a_folder_without_the_files_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"train-images-idx3-ubyte\.gz"):
        mnist(tmp_path, train=True)


def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(3, np.uint8))))
    with pytest.raises(TaskError, match="do not belong together"):
        mnist(tmp_path, train=True)


def test_scaling_is_the_definition_of_the_jobs() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    reference = torch.from_numpy(images).float()
    np.testing.assert_array_equal(scaled(images), (reference / 255).numpy())
    expected = ((reference / 255 - 0.5) / 0.5).numpy()
    np.testing.assert_array_equal(scaled(images, mean=0.5, deviation=0.5), expected)


def test_every_prefix_of_an_idx_file_is_refused(tmp_path: Path) -> None:
    content = idx(np.arange(6, dtype=np.uint8).reshape(2, 3))
    path = tmp_path / "file"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(TaskError):
            read_idx(path)
    path.write_bytes(content)
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_every_prefix_of_a_packed_file_is_refused(tmp_path: Path) -> None:
    content = gzip.compress(idx(np.arange(6, dtype=np.uint8)))
    path = tmp_path / "file.gz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(TaskError):
            read_idx(path)


@settings(deadline=None)
@given(content=st.binary(max_size=40))
def test_bytes_that_are_no_idx_file_never_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(b"\0\0\x08" + content)
    try:
        array = read_idx(path)
    except TaskError:
        return
    assert idx(array) == path.read_bytes()


def test_a_file_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_module, "_FILE_BYTES_MAX", 10)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(100, np.uint8))))
    with pytest.raises(TaskError, match="no idx file"):
        read_idx(path)


def test_without_folder_and_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoNetwork:
        class datasets:  # noqa: N801 - as torchvision calls it
            @staticmethod
            def MNIST(root: str, *, download: bool) -> None:  # noqa: N802 - as torchvision calls it
                raise RuntimeError(f"Error downloading into {root}: {download}")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("federation.tasks.training.vision_compat.import_torchvision", NoNetwork)
    with pytest.raises(TaskError, match=r"--data DIR.*'digits'"):
        mnist(None, train=True)


def test_a_download_is_kept_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    class Network:
        class datasets:  # noqa: N801 - as torchvision calls it
            @staticmethod
            def MNIST(root: str, *, download: bool) -> None:  # noqa: N802 - as torchvision calls it
                downloads.append(download)
                write_set(Path(root) / "MNIST" / "raw")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("federation.tasks.training.vision_compat.import_torchvision", Network)
    assert len(mnist(None, train=True)[0]) == 40
    assert len(mnist(None, train=False)[0]) == 40
    assert downloads == [True]


@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-logreg"])
def test_the_mnist_tasks_keep_the_contract_of_a_task(tmp_path: Path, name: str) -> None:
    write_set(tmp_path)
    task = load_task(name)(TaskContext(node_index=1, node_count=2, data=tmp_path))
    check_task(task, TrainSettings())
    assert task.train(task.initial_parameters(0), TrainSettings(), lambda: False).num_examples == 20
    assert set(task.evaluate(task.initial_parameters(0))) == {"loss", "accuracy", "test_examples"}


@pytest.mark.thorough
@pytest.mark.data
def test_torchvision_reads_the_same_images(data_dir: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (data_dir / "mnist" / "MNIST" / "raw").glob("*.gz"):
        (raw / path.name).write_bytes(path.read_bytes())
    code = (
        "import sys\n"
        "from federation.tasks.training.vision_compat import import_torchvision\n"
        "theirs = import_torchvision().datasets.MNIST(sys.argv[1], train=False, download=True)\n"
        "from pathlib import Path\n"
        "from federation.tasks.builtin.mnist import mnist\n"
        "images, labels = mnist(Path(sys.argv[1]), train=False)\n"
        "print((theirs.data.numpy() == images).all() and (theirs.targets.numpy() == labels).all())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "True"
