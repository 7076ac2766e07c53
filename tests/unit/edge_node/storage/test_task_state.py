"""What a node keeps for its task: changes that wait for a verdict, and arrays that wait for nobody."""

import numpy as np
import pytest

from edge_node.storage.task_state import added, change_of, expected_state, pack_arrays, unpack_arrays
from federation.errors import TaskError
from federation.task import Parameters, TrainResult


def ones(value: float = 1.0) -> np.ndarray:
    return np.full(3, value, np.float32)


def test_an_applied_change_is_added_and_the_first_one_begins_at_zero() -> None:
    state = added({"c": ones(1.0), "other": ones()}, {"c": ones(0.5), "new": ones(2.0)})
    np.testing.assert_array_equal(state["c"], ones(1.5))
    np.testing.assert_array_equal(state["new"], ones(2.0))
    np.testing.assert_array_equal(state["other"], ones())
    assert state["c"].dtype == np.float32


def test_a_change_of_another_shape_belongs_to_another_model_and_begins_anew() -> None:
    np.testing.assert_array_equal(added({"c": np.zeros(7)}, {"c": ones(2.0)})["c"], ones(2.0))


def test_the_task_is_given_what_is_expected_read_only() -> None:
    kept = {"c": ones(1.0)}
    state = expected_state(kept, [{"c": ones(0.5)}, {}, {"c": ones(0.25)}])
    np.testing.assert_array_equal(state["c"], ones(1.75))
    assert not state["c"].flags.writeable
    assert not expected_state(kept, [])["c"].flags.writeable
    assert kept["c"].flags.writeable


def test_packed_arrays_come_back_with_their_bits() -> None:
    arrays = {"a": ones(0.1), "scalar": np.array(7, np.int64), "t": np.arange(6.0).reshape(2, 3).T}
    again = unpack_arrays(pack_arrays(arrays))
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, strict=True)


@pytest.mark.parametrize("body", [None, b"", b"\x00" * 40, pack_arrays({"a": ones()})[:-1]])
def test_a_missing_or_damaged_body_is_no_state(body: bytes | None) -> None:
    assert unpack_arrays(body) == {}


@pytest.mark.parametrize(
    ("kept", "pending"),
    [
        ({"a": ones(np.nan)}, {}),
        ({}, {"a": ones(np.inf)}),
        ({}, {"a": np.ones(3, np.int64)}),
        ({"a": ones()}, {"a": ones()}),
        ({"a": np.array(["text"])}, {}),
        ({"a": np.ones(3, np.longdouble)}, {}),
        ({}, {"a": np.ones(3, np.longdouble)}),
    ],
)
def test_state_that_cannot_be_kept_is_the_tasks_error(kept: Parameters, pending: Parameters) -> None:
    with pytest.raises(TaskError, match=r"state '?a"):
        change_of(TrainResult(parameters={}, num_examples=1, kept=kept, pending=pending))


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_a_name_that_cannot_be_read_again_is_the_tasks_error(name: str) -> None:
    """One such array would cost the node all that it keeps, at its next start."""
    with pytest.raises(TaskError, match="the task's state"):
        change_of(TrainResult(parameters={}, num_examples=1, kept={name: ones()}))


def test_a_change_is_a_copy_of_what_the_task_goes_on_using() -> None:
    array = ones(1.0)
    change = change_of(TrainResult(parameters={}, num_examples=1, kept={"k": array}, pending={"p": array}))
    array[:] = 9.0
    np.testing.assert_array_equal(change.kept["k"], ones(1.0))
    np.testing.assert_array_equal(change.pending["p"], ones(1.0))
