"""Federated averaging in plain PyTorch, in one process on one core: as anyone would write it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from federation.task import Parameters

__all__ = ["PlainJob", "PlainResult", "percent_right", "run_plain", "together"]

Examples = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainJob:
    """One job.

    Attributes:
        model: The network.
        initial: Its initial parameters.
        loss: The mean loss of a batch.
        parts: What each node has.
        tests: The test.
        rounds: How many.
        per_round: Nodes in each round, drawn by ``seed``; 0 is all.
        epochs: Passes over the local data.
        batch: Examples per step; 0 is all.
        learning_rate: Of local SGD.
        steps_max: Local steps at most; 0 is no limit.
        seed: Of shuffles and cohorts.
    """

    model: nn.Module
    initial: Parameters
    loss: Loss
    parts: Sequence[Examples]
    tests: Examples
    rounds: int
    per_round: int = 0
    epochs: int = 1
    batch: int = 32
    learning_rate: float = 0.01
    steps_max: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainResult:
    """Metric after each round, and what the loop took."""

    metric: list[float]
    wall_s: float
    cpu_s: float

    def last(self, count: int = 1) -> float:
        """Mean of the last rounds."""
        return float(np.mean(self.metric[-count:]))


def run_plain(job: PlainJob, metric: Callable[[Tensor, Tensor], float]) -> PlainResult:
    """All rounds; ``metric`` judges outputs and targets of the test."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    rng = np.random.default_rng(job.seed)
    state = {name: torch.from_numpy(np.array(array)) for name, array in job.initial.items()}
    found: list[float] = []
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(job.rounds):
        count = job.per_round or len(job.parts)
        state = _one_round(job, state, rng.choice(len(job.parts), count, replace=False))
        job.model.load_state_dict(state)
        with torch.no_grad():
            found.append(metric(job.model(job.tests[0]), job.tests[1]))
    return PlainResult(metric=found, wall_s=time.perf_counter() - began_s, cpu_s=time.process_time() - began_cpu_s)


def _one_round(job: PlainJob, state: dict[str, Tensor], chosen: NDArray[np.int64]) -> dict[str, Tensor]:
    total = sum(len(job.parts[index][1]) for index in chosen)
    average = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for index in chosen:
        job.model.load_state_dict(state)
        _train(job, *job.parts[index])
        for name, tensor in job.model.state_dict().items():
            average[name] += tensor * (len(job.parts[index][1]) / total)
    return average


def _train(job: PlainJob, inputs: Tensor, targets: Tensor) -> None:
    optimizer, steps = torch.optim.SGD(job.model.parameters(), lr=job.learning_rate), 0
    for _ in range(job.epochs):
        order = torch.randperm(len(inputs))
        for rows in order.split(job.batch or len(inputs)):  # type: ignore[no-untyped-call]  # torch has no annotation
            optimizer.zero_grad()
            loss = job.loss(job.model(inputs[rows]), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation
            optimizer.step()
            steps += 1
            if steps == job.steps_max:
                return


def together(job: PlainJob) -> PlainJob:
    """The same with all data in one place: one node has it."""
    inputs, targets = zip(*job.parts, strict=True)
    return replace(job, parts=[(torch.cat(inputs), torch.cat(targets))], per_round=0)


def percent_right(output: Tensor, targets: Tensor) -> float:
    """Accuracy in percent."""
    return float((output.argmax(1) == targets).float().mean() * 100)
