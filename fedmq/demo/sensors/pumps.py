"""The readings that are replayed: pumps of the Skoltech Anomaly Benchmark, or simulated ones where it is not there.

SKAB (Katser and Kozitsin, 2020; GPL-3.0, so that no part of it is in this package) is a loop of water with a pump,
eight sensors, one row a second: first normal running, then a valve is closed, or water leaks, or the pump cavitates.
A simulated pump has the same columns, noise of each sensor, and one fault; the view says which of both is shown.
"""

import csv
import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigError

__all__ = ["COLUMNS", "NORMAL_ROWS", "Pump", "load_pumps"]

COLUMNS = ("vibration_1", "vibration_2", "current", "pressure", "temperature", "thermocouple", "voltage", "flow")
"""What we call the benchmark's eight sensors, in the order of its files."""

NORMAL_ROWS = 400
"""The benchmark's training rows: the machine is known to be well."""

VARIABLE = "FEDMQ_DATA"
ROWS_MIN = NORMAL_ROWS + 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Pump:
    """One device.

    Attributes:
        name: The node's.
        source: Where the readings are from.
        values: float32 (T, 8).
        faulty: Whether the machine is faulty in each row, bool (T,).
    """

    name: str
    source: str
    values: NDArray[np.float32]
    faulty: NDArray[np.bool]


def load_pumps(count: int, folder: Path | None = None) -> Sequence[Pump]:
    """So many pumps: real ones where the benchmark is there.

    Args:
        count: How many.
        folder: Of the benchmark; None looks into the folder that ``FEDMQ_DATA`` names, and beside this one.

    Raises:
        ConfigError: The folder that was named has no readings.
    """
    files = _files(folder)
    if folder is not None and not files:
        raise ConfigError("--data", f"{folder} has no valve1/*.csv or *.csv.gz", source="command line")
    found: list[Pump] = []
    for path in files:
        values, faulty = _read(path)
        if len(values) >= ROWS_MIN and faulty[NORMAL_ROWS:].any():
            source = f"{path.parent.name}/{path.name.split('.')[0]}"
            found.append(Pump(name=f"pump-{len(found) + 1:02}", source=source, values=values, faulty=faulty))
        if len(found) == count:
            return found
    return [*found, *(_simulated(number) for number in range(len(found) + 1, count + 1))]


def _files(folder: Path | None) -> list[Path]:
    places = [folder] if folder is not None else [Path(os.environ.get(VARIABLE, "../shared/data")) / "skab"]
    # One of each kind after the other, so that a few pumps show many faults.
    kinds = [sorted(place.glob(f"{kind}/*.csv*")) for place in places for kind in ("valve1", "valve2", "other")]
    longest = max(map(len, kinds), default=0)
    return [files[turn] for turn in range(longest) for files in kinds if turn < len(files)]


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool]]:
    body = path.read_bytes()
    text = (gzip.decompress(body) if path.suffix == ".gz" else body).decode()
    rows = [[float(cell) for cell in row[1:]] for row in list(csv.reader(text.splitlines(), delimiter=";"))[1:]]
    table = np.array(rows, np.float32)
    return table[:, : len(COLUMNS)], table[:, len(COLUMNS)] > 0


def _simulated(number: int) -> Pump:
    """A loop at its own level, with slow drift, sensor noise, and from row 600 to 950 a valve that is half closed."""
    rng, rows = np.random.default_rng(number), 1_100
    level = np.array([0.03, 0.04, 1.3, 0.1, 75.0, 25.0, 230.0, 32.0]) * (1 + 0.1 * rng.normal(size=8))
    noise = np.array([0.002, 0.002, 0.15, 0.25, 0.3, 0.05, 4.0, 0.4])
    slow = np.cumsum(rng.normal(size=(rows, 8)), axis=0) * noise * 0.02
    values = level + slow + rng.normal(size=(rows, 8)) * noise
    faulty = (np.arange(rows) >= 600) & (np.arange(rows) < 950)
    ramp = np.minimum(1.0, np.maximum(0.0, (np.arange(rows) - 600) / 40.0)) * faulty
    values += ramp[:, None] * np.array([0.012, 0.01, 0.4, 0.8, 0.0, 0.0, 0.0, -4.0])
    return Pump(name=f"pump-{number:02}", source="simulated", values=values.astype(np.float32), faulty=faulty)
