"""``coordinator privacy``: what a run has promised each row of the nodes' data, in words that can be filed."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coordinator.records import NodeSpent
from coordinator.storage.read_only import ReadOnlyStore
from federation.privacy.budget import epsilon_of
from federation.types import NodeId, RunId

__all__ = [
    "ADJACENCY",
    "NOT_PROMISED",
    "UNIT",
    "PrivacyReport",
    "privacy_line",
    "privacy_report",
    "privacy_row",
    "read_privacy",
    "show_privacy",
]

UNIT = "examples"
"""What is protected: one row of a node's data."""

ADJACENCY = "add or remove one row"
"""Which two data sets are compared."""

NOT_PROMISED = (
    "A person or a machine with many rows is protected less: each row is protected by itself.",
    "What people conclude from the model about others like them is no secret of a row, and is not hidden.",
    "How long a training took, and whether a node took part, is not hidden.",
    "The nodes' owners must run the software as it is: whoever changes it can send anything.",
    "Other runs on the same data, and whatever else was published of it, add to what is stated here.",
    "The arithmetic's own error is bounded beside delta; decision record 40 has the argument.",
)


class Ledgers(Protocol):
    """What is read of a run's store."""

    @property
    def run(self) -> RunId:
        """Which run."""

    def spent(self) -> Mapping[NodeId, NodeSpent]:
        """What nodes have spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyReport:
    """What a run has spent.

    Attributes:
        run: Which run.
        spent: What is known of each node, by name.
        epsilons: Each node's epsilon at its delta.
    """

    run: RunId
    spent: Mapping[NodeId, NodeSpent]
    epsilons: dict[NodeId, float]

    @property
    def largest(self) -> float:
        """The largest epsilon of any node."""
        return max(self.epsilons.values(), default=0.0)


def read_privacy(folder: Path) -> PrivacyReport | None:
    """What a run has spent; None where no update was made with differential privacy.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        return privacy_report(store)


def privacy_report(store: Ledgers) -> PrivacyReport | None:
    """The same of a store that is open.

    Raises:
        StorageError: It cannot be read.
    """
    spent, run = store.spent(), store.run
    if not spent:
        return None
    epsilons = {node: epsilon_of(one.steps, one.privacy.delta) for node, one in spent.items()}
    return PrivacyReport(run=run, spent=spent, epsilons=epsilons)


def privacy_row(report: PrivacyReport | None) -> dict[str, object] | None:
    """The same as plain data, always with unit, adjacency and delta."""
    if report is None:
        return None
    nodes = {node: _node_row(one, report.epsilons[node]) for node, one in report.spent.items()}
    return {"unit": UNIT, "adjacency": ADJACENCY, "largest_epsilon": report.largest, "nodes": nodes}


def _node_row(one: NodeSpent, epsilon: float) -> dict[str, object]:
    asked = one.privacy
    steps = [{"sampling_rate": each.sampling_rate, "noise": each.noise, "steps": each.steps} for each in one.steps]
    return {"epsilon": epsilon, "delta": asked.delta, "budget": asked.epsilon, "clip": asked.clip, "spent": steps}


def privacy_line(report: PrivacyReport | None) -> str:
    """The same in one line; nothing where nothing was spent."""
    if report is None:
        return ""
    one = next(iter(report.spent.values())).privacy
    nodes = f"{len(report.spent)} {'node' if len(report.spent) == 1 else 'nodes'}"
    return (
        f"differential privacy: largest epsilon {report.largest:.3f} of {one.epsilon:g} (delta {one.delta:g}, "
        f"{nodes}, unit {UNIT}, {ADJACENCY})"
    )


def show_privacy(folder: Path, *, as_json: bool = False) -> None:
    """Print the statement.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    report = read_privacy(folder)
    if as_json:
        sys.stdout.write(json.dumps({"privacy": privacy_row(report), "not_promised": list(NOT_PROMISED)}) + "\n")
    else:
        sys.stdout.write("\n".join(_statement(report)) + "\n")


def _statement(report: PrivacyReport | None) -> list[str]:
    if report is None:
        return ["No update of this run was made with differential privacy: nothing is promised of any row."]
    largest = max(report.epsilons, key=lambda node: report.epsilons[node])
    delta = max(one.privacy.delta for one in report.spent.values())
    return [
        f"Differential privacy of run {report.run}",
        "",
        "What was protected: each single row of the training data of each node (DP-SGD with noise on the node).",
        f"Which data sets are compared: two that differ in one row ({ADJACENCY}).",
        f"Largest epsilon of any node: {report.largest:.4f} at delta {delta:g} ({largest}).",
        "That is: whatever left a node in this run, all updates together, is at most e^epsilon times as likely with a",
        "row as without it, up to a probability of delta. Rows were drawn in secret for each step (Poisson sampling).",
        "",
        *(_node_line(node, one, report.epsilons[node]) for node, one in report.spent.items()),
        "",
        "What is not promised:",
        *(f"- {line}" for line in NOT_PROMISED),
    ]


def _node_line(node: NodeId, one: NodeSpent, epsilon: float) -> str:
    steps = ", ".join(f"{each.steps:,} steps (q {each.sampling_rate:g}, noise {each.noise:g})" for each in one.steps)
    budget = f"budget {one.privacy.epsilon:g}"
    return f"{node}: epsilon {epsilon:.4f} at delta {one.privacy.delta:g}, {budget}; {steps}; clip {one.privacy.clip:g}"
