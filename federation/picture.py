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
    """

    height: int
    width: int
    channels: int = 1
    mean: float = 0.0
    deviation: float = 1.0
    dark_background: bool = False
    flat: bool = False

    def __post_init__(self) -> None:
        """Refuse what no picture can be made into."""
        if not (1 <= self.height <= SIDE_MAX and 1 <= self.width <= SIDE_MAX and self.channels in (1, 3)):
            size = f"{self.height} x {self.width} x {self.channels}"
            raise TaskError(f"a picture of {size} is no input: sides are 1 to {SIDE_MAX}, channels 1 or 3")
        if not (np.isfinite([self.mean, self.deviation]).all() and self.deviation > 0):
            raise TaskError(f"mean {self.mean} and deviation {self.deviation} must be finite, and deviation above 0")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        shape = (self.channels, self.height, self.width)
        return (self.channels * self.height * self.width,) if self.flat else shape

    def read(self, path: Path) -> NDArray[np.float32]:
        """One input, float32 of shape (1, *shape): resized with its proportions kept, its border filled up.

        Raises:
            TaskError: It is no picture, too large, or Pillow is not installed.
        """
        image = self._fitted(_opened(path, "L" if self.channels == 1 else "RGB"))
        pixels = np.asarray(image, np.float32).reshape(self.height, self.width, self.channels)
        if self.dark_background and _border(pixels) > LIGHT:
            pixels = 255 - pixels
        values = (pixels.transpose(2, 0, 1) / np.float32(255) - np.float32(self.mean)) / np.float32(self.deviation)
        return np.ascontiguousarray(values, np.float32).reshape(1, *self.shape)

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)

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
        border = _border(np.asarray(image, np.float32).reshape(image.height, image.width, self.channels))
        colour = 255 if border > LIGHT else 0
        return ImageOps.pad(image, (self.width, self.height), method, color=(colour,) * self.channels)


def _opened(path: Path, mode: str) -> "Image":
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise TaskError("pictures are read with Pillow: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is our own
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            if image.width * image.height > PIXELS_MAX:
                raise TaskError(f"{path} has {image.width} x {image.height} pixels: at most {PIXELS_MAX:,} are read")
            if image.has_transparency_data:
                paper = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(paper, image.convert("RGBA")).convert(mode)
            return image.convert(mode)
    except (Image.DecompressionBombError, MemoryError, EOFError, struct.error) as error:
        raise TaskError(f"{path} is not read: {error}") from error
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise TaskError(f"{path} cannot be read as a picture: {error}") from error


def _border(pixels: NDArray[np.float32]) -> float:
    """Median brightness of the outermost pixels."""
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return float(np.median(np.concatenate([edge.ravel() for edge in edges])))
