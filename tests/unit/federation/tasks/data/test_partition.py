"""Dividing a data set among nodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.data.partitioners import part_of, split


@settings(deadline=None)
@given(count=st.integers(1, 40), extra=st.integers(0, 300), seed=st.integers(0, 2**31))
def test_the_parts_cover_every_row_once_and_differ_by_at_most_one(count: int, extra: int, seed: int) -> None:
    length = count + extra
    parts = [part_of(TaskContext(node_index=i, node_count=count, seed=seed), length) for i in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(length))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


def test_job_j1_has_the_parts_of_its_definition() -> None:
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0)).view(10, 6000)
    for index in (0, 3, 9):
        part = part_of(TaskContext(node_index=index, node_count=10), 60_000)
        assert part.tolist() == order[index].tolist()


def test_split_keeps_rows_together_and_the_kind_of_each_array() -> None:
    context = TaskContext(node_index=1, node_count=3)
    inputs, targets = split(context, np.arange(30), torch.arange(30))
    assert isinstance(inputs, np.ndarray)
    assert isinstance(targets, torch.Tensor)
    assert inputs.tolist() == targets.tolist()
    assert len(inputs) == 10


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(TaskError, match="one length"):
        split(TaskContext(node_index=0, node_count=1), np.arange(3), np.arange(4))


@pytest.mark.parametrize(
    ("index", "count", "length", "problem"),
    [(None, 2, 10, "coordinator"), (2, 2, 10, "not one of"), (-1, 2, 10, "not one of"), (0, 11, 10, "fewer nodes")],
)
def test_a_part_that_cannot_be_is_refused(index: int | None, count: int, length: int, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        part_of(TaskContext(node_index=index, node_count=count), length)
