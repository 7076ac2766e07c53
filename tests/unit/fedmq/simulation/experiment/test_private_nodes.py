"""Training with differential privacy in virtual time: nodes are asked, charge their turns, and stop in time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.monitoring.privacy import read_privacy
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import ConfigError
from fedmq.audit.audit import Outcome, audit
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment, train
from fedmq.simulation.experiment.node_answers import FrameWork
from fedmq.simulation.experiment.private_nodes import only_the_update
from fedmq.simulation.training.local_trainer import TrainedUpdate

PRIVATE = (
    "privacy.unit=examples",
    "privacy.sampling_rate=0.25",
    "privacy.epsilon=4.0",
    "train.batch_size=10",
    "train.learning_rate=0.2",
)
pytestmark = pytest.mark.xdist_group("noise")  # the noise of these settings is found once in a process, in seconds

OPTIONS = TrainOptions(task="digits", nodes=4, rounds=3, settings=PRIVATE)


def kept(options: TrainOptions, folder: Path) -> Path:
    train(replace(options, keep=folder), as_json=True)
    return folder


def epsilons(result_privacy: Any) -> list[float]:
    return [node["epsilon"] for node in result_privacy["nodes"].values()]


def test_the_nodes_are_asked_and_keep_their_ledgers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kept(OPTIONS, tmp_path / "kept")
    shown = json.loads(capsys.readouterr().out)
    assert [one["updates"] for one in shown["versions"]] == [4, 4, 4]
    assert (shown["verdicts"], shown["stopped_early"]) == ({"applied": 12}, False)
    assert len(epsilons(shown["privacy"])) == 4
    assert all(3.9 < epsilon <= 4.0 for epsilon in epsilons(shown["privacy"]))
    assert all(one["losses"] == {} for one in shown["versions"]), "what a node says of its data is not hidden by noise"
    report = read_privacy(folder)
    assert report is not None
    assert {sum(each.steps for each in one.steps) for one in report.spent.values()} == {24}
    with ReadOnlyStore(folder) as store:
        assert {row.record.num_examples for row in store.updates()} == {1}
    findings = {one.invariant: one.outcome for one in reversed(audit(folder).findings)}
    assert findings["P1"] is findings["P2"] is findings["P3"] is Outcome.PASS


def test_a_run_whose_budgets_are_spent_ends_with_what_is_paid_for() -> None:
    settings = (*PRIVATE, "privacy.noise=1.0", "privacy.epsilon=7.0")
    experiment = build_experiment(replace(OPTIONS, rounds=50, settings=settings))
    result = experiment.run()
    assert result.stopped_early
    assert 1 <= len(result.versions) < 50
    assert dict(result.verdicts) == {"applied": 4 * len(result.versions)}, "no turn is paid for nothing"
    assert all(epsilon <= 7.0 for epsilon in epsilons(result.privacy))


def test_two_turns_of_one_node_at_a_time_do_not_exceed_its_budget() -> None:
    settings = (*PRIVATE, "privacy.noise=1.0", "privacy.epsilon=7.0", "round.lease_s=1.0")
    options = replace(OPTIONS, rounds=30, settings=settings, outages="share=0.5,away_s=200")
    result = build_experiment(options).run()
    assert result.privacy is not None
    assert all(epsilon <= 7.0 for epsilon in epsilons(result.privacy))


def test_noise_is_never_that_of_the_seed() -> None:
    first, second = (build_experiment(OPTIONS).run() for _ in range(2))
    assert first.digest != second.digest


@pytest.mark.slow
def test_two_processes_keep_the_same_ledgers_as_one() -> None:
    one, two = (build_experiment(replace(OPTIONS, workers=count)).run() for count in (1, 2))
    assert one.privacy == two.privacy


@pytest.mark.parametrize("task", ["quadratic", "null"])
def test_a_task_that_cannot_keep_it_is_refused_with_the_reason(task: str) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.unit.*no node of this task can keep differential privacy: .+"):
        build_experiment(replace(OPTIONS, task=task))


def test_without_privacy_nothing_is_said_of_it() -> None:
    experiment = build_experiment(replace(OPTIONS, settings=()))
    assert experiment.run().privacy is None
    assert not isinstance(experiment.work, FrameWork)


def test_an_update_of_a_task_that_kept_no_privacy_does_not_leave() -> None:
    experiment = build_experiment(OPTIONS)
    update = experiment.coordinator.model
    found = only_the_update(TrainedUpdate(node=0, update=update, num_examples=7, metrics={"loss": 1.0}))
    assert found.update is None
    assert "does not say that it has kept differential privacy" in str(found.failure)


def test_the_table_has_epsilon() -> None:
    command = ["simulate", "--train", "--task", "digits", "--nodes", "4", "--rounds", "2"]
    given = [word for setting in PRIVATE for word in ("--set", setting)]
    result = CliRunner().invoke(make_app(["simulate"]), [*command, *given])
    assert result.exit_code == 0
    assert "epsilon, largest of any node" in result.output
