"""All pictures of a run, or of one prediction, as files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coordinator.artifacts.plots.canvas import DOTS_PER_INCH, PALETTE, new_figure, save_figure, styled
from coordinator.artifacts.plots.curves import draw_learning
from coordinator.artifacts.plots.nodes import (
    draw_budget,
    draw_node_accuracies,
    draw_node_losses,
    draw_participation,
    draw_staleness,
)
from coordinator.artifacts.plots.run import Run
from coordinator.artifacts.plots.story import draw_story
from coordinator.artifacts.prediction import Prediction
from federation.errors import ConfigError, FederationError, StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gallery", "draw_answer", "draw_run", "draw_runs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """What was drawn.

    Attributes:
        files: PNG and SVG files.
        left_out: Pictures for which the run has no data, each with the reason.
    """

    files: Sequence[Path]
    left_out: Sequence[str]


def draw_run(run: Run, folder: Path, *, dark: bool = False) -> Gallery:
    """Draw everything about one run.

    Args:
        run: The run.
        folder: Where to.
        dark: For a dark page; the files' names end in ``-dark``.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    pictures: tuple[tuple[str, Callable[[], Figure | None], str], ...] = (
        ("story", lambda: draw_story(run), "no applied update is known"),
        ("learning", lambda: draw_learning([run]), "no version was evaluated"),
        ("node-loss", lambda: draw_node_losses(run), "no node reported a loss"),
        ("node-accuracy", lambda: draw_node_accuracies(run), "no node evaluated a version"),
        ("participation", lambda: draw_participation(run), "no node sent an update"),
        ("staleness", lambda: draw_staleness(run), "no applied update is known that was late"),
    )
    if run.spent:
        pictures += (("privacy", lambda: draw_budget(run), "nothing was spent under differential privacy"),)
    with styled(dark=dark):
        drawn = [_picture(folder, f"{name}{'-dark' if dark else ''}", draw, why) for name, draw, why in pictures]
    return Gallery(
        files=[file for one in drawn for file in one.files], left_out=[why for one in drawn for why in one.left_out]
    )


def _picture(folder: Path, name: str, draw: "Callable[[], Figure | None]", reason: str) -> Gallery:
    """One picture as files; whatever the numbers of others do to it costs no other picture."""
    try:
        figure = draw()
        files = [] if figure is None else save_figure(figure, folder, name)
    except FederationError:
        raise
    except Exception as error:  # noqa: BLE001 - the library fails in many ways at numbers that no axis can hold
        return Gallery(files=[], left_out=[f"{name}: it cannot be drawn: {error}"])
    return Gallery(files=files, left_out=[f"{name}: {reason}"] if figure is None else [])


def draw_runs(runs: Sequence[Run], folder: Path, name: str = "compare") -> Gallery:
    """Draw the curves of several runs into one picture.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    with styled():
        return _picture(folder, name, lambda: draw_learning(runs), "no version was evaluated")


CLASSES_MAX = 12


def draw_answer(found: Prediction, out: Path) -> None:
    """Draw input and probabilities; the file's name says whether as PNG or SVG.

    Raises:
        ConfigError: matplotlib is not installed, or the name ends otherwise.
        StorageError: The file cannot be written.
    """
    if out.suffix.lower() not in (".png", ".svg"):
        raise ConfigError("--plot", f"{out.name} must end in .png or .svg", source="command line")
    ranked = found.ranked()[:CLASSES_MAX]
    with styled():
        title = f"{found.notes.task or 'model'}, version {found.notes.version}"
        verdict = f": {ranked[0][0]} with {ranked[0][1]:.1%}" if ranked else ""
        figure = new_figure(title + verdict, width=8, height=3.6)
        seen, answer = figure.subplots(1, 2, width_ratios=[1, 1.6])
        seen.imshow(_pixels(found), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        seen.set_title("what the model saw")
        seen.set_xlabel("pixels")
        seen.set_ylabel("pixels")
        seen.grid(visible=False)
        names, shares = [name for name, _ in ranked], [share for _, share in ranked]
        answer.barh(range(len(names)), shares, color=[PALETTE[0], *[PALETTE[5]] * (len(names) - 1)][: len(names)])
        answer.set_yticks(range(len(names)), names)
        answer.invert_yaxis()
        answer.set_xlim(0, 1)
        answer.set_xlabel("probability")
        answer.set_ylabel("class")
        answer.grid(visible=False, axis="y")
        try:
            changing = "Date" if out.suffix.lower() == ".svg" else "Software"
            figure.savefig(out, dpi=DOTS_PER_INCH, metadata={changing: None})
        except OSError as error:
            raise StorageError(f"{out} cannot be written: {error}") from error


def _pixels(found: Prediction) -> NDArray[np.float32]:
    """Rows, columns and, where there are colours, channels; from 0 to 1."""
    picture = found.notes.picture
    if picture is None:
        raise ConfigError("--plot", "this model has not seen a picture", source="command line")
    values = np.asarray(found.inputs, np.float32).reshape(picture.channels, picture.height, picture.width)
    bright = np.clip(values * np.float32(picture.deviation) + np.float32(picture.mean), 0, 1)
    return np.asarray(bright[0] if picture.channels == 1 else bright.transpose(1, 2, 0), np.float32)
