"""Dividing a data set by label, by shares and by owner."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from federation.errors import ConfigError, TaskError
from federation.task import TaskContext
from federation.tasks.data.partitioners import (
    PARTITIONERS,
    Traits,
    all_parts,
    matching_parts,
    part_of,
    permutation,
)
from federation.tasks.data.whole_data import WholeData
from federation.tasks.label_counts import label_counts
from federation.tasks.registry import load_task
from federation.tasks.training.local_data import local_data, own_data
from federation.tasks.training.torch_task import TorchTask

LABELS = np.random.default_rng(0).integers(0, 10, 1000)
OWNERS = np.arange(1000) % 30
WAYS = ["iid", "shards:2", "dirichlet:0.1", "dirichlet:100", "natural"]


@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_a_machine_without_torch_divides_as_the_others_do(length: int, seed: int) -> None:
    with_torch = permutation(length, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        np.testing.assert_array_equal(permutation(length, seed), with_torch)


def parts(way: str, count: int = 10, seed: int = 0) -> list[NDArray[np.int64]]:
    context = TaskContext(node_index=None, node_count=count, seed=seed, partition=way)
    return all_parts(context, len(LABELS), labels=LABELS, owners=OWNERS)


def test_every_name_is_tried_here() -> None:
    assert {way.partition(":")[0] for way in WAYS} == set(PARTITIONERS)


@settings(deadline=None, max_examples=40)
@given(way=st.sampled_from([*WAYS, "dirichlet:0.0001"]), count=st.integers(1, 30), seed=st.integers(0, 2**31))
def test_every_row_belongs_to_one_node_and_nobody_is_empty(way: str, count: int, seed: int) -> None:
    found = parts(way, count, seed)
    assert sorted(np.concatenate(found).tolist()) == list(range(1000))
    assert all(len(part) for part in found)
    assert len(found) == count


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_gives_the_same_parts_to_everybody(way: str) -> None:
    found = parts(way, seed=3)
    for index in (0, 7):
        context = TaskContext(node_index=index, node_count=10, seed=3, partition=way)
        assert part_of(context, 1000, labels=LABELS, owners=OWNERS).tolist() == found[index].tolist()
    other = parts(way, seed=4)
    assert (way == "natural") == all(np.array_equal(a, b) for a, b in zip(found, other, strict=True))


def test_two_shards_give_a_node_few_labels_and_equal_parts_give_it_all() -> None:
    sorted_labels = np.repeat(np.arange(10), 100)
    context = TaskContext(node_index=None, node_count=10, partition="shards:2")
    for part in all_parts(context, 1000, labels=sorted_labels):
        assert len(set(sorted_labels[part].tolist())) <= 2
    assert all(len(set(LABELS[part].tolist())) == 10 for part in parts("iid"))


def test_a_smaller_concentration_is_more_skewed() -> None:
    def largest_share(way: str) -> float:
        return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts(way)]))

    assert largest_share("dirichlet:0.1") > 0.5
    assert largest_share("dirichlet:100") < 0.25


def test_an_owner_is_never_divided() -> None:
    owners = [set(OWNERS[part].tolist()) for part in parts("natural")]
    assert owners[0] == {0, 10, 20}
    assert sum(map(len, owners)) == 30


@pytest.mark.parametrize(
    "way", ["", "iids", "iid:2", "shards", "shards:0", "shards:1.5", "dirichlet:nan", "dirichlet:-1", "natural:1"]
)
def test_a_name_that_is_none_is_refused(way: str) -> None:
    with pytest.raises(ConfigError, match="partition"):
        all_parts(TaskContext(node_index=None, node_count=2), 10, by=way or "x", labels=LABELS[:10])


@pytest.mark.parametrize(
    ("way", "labels", "count", "problem"),
    [
        ("shards:2", None, 2, "label"),
        ("dirichlet:1", np.zeros(10), 2, "label"),
        ("dirichlet:1", LABELS, 2, "label"),
        ("shards:6", LABELS[:10], 2, "too few"),
        ("natural", None, 2, "owner"),
        ("dirichlet:1", LABELS[:10], 11, "fewer nodes"),
    ],
)
def test_data_that_cannot_be_divided_like_that_is_refused(
    way: str, labels: NDArray[np.int64] | None, count: int, problem: str
) -> None:
    with pytest.raises(TaskError, match=problem):
        all_parts(TaskContext(node_index=None, node_count=count), 10, by=way, labels=labels)


def test_fewer_owners_than_nodes_are_refused() -> None:
    with pytest.raises(TaskError, match="owners"):
        parts("natural", count=31)


def task(way: str, index: int, partition: str | None = None) -> TorchTask:
    context = TaskContext(node_index=index, node_count=4, device="cpu", partition=partition)
    inputs = np.arange(1000, dtype=np.float32).reshape(-1, 1)
    return TorchTask(
        context,
        model=partial(torch.nn.Linear, 1, 10),
        loss=torch.nn.functional.cross_entropy,
        train_data=(inputs, LABELS.astype(np.int64)),
        split=way,
    )


@pytest.mark.parametrize(("way", "partition"), [("dirichlet:0.3", None), ("iid", "dirichlet:0.3")])
def test_a_torch_task_takes_its_split_and_the_context_wins(way: str, partition: str | None) -> None:
    counted = label_counts(task(way, 0, partition))
    assert counted.partition == "dirichlet:0.3"
    sizes = []
    for index in range(4):
        each = task(way, index, partition)
        data = local_data(each.train_data, each.context, torch.device("cpu"), each.split)
        sizes.append(data.num_examples)
    assert sizes == [sum(row) for row in counted.rows]
    assert len(set(sizes)) > 1


def test_a_torch_dataset_is_divided_by_its_targets() -> None:
    dataset = TensorDataset(torch.zeros(1000, 1), torch.from_numpy(LABELS))
    context = TaskContext(node_index=2, node_count=10, partition="shards:2")
    (data,) = [local_data(dataset, context, torch.device("cpu"))]
    (_, targets), *rest = data.in_order(1000)
    assert not rest
    assert sorted(targets.tolist()) == sorted(LABELS[parts("shards:2")[2]].tolist())


def test_whole_data_is_prepared_row_by_row_or_all_at_once_with_the_same_values() -> None:
    data = WholeData(lambda: (np.arange(100), np.arange(100) % 7), prepare=lambda rows: rows * np.float32(0.1))
    context = TaskContext(node_index=1, node_count=4)
    inputs, targets = data.part(context, "dirichlet:1")
    rows = data.parts(context, "dirichlet:1")[1]
    everything, answers = data()
    assert everything[rows].tolist() == inputs.tolist()
    assert answers[rows].tolist() == targets.tolist()


def test_whole_data_of_two_lengths_is_refused() -> None:
    """With the words that a node has for data of its own."""
    words = r"the arrays of the data have \[3, 4\] rows: they need as many, at least one"
    with pytest.raises(TaskError, match=words):
        WholeData(lambda: (np.arange(3), np.arange(4)))()
    with pytest.raises(TaskError, match=words):
        own_data((np.arange(3), np.arange(4)), torch.device("cpu"))
    with pytest.raises(TaskError, match="inputs and targets of one length"):
        WholeData(lambda: (np.arange(3),))()


@settings(deadline=None, max_examples=40)
@given(way=st.sampled_from(WAYS), count=st.integers(1, 30), seed=st.integers(0, 2**31))
def test_every_test_row_belongs_to_one_node_whose_training_rows_have_its_label(way: str, count: int, seed: int) -> None:
    train, test = Traits(length=1000, labels=LABELS), Traits(length=200, labels=LABELS[:200])
    trained = parts(way, count, seed)
    tested = matching_parts(trained, train, test, seed=seed)
    assert np.sort(np.concatenate(tested)).tolist() == list(range(200))
    for own, asked in zip(trained, tested, strict=True):
        assert set(LABELS[:200][asked]) <= set(LABELS[own])
        for label in range(10):
            exact = 20 * np.mean(LABELS[own] == label) * len(own) / np.count_nonzero(label == LABELS)
            assert abs(np.count_nonzero(LABELS[:200][asked] == label) - exact) < 12
    again = matching_parts(trained, train, test, seed=seed)
    assert all(np.array_equal(one, other) for one, other in zip(tested, again, strict=True))


@pytest.mark.parametrize("labels", [None, np.linspace(0, 1, 90), np.full(90, 11)], ids=["none", "prices", "new label"])
def test_test_rows_without_a_known_label_are_divided_as_the_training_rows_are_in_number(
    labels: NDArray[np.float64] | None,
) -> None:
    train = Traits(length=900, labels=None if labels is None else LABELS[:900])
    sizes = [600, 0, 300]
    starts = np.cumsum([0, *sizes])
    trained = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=False)]
    tested = matching_parts(trained, train, Traits(length=90, labels=labels), seed=1)
    assert [len(rows) for rows in tested] == [60, 0, 30]


def test_targets_that_are_no_classes_are_counted_in_ranges() -> None:
    each = task("iid", 0)
    each.train_data = (np.zeros((1000, 1), np.float32), np.linspace(0, 1, 1000, dtype=np.float32))
    counted = label_counts(each)
    assert len(counted.labels) == 10
    assert sum(map(sum, counted.rows)) == 1000


@pytest.mark.parametrize("other", ["quadratic", "own"])
def test_a_task_that_divides_nothing_says_so(other: str) -> None:
    context = TaskContext(node_index=0, node_count=4)
    each = load_task("quadratic")(context) if other == "quadratic" else task("iid", 0)
    if isinstance(each, TorchTask):
        each.train_data = lambda: (np.zeros(3), np.zeros(3))
    with pytest.raises(TaskError):
        label_counts(each)
