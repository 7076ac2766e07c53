"""Figures that look alike: one palette that colour-blind people can tell apart, one style, PNG and SVG files."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from federation.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "GREY",
    "PALETTE",
    "STATUS_STYLES",
    "bytes_scale",
    "drawable",
    "legend_columns",
    "line_styles",
    "new_figure",
    "plain",
    "require_matplotlib",
    "save_figure",
    "styled",
    "time_scale",
    "whole_ticks",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours without the yellow, which is too pale for a line on white."""

GREY = "#8A8A8A"

DASHES = ("-", "--", ":", "-.")

STATUS_STYLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "applied": ("#0072B2", ""),
        "stale": ("#E69F00", "////"),
        "refused": ("#D55E00", "xxxx"),
        "waiting": ("#BBBBBB", ""),
    }
)
"""Colour and hatch of what became of an update: they differ in grey print too."""

DOTS_PER_INCH = 200
"""Twice what a screen shows in the same size: sharp on a dense one."""

DRAWN_MAX = 1e30
"""Anything larger is no loss that somebody compares, and its axis would overflow."""

STYLE: Mapping[Any, Any] = MappingProxyType(
    {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "figure.titlesize": 13,
        "hatch.linewidth": 0.6,
        "svg.hashsalt": "fedmq",
        "svg.fonttype": "none",
    }
)
"""Same data, same bytes: the salt and the missing date see to it."""

DARK: Mapping[Any, Any] = MappingProxyType(
    {
        "figure.facecolor": "#14171a",
        "axes.facecolor": "#14171a",
        "savefig.facecolor": "#14171a",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#e8eaed"),
        "grid.color": "#a5acb5",
        "hatch.color": "#14171a",
    }
)
"""Beside `STYLE` on a dark page."""

_TIMES = ((3 * 3600.0, 3600.0, "h"), (180.0, 60.0, "min"), (0.0, 1.0, "s"))
_BYTES = ((2**30, 2**30, "GiB"), (2**20, 2**20, "MiB"), (2**10, 2**10, "KiB"), (0, 1, "bytes"))


def require_matplotlib() -> None:
    """Ask before the work is done whether it can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415 - an extra, and half a second
    except ModuleNotFoundError as error:
        missing = f"pictures need {error.name}: pip install 'fedmq[plot]'"
        raise ConfigError("plot", missing, source="this environment") from error


@contextmanager
def styled(*, dark: bool = False) -> Iterator[None]:
    """The project's style, inside; it must hold while a figure is made and while it is saved.

    Args:
        dark: For a dark page.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib as mpl  # noqa: PLC0415 - as above

    with mpl.rc_context({**STYLE, **(DARK if dark else {})}):
        yield


def new_figure(title: str, *, width: float, height: float) -> "Figure":
    """An empty figure whose parts make room for each other; sizes are in inches."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(plain(title))
    return figure


def save_figure(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg``.

    Raises:
        StorageError: The folder cannot be written.
    """
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # A name may have letters that the font has not.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(paths[0], dpi=DOTS_PER_INCH, metadata={"Software": None})
            figure.set_layout_engine("none")  # all is in its place now, and stays there in the other file
            figure.savefig(paths[1], metadata={"Date": None})
    except OSError as error:
        raise StorageError(f"pictures cannot be written to {folder}: {error}") from error
    return paths


def drawable(value: float) -> float:
    """A number as it is drawn: NaN, which is a gap, where no axis could hold it; zero where it is next to nothing."""
    if not abs(value) <= DRAWN_MAX:
        return nan
    return value if abs(value) >= 1 / DRAWN_MAX else 0.0


def plain(text: str) -> str:
    """A text of others as it is drawn: no formula, no control characters, and no name that a legend leaves out."""
    shown = "".join(character if character.isprintable() else "�" for character in text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def line_styles(count: int) -> list[tuple[str, str]]:
    """Colour and dashes for so many lines: neighbours differ in both, and a colour comes again with other dashes."""
    # There is no number but 1 that divides how many there are of both: so each pair comes before the first comes again.
    return list(islice(zip(cycle(PALETTE), cycle(DASHES), strict=False), count))


def time_scale(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits this length, and the unit."""
    return next((unit_s, name) for least, unit_s, name in _TIMES if seconds >= least)


def bytes_scale(count: float) -> tuple[float, str]:
    """Bytes in the unit that suits this amount, and the unit."""
    return next((float(unit), name) for least, unit, name in _BYTES if count >= least)


def whole_ticks(axes: "Axes", *directions: str) -> None:
    """Only whole numbers beside these axes (``x``, ``y``): they count something."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as above

    for direction in directions:
        axis = axes.xaxis if direction == "x" else axes.yaxis
        axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many entries of a legend fit beside each other below a figure of this width in inches."""
    longest_in = max((len(label) for label in labels), default=1) * 0.085 + 0.7
    return max(1, min(len(labels), int(width / longest_in)))
