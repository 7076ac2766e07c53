"""Aggregates 100 updates of ResNet-18's size in a process of its own, and prints its peak memory and its speed as JSON.

    python -m benchmarks.algorithm_aggregation mean|median [codec] [updates]

The updates are Gaussian and synthetic, four different ones in turn. Memory is what the process needs above what it had
before it held a model or an update: payloads, accumulator, result. Payloads of the mean are read one at a time, as a
store gives them; a robust rule holds all of them, coded.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from coordinator.global_model.aggregation import AggregateLimits, Unusable, aggregate
from coordinator.records import Member
from coordinator.strategies.robust import make_rule
from coordinator.strategies.strategy import Averaging
from federation.types import NodeId, UpdateId
from update_codec import CodecSpec, Manifest, Role, Vectors, encode

DIFFERENT = 4


def resnet18() -> Manifest:
    """Shapes of ResNet-18: 11,689,512 parameters, 9,600 statistics, 20 counters."""
    shapes = [(64, 3, 7, 7)]
    for width, before in ((64, 64), (128, 64), (256, 128), (512, 256)):
        shapes += [(width, before, 3, 3), (width, width, 3, 3), (width, width, 3, 3), (width, width, 3, 3)]
        shapes += [(width, before, 1, 1)] if width != before else []
    arrays: dict[str, np.ndarray] = {}
    roles: dict[str, Role] = {}
    for index, shape in enumerate(shapes):
        arrays[f"conv{index:02}.weight"] = np.zeros(shape, np.float32)
        for name in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"norm{index:02}.{name}"] = np.zeros(shape[0], np.float32)
        arrays[f"norm{index:02}.num_batches_tracked"] = np.zeros((), np.int64)
        roles |= {f"norm{index:02}.{name}": Role.STATISTIC for name in ("running_mean", "running_var")}
    arrays |= {"fc.weight": np.zeros((1000, 512), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    return Manifest.of(arrays, roles)


def write_frames(folder: Path, manifest: Manifest, codec: str) -> None:
    """Encode the updates, in a child: the encoder's memory must not be counted."""
    for index in range(DIFFERENT):
        rng = np.random.default_rng(index)
        update = Vectors(
            rng.standard_normal(manifest.parameter_count, np.float32) * np.float32(0.01),
            rng.standard_normal(manifest.statistic_count, np.float32),
            np.full(manifest.counter_count, index, np.int64),
        )
        (folder / f"{index}.frame").write_bytes(encode(update, manifest, CodecSpec.parse(codec)).frame)


def memory_kb(name: str) -> int:
    """This process's memory now (VmRSS) or at its peak (VmHWM); getrusage's peak would begin with the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def measure(rule: str, folder: Path, manifest: Manifest, updates: int) -> dict[str, float]:
    """Aggregate once."""
    members = [
        Member(update=UpdateId(f"0-{index:03}"), node=NodeId(f"{index:03}"), num_examples=10 + index, staleness=0)
        for index in range(updates)
    ]
    limits = AggregateLimits(rule=None if rule == "mean" else make_rule(rule, 0.2))
    before = memory_kb("VmRSS")
    start = time.process_time()
    made = aggregate(
        members,
        lambda update: (folder / f"{int(update.split('-')[1]) % DIFFERENT}.frame").read_bytes(),
        Averaging(),
        (manifest, {}, limits),
    )
    seconds = time.process_time() - start
    if isinstance(made, Unusable):
        raise SystemExit(made.detail)
    peak = memory_kb("VmHWM") - before
    bytes_total = updates * 4.0 * manifest.parameter_count
    payload = float(np.mean([path.stat().st_size for path in folder.glob("*.frame")]))
    return {
        "peak_mb": peak * 1024 / 1e6,
        "gb_per_s": bytes_total / seconds / 1e9,
        "seconds": seconds,
        "payload_mb": payload / 1e6,
    }


def main() -> None:
    """One measurement; the frames are made by a child process, whose memory is not counted."""
    rule, codec, updates, folder = (*sys.argv[1:], *("mean", "edge", "100", "")[len(sys.argv) - 1 :])
    manifest = resnet18()
    if folder:
        write_frames(Path(folder), manifest, codec)
        return
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "benchmarks.algorithm_aggregation", rule, codec, updates, made]
        subprocess.run(command, check=True)
        sys.stdout.write(json.dumps(measure(rule, Path(made), manifest, int(updates))) + "\n")


if __name__ == "__main__":
    main()
