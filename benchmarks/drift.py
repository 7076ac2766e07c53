"""A sensor is replaced by one of another scale: after how many versions scores are right, with and without live data.

Run it with ``python -m benchmarks.drift`` (``--json``). Four devices share SKAB's experiment without a fault, each a
quarter of it, and learn an autoencoder together (FedAvg). Each version has 60 more rows; a device keeps the newest 600.
After version 10 one sensor of every device says three times what it said. The pump is as well as before, so each window
above the device's own threshold is a false alarm. With live data each round trains on what is there then; without, on
what was there at the start, as a task does that reads its data once.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.readings.live import Readings
from federation.readings.windows import WindowSpec, cut_windows
from federation.task import Array, Parameters, TaskContext
from federation.tasks.data.tables import read_columns
from federation.tasks.registry import default_settings, load_task
from federation.tasks.sensors.task import SensorTask

COLUMNS = ("Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple", "Voltage")
REPLACED, FACTOR = COLUMNS.index("Thermocouple"), 3.0
NODES, KEPT, NEW, WINDOW = 4, 600, 60, 20
CHANGE_AT, VERSIONS = 10, 40
RIGHT_MAX = 0.05
"""Share of false alarms at which scores count as right: five times what the threshold promises."""

TASK = "sensors/autoencoder"


@dataclass(slots=True)
class Pump:
    """One device: its rows as they come, and which of them its task may see."""

    rows: NDArray[np.float32]
    is_live: bool
    end: int = KEPT

    def read(self, columns: Sequence[str], *, since: float | None = None) -> Readings:  # noqa: ARG002 - the task asks for all
        """The newest rows; without live data those of the start."""
        begin = self.end - KEPT if self.is_live else 0
        shown = self.rows[begin : begin + KEPT]
        count, wide = shown.shape
        times = np.repeat(np.arange(begin, begin + count, dtype=np.float64), wide)
        return Readings(tuple(columns), times, np.tile(np.arange(wide), count), shown.ravel().astype(np.float64))

    def uses(self, spec: WindowSpec, scaler: Mapping[str, tuple[float, float]] | None = None) -> None:
        """Nothing is counted here."""

    def newest(self) -> NDArray[np.float32]:
        """Windows over the rows that came last."""
        return cut_windows(self.rows[self.end - NEW - WINDOW : self.end], WINDOW)[1]


def measure(folder: Path, *, is_live: bool) -> list[float]:
    """Share of false alarms among the newest windows of all devices, by version, before each was trained on."""
    pumps = [Pump(rows, is_live) for rows in _pumps(folder)]
    arguments = {"columns": list(COLUMNS), "window": WINDOW, "model": "dense", "holdout": 0.0}
    tasks = [_task(pump, index, arguments) for index, pump in enumerate(pumps)]
    settings = replace(default_settings(TASK), local_epochs=3, batch_size=32)
    parameters: Parameters = tasks[0].initial_parameters(1)
    shares = []
    for version in range(1, VERSIONS + 1):
        results = [task.train(parameters, replace(settings, seed=version), bool).parameters for task in tasks]
        parameters = {name: _mean([each[name] for each in results]) for name in parameters}
        alarms = []
        for task, pump in zip(tasks, pumps, strict=True):
            pump.end += NEW
            if version >= CHANGE_AT:
                pump.rows[pump.end - NEW : pump.end, REPLACED] *= FACTOR
            rule = task.score_rule(parameters)
            alarms.append(task.score(parameters, pump.newest(), rule) > (rule.threshold or 0.0))
        shares.append(float(np.concatenate(alarms).mean()))
    return shares


def _mean(arrays: Sequence[Array]) -> Array:
    return np.asarray(np.stack([each.astype(np.float64) for each in arrays]).mean(axis=0), np.float32)


def _task(pump: Pump, index: int, arguments: Mapping[str, object]) -> SensorTask:
    context = TaskContext(node_index=index, node_count=NODES, device="cpu", arguments=arguments, readings=pump)
    task = load_task(TASK)(context)
    if not isinstance(task, SensorTask):
        raise TypeError(TASK)
    return task


def _pumps(folder: Path) -> list[NDArray[np.float32]]:
    found, _ = read_columns(folder / "skab" / "anomaly-free" / "anomaly-free.csv.gz", COLUMNS, (), sep=";", decimal=".")
    rows = np.stack([found[name] for name in COLUMNS], axis=1)
    each = KEPT + VERSIONS * NEW
    step = (len(rows) - each) // (NODES - 1)
    return [rows[index * step : index * step + each].copy() for index in range(NODES)]


def versions_until_right(shares: Sequence[float]) -> int | None:
    """Versions after the change until false alarms are rare, and stay so for three; None where they never are."""
    after = shares[CHANGE_AT - 1 :]
    return next((n for n in range(len(after) - 2) if max(after[n : n + 3]) <= RIGHT_MAX), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where live data does not bring the scores back."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    folder = Path(os.environ.get("FEDMQ_DATA", "../shared/data"))
    found = {name: measure(folder, is_live=is_live) for name, is_live in (("live", True), ("once", False))}
    until = {name: versions_until_right(shares) for name, shares in found.items()}
    if options.json:
        print(json.dumps({"false_alarms": found, "versions_until_right": until}, indent=2))
        return 0 if until["live"] is not None else 1
    print(f"share of false alarms by version; the sensor changes after version {CHANGE_AT}")
    for name, said in (("live", "each round on what is there"), ("once", "on what was there at the start")):
        print(f"{said:32} {' '.join(f'{100 * share:3.0f}' for share in found[name])}")
        print(f"{'':32} right again after {'no' if until[name] is None else until[name]} versions")
    return 0 if until["live"] is not None else 1


if __name__ == "__main__":
    sys.exit(main())
