"""The how-to for statistics says what works: its task is counted, scaled by what was counted, and trained."""

import re
from pathlib import Path

import numpy as np

from coordinator.config.sections import read_config
from federation.task import TaskContext
from federation.tasks.check import check_task
from federation.tasks.registry import load_task
from fedmq.statistics.simulated import simulated

HOW_TO = Path(__file__).parents[4] / "docs" / "how-to" / "statistics.md"


def test_the_task_of_the_how_to_is_counted_and_then_scaled_by_the_figures(tmp_path: Path) -> None:
    (code,) = re.findall(r"<!-- test: scaler_task.py -->\n```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    raw = code.replace('standardize(context.data / "scaler.json"), ', "")
    (tmp_path / "raw_task.py").write_text(raw)
    (tmp_path / "scaler_task.py").write_text(code)
    heat = np.random.default_rng(0).normal(50, 3, 200)
    lines = [f"{each:.4f},{each / 7:.4f},{'worn' if each > 53 else 'ok'}" for each in heat]
    (tmp_path / "readings.csv").write_text("\n".join(["temperature,flow,state", *lines]))
    flags = {"broker.url": "mqtt://localhost", "federation.id": "s", "task.data": tmp_path, "statistics.only": True}
    found = simulated(read_config(None, {**flags, "task.name": f"{tmp_path}/raw_task.py:build"}, environ={}), 1)
    assert [column.name for column in found.statistics.columns] == ["temperature", "flow"]
    assert abs(found.statistics.columns[0].mean - heat.mean()) < 1
    found.statistics.scaler().write(tmp_path / "scaler.json")
    context = TaskContext(node_index=0, node_count=1, data=tmp_path)
    task = load_task(f"{tmp_path}/scaler_task.py:build")(context)
    check_task(task)
    assert task.initial_parameters(0)["0.scaler_mean"].tolist() == [
        np.float32(column.mean) for column in found.statistics.columns
    ]
