"""The tasks as a federation uses them: built from arguments, trained, exported, scored."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from federation.errors import ConfigError, TaskError
from federation.protocol.messages import TrainSettings
from federation.task import ProgramForm, TaskContext
from federation.tasks.check import check_task
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.registry import TOLD_TASKS, default_settings, load_task
from federation.tasks.sensors.models import Gru
from federation.tasks.sensors.rules import SHARES, ScoreRule, quantile_of_shares
from federation.tasks.sensors.task import SensorTask, TableSource
from federation.types import ExamplePrivacy
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from update_codec import Role

ROWS = 80
KINDS: Mapping[str, str] = {
    "autoencoder": "",
    "forecaster": "&horizon=2",
    "classifier": "&target=state&classes=ok,worn",
    "remaining-life": "&cap=20",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pumps: two sensors that swing, each at its own level; they wear from the midst on."""
    for pump in range(4):
        row = np.arange(ROWS)
        worn = row >= ROWS // 2
        flow = 10 * pump + np.sin(row / 3) + 3 * worn
        states = np.where(worn, "worn", "ok")
        lines = [f"{a:.4f},{b:.4f},{state}" for a, b, state in zip(flow, np.cos(row / 3), states, strict=True)]
        (tmp_path / f"pump-{pump}.csv").write_text("\n".join(["flow,current,state", *lines]))
    return tmp_path


WINDOWS = {"dense": 9, "conv": 9, "gru": 3}
"""Rows by model: a recurrent one becomes a program with a step for each row."""


def build(
    data: Path | None, kind: str, more: str = "", *, index: int | None = 0, count: int = 1, window: int = 9
) -> SensorTask:
    name = f"sensors/{kind}?columns=flow,current&window={window}&width=8{KINDS[kind]}{more}"
    task = load_task(name)(TaskContext(node_index=index, node_count=count, data=data, device="cpu"))
    assert isinstance(task, SensorTask)
    return task


def tables(task: SensorTask) -> TableSource:
    assert isinstance(task.source, TableSource)
    return task.source


def test_every_task_that_is_told_is_tried_here() -> None:
    assert set(TOLD_TASKS) == {f"sensors/{kind}" for kind in KINDS}
    assert all(default_settings(name).local_epochs == 1 for name in TOLD_TASKS)


@pytest.mark.xdist_group("export")
@pytest.mark.parametrize("model", WINDOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_contract_of_tasks_and_exports_what_it_scores_with(data: Path, kind: str, model: str) -> None:
    task = build(data, kind, f"&model={model}", window=WINDOWS[model])
    check_task(task)
    parameters = task.initial_parameters(3)
    settings = replace(default_settings(f"sensors/{kind}"), batch_size=16)
    result = task.train(parameters, settings, bool)
    assert any(not np.array_equal(result.parameters[name], parameters[name]) for name in parameters)
    rule = task.score_rule(result.parameters)
    assert rule == ScoreRule.from_json(json.loads(json.dumps(rule.to_json())))
    windows = np.random.default_rng(0).normal(size=(5, rule.rows, 2)).astype(np.float32)
    scores = task.score(result.parameters, windows)
    program = torch.export.load(_file(task.export(result.parameters, ProgramForm.PT2, {}), data / "model.pt2")).module()
    alone = rule.score(lambda inputs: program(torch.from_numpy(inputs)).detach().numpy(), windows)
    np.testing.assert_allclose(alone, scores, rtol=1e-4, atol=1e-5)


def _file(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.xdist_group("export")
@pytest.mark.parametrize("model", WINDOWS)
def test_whoever_runs_onnx_scores_from_the_file_and_the_rule_alone(data: Path, model: str) -> None:
    task = build(data, "autoencoder", f"&model={model}", window=WINDOWS[model])
    parameters = task.initial_parameters(3)
    rule = ScoreRule.from_json(json.loads(json.dumps(task.score_rule(parameters).to_json())))
    program = ReferenceEvaluator(onnx.load_from_string(task.export(parameters, ProgramForm.ONNX, {})))
    windows = task.readings.training_windows()
    scores = rule.score(lambda inputs: program.run(None, {"input": inputs})[0], windows)  # type: ignore[index]
    np.testing.assert_allclose(scores, task.score(parameters, windows), rtol=1e-4)
    assert 0 < rule.alarms(scores).mean() <= 0.05


def test_a_device_holds_its_last_rows_out_and_reports_both_losses(data: Path) -> None:
    task = build(data, "autoencoder")
    metrics = task.train(task.initial_parameters(0), default_settings("sensors/autoencoder"), bool).metrics
    assert {"loss", "global_loss", "personal_loss", "personal_mae", "test_examples"} <= set(metrics)
    assert metrics["test_examples"] == 4 * (ROWS // 5 - 9 + 1)
    assert task.evaluate(task.initial_parameters(0))["test_examples"] == metrics["test_examples"]


def test_the_threshold_is_the_devices_own_quantile(data: Path) -> None:
    task = build(data, "autoencoder", "&quantile=0.9&factor=2")
    parameters = task.initial_parameters(0)
    scores = task.score(parameters, task.readings.training_windows())
    rule = task.score_rule(parameters)
    assert rule.threshold == pytest.approx(2 * np.quantile(scores, 0.9))
    assert rule.threshold_from == "the 0.9 quantile of the scores of its own training windows times 2"
    assert build(data, "autoencoder", "&threshold=0.5").score_rule(parameters).threshold == 0.5
    assert build(data, "classifier").score_rule(build(data, "classifier").initial_parameters(0)).threshold is None
    assert build(data, "remaining-life", "&threshold=20").score_rule({}).above is False


def test_a_life_that_ends_below_its_threshold_alarms(data: Path) -> None:
    rule = build(data, "remaining-life", "&threshold=20").score_rule({})
    assert rule.alarms([30, 10]).tolist() == [False, True]


def test_the_model_carries_the_quantile_of_all_nodes_scores(data: Path) -> None:
    name = "sensors/autoencoder?columns=flow,current&window=9&width=8&threshold=federated&holdout=0&quantile=0.9"
    experiment = build_experiment(TrainOptions(task=name, nodes=4, rounds=3, per_round=4, data=data))
    tasks = [
        load_task(name)(TaskContext(node_index=index, node_count=4, data=data, device="cpu")) for index in range(4)
    ]
    before = experiment.manifest.unflatten(experiment.coordinator.model)
    experiment.run()
    parameters = experiment.manifest.unflatten(experiment.coordinator.model)
    assert experiment.manifest.unflatten(experiment.coordinator.model)[SHARES].sum() == pytest.approx(1.0, abs=1e-3)
    assert not before[SHARES].any()
    assert all(isinstance(task, SensorTask) for task in tasks)
    known = [task for task in tasks if isinstance(task, SensorTask)]
    assert known[0].roles()[SHARES] is Role.STATISTIC
    thresholds = {task.score_rule(parameters).threshold for task in known}
    assert thresholds == {quantile_of_shares(parameters[SHARES], 0.9)}
    assert "all nodes'" in known[0].score_rule(parameters).threshold_from
    assert "its own" in known[0].score_rule(before).threshold_from  # before anybody has said anything


def test_a_histogram_without_noise_does_not_leave_a_private_node(data: Path) -> None:
    federated = build(data, "autoencoder", "&threshold=federated&model=dense")
    assert "histogram" in str(federated.private_objection())
    assert build(data, "autoencoder", "&model=dense").private_objection() is None
    settings = TrainSettings(
        batch_size=8, privacy=ExamplePrivacy(clip=1.0, noise=1.0, sampling_rate=0.1, epsilon=8.0, delta=1e-5)
    )
    with pytest.raises(TaskError, match="histogram"):
        federated.train(federated.initial_parameters(0), settings, bool)


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_shares_the_tables_among_its_nodes(data: Path, kind: str) -> None:
    name = f"sensors/{kind}?columns=flow,current&window=9&width=8&holdout=0{KINDS[kind]}"
    pool = NodePool(load_task(name), TaskContext(node_index=None, node_count=2, data=data, device="cpu"))
    alone = [build(data, kind, "&holdout=0", index=index, count=2) for index in range(2)]
    counts = [len(task.readings.train()[0]) for task in alone]
    assert [pool.num_examples(index) for index in range(2)] == counts
    inputs, _, owners = tables(alone[0]).everybodys()
    for index, task in enumerate(alone):
        np.testing.assert_array_equal(inputs[owners == index], task.readings.train()[0])


def test_more_nodes_than_tables_are_refused(data: Path) -> None:
    with pytest.raises(TaskError, match="4 tables cannot be divided among 5 nodes"):
        build(data, "autoencoder", index=4, count=5).source.train()
    with pytest.raises(TaskError, match="4 tables cannot be divided among 5 nodes"):
        tables(build(data, "autoencoder", "&holdout=0", index=4, count=5)).everybodys()


def test_the_coordinator_tests_on_its_folder_of_tests_and_needs_no_data_else(data: Path) -> None:
    assert build(None, "autoencoder", index=None).evaluate({}) == {}
    test = data / "test"
    test.mkdir()
    for name in ("pump-0.csv", "pump-1.csv"):
        (data / name).rename(test / name)
    task = build(data, "remaining-life", index=None)
    found = task.evaluate(task.initial_parameters(0))
    assert found["rmse"] == pytest.approx(np.sqrt(found["loss"]) * 20, rel=1e-4)
    assert set(build(data, "classifier", index=None).evaluate(build(data, "classifier").initial_parameters(0))) == {
        "loss",
        "accuracy",
    }


def test_a_node_with_other_columns_says_so(data: Path) -> None:
    one, other = build(data, "autoencoder").inputs(), build(data, "forecaster").inputs()
    assert (one.features, one.shape) == (("flow", "current"), (9, 2))
    assert other.disagreement(replace(one, features=("current", "flow"))) is not None


def test_arguments_that_are_wrong_are_said_when_the_task_is_built(data: Path) -> None:
    with pytest.raises(ConfigError, match="a sensor task needs it, such as columns"):
        load_task("sensors/autoencoder")(TaskContext(node_index=0, node_count=1, data=data))


def test_our_recurrent_unit_computes_what_torchs_does() -> None:
    torch.manual_seed(1)
    theirs, ours = torch.nn.GRU(3, 5, batch_first=True), Gru(3, 5, last=False)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ours.load_state_dict({name: getattr(theirs, f"{name}_l0") for name in names})
    inputs = torch.randn(4, 7, 3)
    torch.testing.assert_close(ours(inputs), theirs(inputs)[0])
    ends = Gru(3, 5, last=True)
    ends.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ends(inputs), theirs(inputs)[1][0])


def test_recurrent_models_of_many_nodes_train_in_one_stack(data: Path) -> None:
    name = "sensors/remaining-life?columns=flow,current&window=9&width=8&model=gru&cap=20"
    context = TaskContext(node_index=None, node_count=4, data=data, device="cpu")
    options = TrainOptions(task=name, nodes=4, rounds=2, per_round=4, data=data)
    stacked = build_experiment(options)
    assert stacked.pool.context.node_count == context.node_count
    stacked.run()
    alone = build_experiment(replace(options, stacked=False))
    alone.run()
    np.testing.assert_allclose(
        np.asarray(stacked.coordinator.model.parameters), np.asarray(alone.coordinator.model.parameters), atol=1e-4
    )
