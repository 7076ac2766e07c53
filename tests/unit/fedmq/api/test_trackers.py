"""MLflow and Weights & Biases follow a run through their own libraries."""

from pathlib import Path

import pytest

import fedmq


def study(tracker: str) -> fedmq.Study:
    return fedmq.simulate("digits", nodes=2, rounds=2, progress=False, name="followed", log_to=[tracker])


@pytest.mark.frameworks
def test_mlflow_has_a_run_with_every_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: make test-frameworks")
    pytest.importorskip("sqlalchemy", reason="MLflow's database needs sqlalchemy: make test-frameworks")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    made = study("mlflow:presses")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("presses")
    (run,) = client.search_runs([experiment.experiment_id])
    found = client.get_metric_history(run.info.run_id, "accuracy")
    expected = [point.metrics["accuracy"] for point in made.runs[0].versions]
    assert [(one.step, one.value) for one in found] == list(enumerate(expected, start=1))
    assert (run.info.status, run.data.params["nodes"]) == ("FINISHED", "2")


@pytest.mark.frameworks
def test_weights_and_biases_has_a_run_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed: make test-frameworks")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    study("wandb:presses")
    wandb.teardown()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert [file.stat().st_size > 0 for file in folder.glob("run-*.wandb")] == [True]
