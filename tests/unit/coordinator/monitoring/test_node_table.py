"""What nodes report of their readings is in the table of their last reports, where any of them has readings."""

import io

from rich.console import Console

from coordinator.monitoring.status import _curve_table
from coordinator.storage.store import CurveKind, CurvePoint
from federation.types import ModelVersion, NodeId


def shown(*points: CurvePoint) -> str:
    text = io.StringIO()
    Console(file=text, width=160).print(_curve_table(list(points)))
    return text.getvalue()


def trained(node: str, **metrics: float) -> CurvePoint:
    return CurvePoint(kind=CurveKind.TRAINING, version=ModelVersion(3), node=NodeId(node), metrics=metrics)


def test_age_news_and_drift_of_readings_are_shown_where_there_are_any() -> None:
    text = shown(trained("a", loss=0.5, drift=0.31, data_age_s=12.0, new_examples=40.0), trained("b", loss=0.25))
    assert [head for head in ("new", "age, s", "drift") if head not in text] == []
    row = next(line for line in text.splitlines() if line.startswith("a"))
    assert [cell for cell in ("40", "12", "0.31") if cell not in row.split()] == []


def test_without_readings_there_is_no_such_column() -> None:
    assert "drift" not in shown(trained("b", loss=0.25))
