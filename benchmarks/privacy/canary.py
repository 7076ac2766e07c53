"""A threshold attack on 1,000 private trainings: does the row that was planted show more than epsilon allows?

Half of the trainings have one row more, the canary, whose gradient is as long as the clip allows and points where no
other row does. The attack sees the noisy model and guesses whether the canary was there, by how far the model has gone
in the canary's direction. From its errors follows a lower bound of epsilon at 95 % (Clopper and Pearson, each error
rate at 97.5 %; arXiv 2006.07709): it must be below the epsilon that the accountant claims. With the noise taken away
the same attack must find more than that, or it would find nothing in any case.
"""

import argparse
import math
import os
import sys

import torch
from torch import nn

from federation.privacy.budget import epsilon_of, turn_of
from federation.protocol.messages import TrainSettings
from federation.tasks.training.local_data import TensorData
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.local_sgd import TrainingPlan
from federation.tasks.training.private_sgd import train_privately
from federation.types import ExamplePrivacy

ROWS, FEATURES, DELTA = 100, 8, 1e-5
PRIVACY = ExamplePrivacy(clip=1.0, noise=2.0, sampling_rate=0.5, epsilon=100.0, delta=DELTA)
SETTINGS = TrainSettings(batch_size=50, learning_rate=0.1, local_epochs=5, privacy=PRIVACY)
REMOVED = 1e-3
"""What is left of the noise where it is taken away."""


def data(*, canary: bool) -> TensorData:
    """Rows along all axes but the last; the canary lies on the last one, and is large."""
    made = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, FEATURES, generator=made)
    inputs[:, -1] = 0
    targets = inputs[:, :1].clone()
    if canary:
        row = torch.zeros(1, FEATURES)
        row[0, -1] = 100.0
        inputs, targets = torch.cat([inputs, row]), torch.cat([targets, torch.full((1, 1), 1e6)])
    return TensorData((inputs, targets), torch.device("cpu"))


def score(rows: TensorData, noise: float) -> float:
    """How far one training has gone in the canary's direction."""
    torch.manual_seed(0)
    model = LocalModel(nn.Linear(FEATURES, 1, bias=False), torch.device("cpu"))
    settings = TrainSettings(
        batch_size=SETTINGS.batch_size,
        learning_rate=SETTINGS.learning_rate,
        local_epochs=SETTINGS.local_epochs,
        privacy=ExamplePrivacy(clip=1.0, noise=noise, sampling_rate=0.5, epsilon=100.0, delta=DELTA),
    )
    before = float(model.trainable[0].detach()[0, -1])
    train_privately(
        model, nn.functional.mse_loss, rows, TrainingPlan(settings=settings, seed=0, stop=bool), os.urandom(32)
    )
    return float(model.trainable[0].detach()[0, -1]) - before


def upper_rate(errors: int, count: int, confidence: float = 0.975) -> float:
    """The largest rate with which so few errors are not rarer than 1 - confidence (Clopper and Pearson)."""
    low, high = errors / count, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        logs = [
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(max(middle, 1e-300))
            + (count - k) * math.log1p(-min(middle, 1 - 1e-16))
            for k in range(errors + 1)
        ]
        low, high = (middle, high) if sum(map(math.exp, logs)) > 1 - confidence else (low, middle)
    return high


def lower_bound(without: list[float], present: list[float]) -> float:
    """The epsilon that the attack's errors prove: a threshold chosen on one half, errors counted on the other."""
    half = len(without) // 2

    def proven(threshold: float, out: list[float], inside: list[float]) -> float:
        false = upper_rate(sum(value > threshold for value in out), len(out))
        missed = upper_rate(sum(value <= threshold for value in inside), len(inside))
        both = [(1 - missed - DELTA) / false, (1 - false - DELTA) / missed]
        return max((math.log(ratio) for ratio in both if ratio > 0), default=0.0)

    chosen = max(
        sorted(without[:half] + present[:half])[::5], key=lambda at: proven(at, without[:half], present[:half])
    )
    return max(0.0, proven(chosen, without[half:], present[half:]))


def main() -> int:
    """Print both bounds beside the claim; 1 when the claim is broken, or the attack finds nothing without noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs // 2
    torch.set_num_threads(1)
    claim = epsilon_of([turn_of(SETTINGS, PRIVACY)], DELTA)
    rows = {canary: data(canary=canary) for canary in (False, True)}
    found = {}
    for name, noise in (("with its noise", PRIVACY.noise), ("without noise", REMOVED)):
        scores = {canary: [score(rows[canary], noise) for _ in range(runs)] for canary in (False, True)}
        found[name] = lower_bound(scores[False], scores[True])
        print(
            f"canary, {2 * runs} trainings {name}: epsilon is at least {found[name]:.3f}; claimed {claim:.3f}",
            flush=True,
        )
    held = found["with its noise"] < claim < found["without noise"]
    print("the claim holds, and the attack works" if held else "MISSED")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
