"""scikit-learn's estimators keep the task's contract, and are what the library itself would have made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from federation.errors import ConfigError, TaskError
from federation.protocol.messages import TrainSettings
from federation.task import ReadsFrames, TaskContext
from federation.tasks.adapters.scikit_learn import SklearnTask, sklearn_task
from federation.tasks.check import check_task
from tests.rigs.simulated_task import code_block, train_simulated
from update_codec import Role

PAGE = Path(__file__).parents[5] / "docs" / "how-to" / "scikit-learn.md"
SERVER = TaskContext(node_index=None, node_count=1)
NODES = [TaskContext(node_index=index, node_count=3) for index in range(3)]
ONE_PASS = TrainSettings(local_epochs=1)


def digits() -> tuple[Any, Any]:
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def binary() -> tuple[Any, Any]:
    x, y = digits()
    return x, np.where(y > 4, "high", "low")


def diabetes() -> tuple[Any, Any]:
    x, y = load_diabetes(return_X_y=True)
    return x, y / 100


CASES: list[tuple[Callable[[], Any], Callable[[], tuple[Any, Any]]]] = [
    (SGDClassifier, digits),
    (lambda: SGDClassifier(loss="log_loss"), binary),
    (SGDRegressor, diabetes),
    (Perceptron, digits),
    (LogisticRegression, digits),
    (LogisticRegression, binary),
    (lambda: MLPClassifier((16,)), digits),
    (lambda: MLPClassifier((16,), solver="sgd"), binary),
    (lambda: MLPRegressor(hidden_layer_sizes=(8, 4)), diabetes),
    (StandardScaler, digits),
    (MinMaxScaler, digits),
    (MaxAbsScaler, digits),
    (lambda: make_pipeline(StandardScaler(), SGDClassifier()), binary),
    (lambda: make_pipeline(MinMaxScaler(), LogisticRegression()), digits),
]


def after_rounds(build: Callable[[TaskContext], SklearnTask], rounds: int) -> dict[str, Any]:
    """The model of some rounds with one node: every update is the next version."""
    task, arrays = build(NODES[0]), dict[str, Any](build(SERVER).initial_parameters(0))
    for number in range(rounds):
        result = task.train(arrays, replace(ONE_PASS, seed=number, local_epochs=3), bool)
        added = {name: np.add(arrays[name], result.parameters[name]) for name in task.roles()}
        arrays = {**result.parameters, **added}
        task.restore(added)  # with one node what it has counted is all there is
    return arrays


@pytest.mark.parametrize(("make", "data"), CASES)
def test_every_estimator_keeps_the_contract_learns_and_answers_as_the_library(
    make: Callable[[], Any], data: Callable[[], tuple[Any, Any]]
) -> None:
    def build(context: TaskContext) -> SklearnTask:
        return sklearn_task(context, estimator=make(), data=data(), test_data=data())

    check_task(build(NODES[0]))
    server, arrays = build(SERVER), after_rounds(build, 3)
    estimator = server.fitted(arrays)
    x, y = data()
    if not hasattr(estimator, "predict"):
        np.testing.assert_allclose(np.float32(server.predict(arrays, x)), estimator.transform(x), rtol=1e-6)
        return
    first, last = server.evaluate(server.initial_parameters(0)), server.evaluate(arrays)
    name = "r2" if "r2" in last else "accuracy"
    assert last[name] == pytest.approx(estimator.score(x, y), abs=0.01)
    assert last[name] > first.get(name, 0)
    assert server.predict(arrays, x[:5]).shape[0] == 5
    # A file may have the arrays in any order.
    again = server.fitted(load(save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})))
    np.testing.assert_array_equal(again.predict(x), estimator.predict(x))


AWKWARD = """
import numpy as np
from sklearn.preprocessing import StandardScaler
from federation.tasks.adapters.scikit_learn import sklearn_task

def rows():
    rng = np.random.default_rng(1)
    scales, means = np.array([1e-2, 1e-9, 1, 1e6, 0, 0]), np.array([1e6, -3e-8, 0, 1e9, 0, 7.1])
    return rng.normal(size=(500, 6)) * scales + means

def build(context):
    x = rows()
    return sklearn_task(context, estimator=StandardScaler(), data=(x, np.zeros(500, int)))
"""


@pytest.mark.parametrize("how", [{}, {"codec": "edge"}, {"buffer": 2, "rounds": 12, "outages": "share=0.5,away_s=20"}])
def test_a_scaler_over_all_nodes_is_that_of_all_rows_and_nobody_counts_twice(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    file = tmp_path / "awkward.py"
    file.write_text(AWKWARD)
    task = str(file)
    arrays, _ = train_simulated(task, **{"nodes": 5, "rounds": 3, **how})
    space: dict[str, Any] = {}
    exec(AWKWARD, space)  # noqa: S102 - the text of the file
    pooled = StandardScaler().fit(space["rows"]())
    scaler = space["build"](SERVER).fitted(arrays)
    assert scaler.n_samples_seen_ == 500
    np.testing.assert_allclose(scaler.mean_, pooled.mean_, rtol=1e-6)
    np.testing.assert_allclose(scaler.scale_, pooled.scale_, rtol=1e-6)


def test_a_robust_rule_is_refused_where_every_node_must_count(tmp_path: Path) -> None:
    file = tmp_path / "awkward.py"
    file.write_text(AWKWARD)
    with pytest.raises(ConfigError, match="every node adds"):
        train_simulated(str(file), nodes=5, rounds=1, settings=("strategy.robust=median",))


@pytest.mark.parametrize("scaler", [MinMaxScaler(), MaxAbsScaler(), MinMaxScaler(feature_range=(-1, 1))])
def test_extremes_over_all_nodes_are_those_of_all_rows(scaler: Any) -> None:
    x = np.random.default_rng(2).normal(size=(90, 4)) * [1, -50, 1e-3, 0]
    tasks = [sklearn_task(node, estimator=scaler, data=(x, np.zeros(90, int))) for node in NODES]
    arrays: dict[str, Any] = dict(tasks[0].initial_parameters(0))
    arrays = {
        name: np.max([task.train(arrays, ONE_PASS, bool).parameters[name] for task in tasks], axis=0) for name in arrays
    }
    pooled = type(scaler)(**scaler.get_params()).fit(x)
    np.testing.assert_allclose(tasks[0].fitted(arrays).transform(x), pooled.transform(x), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda: SGDClassifier(loss="log_loss", shuffle=False), digits),
        (lambda: SGDClassifier(shuffle=False, learning_rate="invscaling", eta0=0.1), binary),
        (lambda: SGDRegressor(shuffle=False), diabetes),
    ],
)
def test_a_model_that_goes_from_node_to_node_is_that_of_the_same_rows_in_one_place(
    make: Callable[[], Any], data: Callable[[], tuple[Any, Any]]
) -> None:
    # Warm start and the schedule's counter: nothing begins anew on the next node.
    x, y = data()
    tasks = [sklearn_task(node, estimator=make(), data=(x, y)) for node in NODES]
    arrays, pooled = dict[str, Any](tasks[0].initial_parameters(0)), make()
    known = {} if isinstance(pooled, SGDRegressor) else {"classes": np.unique(y)}
    for task in tasks:
        arrays = dict(task.train(arrays, ONE_PASS, bool).parameters)
        pooled.partial_fit(*task.examples.training, **known)
    largest = np.abs(pooled.coef_).max()
    np.testing.assert_allclose(arrays["coef_"].reshape(pooled.coef_.shape), pooled.coef_, atol=1e-6 * largest)
    np.testing.assert_allclose(arrays["intercept_"], pooled.intercept_, atol=1e-6 * largest)
    assert arrays["t_"] == pooled.t_ == len(x) + 1


AVERAGED = """
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from federation.tasks.adapters.scikit_learn import sklearn_task

def make():
    return SGDClassifier(loss="log_loss", shuffle=False, learning_rate="constant", eta0=0.02)

def build(context):
    x, y = load_digits(return_X_y=True)
    return sklearn_task(context, estimator=make(), data=(x[::2] / 16, y[::2]), test_data=(x[1::2] / 16, y[1::2]))
"""


def test_one_round_of_averaging_is_the_mean_of_what_the_library_makes_of_each_part(tmp_path: Path) -> None:
    file = tmp_path / "averaged.py"
    file.write_text(AVERAGED)
    arrays, _ = train_simulated(str(file), nodes=4, rounds=1)
    space: dict[str, Any] = {}
    exec(AVERAGED, space)  # noqa: S102 - the text of the file
    parts = [space["build"](TaskContext(node_index=i, node_count=4)).examples.training for i in range(4)]
    made = [space["make"]().partial_fit(x, y, classes=np.arange(10)) for x, y in parts]
    weights = [len(x) for x, _ in parts]
    for name in ("coef_", "intercept_"):
        mean = np.average([getattr(each, name) for each in made], axis=0, weights=weights)
        np.testing.assert_allclose(arrays[name], mean, atol=1e-6 * np.abs(mean).max())


def test_with_the_same_passes_the_federation_is_as_good_as_all_rows_in_one_place(tmp_path: Path) -> None:
    file = tmp_path / "averaged.py"
    file.write_text(AVERAGED)
    _, result = train_simulated(str(file), nodes=2, rounds=40)
    space: dict[str, Any] = {}
    exec(AVERAGED, space)  # noqa: S102 - the text of the file
    server, pooled = space["build"](SERVER), space["make"]()
    for _ in range(40):
        pooled.partial_fit(*server.examples.known(), classes=np.arange(10))
    assert result.versions[-1].metrics["accuracy"] > pooled.score(*server.examples.evaluation) - 0.005


@pytest.mark.parametrize(
    ("pooled_rate", "rate"),
    [
        # A node makes a quarter of the steps of all rows in one place, so that their mean goes a quarter of the way.
        ('learning_rate="constant", eta0=0.02', 'learning_rate="constant", eta0=0.08'),
        # These schedules count the rows that were seen: a node's rate is four times that of all rows by itself.
        ('learning_rate="optimal"', 'learning_rate="optimal"'),
    ],
)
def test_four_nodes_with_rates_for_four_are_as_good_as_all_rows_in_one_place(
    pooled_rate: str, rate: str, tmp_path: Path
) -> None:
    text = AVERAGED.replace("shuffle=False, ", "random_state=1, ").replace('learning_rate="constant", eta0=0.02', "{}")
    file = tmp_path / "rated.py"
    file.write_text(text.format(rate))
    _, result = train_simulated(str(file), nodes=4, rounds=25)
    space: dict[str, Any] = {}
    exec(text.format(pooled_rate), space)  # noqa: S102 - the text of the file
    server, pooled = space["build"](SERVER), space["make"]()
    for _ in range(25):
        pooled.partial_fit(*server.examples.known(), classes=np.arange(10))
    assert result.versions[-1].metrics["accuracy"] > pooled.score(*server.examples.evaluation) - 0.005


def test_the_pages_example_learns_and_has_ten_lines(tmp_path: Path) -> None:
    file, code = tmp_path / "my_task.py", code_block(PAGE, "load_digits")
    file.write_text(code)
    _, result = train_simulated(str(file), nodes=3, rounds=6, codec="fine")
    assert result.versions[-1].metrics["accuracy"] > 0.9
    assert len(code.strip().splitlines()) <= 10


@pytest.mark.parametrize("make", [SGDClassifier, LogisticRegression, lambda: MLPClassifier((8,))])
def test_a_node_need_not_have_every_class_nor_the_coordinator_any_data(make: Callable[[], Any]) -> None:
    x, y = digits()
    few = y < 1

    def build(context: TaskContext) -> SklearnTask:
        def own() -> tuple[Any, Any]:
            return x[few], y[few]

        return sklearn_task(context, estimator=make(), data=own, test_data=own, classes=range(10), features=64)

    arrays = build(SERVER).initial_parameters(3)
    result = build(NODES[1]).train(arrays, ONE_PASS, bool)
    assert {name: each.shape for name, each in result.parameters.items()} == {n: a.shape for n, a in arrays.items()}
    server = build(SERVER)
    assert server.evaluate(result.parameters)["loss"] < server.evaluate(arrays)["loss"]


def test_names_of_classes_may_stand_for_the_numbers_in_the_data() -> None:
    x, y = digits()
    names = [f"digit {number}" for number in range(10)]
    task = sklearn_task(
        NODES[0], estimator=SGDClassifier(), data=lambda: (x, y), test_data=lambda: (x, y), classes=names, features=64
    )
    arrays = task.train(task.initial_parameters(0), ONE_PASS, bool).parameters
    assert task.evaluate(arrays)["accuracy"] > 0.8
    assert task.fitted(arrays).predict(x[:1])[0] in names


def test_local_training_can_be_stopped_and_cut() -> None:
    x, y = digits()
    task = sklearn_task(NODES[0], estimator=SGDClassifier(), data=(x, y))
    arrays = task.initial_parameters(0)
    assert task.train(arrays, TrainSettings(max_steps=7), bool).parameters["t_"] == 8
    assert task.train(arrays, TrainSettings(local_epochs=9), lambda: True).parameters["t_"] == 1
    network = sklearn_task(NODES[0], estimator=MLPClassifier((8,)), data=(x, y))
    assert network.train(network.initial_parameters(0), TrainSettings(max_steps=3), bool).parameters["t_"] == 96


def test_a_pass_over_many_rows_is_made_in_pieces_of_all_of_them() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    task = sklearn_task(replace(NODES[0], node_count=1), estimator=SGDRegressor(), data=(x, x @ [1.0, 2.0]))
    asked = iter(range(9))
    trained: Any = task.train(task.initial_parameters(0), ONE_PASS, lambda: next(asked) < 0).parameters
    assert next(asked) == 3
    assert trained["t_"] == 20_001
    np.testing.assert_allclose(trained["coef_"], [1, 2], atol=0.05)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (LinearRegression(), "LinearRegression cannot be averaged: there are SGDClassifier"),
        (SGDClassifier, r"estimator is the class SGDClassifier: give an object of it, SGDClassifier\(\)"),
        (SGDClassifier(average=True), "average="),
        (LogisticRegression(solver="liblinear"), "lbfgs"),
        (MLPClassifier(solver="lbfgs"), "adam or sgd"),
        (make_pipeline(StandardScaler(), MinMaxScaler(), SGDClassifier()), "one scaler and one model"),
        (make_pipeline(RobustScaler(), SGDClassifier()), "one scaler and one model"),
    ],
)
def test_what_cannot_be_averaged_is_refused_with_what_can(estimator: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        sklearn_task(NODES[0], estimator=estimator, data=digits())


def test_data_that_does_not_fit_is_refused_by_its_place() -> None:
    x, y = digits()
    gap = x.copy()
    gap[3, 5] = np.nan
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ((x, y), {"classes": range(9)}, "label 9, and the classes are 0, 1"),
        ((x, y), {"features": 12}, "64"),
        ((x, np.stack([y, y], 1)), {}, "one target per row"),
        (lambda: (gap, y), {"classes": range(10), "features": 64}, "row 3, column 5 of the inputs is not finite"),
        ((csr_matrix(x), y), {}, r"not csr_matrix: give what its toarray\(\) returns"),
        (lambda: (csr_matrix(x), y), {"classes": range(10), "features": 64}, r"toarray\(\) returns"),
        ((x[:, 0], y), {}, r"the inputs have the shape \[1797\], and \(rows, columns\) is wanted"),
        ((x, y[:5]), {}, "1797, 5. rows: they need as many"),
        (lambda: (x, y), {"features": 64}, "say classes="),
        (lambda: (x, y), {"classes": range(10)}, "say features="),
        (lambda: 5, {"classes": range(10), "features": 64}, "inputs, targets"),
    ]
    for data, options, words in cases:
        with pytest.raises(TaskError, match=words):
            sklearn_task(NODES[0], estimator=SGDClassifier(), data=data, **options).prepare()
    whole = sklearn_task(TaskContext(node_index=0, node_count=1), estimator=SGDClassifier(), data=(gap, y))
    with pytest.raises(TaskError, match="column 5 of the inputs is not finite"):
        whole.prepare()
    targets = np.where(np.arange(len(x)) == 4, np.nan, 1.0)
    cross = sklearn_task(NODES[0], estimator=SGDRegressor(), data=lambda: (x, targets), features=64)
    with pytest.raises(TaskError, match="row 4 of the targets is not finite"):
        cross.prepare()
    with pytest.raises(TaskError, match="LogisticRegressionCV cannot be averaged"):
        sklearn_task(NODES[0], estimator=LogisticRegressionCV(), data=(x, y))
    scaling = sklearn_task(NODES[0], estimator=StandardScaler(), data=lambda: (gap, y), features=64)
    with pytest.raises(TaskError, match="row 3, column 5"):
        scaling.train(scaling.initial_parameters(0), ONE_PASS, bool)


def test_settings_and_questions_that_it_cannot_answer_are_refused() -> None:
    task = sklearn_task(NODES[0], estimator=SGDClassifier(), data=digits())
    arrays = task.initial_parameters(0)
    with pytest.raises(TaskError, match="proximal"):
        task.train(arrays, TrainSettings(proximal_mu=0.1), bool)
    wild = sklearn_task(NODES[0], estimator=SGDRegressor(learning_rate="constant", eta0=1e36), data=diabetes())
    with pytest.raises(TaskError, match="eta0"):
        wild.train(wild.initial_parameters(0), ONE_PASS, bool)
    assert task.evaluate(arrays) == {}
    counting = sklearn_task(NODES[0], estimator=make_pipeline(StandardScaler(), SGDClassifier()), data=digits())
    with pytest.raises(TaskError, match="counted nothing"):
        counting.fitted(counting.initial_parameters(0))
    assert counting.roles()["scaler.sums"] is Role.CONTROL


NAMED = ("low", "medium", "high")
"""In an order of their own, which is not that of the alphabet."""


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("estimator", [LogisticRegression(), SGDClassifier(loss="hinge")], ids=["proba", "scores"])
def test_classes_keep_the_order_in_which_they_are_named(estimator: Any, count: int, *, numbered: bool) -> None:
    """The library sorts them: the model's answers had other names than the targets, and its scores another order."""
    inputs = np.random.default_rng(0).normal(size=(300, count))
    numbers, names = inputs.argmax(1), NAMED[-count:]
    targets = numbers if numbered else np.array(names)[numbers]
    node = TaskContext(node_index=0, node_count=1)
    task = sklearn_task(
        node,
        estimator=estimator,
        data=lambda: (inputs, targets),
        test_data=(inputs, targets),
        classes=names,
        features=count,
    )
    now = task.initial_parameters(0)
    for _ in range(3):
        now = task.train(now, TrainSettings(local_epochs=20), bool).parameters
    assert task.evaluate(now)["accuracy"] > 0.9
    assert (task.fitted(now).predict(inputs) == np.array(names)[numbers]).mean() > 0.9
    scores: Any = task.predict(now, inputs)
    best = scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(int)
    assert (best == numbers).mean() > 0.9


def test_a_number_that_names_no_class_is_told() -> None:
    node, inputs = TaskContext(node_index=0, node_count=1), np.zeros((2, 3))
    task = sklearn_task(
        node, estimator=SGDClassifier(), data=lambda: (inputs, np.array([0, 3])), classes=NAMED, features=3
    )
    with pytest.raises(TaskError, match="row 1 has the label 3, and the classes are 0, 1, 2"):
        task.prepare()


def test_the_columns_of_a_nodes_own_frame_are_told() -> None:
    """FED-304: the library would have trained one node's second column as another's first."""

    class Frame:
        columns = ("b", "a")

        def get_column(self, name: str) -> Any:
            return np.arange(4.0) + self.columns.index(name)

        def to_series(self, place: int) -> Any:
            return self.get_column(self.columns[place])

    node, targets = TaskContext(node_index=0, node_count=1), np.array([0, 1, 0, 1])
    for inputs, names in ((Frame(), ("b", "a")), (np.zeros((4, 2)), ())):
        task = sklearn_task(
            node, estimator=SGDClassifier(), data=lambda inputs=inputs: (inputs, targets), classes=(0, 1), features=2
        )
        task.prepare()
        assert isinstance(task, ReadsFrames)
        assert task.columns_unsaid() == names


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"low", "high"}, "classes must be a list or a tuple of names in a fixed order"),
        ("ab", "classes must be a list or a tuple"),
        (("low", "high", "low"), "classes has 'low' twice"),
    ],
)
def test_classes_are_names_in_a_fixed_order(classes: Any, words: str) -> None:
    """Predictions are in this order, and that of a set is another one in each process."""
    with pytest.raises(TaskError, match=words):
        sklearn_task(NODES[0], estimator=SGDClassifier(), data=None, classes=classes)
