"""What a step of DP-SGD costs beside a plain step of the same model and batch, in the same process.

Bars: J1's MLP (109,386 parameters, norms by hand) at most 2 times, the small CNN (26,010, vmap) at most 2.5 times. A
private step is the draw of the rows, the clipped sum, the noise on every entry, and the step itself.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.privacy.models import mlp, tanh_cnn
from federation.privacy.noise import noise_key
from federation.protocol.messages import TrainSettings
from federation.tasks.training.batches import Reading
from federation.tasks.training.gradients import gradients_of
from federation.tasks.training.local_data import TensorData
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.local_sgd import Sgd
from federation.tasks.training.private_sgd import ClippedSums, noisy, poisson_rows
from federation.types import ExamplePrivacy

ROWS, BATCH = 6_000, 600
PRIVACY = ExamplePrivacy(clip=1.0, noise=1.5, sampling_rate=BATCH / ROWS, epsilon=8.0, delta=1e-5)
SETTINGS = TrainSettings(batch_size=BATCH, learning_rate=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model and its bar."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    bar: float


CASES = (
    Case(name="J1's MLP", make=mlp, shape=(784,), bar=2.0),
    Case(name="small CNN", make=tanh_cnn, shape=(784,), bar=2.5),
)


def measured(case: Case, turns: int) -> tuple[float, float]:
    """Median milliseconds of a plain and of a private step, taken in turns so that a busy machine meets both."""
    torch.manual_seed(0)
    data = TensorData((torch.rand(ROWS, *case.shape), torch.randint(10, (ROWS,))), torch.device("cpu"))
    model, loss = LocalModel(case.make(), torch.device("cpu")), nn.functional.cross_entropy
    reading, sums, sgd = Reading.of(model.module, loss), ClippedSums(model, loss), Sgd(model.trainable, SETTINGS)
    key, order = bytes(32), torch.randperm(ROWS)

    def plain(turn: int) -> None:
        rows = order.roll(turn)[:BATCH]
        _, batch_loss = reading(next(data.rows(rows).in_order(BATCH)))
        sgd.step(gradients_of(batch_loss, model.trainable, model.trainable), model.trainable)

    def private(turn: int) -> None:
        rows = poisson_rows(noise_key(key, "rows", str(turn)), ROWS, PRIVACY.sampling_rate)
        total = sums.of(data, rows, PRIVACY.clip)
        sgd.step(noisy(total, noise_key(key, "noise", str(turn)), PRIVACY, BATCH), model.trainable)

    times: dict[str, list[float]] = {"plain": [], "private": []}
    for turn in range(turns):
        for name, step in (("plain", plain), ("private", private)):
            began = time.thread_time()
            step(turn)
            times[name].append(1e3 * (time.thread_time() - began))
    return statistics.median(times["plain"][2:]), statistics.median(times["private"][2:])


def main() -> int:
    """Print a line for each model; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=30)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    missed = 0
    for case in CASES:
        plain, private = measured(case, turns)
        entries = sum(each.numel() for each in case.make().parameters())
        held = private / plain <= case.bar
        missed += not held
        verdict = "held" if held else "MISSED"
        print(
            f"{case.name:10} {entries:>7,} parameters, batch {BATCH}: plain {plain:6.1f} ms, private {private:6.1f} ms "
            f"of one thread's time, {private / plain:.2f} times (bar {case.bar}: {verdict})",
            flush=True,
        )
    return int(missed > 0)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
