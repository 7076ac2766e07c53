"""JAX trees: named by their paths, and trained as optax trains them."""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]
if find_spec("jax") is None or find_spec("flax") is None:
    pytest.skip("JAX is not installed: make test-frameworks", allow_module_level=True)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import fedmq  # noqa: E402
from federation.errors import FederationError, TaskError  # noqa: E402
from federation.protocol.messages import TrainSettings  # noqa: E402
from federation.task import TaskContext  # noqa: E402
from federation.tasks.adapters.jax import jax_task  # noqa: E402
from federation.tasks.check import check_task  # noqa: E402
from federation.tasks.registry import load_task  # noqa: E402
from tests.rigs.simulated_task import code_block, train_simulated  # noqa: E402

PAGE = Path(__file__).parents[5] / "docs" / "how-to" / "jax.md"
NODES = [TaskContext(node_index=index, node_count=3) for index in range(3)]
X = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 0.0], np.float32) + 1.0).astype(np.float32)


def init(key: Any) -> Any:
    return {"w": 0.1 * jax.random.normal(key, (4,)), "more": [jnp.zeros(())]}


def loss(tree: Any, x: Any, y: Any) -> Any:
    return jnp.mean((x @ tree["w"] + tree["more"][0] - y) ** 2)


def noted(asked: list[int]) -> bool:
    """Nobody stops; it is written down that somebody has asked."""
    asked.append(1)
    return False


def task(node: TaskContext, **more: Any) -> Any:
    return jax_task(node, init=init, loss=loss, data=(X, Y), **more)


def test_the_pages_example_has_ten_lines_and_learns(tmp_path: Path) -> None:
    file, code = tmp_path / "my_task.py", code_block(PAGE, "jax_task(")
    file.write_text(code)
    assert len(code.strip().splitlines()) <= 10
    check_task(load_task(str(file))(NODES[0]))
    arrays, result = train_simulated(str(file), nodes=3, rounds=6)
    assert result.versions[-1].metrics["accuracy"] > 0.85
    assert arrays["params/layers_0/kernel"].shape == (64, 32)


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_a_round_is_what_optax_makes_of_the_same_batch(mu: float) -> None:
    own = task(NODES[1])
    arrays = own.initial_parameters(3)
    settings = TrainSettings(
        local_epochs=4, batch_size=0, learning_rate=0.1, momentum=0.9, weight_decay=0.01, proximal_mu=mu
    )
    made: dict[str, Any] = dict(own.train(arrays, settings, bool).parameters)
    x, y = own.examples.training
    base = tree = init(jax.random.key(3))
    rule = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9))
    state = rule.init(tree)
    for _ in range(4):
        gradient = jax.grad(loss)(tree, x, y)
        gradient = jax.tree.map(lambda g, a, b: g + mu * (a - b), gradient, tree, base)
        changes, state = rule.update(gradient, state, tree)
        tree = optax.apply_updates(tree, changes)
    np.testing.assert_allclose(made["w"], tree["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made["more/0"], tree["more"][0], rtol=1e-5, atol=1e-6)
    again = own.tree(made)
    np.testing.assert_array_equal(again["more"][0], made["more/0"])


def test_a_federation_finds_the_answer_with_an_optimizer_of_the_users(tmp_path: Path) -> None:
    tasks = [task(node, optimizer=lambda settings: optax.adam(settings.learning_rate)) for node in NODES]
    arrays: dict[str, Any] = dict(tasks[0].initial_parameters(0))
    for number in range(10):
        settings = TrainSettings(local_epochs=10, batch_size=10, learning_rate=0.05, seed=number)
        results = [each.train(arrays, settings, bool) for each in tasks]
        arrays = {name: np.mean([each.parameters[name] for each in results], axis=0) for name in arrays}
    np.testing.assert_allclose(arrays["w"], [1, -2, 0.5, 0], atol=0.02)


def test_evaluation_accuracy_stop_and_steps() -> None:
    own = task(NODES[0], test_data=(X, Y))
    arrays = own.initial_parameters(0)
    check_task(own)
    wanted = float(loss(own.tree(arrays), *own.examples.evaluation))
    assert own.evaluate(arrays) == {"loss": pytest.approx(wanted), "test_examples": 30.0}
    labels = (Y > 0).astype(int)
    scores = task(NODES[0])
    scores.examples = type(own.examples)(TaskContext(node_index=None, node_count=1), (X, labels), (X, labels))
    scores.model = type(own.model)(init, loss, lambda tree, x: jnp.stack([-x @ tree["w"], x @ tree["w"]], 1), None)
    wanted = float(np.mean((X @ np.array(arrays["w"]) > 0) == labels))
    assert scores.evaluate(arrays)["accuracy"] == pytest.approx(wanted)
    stopped = own.train(arrays, TrainSettings(), lambda: True).parameters
    assert all(np.array_equal(stopped[name], arrays[name]) for name in arrays)
    asked: list[int] = []
    own.train(arrays, TrainSettings(max_steps=3, batch_size=4), functools.partial(noted, asked))
    assert len(asked) == 3


def test_what_does_not_fit_is_told() -> None:
    own = task(NODES[0])
    arrays = dict(own.initial_parameters(0))
    with pytest.raises(TaskError, match="diverged"):
        own.train(arrays, TrainSettings(learning_rate=1e30, local_epochs=5), bool)
    with pytest.raises(TaskError, match="not the model's arrays: other, w"):
        own.train({"other": arrays.pop("w"), **arrays}, TrainSettings(), bool)
    gap = jax_task(NODES[0], init=init, loss=loss, data=lambda: (np.where(X > 2.2, np.nan, X), Y))
    with pytest.raises(TaskError, match=r"diverged: row \d+, column \d of the inputs is not finite: fill the gap"):
        gap.train(own.initial_parameters(0), TrainSettings(), bool)
    wrong = jax_task(NODES[0], init=init, loss=loss, data=(X[:, :2], Y))
    with pytest.raises(TaskError, match="failed"):
        wrong.prepare()


def _scores(tree: Any, x: Any) -> Any:
    return x @ tree["w"] + tree["b"]


LOSSES: dict[str, tuple[bool, Any]] = {
    "squares_of_pairs": (False, lambda tree, x, y: jnp.mean((_scores(tree, x) - y) ** 2)),
    "root_of_pairs": (False, lambda tree, x, y: jnp.sqrt(jnp.mean((_scores(tree, x) - y) ** 2))),
    "squares": (True, lambda tree, x, y: jnp.mean((_scores(tree, x)[:, 0] - y) ** 2)),
    "targets_made_wide": (True, lambda tree, x, y: jnp.mean(jnp.abs(_scores(tree, x) - y[:, None]))),
    "without_targets": (True, lambda tree, x, y: jnp.mean(_scores(tree, x) ** 2)),
    "without_inputs": (True, lambda tree, x, y: jnp.mean((tree["b"][0] - y) ** 2)),
    "of_classes": (True, lambda tree, x, y: jnp.mean(jnp.logaddexp(0, _scores(tree, x)[:, 0] * (1 - 2 * (y > 0))))),
}
"""Whether a loss is of rows, and the loss."""


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("first", [0.0, 1.0])
def test_a_loss_that_compares_each_output_with_every_target_is_refused(name: str, scale: float, first: float) -> None:
    """JAX broadcasts (rows, 1) and (rows,) without a word, and what is trained is the mean."""
    is_of_rows, loss = LOSSES[name]
    inputs = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    pair = inputs, (inputs[:, 0] * scale).astype(np.float32)
    node = TaskContext(node_index=0, node_count=1)

    def init(_: Any) -> Any:
        return {"w": jnp.full((4, 1), first), "b": jnp.zeros(1)}

    task = jax_task(node, init=init, loss=loss, data=lambda: pair)
    if is_of_rows:
        task.prepare()
    else:
        words = "compares each output with the targets of all rows"
        with pytest.raises(TaskError, match=words):
            task.prepare()
        with pytest.raises(TaskError, match=words):
            check_task(task)


def test_a_loss_that_a_real_node_refuses_at_its_start_is_refused_in_a_simulation_with_the_same_words() -> None:
    """The loss of all pairs is found in `prepare` alone."""

    def first(_: Any) -> Any:
        return {"w": jnp.zeros((4, 1)), "b": jnp.zeros(1)}

    def build(context: TaskContext) -> Any:
        return jax_task(context, init=first, loss=LOSSES["squares_of_pairs"][1], data=lambda: (X, X[:, 0]))

    with pytest.raises(FederationError, match="compares each output with the targets of all rows"):
        fedmq.simulate(build, nodes=2, rounds=2, progress=False)
