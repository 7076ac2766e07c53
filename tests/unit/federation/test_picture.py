"""A picture of any size, mode and polarity becomes the input that the task asks for."""

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from federation.errors import TaskError
from federation.picture import PictureInput
from federation.task import TaskContext
from federation.tasks.builtin.mnist import mnist
from federation.tasks.registry import load_task
from tests.rigs.trained_digits import digit, digit_file

DIGITS = PictureInput(height=8, width=8, dark_background=True, flat=True)


@pytest.mark.parametrize("size", [8, 16, 200])
@pytest.mark.parametrize("paper", [False, True])
def test_a_digit_of_any_size_on_black_or_on_paper_is_the_same_input(tmp_path: Path, size: int, paper: bool) -> None:
    digit_file(tmp_path / "digit.png", size=size, paper=paper)
    values = DIGITS.read(tmp_path / "digit.png")
    assert values.shape == (1, 64)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], digit(0)[0].reshape(64) / 255, atol=1e-6)


def test_proportions_are_kept_and_the_rest_is_filled_like_the_border(tmp_path: Path) -> None:
    Image.fromarray(np.full((10, 40), 255, np.uint8)).save(tmp_path / "wide.png")
    values = PictureInput(height=8, width=8).read(tmp_path / "wide.png")
    assert values.shape == (1, 1, 8, 8)
    assert values.min() == 1.0
    black = np.zeros((10, 40), np.uint8)
    black[2:8, 2:38] = 255
    Image.fromarray(black).save(tmp_path / "wide.png")
    values = PictureInput(height=8, width=8).read(tmp_path / "wide.png")
    assert values[0, 0, 0].max() == 0.0
    assert values.max() > 0.5


def test_a_smaller_picture_is_enlarged(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).save(tmp_path / "small.png")
    values = PictureInput(height=4, width=4).read(tmp_path / "small.png")
    assert values.shape == (1, 1, 4, 4)
    assert 0 < values.mean() < 1


def test_colours_are_channels_first_and_standardised(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "blue.png")
    values = PictureInput(height=4, width=4, channels=3, mean=0.5, deviation=0.5).read(tmp_path / "blue.png")
    assert values.shape == (1, 3, 4, 4)
    assert [float(channel.mean()) for channel in values[0]] == [-1.0, -1.0, 1.0]


def test_what_is_transparent_is_white_paper(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 3:5, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "clear.png")
    values = PictureInput(height=8, width=8, dark_background=True).read(tmp_path / "clear.png")
    assert values[0, 0, 0, 0] == 0.0
    assert values[0, 0, 3, 3] == 1.0


def test_what_is_no_picture_is_a_task_error(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(TaskError, match="cannot be read"):
        DIGITS.read(tmp_path / "text.png")
    with pytest.raises(TaskError, match="cannot be read"):
        DIGITS.read(tmp_path / "missing.png")


def test_every_prefix_of_a_picture_is_refused_or_read(tmp_path: Path) -> None:
    digit_file(tmp_path / "digit.png")
    body = (tmp_path / "digit.png").read_bytes()
    for length in range(0, len(body) - 12, 7):
        (tmp_path / "cut.png").write_bytes(body[:length])
        try:
            values = DIGITS.read(tmp_path / "cut.png")
        except TaskError:
            continue
        # Only the checksum at the end is missing.
        np.testing.assert_array_equal(values, DIGITS.read(tmp_path / "digit.png"))
        assert length > len(body) // 2


def test_a_picture_that_is_too_large_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.picture.PIXELS_MAX", 63)
    digit_file(tmp_path / "digit.png")
    with pytest.raises(TaskError, match="at most 63"):
        DIGITS.read(tmp_path / "digit.png")


@pytest.mark.parametrize("side", [13_000, 30_000])
def test_a_picture_that_its_library_warns_of_or_refuses_is_one_error(side: int, tmp_path: Path) -> None:
    """Its header is enough: nothing is unpacked, and no warning is printed."""
    shape = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", shape), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(TaskError, match=r"bomb\.png"):
        DIGITS.read(tmp_path / "bomb.png")


def test_without_pillow_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(TaskError, match="pillow"):
        DIGITS.read(tmp_path / "digit.png")


def test_the_description_survives_as_plain_data() -> None:
    described = PictureInput(height=28, width=20, channels=3, mean=0.5, deviation=2, dark_background=True)
    assert PictureInput.from_dict(described.to_dict()) == described
    assert (described.shape, DIGITS.shape) == ((3, 28, 20), (64,))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"height": 8},
        {"height": 8, "width": "8"},
        {"height": 8, "width": 8, "evil": 1},
        {"height": 8, "width": 10**9},
        {"height": 8, "width": 0},
        {"height": 8, "width": 8, "channels": 2},
        {"height": 8, "width": 8, "deviation": 0.0},
        {"height": 8, "width": 8, "mean": float("nan")},
        {"height": True, "width": 8},
    ],
)
def test_what_describes_no_picture_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        PictureInput.from_dict(values)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-logreg", "mnist-wide", "mnist-cnn"])
def test_a_picture_of_an_mnist_digit_is_what_the_task_tests_with(tmp_path: Path, data_dir: Path, name: str) -> None:
    task: Any = load_task(name)(TaskContext(node_index=None, node_count=1, data=data_dir, device="cpu"))
    raw, _ = mnist(data_dir, train=False)
    inputs, _ = task.test_data()
    for index in (0, 7):
        picture = Image.fromarray(255 - raw[index])
        picture.resize((140, 140), Image.Resampling.NEAREST).save(tmp_path / "digit.png")
        read = task.picture.read(tmp_path / "digit.png")
        np.testing.assert_allclose(read.reshape(-1), inputs[index].reshape(-1), atol=1e-6)
