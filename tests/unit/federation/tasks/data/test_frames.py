"""Data frames: columns by their names, rows by their places, and what is no number refused by its column."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from federation.errors import TaskError
from federation.inputs import Inputs, agree
from federation.task import TaskContext
from federation.tasks import TorchTask, WholeData, split
from federation.tasks.data.examples import Examples
from federation.tasks.training.local_data import as_tensor, own_data

pytestmark = pytest.mark.frameworks
WHY = "pandas, Polars and PyArrow are not installed: make test-frameworks"
pd = pytest.importorskip("pandas", reason=WHY)
pl = pytest.importorskip("polars", reason=WHY)
pa = pytest.importorskip("pyarrow", reason=WHY)

KINDS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
COLUMNS = {"heat": [60.0, 61.5, 70.0, 80.0], "on": [True, False, True, True], "count": [1, 2, 3, 4]}
TARGETS = np.array([0, 1, 0, 1])
BOTH = TaskContext(node_index=0, node_count=2)
NODE = TaskContext(node_index=0, node_count=1)
COORDINATOR = TaskContext(node_index=None, node_count=2)


def more(column: Any) -> Any:
    return pd.DataFrame({"heat": [1.0, 2.0, 3.0], "more": column})


def task(train: Any, context: TaskContext = NODE, **fields: Any) -> TorchTask:
    """One layer of two inputs."""
    made = {"loss": torch.nn.functional.cross_entropy, "model": lambda: torch.nn.Linear(2, 2), **fields}
    return TorchTask(context, train_data=train, **made)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_several_kinds_of_numbers_become_float32(kind: str) -> None:
    found = as_tensor(KINDS[kind](COLUMNS))
    assert found.dtype == torch.float32
    assert found.tolist() == [[60, 1, 1], [61.5, 0, 2], [70, 1, 3], [80, 1, 4]]
    whole = as_tensor(KINDS[kind]({"a": [1, 2], "b": [3, 4]}))
    assert (whole.dtype, whole.tolist()) == (torch.int64, [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        pytest.param(pd.array([1, None, 3], dtype="Int64"), [1, np.nan, 3], id="Int64"),
        pytest.param(pd.array([True, None, False], dtype="boolean"), [1, np.nan, 0], id="boolean"),
        pytest.param(pd.array([1, None, 3], dtype="int64[pyarrow]"), [1, np.nan, 3], id="Arrow's"),
        pytest.param(pd.Series([1, None, Decimal("2.5")], dtype=object), [1, np.nan, 2.5], id="object"),
        pytest.param(pd.arrays.SparseArray([0.0, 0.0, 2.0]), [0, 0, 2], id="sparse"),
        pytest.param(pd.Categorical([3, 1, 3]), [3, 1, 3], id="category of numbers"),
        pytest.param(np.array([1, 255, 3], np.uint8), [1, 255, 3], id="uint8"),
    ],
)
def test_every_kind_of_number_is_read_and_what_is_missing_is_a_gap(column: Any, wanted: list[float]) -> None:
    np.testing.assert_array_equal(as_tensor(more(column))[:, 1].numpy(), np.array(wanted, np.float32))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["a", "b", "a"], "is (str|object), and must be numbers: row 0 has 'a'. Encode it, the same on every node"),
        ([1, "x", 2], "is object, and must be numbers: row 1 has 'x'"),
        (pd.Categorical(["a", "b", "a"]), "is category, and must be numbers: row 0 has 'a'"),
        (pd.to_datetime(["2024-01-01"] * 3), "is datetime64.*give seconds since a fixed time"),
        (pd.to_datetime(["2024-01-01"] * 3).tz_localize("Europe/Berlin"), "is datetime64.*Berlin.: give seconds"),
        (pd.to_timedelta([1, 2, 3], unit="s"), "is timedelta64.*give seconds"),
        (pd.period_range("2024-01", periods=3, freq="M"), "is period.*give seconds"),
        ([1j, 2, 3], "is complex128, and must be numbers"),
        ([1e300, 2, 3], r"has 1e\+300 in row 0, and float32 ends at"),
        ([1_764_000_000, 1_764_000_060, 1_764_000_120], "lies around 1764000060, where .* differ by 128.*or leave it"),
    ],
)
def test_a_column_that_is_no_number_is_refused_by_its_name(column: Any, words: str) -> None:
    with pytest.raises(TaskError, match=f"^column 'more' of the data {words}"):
        as_tensor(more(column))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame([[1.0, 2], [3, 4]], columns=["a", "a"]), "columns 0 and 1 of the data are both called 'a'"),
        (pd.DataFrame(index=[1, 2]), "the data has no column"),
        (pl.DataFrame({"a": [1.0]}).lazy(), r"LazyFrame.*collect\(\)"),
        (pa.table({"a": ["x"]}), "column 'a' of the data is string, and must be numbers: row 0 has 'x'"),
        (pl.DataFrame({"a": pl.Series([1]).cast(pl.Date)}), "column 'a' of the data is Date: give seconds"),
        (pd.DataFrame({"a": np.array([2**63], np.uint64)}), "whole numbers go up to"),
        (pd.Series(["ok", "worn"], name="state"), "^column 'state' of the data is (str|object), and must be numbers"),
    ],
)
def test_a_frame_that_cannot_be_an_array_is_refused(frame: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        as_tensor(frame)


def test_numbers_as_names_may_come_twice_and_names_of_several_levels_are_names() -> None:
    beside = pd.concat([pd.DataFrame([[1.0, 2.0]]), pd.DataFrame([[True]])], axis=1)
    assert as_tensor(beside).tolist() == [[1, 2, 1]]
    levels = pd.DataFrame([[1.0, True]], columns=pd.MultiIndex.from_tuples([("heat", "mean"), ("heat", "on")]))
    assert as_tensor(levels).tolist() == [[1, 1]]
    odd = pd.DataFrame({"columns": [1.0], "column_names": [True], "iloc": [2]})
    assert as_tensor(odd).tolist() == [[1, 1, 2]]


def test_a_frame_alone_is_no_data_and_one_without_rows_is_empty() -> None:
    with pytest.raises(TaskError, match=r"data must be \(inputs, targets\).*not DataFrame"):
        own_data(lambda: pd.DataFrame(COLUMNS), torch.device("cpu"))
    with pytest.raises(TaskError, match=r"\[0, 0\] rows"):
        own_data((pd.DataFrame({"a": []}), np.zeros(0)), torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_taken_by_their_places(kind: str) -> None:
    frame = KINDS[kind](COLUMNS)
    targets: Any = pd.Series(TARGETS, index=[7, 7, 3, 0]) if kind == "pandas" else TARGETS
    if kind == "pandas":
        frame.index = [7, 7, 3, 0]
    wanted = split(BOTH, as_tensor(frame), TARGETS)
    for inputs, labels in (split(BOTH, frame, targets), WholeData(lambda: (frame, targets)).part(BOTH, "iid")):
        assert torch.equal(as_tensor(inputs), wanted[0])
        assert as_tensor(labels).tolist() == wanted[1].tolist()
    found = Examples(NODE, (frame, targets)).training
    np.testing.assert_array_equal(found[0], split(NODE, as_tensor(frame), TARGETS)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_taken_in_the_order_that_the_task_says(kind: str) -> None:
    frame = KINDS[kind](COLUMNS)
    for train in ((frame, TARGETS), lambda: (frame, TARGETS)):
        made = task(train, features=("count", "heat"))
        assert made.inputs().features == ("count", "heat")
        assert sorted(made.rows().tolist()) == [[1, 60], [2, 61.5], [3, 70], [4, 80]]
    with pytest.raises(TaskError, match="the data has no column cold: it has heat, on, count"):
        task((frame, TARGETS), features=("count", "cold"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_takes_columns_by_the_names_that_the_coordinator_says(kind: str) -> None:
    frame = KINDS[kind](COLUMNS)
    tested = KINDS[kind]({"on": [True], "heat": [1.0]})
    wanted = task(lambda: None, COORDINATOR, test_data=(tested, TARGETS[:1])).inputs()
    assert wanted.features == ("on", "heat")
    made = task(lambda: (frame, TARGETS), test_data=lambda: (frame, TARGETS), own_test=lambda: (frame, TARGETS))
    assert made.inputs().features == ("heat", "on", "count")
    agree(made, wanted.digest, wanted.to_text())
    assert made.inputs().features == ("on", "heat")
    assert made.rows().tolist() == [[1, 60], [0, 61.5], [1, 70], [1, 80]]
    made.prepare()
    lacking = Inputs(features=("heat", "cold"))
    with pytest.raises(TaskError, match="it has heat, on, count"):
        agree(made, lacking.digest, lacking.to_text())
    assert made.inputs().features == ("on", "heat")


def test_test_data_is_read_in_the_order_of_the_training_data() -> None:
    same = {"weight": np.array([[9.0, 0.0], [0.0, 9.0]], np.float32), "bias": np.zeros(2, np.float32)}
    train = pd.DataFrame({"first": [1.0, 0.0], "second": [0.0, 1.0]})
    turned = train[["second", "first"]]
    for data in ((train, TARGETS[:2]), lambda: (train, TARGETS[:2])):
        made = task(data, own_test=lambda: (turned, TARGETS[:2]), test_data=lambda: (turned, TARGETS[:2]))
        made.prepare()
        assert made.evaluate(same)["accuracy"] == 1
        other = task(data, test_data=lambda: (turned, TARGETS[:2]))
        other.prepare()
        assert other.evaluate(same)["accuracy"] == 1


def test_a_gap_is_told_by_the_name_of_its_column() -> None:
    frame = pd.DataFrame({"heat": [1.0, 2.0], "cold": [1.0, None]})
    with pytest.raises(TaskError, match="input row 1, column 'cold' is not finite"):
        task(lambda: (frame, TARGETS[:2])).prepare()


def test_targets_whose_index_names_the_rows_in_another_order_are_refused() -> None:
    """Rows are taken by their places: each input had another row's target."""
    inputs = pd.DataFrame({"a": np.arange(6.0), "b": np.ones(6)})
    targets = pd.Series([0, 1, 0, 1, 0, 1])
    other = targets.iloc[[1, 0, 2, 3, 4, 5]]
    for data in ((inputs, other), (inputs.iloc[::-1], other)):
        with pytest.raises(
            TaskError, match=r"another order than that of the inputs: row 0 .*targets\.loc\[inputs\.index"
        ):
            own_data(data, torch.device("cpu"))
        with pytest.raises(TaskError, match="another order than that of the inputs"):
            Examples(TaskContext(node_index=0, node_count=1), lambda data=data: data).training  # noqa: B018


def test_an_index_that_names_other_rows_or_none_is_passed_over() -> None:
    inputs = pd.DataFrame({"a": np.arange(6.0), "b": np.ones(6)})
    targets = pd.Series([0, 1, 0, 1, 0, 1])
    shuffled = inputs.iloc[[3, 1, 0, 2, 5, 4]]
    for data in (
        (inputs, targets),
        (shuffled, targets.loc[shuffled.index]),
        (shuffled, targets),
        (shuffled, targets.to_numpy()),
        (inputs, pd.Series(targets.to_numpy(), index=list("abcdef"))),
        (inputs, pd.Series(targets.to_numpy(), index=[0] * 6)),
    ):
        assert own_data(data, torch.device("cpu")).num_examples == 6
