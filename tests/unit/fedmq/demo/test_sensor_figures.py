"""What the sensor demo says is measured: alarms by the benchmark's rule, readings in the stores, and the screen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edge_node.storage.reading_store import Block, ReadingStore
from federation.errors import ConfigError
from fedmq.demo.sensors import cli
from fedmq.demo.sensors.figures import PumpStory, counted, judge, percentile
from fedmq.demo.sensors.plan import EPOCH_S, SensorPlan, coordinator_toml, node_toml
from fedmq.demo.sensors.pumps import COLUMNS, NORMAL_ROWS, Pump, load_pumps
from fedmq.demo.sensors.view import Board, drawn


def story(ratios: dict[int, float], faulty: list[int], rows: int = 8) -> PumpStory:
    marks = np.isin(np.arange(rows), faulty)
    pump = Pump(name="pump-01", source="simulated", values=np.zeros((rows, 8), np.float32), faulty=marks)
    return PumpStory(pump=pump, sent=rows, ratios=ratios)


def test_a_point_is_an_alarm_when_all_windows_over_it_are() -> None:
    """Windows of two rows end at 1 to 7; those that end at 3, 4 and 5 are above: points 3 and 4 are alarms."""
    high = {end: 2.0 if end in {3, 4, 5} else 0.5 for end in range(1, 8)}
    found = judge([story(high, [4, 5])], window=2, first=0)
    assert (found.f1, found.missed_rate) == (0.5, 0.5)
    assert found.false_rate == pytest.approx(1 / 6)
    nothing = judge([story({}, [4])], window=2, first=0)
    assert (nothing.f1, nothing.false_rate) == (0.0, 0.0)


def test_what_is_not_in_the_store_is_lost(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path)
    store.add(Block([EPOCH_S, EPOCH_S + 1, EPOCH_S], ["flow", "flow", "flow"], [1.0, 2.0, 1.0]))
    store.close()
    assert counted(tmp_path, EPOCH_S + np.arange(3.0)) == 2
    assert counted(tmp_path, EPOCH_S + np.arange(1.0)) == 1
    assert counted(tmp_path / "nowhere", EPOCH_S + np.arange(2.0)) == 0


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 99) is None
    assert percentile([1.0, 3.0], 50) == 2.0


def test_simulated_pumps_have_the_columns_a_fault_and_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDMQ_DATA", str(tmp_path))
    pumps = load_pumps(3)
    assert [pump.name for pump in pumps] == ["pump-01", "pump-02", "pump-03"]
    for pump in pumps:
        assert pump.values.shape[1] == len(COLUMNS)
        assert not pump.faulty[:NORMAL_ROWS].any()
        assert pump.faulty.any()
    with pytest.raises(ConfigError, match="--data"):
        load_pumps(1, tmp_path)


def test_the_screen_fits_a_terminal_of_80_by_24() -> None:
    pumps = [
        Pump(name=f"pump-{n:02}", source="valve1/10", values=np.zeros((900, 8), np.float32), faulty=np.ones(900, bool))
        for n in range(12)
    ]
    board = Board({pump.name: PumpStory(pump=pump, sent=900, ratios=dict.fromkeys(range(900), 1.5)) for pump in pumps})
    board.news += ["x" * 200] * 9
    console = Console(width=80, record=True, file=Path("/dev/null").open("w"), force_terminal=True)  # noqa: SIM115
    console.print(drawn(board))
    lines = console.export_text().splitlines()
    console.file.close()
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("changes", [{"pumps": 0}, {"pumps": 99}, {"versions": 0}, {"rate": 0.1}])
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SensorPlan(**changes)


def test_the_settings_are_accepted(tmp_path: Path) -> None:
    import coordinator.config.sections
    import edge_node.config

    plan = SensorPlan()
    (tmp_path / "c.toml").write_text(coordinator_toml(plan, "mqtt://h", tmp_path))
    (tmp_path / "n.toml").write_text(node_toml(plan, "mqtt://h", tmp_path, "pump-01", tmp_path / "p.onnx"))
    config = edge_node.config.read_config(tmp_path / "n.toml", {}, environ={})
    assert config.score.topic == plan.score_topic("pump-01")
    assert config.data.is_given
    assert coordinator.config.sections.read_config(tmp_path / "c.toml", {}, environ={}).round.concurrency == 12


def test_a_library_that_scoring_needs_is_asked_for_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that could not score used to end in silence, and the report had no figure."""
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ConfigError, match=r"onnxruntime is missing: pip install 'fedmq\[onnx,score\]'"):
        cli.demo_sensors()
