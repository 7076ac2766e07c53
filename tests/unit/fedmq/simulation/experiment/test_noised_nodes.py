"""Training in virtual time with a trusted coordinator's noise: ledger, report, budget, and an audit that holds."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.monitoring.privacy import show_privacy
from coordinator.storage.database import DATABASE
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import ConfigError
from federation.types import NodeId
from fedmq.audit.audit import AuditReport, Outcome, audit
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment, train
from fedmq.simulation.experiment.experiment import Result

TRUSTED = ("privacy.unit=nodes", "privacy.noise_by=coordinator", "privacy.clip=1.0", "privacy.epsilon=30.0")
OPTIONS = TrainOptions(task="quadratic-200", nodes=6, rounds=5, settings=TRUSTED)


def run(options: TrainOptions) -> Result:
    return build_experiment(options).run()


def largest(result: Result) -> float:
    assert result.nodes_privacy is not None
    found = result.nodes_privacy["largest_epsilon"]
    assert isinstance(found, float)
    return found


def failed(report: AuditReport) -> dict[str, str]:
    return {one.invariant: one.detail for one in report.findings if one.outcome is Outcome.FAIL}


def test_what_all_versions_cost_is_the_budget_and_no_two_runs_are_equal() -> None:
    first, second = run(OPTIONS), run(OPTIONS)
    assert 29.99 < largest(first) <= 30.0
    assert first.nodes_privacy == second.nodes_privacy
    assert first.verdicts == second.verdicts == {"applied": 30}
    assert first.digest != second.digest, "the noise comes of the system's randomness, not of the seed"
    assert first.privacy is None


def test_it_learns_where_there_is_little_noise() -> None:
    wide = ("privacy.unit=nodes", "privacy.noise_by=coordinator", "privacy.clip=2.0", "privacy.epsilon=1000.0")
    losses = [version.metrics["loss"] for version in run(replace(OPTIONS, rounds=12, settings=wide)).versions]
    assert losses[-1] < losses[0] / 2


def test_a_budget_that_is_spent_ends_the_run() -> None:
    result = run(replace(OPTIONS, rounds=50, settings=(*TRUSTED, "privacy.participations=4")))
    assert result.stopped_early
    assert len(result.versions) == 4
    assert largest(result) <= 30.0


@pytest.mark.parametrize("codec", ["lossless", "edge", "balanced"])
def test_every_codec_goes_with_it_and_what_is_kept_is_audited(codec: str, tmp_path: Path) -> None:
    train(replace(OPTIONS, codec=codec, keep=tmp_path / "kept", report=tmp_path / "report.json"), as_json=True)
    report = audit(tmp_path / "kept")
    assert failed(report) == {}
    checked = {one.invariant: one.outcome for one in report.findings}
    assert checked["P1"] is checked["P2"] is checked["P3"] is checked["P4"] is checked["P5"] is Outcome.PASS
    row = json.loads((tmp_path / "report.json").read_text())["nodes_privacy"]
    assert (row["noise_by"], row["unit"], row["sums"]) == ("coordinator", "nodes", 5)
    with ReadOnlyStore(tmp_path / "kept") as store:
        assert store.released().takings.keys() == {NodeId(f"node-{index}") for index in range(6)}


@pytest.mark.parametrize(
    ("statement", "invariant", "detail"),
    [
        ("DELETE FROM releases WHERE version = 3", "P2", "version 3 were charged to nobody"),
        (
            "UPDATE prices SET node = 'other' WHERE node = 'node-1' AND number = 2",
            "P2",
            "version 3 was charged to others",
        ),
        ("UPDATE takings SET spent = spent / 2", "P1", "its account has less"),
    ],
)
def test_the_audit_finds_a_version_that_was_not_paid_for(
    statement: str, invariant: str, detail: str, tmp_path: Path
) -> None:
    train(replace(OPTIONS, keep=tmp_path / "kept"), as_json=True)
    with closing(sqlite3.connect(tmp_path / "kept" / DATABASE)) as database, database:
        assert database.execute(statement).rowcount > 0
    assert detail in failed(audit(tmp_path / "kept"))[invariant]


def test_the_statement_says_whom_one_trusts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(OPTIONS, keep=tmp_path / "kept"), as_json=True)
    capsys.readouterr()
    show_privacy(tmp_path / "kept")
    said = capsys.readouterr().out
    assert "The coordinator is trusted with it" in said
    assert "of a budget of 30" in said


def test_a_model_whose_statistics_would_be_told_is_refused(tmp_path: Path) -> None:
    task = tmp_path / "with_statistics.py"
    task.write_text(
        "import torch\n"
        "from federation.protocol.messages import TrainSettings\n"
        "from federation.tasks import TorchTask\n"
        "DEFAULT_SETTINGS = TrainSettings(batch_size=20, learning_rate=0.05)\n"
        "def build(context):\n"
        "    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))\n"
        "    model = lambda: torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))\n"
        "    return TorchTask(context, model=model, loss=torch.nn.functional.cross_entropy,\n"
        "                     train_data=(x, (x[:, 0] > 0).long()))\n"
    )
    with pytest.raises(ConfigError, match="statistics beside its parameters"):
        build_experiment(replace(OPTIONS, task=f"{task}:build"))
