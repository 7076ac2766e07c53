"""The report of a run: what each version cost, what each node contributed, and what plain float32 would have cost."""

from collections import deque
from collections.abc import Iterable, Mapping

from coordinator.monitoring.figures import accuracy_and_loss, nodes_metrics, participation_row, version_figures
from coordinator.monitoring.noised_sums import nodes_report, nodes_row
from coordinator.monitoring.privacy import privacy_report, privacy_row
from coordinator.storage.store import CoordinatorStore, CurveKind, CurvePoint, UpdateRow, VersionRow

__all__ = ["build_report", "evaluation_columns", "update_columns"]

UPDATES_MAX = 200_000
"""Newest updates that a report names one by one: it stays below some 15 MB."""


def build_report(
    store: CoordinatorStore, *, strategy: str, codec: str, tail: tuple[int, int] = (0, 0)
) -> dict[str, object]:
    """Everything about a run, as plain data.

    Args:
        store: The run's store.
        strategy: Its name.
        codec: The update codec.
        tail: Bytes up and down after the last commit.

    Returns:
        ``rounds`` without version 0; ``bytes_up_fp32`` and ``bytes_down_fp32`` are what the same updates and the models
        that they were trained from would have cost in plain float32, without any header. ``privacy`` is None where
        nothing was spent under differential privacy, ``nodes_privacy`` where no sum had noise for whole nodes.
    """
    manifest = store.manifest()
    rows = [row for row in store.history() if row.record.version > 0]
    nodes = store.participation()
    updates = sum(sum(node.statuses.values()) for node in nodes)
    plain_bytes = updates * (0 if manifest is None else manifest.fp32_bytes)
    points = store.curves()
    on_nodes = nodes_metrics(points)
    rounds = [version_figures(row, on_nodes.get(row.record.version)) for row in rows]
    return {
        "run": store.run,
        "epoch": store.epoch,
        "strategy": strategy,
        "codec": codec,
        "model_parameters": 0 if manifest is None else manifest.parameter_count,
        "rounds": rounds,
        "model_digest": bytes(rows[-1].record.digest).hex() if rows else None,
        "final_accuracy": _last_accuracy(rows),
        "loop_wall_s": sum(row.figures.wall_s for row in rows),
        "bytes_up_total": sum(row.figures.bytes_up for row in rows) + tail[0],
        "bytes_down_total": sum(row.figures.bytes_down for row in rows) + tail[1],
        "bytes_up_fp32": plain_bytes,
        "bytes_down_fp32": plain_bytes,
        "nodes_detail": [participation_row(node) for node in nodes],
        "updates": update_columns(store.updates()),
        "evaluations": evaluation_columns(points),
        "privacy": privacy_row(privacy_report(store)),
        "nodes_privacy": nodes_row(nodes_report(store)),
    }


def update_columns(rows: Iterable[UpdateRow]) -> Mapping[str, list[object]]:
    """The newest `UPDATES_MAX` updates in order of arrival, as columns: what each came from, and what became of it.

    ``loss`` is the node's own, None where its task reports none; ``train_s`` is in seconds. Both are None for updates
    that are compacted.
    """
    kept = deque(rows, maxlen=UPDATES_MAX)
    return {
        "node": [row.record.node for row in kept],
        "base_version": [row.record.base_version for row in kept],
        "version": [row.verdict.version for row in kept],
        "status": [row.verdict.status.value for row in kept],
        "staleness": [row.staleness for row in kept],
        "loss": [row.record.metrics.get("loss") for row in kept],
        "train_s": [row.record.train_s if row.whole else None for row in kept],
    }


def evaluation_columns(points: Iterable[CurvePoint]) -> Mapping[str, list[object]]:
    """The newest `UPDATES_MAX` evaluations of single nodes, as columns; ``accuracy`` is the global model's there."""
    kept = deque((point for point in points if point.kind is CurveKind.NODE), maxlen=UPDATES_MAX)
    found = [accuracy_and_loss(point.metrics) for point in kept]
    return {
        "node": [point.node for point in kept],
        "version": [point.version for point in kept],
        "accuracy": [metrics.get("accuracy") for metrics in found],
        "loss": [metrics.get("loss") for metrics in found],
    }


def _last_accuracy(rows: list[VersionRow]) -> float | None:
    found = [row.metrics["accuracy"] for row in rows if "accuracy" in row.metrics]
    return found[-1] if found else None
