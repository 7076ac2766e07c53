"""How a picture of any size becomes one input of a model: said by the task, and kept beside an exported model."""

import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PictureInput"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PIXELS_MAX = 100_000_000
"""Larger pictures are refused before they are unpacked."""

SIDE_MAX = 4096
SUBFILE, REDUCED, MASK = 254, 1, 4
"""The tag of a TIFF's page that says what it is of another page, and two of its bits."""

LIGHT = 127.5
"""A border that is brighter than this is a light background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureInput:
    """What the model wants to see.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: 1 is grey, 3 is red, green and blue.
        mean: Subtracted from brightness in 0 to 1.
        deviation: What is left is divided by it.
        dark_background: The model knows light strokes on black: a picture with a light border is inverted.
        flat: The input is one row of numbers instead of (channels, height, width).
        white: The value of white; 0 is the file's own: 65535 for 16 bits, 1 for floats. Cameras of 12 bits in files of
            16 have 4095. Pictures of 8 bits have 255, whatever this says.
        first_frame: Of a file with several frames or pages the first is the picture; else such a file is refused.
    """

    height: int
    width: int
    channels: int = 1
    mean: float = 0.0
    deviation: float = 1.0
    dark_background: bool = False
    flat: bool = False
    white: float = 0.0
    first_frame: bool = False

    def __post_init__(self) -> None:
        """Refuse what no picture can be made into."""
        if not (1 <= self.height <= SIDE_MAX and 1 <= self.width <= SIDE_MAX and self.channels in (1, 3)):
            size = f"{self.height} x {self.width} x {self.channels}"
            raise TaskError(f"a picture of {size} is no input: sides are 1 to {SIDE_MAX}, channels 1 or 3")
        if not (np.isfinite(self.white) and self.white >= 0):
            raise TaskError(f"white must be finite, and above 0 where it is given, not {self.white}")
        if not (np.isfinite([self.mean, self.deviation]).all() and self.deviation > 0):
            raise TaskError(f"mean {self.mean} and deviation {self.deviation} must be finite, and deviation above 0")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        shape = (self.channels, self.height, self.width)
        return (self.channels * self.height * self.width,) if self.flat else shape

    def read(self, path: Path) -> NDArray[np.float32]:
        """One input, float32 of shape (1, *shape): turned upright, resized with its proportions kept, border filled up.

        Raises:
            TaskError: It is no picture or several, too large, its values would be lost, or Pillow is not installed.
        """
        mode = "L" if self.channels == 1 else "RGB"
        image = self._fitted(_opened(path, mode, self.white, several=self.first_frame))
        pixels = np.asarray(image, np.float32).reshape(self.height, self.width, -1)
        pixels = np.broadcast_to(pixels, (self.height, self.width, self.channels))
        if self.dark_background and _border(pixels) > LIGHT:
            pixels = 255 - pixels
        values = (pixels.transpose(2, 0, 1) / np.float32(255) - np.float32(self.mean)) / np.float32(self.deviation)
        return np.ascontiguousarray(values, np.float32).reshape(1, *self.shape)

    def to_dict(self) -> dict[str, object]:
        """As plain data; programs of before `white` and `first_frame` refuse them: they are said only where given."""
        return {name: value for name, value in asdict(self).items() if name not in {"white", "first_frame"} or value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PictureInput":
        """What `to_dict` made.

        Raises:
            TaskError: It is something else.
        """
        kinds = {one.name: one.type for one in fields(cls)}
        for name, value in values.items():
            wanted: Any = kinds.get(name)
            numeric = wanted is float and type(value) is int
            if type(value) is not wanted and not numeric:
                raise TaskError(f"{name}={value!r} says nothing about a picture")
        try:
            return cls(**values)
        except TypeError as error:
            raise TaskError(f"this does not say how a picture is read: {error}") from error

    def _fitted(self, image: "Image") -> "Image":
        from PIL import Image, ImageOps  # noqa: PLC0415 - comes with torchvision or matplotlib, not with the base

        if image.size == (self.width, self.height):
            return image
        shrinks = image.width >= self.width and image.height >= self.height
        # A box undoes an enlargement by whole factors exactly; it is too coarse to enlarge with.
        method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        bands = len(image.getbands())
        border = _border(np.asarray(image, np.float32).reshape(image.height, image.width, bands))
        colour = 255 if border > LIGHT else 0
        return ImageOps.pad(image, (self.width, self.height), method, color=(colour,) * bands)


def _opened(path: Path, mode: str, white: float, *, several: bool) -> "Image":
    """The picture upright, its brightness from 0 to 255: of this mode, or ``F`` where it has more than 8 bits.

    Of several in one file it is the first, where that is wanted.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise TaskError("pictures are read with Pillow: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is our own
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            if image.width * image.height > PIXELS_MAX:
                raise TaskError(f"{path} has {image.width} x {image.height} pixels: at most {PIXELS_MAX:,} are read")
            if not several:
                _refuse_several(path, image)
            raw = _raw_mode(image)  # what the file has; gone once it is loaded
            upright = ImageOps.exif_transpose(image)
            if image.mode in {"F", "I"} or image.mode.startswith("I;16"):
                return _deep(path, upright, white, _own_white(image, raw))
            if "16" in raw:
                raise TaskError(
                    f"{path} has colours or alpha of 16 bits ({raw}), of which 8 would be lost: save it in 8"
                )
            if upright.has_transparency_data:
                paper = Image.new("RGBA", upright.size, "white")
                return Image.alpha_composite(paper, upright.convert("RGBA")).convert(mode)
            return (
                upright.convert("RGB").convert(mode) if image.mode in {"CMYK", "HSV", "LAB"} else upright.convert(mode)
            )
    except (Image.DecompressionBombError, MemoryError, EOFError, struct.error) as error:
        raise TaskError(f"{path} is not read: {error}") from error
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise TaskError(f"{path} cannot be read as a picture: {error}") from error


def _refuse_several(path: Path, image: "Image") -> None:
    """Refuse an animation and a stack of pages: which of them is the example nobody has said.

    A photograph with a preview beside it (a second picture in a JPEG, a page of less resolution in a TIFF) is one.
    """
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO" or (image.format == "TIFF" and not _has_full_pages(image, count)):
        return
    what = "pages" if image.format == "TIFF" else "frames"
    raise TaskError(
        f"{path} has {count} {what}, and one picture is one example: save each as a file of its own, or say"
        " PictureInput(first_frame=True)"
    )


def _has_full_pages(image: "Image", count: int) -> bool:
    """Whether a page behind the first is more than a preview or a mask of another."""
    try:
        for page in range(1, count):
            image.seek(page)
            if not int(getattr(image, "tag_v2", {}).get(SUBFILE, 0)) & (REDUCED | MASK):
                return True
        return False
    finally:
        image.seek(0)


def _raw_mode(image: "Image") -> str:
    """How the pixels lie in the file, such as ``RGB;16B``; Pillow's own mode where it does not say."""
    tiles = getattr(image, "tile", None)  # of a file only
    match tiles[0].args if tiles else image.mode:
        case (str(mode), int(white), *_) if image.format == "PPM":
            return mode if white <= 255 else f"{mode};16"
        case (str(mode), *_) | str(mode):
            return mode
    return image.mode


def _own_white(image: "Image", raw: str) -> float:
    """The value of white in a grey picture of more than 8 bits; 0 where nothing says it."""
    if image.mode == "F":
        return 1.0
    if raw == "I;12":
        return 4095.0
    return 0.0 if image.mode == "I" and image.format not in {"PNG", "PPM"} else 65535.0


def _deep(path: Path, image: "Image", white: float, own: float) -> "Image":
    """A grey picture of more than 8 bits, every value kept, scaled so that white is 255."""
    from PIL import Image  # noqa: PLC0415 - as above

    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise TaskError(f"{path} (mode {image.mode}) has pixels that are not finite")
    if not white and (own == 0 or values.min() < 0 or values.max() > own):
        span = f"{values.min():g} to {values.max():g}"
        raise TaskError(
            f"{path} (mode {image.mode}) has values from {span}: say what is white, PictureInput(white=...)"
        )
    return Image.fromarray((values * (255.0 / (white or own))).astype(np.float32))


def _border(pixels: NDArray[np.float32]) -> float:
    """Median brightness of the outermost pixels."""
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return float(np.median(np.concatenate([edge.ravel() for edge in edges])))
