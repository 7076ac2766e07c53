"""Flower's clients, unchanged: what comes out is what Flower's own FedAvg makes of them."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]
if find_spec("flwr") is None:
    pytest.skip("Flower is not installed: make test-frameworks", allow_module_level=True)

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.client import NumPyClient  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from benchmarks.flower_app.client_app import app  # noqa: E402
from benchmarks.flower_app.numpy_client import client_fn  # noqa: E402
from benchmarks.flower_app.task import Net  # noqa: E402
from coordinator.engine.announcer import round_seed  # noqa: E402
from federation.errors import TaskError  # noqa: E402
from federation.protocol.messages import TrainSettings  # noqa: E402
from federation.task import TaskContext  # noqa: E402
from federation.tasks.adapters.flower import flower_task  # noqa: E402
from federation.tasks.check import check_task  # noqa: E402
from federation.tasks.registry import load_task  # noqa: E402
from federation.types import RoundId  # noqa: E402
from tests.rigs.flower_reference import flower_average, flower_average_of_old_clients  # noqa: E402
from tests.rigs.simulated_task import code_block, train_simulated  # noqa: E402
from update_codec import Role  # noqa: E402

PAGE = Path(__file__).parents[5] / "docs" / "how-to" / "coming-from-flower.md"
SERVER, NODE = TaskContext(node_index=None, node_count=1), TaskContext(node_index=1, node_count=3)
RATE = 0.05
SETTINGS = f"""
from federation.protocol.messages import TrainSettings
DEFAULT_SETTINGS = TrainSettings(learning_rate={RATE})
"""
OLD = (
    "from benchmarks.flower_app.numpy_client import client_fn\nfrom federation.tasks.adapters.flower import flower_task"
)


def of_the_page() -> str:
    return code_block(PAGE, "flower_task(app").replace("my_app", "benchmarks.flower_app")


def seeds(number: int, node: int) -> int:
    """What `FlowerTask` draws a round's numbers from."""
    return round_seed(0, RoundId(number - 1)) + 7919 * (node + 1)


def assert_close(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for name, wanted in theirs.items():
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(ours[name], wanted, rtol=0, atol=1e-5 * scale, err_msg=name)


def test_after_five_rounds_the_model_is_that_of_flowers_own_fedavg(tmp_path: Path) -> None:
    file = tmp_path / "my_task.py"
    file.write_text(of_the_page() + SETTINGS)
    initial = dict(load_task(str(file))(SERVER).initial_parameters(0))
    del initial["server-round"]
    theirs = flower_average(app, initial, nodes=3, rounds=5, config={"lr": RATE}, seeds=seeds)
    ours, result = train_simulated(str(file), nodes=3, rounds=5)
    assert_close(ours, theirs)
    assert ours["server-round"] == 5
    assert np.abs(ours["fc1.weight"] - initial["fc1.weight"]).max() > 0.05
    assert len(of_the_page().strip().splitlines()) <= 10
    assert result.verdicts == {"applied": 15}


def test_clients_of_the_older_kind_give_the_same_as_flowers_older_server(tmp_path: Path) -> None:
    file = tmp_path / "my_task.py"
    file.write_text(f"{OLD}\nbuild = flower_task(client_fn)\n{SETTINGS}")
    initial = dict(load_task(str(file))(SERVER).initial_parameters(0))
    del initial["server-round"]
    arrays = list(initial.values())
    theirs = flower_average_of_old_clients(client_fn, arrays, nodes=3, rounds=5, lr=RATE, seeds=seeds)
    ours, _ = train_simulated(str(file), nodes=3, rounds=5)
    # Flower's older aggregate makes 0 of a whole number, which here is counted.
    counted = {str(place): array for place, array in enumerate(theirs) if arrays[place].dtype.kind == "f"}
    assert len(counted) == len(arrays) - 1
    assert_close(ours, counted)


@pytest.mark.parametrize("client", [app, client_fn], ids=["app", "client_fn"])
def test_both_kinds_keep_the_contract_and_evaluate_on_their_node(client: Any) -> None:
    initial = None if client is client_fn else lambda: Net().state_dict()
    build = flower_task(client, initial=initial, run_config={"local-epochs": 1})
    task = build(NODE)
    check_task(task)
    arrays = task.train(task.initial_parameters(1), TrainSettings(learning_rate=RATE), bool).parameters
    found = task.evaluate(arrays)
    assert found.keys() == {"loss", "accuracy", "test_examples"}
    assert found["accuracy"] > 0.5
    assert build(SERVER).evaluate(arrays) == {}
    if initial is not None:
        statistics = [name for name, role in task.roles().items() if role is Role.STATISTIC]
        assert statistics == ["norm.running_mean", "norm.running_var"]


def told(**more: Any) -> tuple[Any, list[dict[str, Any]]]:
    """An app that writes down what it is told, and counts in its state."""
    heard: list[dict[str, Any]] = []
    made = ClientApp()

    @made.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        before = context.state["count"]["n"] if "count" in context.state else 0
        context.state["count"] = MetricRecord({"n": before + 1})
        heard.append({**message.content["config"], **context.node_config, **context.run_config, "count": before + 1})
        reply = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 4, "train_loss": 0.5})}
        return Message(RecordDict(reply), reply_to=message)

    return flower_task(made, initial=lambda: [np.ones(3), np.zeros(2, np.int64)], **more), heard


def test_a_client_is_told_what_flower_would_tell_it_and_keeps_its_state(tmp_path: Path) -> None:
    build, heard = told(
        run_config={"local-epochs": 2}, train_config=lambda settings: {"warm": settings.local_epochs > 1}
    )
    task = build(TaskContext(node_index=1, node_count=3, data=tmp_path))
    arrays, settings = task.initial_parameters(0), TrainSettings(learning_rate=0.25, extra={"alpha": 2.0})
    first = task.train(arrays, settings, bool)
    again = build(NODE)  # the node was started again
    again.restore(first.kept)
    second = again.train(first.parameters, settings, bool)
    assert (first.metrics, first.num_examples) == ({"loss": 0.5}, 4)
    assert {name: array.dtype.kind for name, array in second.parameters.items()} == {
        "0": "f",
        "1": "i",
        "server-round": "i",
    }
    wanted = {"server-round": 1, "lr": 0.25, "alpha": 2.0, "warm": False, "partition-id": 1, "num-partitions": 3}
    assert wanted.items() <= heard[0].items()
    assert (heard[0]["data"], heard[0]["local-epochs"], heard[0]["count"]) == (str(tmp_path), 2, 1)
    assert (heard[1]["server-round"], heard[1]["count"]) == (2, 2)
    assert task.evaluate(arrays) == {}


def test_the_servers_evaluation_is_the_coordinators() -> None:
    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": 0.25, "eval_loss": float(number + len(arrays)), "odd": float("nan")})

    build, _ = told(evaluate=evaluate)
    assert build(SERVER).evaluate(build(SERVER).initial_parameters(0)) == {"accuracy": 0.25, "loss": 2.0}
    older = flower_task(client_fn, evaluate=lambda number, arrays, config: (float(len(arrays)), {"accuracy": 1.0}))
    assert older(SERVER).evaluate(older(SERVER).initial_parameters(0)) == {"loss": 9.0, "accuracy": 1.0}


class Silent(NumPyClient):  # type: ignore[misc]
    def fit(self, parameters: Any, config: Any) -> Any:
        raise RuntimeError("no camera")


def answering(content: RecordDict | None) -> Any:
    made = ClientApp()

    @made.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        return Message(content, reply_to=message)

    return flower_task(made, initial=lambda: {"w": np.zeros(3, np.float32)})


def test_what_goes_wrong_is_told_with_its_reason() -> None:
    metrics = MetricRecord({"num-examples": 3})
    for task, words in [
        (flower_task(lambda context: Silent(), initial=lambda: [np.zeros(2)]), "RuntimeError: no camera"),
        (answering(RecordDict({"a": ArrayRecord([np.zeros(9)]), "m": metrics})), "other arrays than it got"),
        (answering(RecordDict({"a": ArrayRecord([np.zeros(9)]), "m": MetricRecord({"n": 1})})), "num-examples"),
        (answering(RecordDict({"c": ConfigRecord({"n": 1}), "m": metrics})), "ValueError"),
    ]:
        with pytest.raises(TaskError, match=words):
            task(NODE).train(task(NODE).initial_parameters(0), TrainSettings(), bool)
    with pytest.raises(TaskError, match="initial=lambda"):
        flower_task(app)(SERVER).initial_parameters(0)
    with pytest.raises(TaskError, match="cannot do this"):
        flower_task(lambda context: Silent())(SERVER).initial_parameters(0)
    with pytest.raises(TaskError, match="not int"):
        flower_task(3)
    build, _ = told()
    with pytest.raises(TaskError, match="stopped"):
        build(NODE).train(build(NODE).initial_parameters(0), TrainSettings(), lambda: True)


def test_what_a_client_draws_follows_the_round_and_leaves_no_trace() -> None:
    task = flower_task(app, initial=lambda: Net().state_dict(), run_config={"local-epochs": 1})(NODE)
    arrays = task.initial_parameters(7)
    np.random.seed(1)  # noqa: NPY002 - what clients use
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
    one, same, other = (
        task.train(arrays, TrainSettings(seed=seed), bool).parameters["fc1.weight"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
    assert str(np.random.get_state(legacy=False)) == str(state)  # noqa: NPY002 - as above
