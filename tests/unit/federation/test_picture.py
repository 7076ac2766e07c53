"""A picture of any size, mode and polarity becomes the input that the task asks for."""

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from federation.errors import TaskError
from federation.picture import REDUCED, SUBFILE, PictureInput
from federation.task import TaskContext
from federation.tasks.builtin.mnist import mnist
from federation.tasks.registry import load_task
from tests.rigs.trained_digits import digit, digit_file

DIGITS = PictureInput(height=8, width=8, dark_background=True, flat=True)


def png_of(*parts: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks."""
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


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


RAMP = np.linspace(0, 1, 64).reshape(8, 8)
SMALL = PictureInput(height=8, width=8)


@pytest.mark.parametrize(
    ("pixels", "name", "white"),
    [
        ((RAMP * 65535).astype(np.uint16), "a.png", 0.0),
        ((RAMP * 65535).astype(np.uint16), "a.tif", 0.0),
        ((RAMP * 65535).astype(np.uint16), "a.pgm", 0.0),
        ((RAMP * 4095).astype(np.uint16), "a.png", 4095.0),
        (RAMP.astype(np.float32), "a.tif", 0.0),
        ((RAMP * 1000).astype(np.float32), "a.tif", 1000.0),
        ((RAMP * 100_000).astype(np.int32), "a.tif", 100_000.0),
        ((RAMP * 255).astype(np.uint8), "a.png", 4095.0),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_value_of_a_deep_picture_is_lost(
    tmp_path: Path, pixels: Any, name: str, white: float, channels: int
) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    read = PictureInput(height=8, width=8, channels=channels, white=white).read(tmp_path / name)
    for channel in read[0]:
        np.testing.assert_allclose(channel, RAMP, atol=1 / 255)
        assert len(np.unique(channel)) == 64


def test_a_deep_picture_is_resized_and_inverted_as_any_other(tmp_path: Path) -> None:
    Image.fromarray(np.kron(RAMP, np.ones((3, 3))).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(SMALL.read(tmp_path / "a.tif")[0, 0], RAMP, atol=1e-6)
    paper = np.ones((24, 24), np.float32)
    paper[9:15, 9:15] = 0
    Image.fromarray(paper).save(tmp_path / "a.tif")
    dark = PictureInput(height=8, width=8, dark_background=True).read(tmp_path / "a.tif")
    assert (dark[0, 0, 0, 0], dark[0, 0, 4, 4]) == (0.0, 1.0)


def test_twelve_bits_in_sixteen_keep_their_values_without_a_word(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 4095).astype(np.uint16)).save(tmp_path / "a.png")
    read = SMALL.read(tmp_path / "a.png")
    assert len(np.unique(read)) == 64
    assert float(read.max()) == pytest.approx(4095 / 65535)


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        ((RAMP * 4095).astype(np.int32), r"mode I\) has values from 0 to 4095"),
        ((RAMP * 4095).astype(np.float32), r"mode F\) has values from 0 to 4095: .*white="),
        ((RAMP - 0.5).astype(np.float32), r"mode F\) has values from -0.5"),
        (np.full((8, 8), np.nan, np.float32), r"mode F\) has pixels that are not finite"),
    ],
)
def test_a_deep_picture_of_which_white_is_not_known_is_refused_by_its_mode(
    tmp_path: Path, pixels: Any, problem: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(TaskError, match=problem):
        SMALL.read(tmp_path / "a.tif")


@pytest.mark.parametrize(("kind", "samples", "mode"), [(2, 3, "RGB"), (4, 2, "LA"), (6, 4, "RGBA")])
def test_colours_of_sixteen_bits_are_refused_and_not_cut_to_eight(
    tmp_path: Path, kind: int, samples: int, mode: str
) -> None:
    row = b"\0" + bytes(8 * samples * 2)
    shape = struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png_of((b"IHDR", shape), (b"IDAT", zlib.compress(row * 8)), (b"IEND", b"")))
    with pytest.raises(TaskError, match=f"{mode};16B"):
        SMALL.read(tmp_path / "a.png")


def test_a_portable_pixmap_of_sixteen_bits_is_refused_and_one_of_eight_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 8 8 65535\n" + bytes(8 * 8 * 6))
    with pytest.raises(TaskError, match="RGB;16"):
        SMALL.read(tmp_path / "a.ppm")
    (tmp_path / "a.ppm").write_bytes(b"P6 8 8 255\n" + bytes(range(192)))
    assert len(np.unique(SMALL.read(tmp_path / "a.ppm"))) == 64


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_eight_bits_keeps_its_brightness(tmp_path: Path, mode: str, channels: int) -> None:
    grey = Image.fromarray((RAMP * 255).astype(np.uint8))
    through = grey.convert("RGB") if mode in {"CMYK", "LAB"} else grey
    through.convert(mode).save(tmp_path / "a.tif" if mode in {"CMYK", "YCbCr", "LAB"} else tmp_path / "a.png")
    file = next(tmp_path.iterdir())
    wanted = np.asarray(grey.convert(mode).convert("L"), float) / 255 if mode == "1" else RAMP
    read = PictureInput(height=8, width=8, channels=channels).read(file)
    np.testing.assert_allclose(read[0, 0], wanted, atol=2 / 255)


@pytest.mark.parametrize("deep", [False, True])
def test_a_picture_is_read_upright(tmp_path: Path, deep: bool) -> None:
    pixels = (RAMP * 65535).astype(np.uint16) if deep else (RAMP * 255).astype(np.uint8)
    turned = Image.fromarray(np.rot90(pixels).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn it by 90 degrees to the right", as a phone held upright writes it
    turned.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(SMALL.read(tmp_path / "a.png")[0, 0], RAMP, atol=1 / 255)


def test_the_value_of_white_is_kept_beside_a_model_only_where_it_is_given() -> None:
    assert "white" not in SMALL.to_dict()
    given = PictureInput(height=8, width=8, white=4095)
    assert PictureInput.from_dict(given.to_dict()) == given
    with pytest.raises(TaskError, match="white"):
        PictureInput(height=8, width=8, white=-1)


@pytest.mark.parametrize(
    ("name", "what"), [("a.tif", "pages"), ("a.gif", "frames"), ("a.png", "frames"), ("a.webp", "frames")]
)
def test_several_pictures_in_one_file_are_refused_unless_the_first_is_wanted(
    tmp_path: Path, name: str, what: str
) -> None:
    """Of an animation or a stack of pages the first was taken, without a word on the others."""
    frames = [Image.fromarray(((RAMP if shown else 1 - RAMP) * 255).astype(np.uint8)) for shown in (True, False, True)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(TaskError, match=rf"{name} has 3 {what}, and one picture is one example: .*first_frame=True"):
        SMALL.read(tmp_path / name)
    first = PictureInput(height=8, width=8, first_frame=True)
    np.testing.assert_allclose(first.read(tmp_path / name)[0, 0], RAMP, atol=1 / 255)
    assert PictureInput.from_dict(first.to_dict()) == first
    assert "first_frame" not in SMALL.to_dict()
    frames[0].save(tmp_path / name, save_all=True, lossless=True)
    np.testing.assert_allclose(SMALL.read(tmp_path / name)[0, 0], RAMP, atol=1 / 255)


def test_deep_pages_are_refused_and_a_preview_beside_a_picture_is_not(tmp_path: Path) -> None:
    pages = [Image.fromarray((RAMP * white).astype(np.uint16)) for white in (65535, 4095)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(TaskError, match=r"a\.tif has 2 pages"):
        SMALL.read(tmp_path / "a.tif")
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "b.tif"), True) as file:
        for page, info in ((pages[0], {}), (pages[1].resize((4, 4)), {SUBFILE: REDUCED})):
            page.save(file, format="TIFF", tiffinfo=info)
            file.newFrame()
    np.testing.assert_allclose(SMALL.read(tmp_path / "b.tif")[0, 0], RAMP, atol=1 / 255)
    photo = Image.fromarray((RAMP * 255).astype(np.uint8)).convert("RGB")
    photo.save(tmp_path / "a.mpo", save_all=True, append_images=[photo.resize((4, 4))])
    (tmp_path / "a.mpo").rename(tmp_path / "photo.jpg")
    np.testing.assert_allclose(SMALL.read(tmp_path / "photo.jpg")[0, 0], RAMP, atol=0.1)


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
    (tmp_path / "bomb.png").write_bytes(png_of((b"IHDR", shape), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))
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
