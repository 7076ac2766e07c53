"""Local data: whatever the user gives becomes shuffled batches, each example once per epoch."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.training import loader_data
from federation.tasks.training import local_data as module
from federation.tasks.training.loader_data import LoaderData
from federation.tasks.training.local_data import (
    DatasetData,
    TensorData,
    as_tensor,
    gap_in,
    local_data,
    own_data,
)

CPU = torch.device("cpu")
ALL = TaskContext(node_index=0, node_count=1)
HALF = TaskContext(node_index=1, node_count=2)


class Numbers(Dataset[tuple[torch.Tensor, int]]):
    """A map-style data set: (float of i, i)."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index)]), index


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count)


def epoch(data: module.LocalData, batch_size: int, seed: int = 0) -> list[list[int]]:
    batches = []
    for inputs, targets in data.epoch(torch.Generator().manual_seed(seed), batch_size):
        assert inputs[:, 0].tolist() == targets.tolist()
        batches.append(targets.tolist())
    return batches


@settings(deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(0, 70), block_bytes=st.integers(1, 300), seed=st.integers(0, 99))
def test_an_epoch_has_every_example_once_in_batches_of_the_size(
    count: int, batch: int, block_bytes: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES_MAX", block_bytes)
        batches = epoch(TensorData(rows(count), CPU), batch, seed)
    assert sorted(chain.from_iterable(batches)) == list(range(count))
    size = min(batch, count) if batch else count
    assert all(len(each) == size for each in batches[:-1])
    assert 1 <= len(batches[-1]) <= size


def test_the_shuffle_is_the_generators_and_moves_on() -> None:
    data, generator = TensorData(rows(50), CPU), torch.Generator().manual_seed(3)
    first = [targets.tolist() for _, targets in data.epoch(generator, 7)]
    second = [targets.tolist() for _, targets in data.epoch(generator, 7)]
    assert first == epoch(data, 7, seed=3)
    assert first != second


@pytest.mark.parametrize("kind", ["pair", "list", "arrays", "tensor dataset", "dataset"])
def test_every_kind_of_data_gives_a_node_its_part(kind: str) -> None:
    inputs, targets = rows(10)
    data: Any = {
        "pair": (inputs, targets),
        "list": [inputs, targets],
        "arrays": (inputs.numpy(), targets.numpy()),
        "tensor dataset": TensorDataset(inputs, targets),
        "dataset": Numbers(10),
    }[kind]
    parts = [local_data(data, TaskContext(node_index=index, node_count=2), CPU) for index in (0, 1)]
    seen = [sorted(chain.from_iterable(epoch(part, 2))) for part in parts]
    assert sorted(seen[0] + seen[1]) == list(range(10))
    assert [part.num_examples for part in parts] == [5, 5]


@pytest.mark.parametrize("kind", ["pair", "tensor dataset", "dataset", "loader", "generator of a function"])
def test_what_a_function_gives_is_the_nodes_own_and_not_divided(kind: str) -> None:
    inputs, targets = rows(10)
    loader: DataLoader[Any] = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    data: Any = {
        "pair": (inputs, targets),
        "tensor dataset": TensorDataset(inputs, targets),
        "dataset": Numbers(10),
        "loader": loader,
        "generator of a function": lambda: loader,
    }[kind]
    part = local_data(lambda: data, HALF, CPU)
    assert sorted(chain.from_iterable(epoch(part, 4))) == list(range(10))
    assert part.num_examples == 10


def test_test_data_is_read_in_its_own_order() -> None:
    for data in (TensorData(rows(7), CPU), DatasetData(Numbers(7), CPU)):
        assert [targets.tolist() for _, targets in data.in_order(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_loader_counts_the_examples_of_its_largest_epoch() -> None:
    sizes = iter([3, 5, 2])

    class Growing:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            yield rows(next(sizes))

    data = LoaderData(Growing(), CPU)
    assert data.num_examples == 0
    counts = []
    for _ in range(3):
        epoch(data, 1)
        counts.append(data.num_examples)
    assert counts == [3, 5, 5]


def test_a_loader_that_says_more_than_it_has_weighs_what_came() -> None:
    class Stream(IterableDataset[Any]):
        def __len__(self) -> int:
            return 100

        def __iter__(self) -> Iterator[Any]:
            return iter(Numbers(10)[place] for place in range(10))

    data = own_data(lambda: DataLoader(Stream(), batch_size=3), CPU)
    assert sorted(chain.from_iterable(epoch(data, 3))) == list(range(10))
    assert data.num_examples == 10
    with pytest.raises(TaskError, match="a DataLoader of it"):
        own_data(Stream, CPU)
    with pytest.raises(TaskError, match="cannot be divided"):
        local_data(Stream(), HALF, CPU)


@pytest.mark.parametrize("kind", ["tensors", "arrays", "lists"])
def test_a_list_of_examples_is_a_data_set(kind: str) -> None:
    inputs, targets = torch.arange(30.0).reshape(10, 3), torch.arange(10)
    as_kind: Any = {
        "tensors": lambda row: row,
        "arrays": lambda row: row.double().numpy(),
        "lists": torch.Tensor.tolist,
    }
    examples = [(as_kind[kind](row), int(target)) for row, target in zip(inputs, targets, strict=True)]
    whole = own_data(lambda: examples, CPU)
    found = next(iter(whole.in_order(10)))
    assert torch.equal(found[0], inputs)
    assert torch.equal(found[1], targets)
    assert whole.num_examples == 10
    assert local_data(examples, HALF, CPU).num_examples == 5


@pytest.mark.parametrize("name", ["label", "labels", "y"])
def test_a_list_of_dicts_with_one_target_each_is_a_data_set(name: str) -> None:
    inputs, targets = torch.arange(30.0).reshape(10, 3), torch.arange(10)
    examples = [{"x": row, name: target} for row, target in zip(inputs, targets, strict=True)]
    whole = own_data(lambda: examples, CPU)
    found = next(iter(whole.in_order(10)))
    assert torch.equal(found["x"], inputs)
    assert torch.equal(found[name], targets)
    assert whole.num_examples == 10
    assert local_data(examples, HALF, CPU).num_examples == 5
    assert own_data([{"x": inputs, name: targets, "of": 3}], CPU).in_order(1) is not None


def test_a_list_of_rows_and_their_amounts_is_a_data_set() -> None:
    inputs, targets = torch.arange(30.0).reshape(10, 3), torch.arange(10.0)[:, None]
    whole = own_data(list(zip(inputs, targets, strict=True)), CPU)
    assert whole.num_examples == 10
    assert [list(part.shape) for part in next(iter(whole.in_order(4)))] == [[4, 3], [4, 1]]
    batches = own_data([(inputs[:6], targets[:6]), (inputs[6:], targets[6:])], CPU)
    assert [list(part.shape) for part in next(iter(batches.in_order(4)))] == [[6, 3], [6, 1]]


def test_examples_that_differ_are_named() -> None:
    with pytest.raises(TaskError, match=r"x of example 1 has shape \[2\], and of the first \[3\].*collate_fn"):
        own_data([{"x": torch.zeros(3), "y": 0}, {"x": torch.zeros(2), "y": 1}], CPU)
    with pytest.raises(TaskError, match="example 1 of the data has other parts"):
        own_data([{"x": torch.zeros(3), "y": 0}, {"z": torch.zeros(3), "y": 1}], CPU)


def test_single_examples_in_place_of_batches_are_refused() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(4, 3), torch.arange(4)), batch_size=None)
    with pytest.raises(TaskError, match="single examples in place of batches"):
        epoch(own_data(lambda: loader, CPU), 2)


@pytest.mark.parametrize("given_type", [np.float64, np.float32, np.float16])
def test_float_arrays_become_float32(given_type: type[np.floating[Any]]) -> None:
    assert as_tensor(np.ones(3, given_type)).dtype == torch.float32


@pytest.mark.parametrize("given_type", [np.uint8, np.int32, np.bool_])
def test_integer_arrays_become_int64(given_type: type[np.generic]) -> None:
    assert as_tensor(np.ones(3, given_type)).dtype == torch.int64


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full(3, 2**63, np.uint64), "has 9223372036854775808, and whole numbers go up to"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "has masked values"),
        (np.array(["a"]), "must be numbers"),
    ],
)
def test_values_that_would_become_others_are_refused(values: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        as_tensor(values)
    assert as_tensor(np.full(3, 2**63 - 1, np.uint64)).tolist() == [2**63 - 1] * 3


def test_numbers_of_python_in_an_array_of_objects_are_read() -> None:
    assert as_tensor(np.array([1, 2], object)).tolist() == [1, 2]
    assert as_tensor(np.array([1, 2], object)).dtype == torch.int64
    assert as_tensor(np.array([1, 0.5], object)).tolist() == [1, 0.5]
    assert as_tensor(np.array([True, None], object))[0] == 1
    with pytest.raises(TaskError, match=r"the data is object, and must be numbers: row 1 has 'ok'\. Encode it"):
        as_tensor(np.array([1, "ok"], object))


def test_numbers_beyond_float32_are_refused_by_their_place() -> None:
    with pytest.raises(TaskError, match=r"the data has -1e\+300 in row 1, column 0, and float32 ends at 3.4e\+38"):
        as_tensor(np.array([[1.0, np.inf], [-1e300, np.nan]]))
    assert as_tensor(np.array([3.4e38, np.inf, -np.inf])).isinf().tolist() == [False, True, True]


@pytest.mark.parametrize("batch_size", [0, 2, 4])
def test_a_model_that_changes_its_batch_changes_no_data(batch_size: int) -> None:
    inputs, targets = np.ones((4, 2), np.float32), torch.zeros(4)
    data = own_data({"x": inputs, "label": targets}, CPU)
    for _ in range(2):
        for batch in (*data.epoch(torch.Generator(), batch_size), *data.in_order(2)):
            assert float(batch["x"].min()) == 1
            assert float(batch["label"].max()) == 0
            batch["x"].mul_(0.5).requires_grad_()
            batch["label"].add_(1)
    assert inputs.min() == 1


def test_reversed_arrays_and_those_of_other_machines_are_read() -> None:
    assert as_tensor(np.arange(3.0)[::-1]).tolist() == [2, 1, 0]
    assert as_tensor(np.arange(3, dtype=">i8")[::-1]).tolist() == [2, 1, 0]
    assert as_tensor(np.arange(3, dtype=">f4")).tolist() == [0, 1, 2]


def test_a_sparse_matrix_is_refused_with_what_to_do() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TaskError, match=r"give what its toarray\(\) returns"):
        as_tensor(sparse.csr_matrix(np.eye(2)))


def test_sparse_and_nested_tensors_are_refused_with_what_to_do() -> None:
    """One was "Could not run aten::as_strided", the other an internal error of torch."""
    with pytest.raises(TaskError, match=r"layout torch\.sparse_coo: give what its to_dense\(\) returns"):
        as_tensor(torch.eye(3).to_sparse())
    with pytest.raises(TaskError, match=r"give what to_padded_tensor\(0\.0\) returns, and the lengths"):
        as_tensor(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))


def test_read_only_arrays_are_copied_without_a_warning() -> None:
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    assert as_tensor(array).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "data",
    [
        (np.zeros((0, 2)), np.zeros(0)),
        (np.zeros((3, 2)), np.zeros(2)),
        ([1.0, 2.0], [1]),
        (np.zeros(3), np.zeros(3), np.zeros(2)),
        (np.zeros(3),),
        (np.array(["a"]), np.zeros(1)),
        Numbers(0),
        5,
    ],
)
def test_data_that_cannot_be_used_is_refused(data: Any) -> None:
    with pytest.raises(TaskError):
        own_data(data, CPU)
    with pytest.raises(TaskError):
        local_data(data, ALL, CPU)


@pytest.mark.parametrize("once", [(batch for batch in [rows(3)]), map(list, [rows(3)])])
def test_batches_that_can_be_read_once_are_refused(once: Any) -> None:
    with pytest.raises(TaskError, match="once only"):
        own_data(lambda: once, CPU)


def test_batches_that_end_with_their_first_pass_are_refused_in_the_second() -> None:
    class Once:
        def __init__(self) -> None:
            self.left = iter([rows(3)])

        def __iter__(self) -> Iterator[Any]:
            yield from self.left

    data = LoaderData(Once(), CPU)
    assert epoch(data, 0) == [[0, 1, 2]]
    with pytest.raises(TaskError, match="once only"):
        epoch(data, 0)


class Sized:
    """Batches with a length, of which nothing else is known."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        return iter([rows(5)] * 4)


@pytest.mark.parametrize(
    ("loader", "held"),
    [
        (DataLoader(Numbers(100), batch_size=8, shuffle=True), 100),
        (DataLoader(Numbers(100), batch_size=8, drop_last=True), 96),
        (DataLoader(Numbers(100), batch_size=8, sampler=list(range(30))), 30),
        ([rows(4), rows(4), rows(3)], 11),
        (Sized(), 20),
    ],
)
def test_a_pass_that_is_cut_short_weighs_what_the_loader_holds(loader: Any, held: int) -> None:
    data = own_data(lambda: loader, CPU)
    next(data.epoch(torch.Generator(), 0))
    assert data.num_examples == held
    assert sum(len(targets) for _, targets in data.in_order(1)) == held == data.num_examples


def test_any_structure_of_arrays_is_divided_and_cut_by_rows() -> None:
    inputs, targets = np.arange(20.0)[:, None], np.arange(20)
    for whole in ((inputs, -inputs, targets), {"x": inputs, "more": (-inputs,), "labels": targets}):
        parts = [local_data(whole, TaskContext(node_index=node, node_count=2), CPU) for node in (0, 1)]
        found = []
        for part in parts:
            assert part.num_examples == 10
            for batch in part.epoch(torch.Generator().manual_seed(0), 3):
                x, more, labels = batch.values() if isinstance(batch, dict) else batch
                minus = more[0] if isinstance(more, tuple) else more
                assert x[:, 0].tolist() == (-minus)[:, 0].tolist() == labels.tolist()
                found += labels.tolist()
        assert sorted(found) == list(range(20))


def test_structures_are_divided_by_their_labels() -> None:
    labels = np.repeat([0, 1, 2, 3], 10)
    context = TaskContext(node_index=0, node_count=4)
    for whole in ((labels * 1.0, labels * 1.0, labels), {"x": labels * 1.0, "label": labels}):
        (batch,) = local_data(whole, context, CPU, by="shards:1").in_order(100)
        found = batch["label"] if isinstance(batch, dict) else batch[-1]
        assert len(set(found.tolist())) == 1


def gappy(value: float) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = torch.zeros(40, 5), torch.zeros(40)
    inputs[7, 3] = value
    return inputs, targets


class Gappy(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        inputs, targets = gappy(float("inf"))
        return {"x": inputs[index], "y": targets[index]}


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (gappy(float("nan")), "input row 7, column 3"),
        ((gappy(0.0)[0], gappy(float("nan"))[0][:, 3]), "target row 7"),
        (Gappy(), "x row 7, column 3"),
        (DataLoader(Gappy(), batch_size=4, shuffle=True), "x row 7, column 3"),
        ([gappy(0.0), gappy(float("nan"))], "input row 47, column 3"),
    ],
)
def test_a_gap_is_found_by_its_place(data: Any, place: str) -> None:
    assert str(gap_in(own_data(lambda: data, CPU))).startswith(f"{place} is not finite")
    assert gap_in(own_data(gappy(0.0), CPU)) is None


def test_a_table_of_objects_is_read_column_by_column() -> None:
    """What ``frame.to_numpy()`` gives of columns of several kinds."""
    table = np.array([[1, True, 2.5], [2, False, None]], dtype=object)
    np.testing.assert_array_equal(as_tensor(table).numpy(), np.array([[1, 1, 2.5], [2, 0, np.nan]], np.float32))
    assert as_tensor(table[:, :2]).dtype == torch.int64
    with pytest.raises(TaskError, match="column 1 of the data is object, and must be numbers: row 1 has 'b'"):
        as_tensor(np.array([[1, 2], [3, "b"]], dtype=object))


class Endless:
    """Batches of ten, for ever."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield torch.zeros(10, 2), torch.zeros(10)


def test_a_pass_that_may_have_no_end_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation trained for ever, without a word."""
    monkeypatch.setattr(loader_data, "MANY", 50)
    with structlog.testing.capture_logs() as logs:
        endless = LoaderData(Endless(), CPU)
        for _ in range(2):
            assert len(list(islice(endless.in_order(10), 20))) == 20
        known = LoaderData([(torch.zeros(10, 2), torch.zeros(10))] * 20, CPU)
        assert len(list(known.in_order(10))) == 20
    assert [line["event"] for line in logs] == ["data_without_end"]
    assert "50 examples" in logs[0]["why"]
    assert "set max_steps" in logs[0]["why"]
