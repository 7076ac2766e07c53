"""Draw the rate-distortion picture of compression/README.md.

    python -m benchmarks.codec_picture [compression/rate_distortion.png]

Needs matplotlib (the extra `plot`).
"""

import sys
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from benchmarks.codec import vectors
from benchmarks.codec_sources import PEERS, SOURCES
from update_codec import CodecSpec, Manifest, encode

mpl.use("Agg")
from matplotlib import pyplot as plt

ENTRIES: Final = 400_000
STEPS: Final = (0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
COLOURS: Final = {"gaussian": "#2563eb", "laplace": "#059669", "student-t(4)": "#d97706"}


def curve(name: str) -> NDArray[np.float64]:
    """Rate of whole frames and NMSE, shape (steps, 2)."""
    values = SOURCES[name](np.random.default_rng(1), ENTRIES)
    manifest = Manifest.of({"x": values})
    points = []
    for step in STEPS:
        encoded = encode(vectors(values), manifest, CodecSpec.parse(f"deadzone(step={step})"))
        points.append((encoded.bits_per_parameter, encoded.nmse))
    return np.array(points)


def draw(target: Path) -> None:
    """Measure, draw and save."""
    figure, axes = plt.subplots(figsize=(8.4, 5.2), dpi=150)
    rates = np.geomspace(0.06, 9, 100)
    axes.plot(rates, -20 * rates * np.log10(2), color=MUTED, ls="--", lw=1.2, label="limit of a Gaussian source")
    for name, colour in COLOURS.items():
        found = curve(name)
        axes.plot(found[:, 0], 10 * np.log10(found[:, 1]), "o-", color=colour, ms=3.5, lw=1.6, label=f"ours, {name}")
    for name, rate, nmse in PEERS:
        if nmse:
            axes.plot(rate, 10 * np.log10(nmse), "x", color=INK, ms=6)
            left = name == "EDEN, 2 bits"  # its neighbour's label is on the right
            axes.annotate(
                name,
                (rate, 10 * np.log10(nmse)),
                xytext=(-6, -4) if left else (6, 3),
                ha="right" if left else "left",
                textcoords="offset points",
                fontsize=7,
                color=INK,
            )
    axes.plot([], [], "x", color=INK, ls="none", label="peers, Gaussian source")
    axes.set_xscale("log", base=2)
    ticks = (0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(0.06, 24)
    axes.set_ylim(-42, 1)
    axes.set_xlabel("bits per parameter, whole frame")
    axes.set_ylabel("NMSE of the update, dB")
    axes.grid(color=GRID, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "compression/rate_distortion.png"))
