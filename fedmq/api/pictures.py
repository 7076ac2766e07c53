"""Studies as a picture: the mean of each, with a band that holds all its seeds."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.artifacts.plots.canvas import (
    drawable,
    legend_columns,
    line_styles,
    new_figure,
    plain,
    styled,
    whole_ticks,
)
from coordinator.artifacts.plots.curves import label_metric
from federation.errors import ConfigError, StorageError
from fedmq.api.curve import CurvePoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_bands"]

WIDTH_IN, HEIGHT_IN = 7.0, 4.2
ENDINGS = (".png", ".svg", ".pdf")


def draw_bands(bands: Mapping[str, Sequence[CurvePoint]], metric: str, to: Path | None) -> "Figure":
    """One curve for each study.

    Args:
        bands: Points of each study, by its name.
        metric: What they are.
        to: The file to write; None writes nothing.

    Raises:
        ConfigError: matplotlib is not installed, or the file has another ending.
        StorageError: The file cannot be written.
    """
    if to is not None and to.suffix.lower() not in ENDINGS:
        raise ConfigError("to", f"{to.name} must end with {', '.join(ENDINGS)}", source="plot")
    with styled():
        figure = new_figure(f"{plain(metric)} over versions", width=WIDTH_IN, height=HEIGHT_IN)
        axes = figure.subplots()
        for (name, points), (colour, dashes) in zip(bands.items(), line_styles(len(bands)), strict=True):
            versions = [point.version for point in points]
            seeds = max(point.runs for point in points)
            label = plain(f"{name} ({seeds} seeds)" if seeds > 1 else name)
            axes.plot(versions, [drawable(point.mean) for point in points], dashes, color=colour, label=label)
            low, high = ([drawable(getattr(point, end)) for point in points] for end in ("low", "high"))
            axes.fill_between(versions, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel("model version")
        whole_ticks(axes, "x")
        label_metric(axes, metric)
        labels = axes.get_legend_handles_labels()[1]
        figure.legend(loc="outside lower center", ncols=legend_columns(labels, WIDTH_IN))
        if to is not None:
            _write(figure, to)
    _show_in_notebooks(figure)
    return figure


def _show_in_notebooks(figure: "Figure") -> None:
    """IPython asks for this method; by itself it draws only figures of pyplot, which nothing here needs."""

    def drawn() -> bytes:
        out = io.BytesIO()
        figure.savefig(out, format="png")
        return out.getvalue()

    vars(figure)["_repr_png_"] = drawn


def _write(figure: "Figure", to: Path) -> None:
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(to)
    except OSError as error:
        raise StorageError(f"{to} cannot be written: {error}") from error
