"""What a node holds while it trains a large model, step by step, in multiples of the model.

Run it with ``python -m benchmarks.node_memory`` (``--json``, ``--width N``, ``--layers N``, ``--codec SPEC``). Linear
layers of N x N numbers are trained on a few rows and their update encoded, twice, as a node's worker does: the second
time with what the first update left. The kernel tells the largest memory of each step. What the process held before the
model, such as torch, is not counted. A model of one layer takes a tensor's room more: trained tensors leave one by one.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.table import Figure, show
from edge_node.records import Residual
from edge_node.training.adoption import manifest_of
from edge_node.training.update import difference, encode_update, taken
from federation.contract import given
from federation.protocol.messages import TrainSettings
from federation.task import Array, TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.data.whole_data import WholeData
from update_codec import CodecSpec

ROWS = 16
TIMES_MAX = 5.0


def _memory_bytes() -> tuple[int, int]:
    """The largest resident memory since the last call, and that of now."""
    sizes = dict[str, int]()
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in {"VmHWM", "VmRSS"}:
            sizes[name] = int(value.split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the largest begins anew
    return sizes["VmHWM"], sizes["VmRSS"]


@dataclass(slots=True)
class Steps:
    """What each step took at most, in multiples of the model."""

    model_bytes: int
    before: int = field(default_factory=lambda: _memory_bytes()[1])
    figures: list[Figure] = field(default_factory=list)

    def note(self, what: str) -> None:
        """A step is over."""
        most, now = ((each - self.before) / self.model_bytes for each in _memory_bytes())
        self.figures.append(Figure(what=what, measured=most, bar=TIMES_MAX, note=f"{now:.2f} at its end"))


def measure(width: int, layers: int, codec: str) -> list[Figure]:
    """All steps of two of a node's turns."""

    def rows() -> tuple[Array, Array]:
        drawn = np.random.default_rng(0).standard_normal((ROWS, width)).astype(np.float32)
        return drawn, np.zeros(ROWS, np.int64)

    task = TorchTask(
        TaskContext(node_index=0, node_count=1, data=None, device="cpu", seed=1, partition=None),
        model=lambda: nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers))),
        train_data=WholeData(rows),
        test_data=WholeData(rows),
        loss=nn.functional.cross_entropy,
    )
    steps, spec = Steps(4 * width * width * layers), CodecSpec.parse(codec)
    prepare(task)
    manifest = manifest_of(task)
    held = manifest.flatten(dict(task.initial_parameters(0)))
    steps.note("the task is built, and the model held")
    left: Residual | None = None
    for when in ("", ", with what was left") if spec.feedback else ("",):
        settings = TrainSettings(local_epochs=1, batch_size=8, learning_rate=0.01, momentum=0.0)
        trained = taken(task.train(given(task, manifest, held), settings, lambda: False).parameters)
        steps.note(f"training{when}")
        delta = difference(held, trained, manifest, norm_max=100.0)
        steps.note(f"difference{when}")
        update = encode_update(delta, manifest, spec, residual=left, norm_max=100.0, own=True)
        steps.note(f"encoding, {codec}{when}")
        left = update.change.left
        del delta, update
    return steps.figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where the bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.node_memory", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--width", type=int, default=2_500, help="of a layer: four of 2,500 are 100 MB (default: %(default)s)"
    )
    parser.add_argument("--layers", type=int, default=4, help="of the model (default: %(default)s)")
    parser.add_argument("--codec", default="edge", help="of the update (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    return (
        0
        if show(
            "memory / model", measure(options.width, options.layers, options.codec), as_json=options.json, skipped={}
        )
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
