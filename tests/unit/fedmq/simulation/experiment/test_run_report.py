"""A simulated run is drawn and compared like a real one."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.artifacts.plots.gallery import draw_run
from coordinator.artifacts.plots.run import load_run
from coordinator.cli import make_app
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import ConfigError
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from fedmq.simulation.experiment.experiment import run_report


def test_the_report_of_a_simulation_says_what_its_result_says() -> None:
    experiment = build_experiment(TrainOptions(nodes=6, per_round=4, buffer=2, rounds=5, stragglers="spread=1"))
    result = experiment.run()
    made = run_report(experiment, result, strategy="fedbuff", codec="lossless")
    assert [row["accuracy"] for row in made["rounds"]] == [one.metrics["accuracy"] for one in result.versions]
    assert sum(row["accepted"] for row in made["rounds"]) == sum(one.updates for one in result.versions)
    assert made["bytes_up_total"] == result.payload_bytes
    updates = made["updates"]
    applied = [loss for loss, version in zip(updates["loss"], updates["version"], strict=True) if version]
    assert len(applied) == sum(one.updates for one in result.versions)
    assert sorted(applied) == sorted(loss for one in result.versions for loss in one.losses.values())
    assert made["final_accuracy"] == result.versions[-1].metrics["accuracy"]


def simulate(*more: str) -> object:
    arguments = ["simulate", "--nodes", "4", "--rounds", "3", *more]
    done = CliRunner().invoke(make_app(arguments), arguments)
    return done.exception


def test_the_command_writes_a_report_that_is_drawn_without_gaps(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert simulate("--train", "--report", str(file)) is None
    run = load_run(file)
    assert json.loads(file.read_text())["nodes"] == 4
    assert len(run.versions) == 3
    assert all(node.applied for node in run.nodes)
    drawn = draw_run(run, tmp_path / "pictures")
    assert drawn.left_out == [
        "node-accuracy: no node evaluated a version",
        "staleness: no applied update is known that was late",
    ]


def test_a_report_needs_real_training(tmp_path: Path) -> None:
    problem = simulate("--report", str(tmp_path / "run.json"))
    assert isinstance(problem, ConfigError)
    assert "--train" in str(problem)


def test_a_report_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    problem = simulate("--train", "--report", str(tmp_path / "no" / "run.json"))
    assert isinstance(problem, ConfigError)
    assert "no folder" in str(problem)


def test_a_task_that_changes_the_working_directory_moves_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written into the directory that the task had changed to, without a word."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = ["import os", "from federation.tasks.builtin.synthetic import build_quadratic", "def build(context):"]
    lines += [f"    os.chdir({str(elsewhere)!r})", "    return build_quadratic(context, size=3)"]
    (tmp_path / "moving.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    assert simulate("--train", "--task", "moving.py", "--report", "run.json", "--keep", "kept") is None
    assert {each.name for each in tmp_path.iterdir()} >= {"run.json", "kept"}
    assert list(elsewhere.iterdir()) == []
    with ReadOnlyStore(tmp_path / "kept") as store:
        assert store.simulated(), "a reader of what is kept must know it"
