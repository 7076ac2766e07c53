"""Versions, nodes and evaluations as plain data: one shape for reports, commands and the page."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from coordinator.records import NodesEvaluation
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import CurveKind, CurvePoint, Participation, VersionRow
from federation.protocol.messages import ReceiptStatus
from federation.types import ModelVersion

__all__ = [
    "accuracy_and_loss",
    "ask_store",
    "nodes_metrics",
    "participation_row",
    "read_rows",
    "surveyed_metrics",
    "version_figures",
]

AnswerT = TypeVar("AnswerT")


def read_rows(folder: Path) -> tuple[list[VersionRow], list[Participation]]:
    """Versions and nodes of a store.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        return store.history(), store.participation()


def ask_store(folder: Path, ask: Callable[[ReadOnlyStore], AnswerT]) -> AnswerT:
    """One answer of a store.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        return ask(store)


def version_figures(row: VersionRow, on_nodes: Mapping[str, float] | None = None) -> dict[str, object]:
    """One version, as plain data; ``wall_s`` is in seconds since the version before.

    ``metrics`` has the coordinator's own evaluation, and ``on_nodes``, see `nodes_metrics`.
    """
    return {
        "version": row.record.version,
        "accuracy": row.metrics.get("accuracy"),
        "loss": row.metrics.get("loss"),
        "wall_s": row.figures.wall_s,
        "accepted": row.record.accepted,
        "stale": row.stale,
        "refused": row.refused,
        "bytes_up": row.figures.bytes_up,
        "bytes_down": row.figures.bytes_down,
        "reason": row.reason,
        "metrics": {**row.metrics, **(on_nodes or {})},
    }


def participation_row(node: Participation) -> Mapping[str, object]:
    """One node, as plain data."""
    return {
        "id": node.node,
        "updates_applied": node.count(ReceiptStatus.APPLIED),
        "updates_stale": node.count(ReceiptStatus.STALE),
        "updates_refused": node.count(ReceiptStatus.REFUSED),
        "updates_waiting": node.count(ReceiptStatus.STORED),
        "reasons": {reason.value: count for reason, count in node.reasons.items()},
        "bytes_up": node.bytes_up,
        "bytes_down": node.bytes_down,
        "staleness_mean": node.staleness_mean,
        "restarts": node.attended.restarts,
        "asked": node.attended.asked,
        "absences": dict(node.attended.absences),
    }


def nodes_metrics(points: Iterable[CurvePoint]) -> Mapping[ModelVersion, Mapping[str, float]]:
    """The means of the nodes' evaluations by version, as ``nodes_accuracy`` and ``nodes_loss``."""
    return {
        point.version: accuracy_and_loss(point.metrics, "nodes_") for point in points if point.kind is CurveKind.NODES
    }


def surveyed_metrics(surveys: Iterable[NodesEvaluation]) -> Mapping[ModelVersion, Mapping[str, float]]:
    """The same from the evaluations themselves."""
    return {one.version: accuracy_and_loss(one.metrics, "nodes_") for one in surveys if one.nodes}


def accuracy_and_loss(metrics: Mapping[str, float], prefix: str = "") -> Mapping[str, float]:
    """A node that makes the model its own names the global one's numbers ``global_``."""
    values = {name: metrics.get(f"global_{name}", metrics.get(name)) for name in ("accuracy", "loss")}
    return {f"{prefix}{name}": value for name, value in values.items() if value is not None}
