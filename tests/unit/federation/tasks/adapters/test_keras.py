"""Keras models: fitted by Keras, with statistics averaged apart and frozen layers at home."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]
if find_spec("keras") is None:
    pytest.skip("Keras is not installed: make test-frameworks", allow_module_level=True)
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras  # noqa: E402

from federation.errors import TaskError  # noqa: E402
from federation.protocol.messages import TrainSettings  # noqa: E402
from federation.task import TaskContext  # noqa: E402
from federation.tasks.adapters.keras import KerasTask, keras_task  # noqa: E402
from federation.tasks.check import check_task  # noqa: E402
from federation.tasks.registry import load_task  # noqa: E402
from tests.rigs.simulated_task import code_block, train_simulated  # noqa: E402
from update_codec import Role  # noqa: E402

PAGE = Path(__file__).parents[5] / "docs" / "how-to" / "keras.md"
NODE = TaskContext(node_index=0, node_count=1)
X = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int64)


def model(*, frozen: bool = False) -> keras.Model:
    layers = [
        keras.layers.Dense(8, "relu", trainable=not frozen),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(2),
    ]
    made = keras.Sequential([keras.Input((6,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(momentum=0.9), loss, metrics=["accuracy"])
    return made


def noted(asked: list[int], *, stop: bool) -> bool:
    """Write down that somebody has asked."""
    asked.append(1)
    return stop


def task(**more: Any) -> KerasTask:
    return keras_task(NODE, **{"model": model, "data": (X, Y), "test_data": (X, Y), **more})


def test_the_pages_example_has_ten_lines_and_learns(tmp_path: Path) -> None:
    file, code = tmp_path / "my_task.py", code_block(PAGE, "keras_task(")
    file.write_text(code)
    assert len(code.strip().splitlines()) <= 10
    check_task(load_task(str(file))(TaskContext(node_index=0, node_count=3)))
    arrays, result = train_simulated(str(file), nodes=2, rounds=6)
    assert result.versions[-1].metrics["accuracy"] > 0.8
    assert arrays["0.dense.kernel"].shape == (64, 32)


def test_a_round_is_keras_own_fit() -> None:
    own = task(model=plain)
    arrays = own.initial_parameters(0)
    made = own.train(arrays, TrainSettings(local_epochs=3, batch_size=0, learning_rate=0.1), bool)
    keras.utils.set_random_seed(0)
    reference = plain()
    reference.optimizer.learning_rate = 0.1
    reference.fit(X, Y, batch_size=len(X), epochs=3, verbose=0)
    for ours, theirs in zip(made.parameters.values(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(np.float32(ours), theirs, rtol=1e-5, atol=1e-6)
    assert made.num_examples == 96
    np.testing.assert_allclose(
        own.fitted(made.parameters).predict(X, verbose=0), reference.predict(X, verbose=0), atol=1e-5
    )


def plain() -> keras.Model:
    made = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


def test_statistics_constants_and_seeds() -> None:
    own = task()
    check_task(own)
    moving = ["4.batch_normalization.moving_mean", "5.batch_normalization.moving_variance"]
    assert own.roles() == dict.fromkeys(moving, Role.STATISTIC)
    frozen = task(model=lambda: model(frozen=True))
    assert [name for name, role in frozen.roles().items() if role is Role.CONSTANT] == [
        "0.dense.kernel",
        "1.dense.bias",
    ]
    one, other = frozen.initial_parameters(1), frozen.initial_parameters(2)
    np.testing.assert_array_equal(one["0.dense.kernel"], other["0.dense.kernel"])
    travels = {name: array for name, array in one.items() if frozen.roles().get(name) is not Role.CONSTANT}
    assert frozen.train(travels, TrainSettings(), bool).parameters.keys() == travels.keys()
    first, same, next_round = (
        own.train(own.initial_parameters(0), TrainSettings(seed=seed), bool) for seed in (1, 1, 2)
    )
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(array, same.parameters[name])
    assert np.any(first.parameters["0.dense.kernel"] != next_round.parameters["0.dense.kernel"])


def test_it_stops_takes_few_steps_and_reports() -> None:
    own = task()
    arrays = own.initial_parameters(0)
    asked: list[int] = []
    own.train(arrays, TrainSettings(local_epochs=5, batch_size=32, max_steps=4), lambda: noted(asked, stop=False))
    assert len(asked) == 3  # the fourth is the last one anyhow
    own.train(arrays, TrainSettings(local_epochs=5, batch_size=32), lambda: noted(asked, stop=True))
    assert len(asked) == 4
    found = own.evaluate(arrays)
    assert found.keys() == {"loss", "accuracy", "test_examples"}
    assert keras_task(NODE, model=model, data=(X, Y)).evaluate(arrays) == {}


def test_what_does_not_fit_is_told() -> None:
    arrays = dict(task().initial_parameters(0))
    with pytest.raises(TaskError, match="proximal"):
        task().train(arrays, TrainSettings(proximal_mu=1.0), bool)
    with pytest.raises(TaskError, match="not the model's weights: x"):
        task().train({**arrays, "x": np.zeros(1)}, TrainSettings(), bool)
    with pytest.raises(TaskError, match="built"):
        task(model=lambda: keras.Sequential([keras.layers.Dense(2)])).initial_parameters(0)
    with pytest.raises(TaskError, match="diverged"):
        task().train(arrays, TrainSettings(learning_rate=1e30, local_epochs=3), bool)
    gap = X.copy()
    gap[7, 1] = np.nan
    with pytest.raises(TaskError, match="diverged: row 7, column 1 of the inputs is not finite: fill the gap"):
        task(data=lambda: (gap, Y)).train(arrays, TrainSettings(), bool)
    with pytest.raises(TaskError, match="failed"):
        task(data=(X[:, :2], Y)).prepare()
