"""Made-up data, so that a new project runs before its own data is there."""

import csv
from pathlib import Path

import numpy as np

from federation.errors import ConfigError

__all__ = ["CLASSES", "FEATURES", "TARGET", "write_arrays", "write_pictures", "write_table", "write_texts"]

CLASSES = ("ok", "worn")
"""What the table's target says, and what folders of pictures are called."""

FEATURES, TARGET = ("heat", "vibration", "current"), "state"
ROWS = 400
"""Of the table, and of the arrays."""

TEXTS = 120
"""To train on."""

PICTURES = 30
"""Of each class."""

SIDE = 24
"""Height and width of a picture, in pixels."""


def write_table(path: Path) -> None:
    """Readings of a machine, and whether its tool is worn: vibration and heat tell."""
    rng = np.random.default_rng(1)
    heat, vibration, current = rng.normal(60, 10, ROWS), rng.gamma(2, 1.5, ROWS), rng.normal(12, 2, ROWS)
    worn = vibration + (heat - 60) / 10 + rng.normal(0, 0.3, ROWS) > 3.5
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow((*FEATURES, TARGET))
        for *numbers, state in zip(heat, vibration, current, worn, strict=True):
            table.writerow((*(f"{number:.3f}" for number in numbers), CLASSES[int(state)]))


def write_arrays(path: Path) -> None:
    """``x``, float32 of shape (400, 20), and ``y``: whether its first half weighs more than its second."""
    x = np.random.default_rng(1).normal(size=(ROWS, 20)).astype(np.float32)
    np.savez(path, x=x, y=(x[:, :10].sum(1) > x[:, 10:].sum(1)).astype(np.int64))


def write_texts(folder: Path) -> None:
    """Lines of a machine's log, one text each: those to train on, and those to test with."""
    rng = np.random.default_rng(1)
    for name, count in (("texts.txt", TEXTS), ("test.txt", TEXTS // 4)):
        numbers, states = rng.integers(1, 10, count), rng.integers(0, len(CLASSES), count)
        lines = [f"press {number}: tool is {CLASSES[state]}" for number, state in zip(numbers, states, strict=True)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_pictures(folder: Path) -> None:
    """Grey surfaces, of which the worn ones have a bright scratch: a folder for each class.

    Raises:
        ConfigError: Pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        missing = "pictures need Pillow: pip install pillow"
        raise ConfigError("--from", missing, source="this environment") from error
    rng = np.random.default_rng(1)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(PICTURES):
            pixels = rng.integers(80, 120, (SIDE, SIDE), dtype=np.uint8)
            if name == "worn":
                pixels[rng.integers(4, SIDE - 4)] = 250
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
