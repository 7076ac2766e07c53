"""All pictures of a run, as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.artifacts.plots.canvas import save_figure, styled
from coordinator.artifacts.plots.curves import draw_learning
from coordinator.artifacts.plots.nodes import draw_node_accuracies, draw_node_losses, draw_participation, draw_staleness
from coordinator.artifacts.plots.run import Run

__all__ = ["Gallery", "draw_run", "draw_runs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """What was drawn.

    Attributes:
        files: PNG and SVG files.
        left_out: Pictures for which the run has no data, each with the reason.
    """

    files: Sequence[Path]
    left_out: Sequence[str]


def draw_run(run: Run, folder: Path) -> Gallery:
    """Draw everything about one run.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    files: list[Path] = []
    left_out: list[str] = []
    with styled():
        for name, figure, reason in (
            ("learning", draw_learning([run]), "no version was evaluated"),
            ("node-loss", draw_node_losses(run), "no node reported a loss"),
            ("node-accuracy", draw_node_accuracies(run), "no node evaluated a version"),
            ("participation", draw_participation(run), "no node sent an update"),
            ("staleness", draw_staleness(run), "no applied update is known"),
        ):
            if figure is None:
                left_out.append(f"{name}: {reason}")
            else:
                files += save_figure(figure, folder, name)
    return Gallery(files=files, left_out=left_out)


def draw_runs(runs: Sequence[Run], folder: Path, name: str = "compare") -> Gallery:
    """Draw the curves of several runs into one picture.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    with styled():
        figure = draw_learning(runs)
        if figure is None:
            return Gallery(files=[], left_out=[f"{name}: no version was evaluated"])
        return Gallery(files=save_figure(figure, folder, name), left_out=[])
