"""Job J1 in plain PyTorch, in one process on one core: the yardstick of the federation's loop time and accuracy.

Ten parts of 6,000 MNIST images; in each of five rounds five of them train one epoch (SGD 0.01, batches of 32) from
the same model; the results are averaged by their number of examples, and the average is tested on 10,000 images.

    python -m benchmarks.reference_j1 --data DIR [--rounds 5] [--seed 0]

Prints ``{"wall_s": seconds of the loop, "accuracy": [percent after each round]}``; reading the data and loading
torch are not timed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from federation.tasks.builtin.mnist import mnist, scaled

NODES = 10
PER_ROUND = 5
BATCH = 32
LEARNING_RATE = 0.01

State = dict[str, Tensor]
Examples = tuple[Tensor, Tensor]


class Perceptron(nn.Module):
    """784-128-64-10."""

    def __init__(self) -> None:
        """Draw the initial weights from torch's global generator."""
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 128), nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (n, 10)."""
        hidden = functional.relu(self.fc2(functional.relu(self.fc1(images.flatten(1)))))
        logits: Tensor = self.fc3(hidden)
        return logits


def examples(data: Path, *, train: bool) -> Examples:
    """Images in [-1, 1] and labels."""
    images, labels = mnist(data, train=train)
    return torch.from_numpy(scaled(images, mean=0.5, deviation=0.5)), torch.from_numpy(labels)


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One epoch as anyone would write it."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for batch in torch.randperm(len(images)).split(BATCH):  # type: ignore[no-untyped-call]  # torch has no annotation
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation
        optimizer.step()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent of right answers."""
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean() * 100)


def one_round(model: nn.Module, state: State, parts: list[Examples]) -> State:
    """The average of what each part makes of ``state``, weighted by its number of examples."""
    total = sum(len(labels) for _, labels in parts)
    average = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for images, labels in parts:
        model.load_state_dict(state)
        train(model, images, labels)
        for name, tensor in model.state_dict().items():
            average[name] += tensor * (len(labels) / total)
    return average


def run(data: Path, *, rounds: int, seed: int) -> dict[str, float | list[float]]:
    """All rounds; the loop is timed from the first choice of nodes to the last test."""
    torch.set_num_threads(1)
    images, labels = examples(data, train=True)
    # torch imports half of itself at the first step of its first optimizer (0.8 s): no part of the job.
    train(Perceptron(), images[:BATCH], labels[:BATCH])
    torch.manual_seed(seed)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).view(NODES, -1)
    parts = [(images[rows], labels[rows]) for rows in order]
    tests = examples(data, train=False)
    rng = np.random.default_rng(seed)
    model = Perceptron()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accuracies: list[float] = []
    began = time.perf_counter()
    for _ in range(rounds):
        chosen = rng.choice(NODES, PER_ROUND, replace=False)
        state = one_round(model, state, [parts[index] for index in chosen])
        model.load_state_dict(state)
        accuracies.append(round(accuracy(model, *tests), 2))
    return {"wall_s": round(time.perf_counter() - began, 4), "accuracy": accuracies}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Job J1 in plain PyTorch, in one process on one core.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the MNIST files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(run(options.data, rounds=options.rounds, seed=options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
