"""The manifest describes a model once and refuses everything that does not fit it."""

from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

from update_codec import Manifest, ManifestError, Role, ShapeError, TensorSpec, Vectors, constant_digest


def arrays() -> dict[str, NDArray[Any]]:
    """Tensors of every kind."""
    return {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones(2, np.float16),
        "wide": np.full((1, 2), 0.5),
        "mean": np.array([7.0, 8.0], np.float32),
        "batches": np.array(41),
        "mask": np.array([True, False]),
    }


def manifest() -> Manifest:
    """Their manifest."""
    return Manifest.of(arrays(), {"mean": Role.STATISTIC})


def test_roles_follow_the_type_unless_told() -> None:
    roles = {tensor.name: tensor.role for tensor in manifest().tensors}
    assert roles["weight"] is Role.PARAMETER
    assert roles["mean"] is Role.STATISTIC
    assert roles["batches"] is Role.COUNTER
    assert roles["mask"] is Role.COUNTER


def test_counts_and_plain_size_cover_every_tensor() -> None:
    described = manifest()
    assert described.parameter_count == 6 + 2 + 2
    assert described.statistic_count == 2
    assert described.counter_count == 1 + 2
    assert described.fp32_bytes == 4 * 12 + 8 * 3


def test_flatten_and_unflatten_are_inverse() -> None:
    described = manifest()
    vectors = described.flatten(arrays())
    assert vectors.parameters.dtype == np.float32
    assert vectors.counters.tolist() == [41, 1, 0]
    back = described.unflatten(vectors)
    for name, array in arrays().items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_flatten_copies() -> None:
    source = arrays()
    vectors = manifest().flatten(source)
    source["weight"][:] = 99
    assert 99 not in vectors.parameters


@pytest.mark.parametrize(
    "change",
    [
        {"extra": np.zeros(1, np.float32)},
        {"weight": np.zeros((3, 2), np.float32)},
        {"weight": np.zeros((2, 3))},
    ],
)
def test_arrays_that_do_not_match_are_refused(change: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(ShapeError):
        manifest().flatten(arrays() | change)


def test_missing_array_is_named() -> None:
    source = arrays()
    del source["half"]
    with pytest.raises(ShapeError, match="half"):
        manifest().flatten(source)


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(ShapeError):
        manifest().unflatten(Vectors.zeros(Manifest.of({"x": np.zeros(3, np.float32)})))


def test_bytes_read_back_to_the_same_manifest_and_digest() -> None:
    described = manifest()
    back = Manifest.from_bytes(described.to_bytes())
    assert back == described
    assert back.digest == described.digest
    assert len(back.digest) == 16


@pytest.mark.parametrize(
    "other",
    [
        {"renamed": np.zeros((2, 3), np.float32)},
        {"weight": np.zeros((3, 2), np.float32)},
        {"weight": np.zeros((2, 3))},
        {"weight": np.zeros((2, 3), np.int64)},
    ],
)
def test_digest_depends_on_name_shape_and_type(other: dict[str, NDArray[Any]]) -> None:
    assert Manifest.of(other).digest != Manifest.of({"weight": np.zeros((2, 3), np.float32)}).digest


def test_digest_depends_on_the_role() -> None:
    source = {"weight": np.zeros((2, 3), np.float32)}
    assert Manifest.of(source).digest != Manifest.of(source, {"weight": Role.STATISTIC}).digest


@pytest.mark.parametrize(
    "rows",
    [
        7,
        [7],
        [["x"]],
        [["x", [1], "float32", "boss"]],
        [["x", [-1], "float32", "parameter"]],
        [["x", [True], "float32", "parameter"]],
        [["x", ["1"], "float32", "parameter"]],
        [["x", [1] * 9, "float32", "parameter"]],
        [["x", [1 << 20, 1 << 20], "float32", "parameter"]],
        [["x", [1], "float31", "parameter"]],
        [["x", [1], "int64", "parameter"]],
        [["x", [1], "float32", "counter"]],
        [["", [1], "float32", "parameter"]],
        [["x", [1], "float32", "parameter"]] * 2,
        [["x", [1 << 31], "float32", "parameter"], ["y", [1 << 31], "float32", "parameter"]],
        {"x": 1},
        [["x", [1], "float32", "parameter", ""]],
        [["x", [1], "float32", "parameter", "y"]],
        [["x", [1], "float32", "constant", "g" * 32]],
        [["x", [1], "float31", "constant", "0" * 32]],
        [["x", [1], "float32", "constant", "0" * 32, "more"]],
        [["x" * 257, [1], "float32", "parameter"]],
        [[f"x{i}", [1], "float32", "parameter"] for i in range(16_385)],
    ],
)
def test_malformed_manifest_is_refused(rows: object) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(msgpack.packb(rows))


def test_every_prefix_of_a_manifest_is_refused() -> None:
    data = manifest().to_bytes()
    for end in range(len(data)):
        with pytest.raises(ManifestError):
            Manifest.from_bytes(data[:end])


def test_encoding_that_is_not_canonical_is_refused() -> None:
    data = manifest().to_bytes()
    assert data[0] == 0x96  # an array of six, in one byte
    with pytest.raises(ManifestError, match="canonical"):
        Manifest.from_bytes(b"\xdc\x00\x06" + data[1:])
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data + b"\xc0")


def test_manifest_beyond_its_size_is_refused_in_both_directions() -> None:
    names = [f"{index:0250}" for index in range(5000)]
    with pytest.raises(ManifestError, match="limit"):
        Manifest(tuple(TensorSpec(name=name, shape=(1,)) for name in names))
    with pytest.raises(ManifestError, match="limit"):
        Manifest.from_bytes(bytes(2 << 20))


def test_too_many_tensors_are_refused() -> None:
    with pytest.raises(ManifestError, match="tensors"):
        Manifest(tuple(TensorSpec(name=str(index), shape=()) for index in range(16_385)))


def test_role_for_an_unknown_tensor_is_refused() -> None:
    with pytest.raises(ManifestError, match="ghost"):
        Manifest.of(arrays(), {"ghost": Role.STATISTIC})


def staying() -> Manifest:
    first = np.ones((2, 2), np.float32)
    arrays = {
        "w": first,
        "base": np.arange(3, dtype=np.float32),
        "mask": np.array([[True, False]]),
        "again": first,
        "n": np.array(3),
    }
    return Manifest.of(arrays, {"base": Role.CONSTANT, "mask": Role.CONSTANT, "again": Role.TIED})


def test_what_never_changes_and_second_names_are_in_no_vector() -> None:
    manifest = staying()
    assert (manifest.parameter_count, manifest.statistic_count, manifest.counter_count) == (4, 0, 1)
    assert manifest.constants == ("base", "mask")
    with_constants = {"w": np.full((2, 2), 5, np.float32), "n": np.array(1), "base": np.zeros(3, np.float32)}
    vectors = manifest.flatten(with_constants)
    back = manifest.unflatten(vectors)
    assert back.keys() == {"w", "again", "n"}
    assert back["again"] is back["w"]
    assert manifest.flatten(back).digest() == vectors.digest()


def test_a_manifest_with_what_stays_reads_back_and_depends_on_its_values() -> None:
    manifest = staying()
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    other = Manifest.of({"base": np.arange(3, dtype=np.float32) + 1}, {"base": Role.CONSTANT})
    same = Manifest.of({"base": np.arange(3, dtype=">f4")}, {"base": Role.CONSTANT})
    assert other.digest != same.digest
    assert same.tensors[0].source == staying().tensors[1].source == constant_digest(np.arange(3, dtype=np.float32))


def test_the_former_description_has_everything_travel() -> None:
    former = staying().former
    assert [(tensor.name, tensor.role) for tensor in former.tensors] == [
        ("w", Role.PARAMETER),
        ("base", Role.PARAMETER),
        ("mask", Role.COUNTER),
        ("again", Role.PARAMETER),
        ("n", Role.COUNTER),
    ]
    assert former.former is former


@pytest.mark.parametrize(
    "tensors",
    [
        [TensorSpec(name="a", shape=(2,)), TensorSpec(name="b", shape=(3,), role=Role.TIED, source="a")],
        [TensorSpec(name="b", shape=(2,), role=Role.TIED, source="a"), TensorSpec(name="a", shape=(2,))],
        [TensorSpec(name="b", shape=(2,), role=Role.TIED, source="b")],
        [
            TensorSpec(name="a", shape=(2,), role=Role.CONSTANT, source="0" * 32),
            TensorSpec(name="b", shape=(2,), role=Role.TIED, source="a"),
        ],
    ],
)
def test_a_second_name_needs_a_tensor_before_it_that_is_like_it(tensors: list[TensorSpec]) -> None:
    with pytest.raises(ManifestError, match="no tensor before it"):
        Manifest(tuple(tensors))


@pytest.mark.parametrize(
    ("role", "source"),
    [(Role.CONSTANT, ""), (Role.CONSTANT, "short"), (Role.TIED, ""), (Role.PARAMETER, "a"), (Role.COUNTER, "0" * 32)],
)
def test_only_what_stays_has_a_source(role: Role, source: str) -> None:
    with pytest.raises(ManifestError):
        TensorSpec(name="a", shape=(2,), dtype="int64" if role is Role.COUNTER else "float32", role=role, source=source)


def test_views_share_the_models_memory_and_cannot_be_written_to() -> None:
    described = Manifest.of({"half": np.ones(2, np.float16), "x": np.ones((2, 3), np.float32)})
    vectors = Vectors.zeros(described)
    views, copies = described.unflatten(vectors, copies=False), described.unflatten(vectors)
    assert np.shares_memory(views["x"], vectors.parameters)
    assert not np.shares_memory(copies["x"], vectors.parameters)
    for name, view in views.items():
        np.testing.assert_array_equal(view, copies[name])
        assert view.dtype == copies[name].dtype
        assert (view.flags.writeable, copies[name].flags.writeable) == (False, True)
