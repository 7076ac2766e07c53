"""``coordinator privacy``: what a run has promised rows, nodes and messages, in words that can be filed."""

import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from coordinator.monitoring.masked_sums import NOT_PROMISED_BY_MASKS, MaskedVersions, masked_said, masked_versions
from coordinator.monitoring.noised_sums import (
    NodesReport,
    nodes_report,
    nodes_row,
    nodes_said,
    not_promised_of_nodes,
)
from coordinator.monitoring.state_files import read_sealed
from coordinator.records import NodeSpent
from coordinator.storage.read_only import ReadOnlyStore
from federation.types import ModelVersion, NodeId, RunId
from federation.units import counted

__all__ = [
    "ADJACENCY",
    "NOT_PROMISED",
    "UNIT",
    "WIDTH",
    "Covered",
    "PrivacyReport",
    "covered",
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
    "Updates that were made while this was switched off, in the same run, are not covered.",
    "A machine that is enrolled under another name begins another account: what both say is of the same data.",
    "The arithmetic's own error is bounded beside delta; decision record 40 has the argument.",
)


SIMULATED = (
    "A simulation has made this run: no device took part, and nothing was sent. The numbers tell what a real run of "
    "the same settings would spend."
)
"""What is said of such a run before all else."""


WIDTH = 80
"""Columns of the statement."""


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

    @property
    def delta(self) -> float:
        """The largest delta of any node: at this one no node's epsilon is above the largest."""
        return max(one.privacy.delta for one in self.spent.values())

    @property
    def budget(self) -> float:
        """Most that any node was asked to spend."""
        return max(one.privacy.epsilon for one in self.spent.values())


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
    # Imported here: most runs have no noise, and it computes with arrays.
    from federation.privacy.budget import epsilon_of  # noqa: PLC0415

    epsilons = {node: epsilon_of(one.steps, one.privacy.delta) for node, one in spent.items()}
    return PrivacyReport(run=run, spent=spent, epsilons=epsilons)


def privacy_row(report: PrivacyReport | None) -> dict[str, object] | None:
    """The same as plain data, always with unit, adjacency and delta."""
    if report is None:
        return None
    nodes = {node: _node_row(one, report.epsilons[node]) for node, one in report.spent.items()}
    return {
        "unit": UNIT,
        "adjacency": ADJACENCY,
        "largest_epsilon": report.largest,
        "delta": report.delta,
        "nodes": nodes,
    }


def _node_row(one: NodeSpent, epsilon: float) -> dict[str, object]:
    asked = one.privacy
    steps = [{"sampling_rate": each.sampling_rate, "noise": each.noise, "steps": each.steps} for each in one.steps]
    return {"epsilon": epsilon, "delta": asked.delta, "budget": asked.epsilon, "clip": asked.clip, "spent": steps}


def privacy_line(report: PrivacyReport | None) -> str:
    """The same in one line; nothing where nothing was spent."""
    if report is None:
        return ""
    nodes = counted(len(report.spent), "node")
    return (
        f"differential privacy: largest epsilon {report.largest:.3f} of {report.budget:g} (delta {report.delta:g}, "
        f"{nodes}, unit {UNIT}, {ADJACENCY})"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What a statement is of.

    Attributes:
        run: Which run.
        newest: Its newest version; None where there is none yet.
        bare: Versions after the initial one to which no noise was added, though others have some.
        unprotected: Nodes that have sent updates, and of which no account is known, though others have one.
        simulated: Whether a simulation has made it.
    """

    run: RunId
    newest: ModelVersion | None
    bare: int
    unprotected: tuple[NodeId, ...]
    simulated: bool = False


def covered(store: ReadOnlyStore) -> Covered:
    """What the statement of a run is of.

    Raises:
        StorageError: The store cannot be read.
    """
    noised, spent = {release.version for release in store.releases()}, store.spent()
    versions = [row.record.version for row in store.history()]
    senders = (one.node for one in store.participation() if one.statuses) if spent else ()
    return Covered(
        run=store.run,
        newest=max(versions, default=None),
        bare=sum(version > 0 and version not in noised for version in versions) if noised else 0,
        unprotected=tuple(sorted(node for node in senders if node not in spent)),
        simulated=store.simulated(),
    )


def show_privacy(folder: Path, *, as_json: bool = False, now: datetime | None = None) -> None:
    """Print the statement.

    Args:
        folder: The coordinator's state folder.
        as_json: As data.
        now: When it is made; None is this moment.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    made = (datetime.now(UTC) if now is None else now).strftime("%Y-%m-%d %H:%M UTC")
    with ReadOnlyStore(folder) as store:
        report, nodes, masked = privacy_report(store), nodes_report(store), masked_versions(store)
        what = covered(store)
    if as_json:
        row = {
            "run": what.run,
            "version": what.newest,
            "made": made,
            "simulated": what.simulated,
            "versions_without_noise": what.bare,
            "nodes_without_account": list(what.unprotected),
            "privacy": privacy_row(report),
            "nodes_privacy": nodes_row(nodes),
            "masked": None if masked is None else asdict(masked),
            "sealed": read_sealed(folder),
            "not_promised": _not_promised(report, nodes, masked),
        }
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        lines = [*_head_said(what, made), *_statement(report, nodes, masked, folder, what)]
        sys.stdout.write("\n".join(_wrapped(lines)) + "\n")


def _wrapped(lines: list[str]) -> list[str]:
    """Each line within `WIDTH`; what follows the first row of an item is set in."""
    rows = []
    for line in lines:
        indent = "  " if line.startswith("- ") else ""
        rows += textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return rows


def _head_said(what: Covered, made: str) -> list[str]:
    newest = "no version yet" if what.newest is None else f"versions 0 to {what.newest}"
    return [
        f"Statement on privacy: run {what.run}, {newest}",
        f"Made on {made} from the coordinator's own records.",
        "It counts what had reached them: an update that nobody has taken yet is in its node's own account.",
        *([SIMULATED] if what.simulated else []),
        "",
    ]


def _not_promised(report: PrivacyReport | None, nodes: NodesReport | None, masked: MaskedVersions | None) -> list[str]:
    return [
        *(NOT_PROMISED if report is not None else ()),
        *not_promised_of_nodes(nodes),
        *(NOT_PROMISED_BY_MASKS if masked is not None else ()),
    ]


def _statement(
    report: PrivacyReport | None,
    nodes: NodesReport | None,
    masked: MaskedVersions | None,
    folder: Path,
    what: Covered,
) -> list[str]:
    said = [*nodes_said(nodes), *_bare_said(what)]
    rows = [] if report is None and said else [*_rows_said(report), *_unprotected_said(what), ""]
    lines = [*rows, *said, *([""] if said else []), *masked_said(masked, what.newest), "", _broker_said(folder)]
    excluded = _not_promised(report, nodes, masked)
    return [*lines, "", "What is not promised:", *(f"- {line}" for line in excluded)] if excluded else lines


def _bare_said(what: Covered) -> list[str]:
    if not what.bare:
        return []
    return ["", f"{what.bare} of {what.newest} versions have no noise: of them nothing is promised."]


def _unprotected_said(what: Covered) -> list[str]:
    if not what.unprotected:
        return []
    names = ", ".join(what.unprotected)
    return [f"Without an account, and so without any promise, updates have come from: {names}."]


def _broker_said(folder: Path) -> str:
    match read_sealed(folder):
        case None:
            return "Sealing: no coordinator has said whether this run is sealed."
        case True:
            return (
                "Sealing: on, as the coordinator was started last. The broker carries updates, metrics and the model, "
                "and cannot read them; it learns names, times, sizes, who takes part, and the settings of the training."
            )
        case False:
            return "Sealing: off. Whoever runs the broker can read updates and the model."


_MEANT = (
    "That is: whatever left a node under this protection, all such updates together, is at most e^epsilon times as "
    "likely with a row as without it, but for a probability of delta."
)


def _rows_said(report: PrivacyReport | None) -> list[str]:
    if report is None:
        return ["No update of this run was made with differential privacy: nothing is promised of any row."]
    largest = max(report.epsilons, key=lambda node: report.epsilons[node])
    return [
        "Differential privacy for each example",
        "",
        "What was protected: each single row of the training data of each node below (DP-SGD with noise on the node).",
        f"Which data sets are compared: two that differ in one row ({ADJACENCY}).",
        f"Largest epsilon of any node: {report.largest:.4f} at delta {report.delta:g} ({largest}).",
        _MEANT,
        "Rows were drawn in secret for each step (Poisson sampling).",
        "Epsilon is an upper bound: the least of Renyi accounting and of the composed privacy loss.",
        "A node that has left, or was revoked, keeps its account here; one that comes back goes on with it.",
        "",
        *(_node_line(node, one, report.epsilons[node]) for node, one in report.spent.items()),
    ]


def _node_line(node: NodeId, one: NodeSpent, epsilon: float) -> str:
    steps = ", ".join(f"{each.steps:,} steps (q {each.sampling_rate:g}, noise {each.noise:g})" for each in one.steps)
    budget = f"budget {one.privacy.epsilon:g}"
    return f"{node}: epsilon {epsilon:.4f} at delta {one.privacy.delta:g}, {budget}; {steps}; clip {one.privacy.clip:g}"
