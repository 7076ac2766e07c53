"""Curves of a run: what every node and the whole federation reported at each version, while the coordinator may write.

```python
from coordinator.monitoring.curves import read_curves, series
points = read_curves(Path("state/coordinator"))
by_node = series(points, "loss", kind=CurveKind.TRAINING)      # {node: [(version, loss), ...]}
```
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import CurveKind, CurvePoint
from federation.types import NodeId

__all__ = ["CurveKind", "CurvePoint", "curve_row", "newest_by_node", "read_curves", "series"]


def read_curves(folder: Path) -> list[CurvePoint]:
    """All points of a store, by version, kind and node.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        return store.curves()


def series(
    points: Iterable[CurvePoint], metric: str, *, kind: CurveKind
) -> dict[NodeId | None, list[tuple[int, float]]]:
    """One metric's curve of each node, as (version, value); the whole federation's is under None."""
    found: dict[NodeId | None, list[tuple[int, float]]] = {}
    for point in points:
        if point.kind is kind and metric in point.metrics:
            found.setdefault(point.node, []).append((point.version, point.metrics[metric]))
    return found


def newest_by_node(points: Iterable[CurvePoint], kind: CurveKind) -> dict[NodeId, CurvePoint]:
    """The last point of each node."""
    return {point.node: point for point in points if point.kind is kind and point.node is not None}


def curve_row(point: CurvePoint) -> Mapping[str, object]:
    """One point, as plain data."""
    return {
        "kind": point.kind.value,
        "version": point.version,
        "node": point.node,
        "base_version": point.base_version,
        "num_examples": point.num_examples,
        "counted": point.counted,
        "metrics": dict(point.metrics),
    }
