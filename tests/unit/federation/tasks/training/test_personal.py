"""Personal layers: what stays, what travels, what is reported, and what is there again after a restart."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from edge_node.storage.task_state import pack_arrays, unpack_arrays
from edge_node.training.adoption import manifest_of
from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Array, Parameters, ProgramForm, TaskContext, TrainResult, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.registry import default_settings, load_task
from federation.tasks.scaffold import NODES_KEY, scaffolded
from update_codec import Role

GUIDE = Path(__file__).parents[5] / "docs" / "how-to" / "personalize.md"
SETTINGS = TrainSettings(local_epochs=2, batch_size=8, learning_rate=0.1)
NODE = TaskContext(node_index=0, node_count=1)


def never() -> bool:
    return False


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def classes(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


def task_of(context: TaskContext = NODE, **changes: Any) -> TorchTask:
    arguments: dict[str, Any] = {"model": net, "train_data": classes(), "loss": cross_entropy} | changes
    return TorchTask(context, **arguments)


def trained(task: TorchTask, parameters: Parameters | None = None, settings: TrainSettings = SETTINGS) -> TrainResult:
    return task.train(task.initial_parameters(1) if parameters is None else parameters, settings, never)


def test_tensors_that_match_never_leave_the_node() -> None:
    task = task_of(local=["3.*"])
    check_task(task)
    names = {tensor.name for tensor in manifest_of(task).tensors}
    assert not [name for name in names if name.startswith("3.")]
    result = trained(task)
    assert result.parameters.keys() == names
    assert result.kept.keys() == {"local.3.weight", "local.3.bias"}
    assert np.abs(result.kept["local.3.bias"]).max() > 0


def test_a_program_of_the_shared_part_alone_says_where_the_whole_model_is() -> None:
    """The coordinator's export told of tensors that are not in both."""
    task = task_of(local=["3.*"], input_shape=(6,))
    with pytest.raises(TaskError, match=r"3\.bias, 3\.weight: layers that each node keeps .* \.safetensors"):
        task.export(task.initial_parameters(0), ProgramForm.PT2, {})


def test_batchnorm_stays_with_its_statistics_and_its_counter() -> None:
    task = task_of(local_norms=True)
    assert set(task.roles()) == set()
    result = trained(task)
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert result.kept.keys() == {f"local.1.{name}" for name in names}
    assert set(result.parameters) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert int(result.kept["local.1.num_batches_tracked"]) > 0
    assert Role.STATISTIC in task_of().roles().values()


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_single_number_comes_back_from_the_disk_as_earlier_releases_wrote_it_too(shape: tuple[int, ...]) -> None:
    task = task_of(local_norms=True)
    first = trained(task)
    stored = unpack_arrays(pack_arrays(first.kept))
    counter = "local.1.num_batches_tracked"
    task.restore({**stored, counter: stored[counter].reshape(shape)})
    assert trained(task, first.parameters).kept[counter].item() == 2 * first.kept[counter].item()


def test_what_the_node_kept_is_what_it_trains_from() -> None:
    task = task_of(local=["3.*"], own_test=0.25)
    first = trained(task)
    task.restore(first.kept)
    second = trained(task, first.parameters)
    whole = task_of(own_test=0.25)
    everything = {**first.parameters, "3.weight": first.kept["local.3.weight"], "3.bias": first.kept["local.3.bias"]}
    expected = trained(whole, everything)
    for name, array in second.parameters.items():
        np.testing.assert_array_equal(array, expected.parameters[name])
    np.testing.assert_array_equal(second.kept["local.3.bias"], expected.parameters["3.bias"])
    task.restore({})
    anew = trained(task, first.parameters)
    assert not np.array_equal(anew.kept["local.3.bias"], second.kept["local.3.bias"])


def test_local_tensors_of_another_model_are_not_used() -> None:
    task = task_of(local=["3.*"])
    expected = trained(task)
    task.restore({"local.3.bias": np.zeros(99, np.float32), "local.3.weight": np.zeros((3, 5), np.float64)})
    np.testing.assert_array_equal(trained(task).kept["local.3.weight"], expected.kept["local.3.weight"])


def test_both_accuracies_are_measured_on_rows_that_are_never_trained_on() -> None:
    seen: list[torch.Tensor] = []

    def loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if output.grad_fn is not None:
            seen.append(targets)
        return cross_entropy(output, targets)

    inputs, _ = classes(40)
    task = task_of(train_data=(inputs, torch.arange(40) % 3), own_test=0.25, loss=loss)
    result = trained(task, settings=replace(SETTINGS, batch_size=0, local_epochs=1))
    assert [len(batch) for batch in seen] == [30]
    assert result.num_examples == 30
    assert result.metrics["test_examples"] == 10
    assert result.metrics.keys() >= {"global_accuracy", "global_loss", "personal_accuracy", "personal_loss", "loss"}


def test_the_global_accuracy_is_that_of_the_model_as_it_came() -> None:
    task = task_of(own_test=classes(30))
    start = task.initial_parameters(1)
    found, metrics = task.evaluate(start), trained(task, start).metrics
    assert metrics["global_accuracy"] == found["accuracy"]
    assert metrics["global_loss"] == found["loss"]
    assert metrics["test_examples"] == found["test_examples"] == 30
    after = task.evaluate(trained(task, start).parameters)
    assert metrics["personal_accuracy"] == after["accuracy"]
    assert metrics["personal_loss"] == after["loss"]
    assert metrics["personal_loss"] < metrics["global_loss"]
    alike = task_of(test_data=classes(30)).evaluate(start)
    assert alike == {**found, "loss": pytest.approx(found["loss"], rel=1e-5)}


def test_an_evaluation_on_the_node_is_of_the_model_with_the_nodes_own_layers() -> None:
    task = task_of(local=["3.*"], own_test=0.25)
    start = task.initial_parameters(1)
    before = task.evaluate(start)
    task.restore({name: 2 * array.astype(np.float32) for name, array in trained(task, start).kept.items()})
    assert task.evaluate(start)["loss"] != before["loss"]


def test_fine_tuning_makes_the_personal_model_better_and_changes_no_bit_of_the_update() -> None:
    plain, tuned = task_of(own_test=0.25, local=["3.*"]), task_of(own_test=0.25, local=["3.*"], finetune_epochs=20)
    without, with_it = trained(plain), trained(tuned)
    for name, array in without.parameters.items():
        np.testing.assert_array_equal(array, with_it.parameters[name])
    for name, array in without.kept.items():
        np.testing.assert_array_equal(array, with_it.kept[name])
    assert with_it.metrics["personal_loss"] < without.metrics["personal_loss"]
    assert with_it.metrics["global_loss"] == without.metrics["global_loss"]


def test_a_regression_reports_its_losses() -> None:
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    task = task_of(model=lambda: nn.Linear(6, 1), train_data=(inputs, inputs[:, :1]), loss=mse_loss, own_test=0.2)
    assert trained(task).metrics.keys() == {"loss", "global_loss", "personal_loss", "test_examples"}


def test_a_dataset_is_divided_too_and_prepared_before_the_first_round() -> None:
    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, row: int) -> Any:
            return torch.full((6,), float(row)), row % 3

    task = task_of(train_data=Rows, own_test=0.5)
    prepare(task)
    assert trained(task).num_examples == 10


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"local": ["haed.*"]}, "haed"),
        ({"local": ["*"]}, "nothing is left"),
        ({"local_norms": True, "model": lambda: nn.Linear(6, 3)}, "no BatchNorm"),
        ({"own_test": 1.5}, "one part empty"),
        ({"own_test": 0.001}, "one part empty"),
        ({"own_test": 0.5, "train_data": lambda: [classes(8)]}, "cannot be divided"),
    ],
)
def test_what_cannot_be_says_which_argument(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(TaskError, match=why):
        trained(task_of(**changes))


def test_a_coordinator_has_no_whole_model_and_evaluates_nothing() -> None:
    context = TaskContext(node_index=None, node_count=2)
    task = task_of(context, local=["3.*"], test_data=classes(10))
    assert task.evaluate(task.initial_parameters(0)) == {}
    assert task_of(context, test_data=classes(10)).evaluate(task_of().initial_parameters(0))


def test_initial_parameters_without_torch_leave_the_local_ones_out() -> None:
    task = task_of(local=["3.*"], initial=lambda _seed: {"0.weight": np.zeros(1), "3.weight": np.zeros(1)})
    assert task.initial_parameters(0).keys() == {"0.weight"}


def test_local_layers_have_no_control_under_scaffold() -> None:
    task = scaffolded(task_of(local=["3.*"]))
    initial = task.initial_parameters(1)
    assert "control.0.weight" in initial
    assert "control.3.weight" not in initial
    settings = replace(SETTINGS, extra={NODES_KEY: 2.0})
    task.restore({})
    first = task.train(initial, settings, never)
    task.restore({**first.kept, **first.pending})
    second = task.train(initial, settings, never)
    assert first.kept.keys() == second.kept.keys() == {"local.3.weight", "local.3.bias"}
    assert not np.array_equal(first.kept["local.3.bias"], second.kept["local.3.bias"])


def guide_task(tmp_path: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    path = tmp_path / "personal_task.py"
    path.write_text(code)
    return path


def mean(arrays: list[Array]) -> Array:
    return np.asarray(np.mean([array.astype(np.float64) for array in arrays], axis=0)).astype(arrays[0].dtype)


def federated(tasks: list[TorchTask], rounds: int, settings: TrainSettings) -> list[TrainResult]:
    """Plain averaging in this process; returns the last round's results."""
    model, kept = tasks[0].initial_parameters(0), [dict[str, Any]() for _ in tasks]
    results: list[TrainResult] = []
    for number in range(rounds):
        results = []
        for task, state in zip(tasks, kept, strict=True):
            task.restore(state)
            results.append(task.train(model, replace(settings, seed=number), never))
            state.update(results[-1].kept)
        model = {name: mean([each.parameters[name] for each in results]) for name in model}
    return results


def test_the_guides_example_keeps_the_contract_and_is_better_than_one_model_for_all(tmp_path: Path) -> None:
    path = guide_task(tmp_path)
    build, settings = load_task(f"{path}:build"), default_settings(f"{path}:build")
    contexts = [TaskContext(node_index=index, node_count=3) for index in range(3)]
    check_task(build(contexts[0]))
    personal = [build(context) for context in contexts]
    common = [replace(task, local=()) for task in personal]  # type: ignore[type-var]
    own = np.mean([each.metrics["global_accuracy"] for each in federated(personal, 8, settings)])  # type: ignore[arg-type]
    one = np.mean([each.metrics["global_accuracy"] for each in federated(common, 8, settings)])  # type: ignore[arg-type]
    assert own > 0.8
    assert one < 0.6
