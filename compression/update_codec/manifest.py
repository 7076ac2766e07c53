"""The model's manifest: names, shapes and types, agreed once and never sent with an update."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from update_codec.errors import ManifestError, ShapeError
from update_codec.limits import DIMENSIONS_MAX, ENTRIES_MAX, MANIFEST_BYTES_MAX, NAME_BYTES_MAX, TENSORS_MAX
from update_codec.vectors import Vectors

__all__ = ["Manifest", "Role", "TensorSpec", "constant_digest", "pack_rows", "unpack_rows"]

FLOATS: Final = ("float16", "float32", "float64")
FRAME_HEADER_BYTES_MAX: Final = 65_536
INTEGERS: Final = ("bool", "uint8", "int8", "int16", "int32", "int64")


class Role(StrEnum):
    """What a tensor is for, which decides how it is coded and aggregated."""

    PARAMETER = "parameter"
    """Float tensor that is trained: quantized, averaged, seen by the server optimizer."""
    STATISTIC = "statistic"
    """Float buffer, such as BatchNorm's running mean: its difference travels lossless and is averaged."""
    COUNTER = "counter"
    """Integer tensor: its absolute value travels lossless and is aggregated by the maximum."""
    CONTROL = "control"
    """Float tensor that is the sum of what each node adds: SCAFFOLD's control variates. Nodes get the sum, an update
    holds what its node adds. It travels lossless, at the end of the statistics' vector; every update counts once."""
    CONSTANT = "constant"
    """Tensor of any type and any value that never changes, such as a frozen layer: it is in no vector, and the manifest
    has its digest, so that all must have the same."""
    TIED = "tied"
    """Second name of a tensor before it: it is in no vector, and has that one's values."""


DIGEST_BYTES: Final = 16

STAYS: Final = frozenset({Role.CONSTANT, Role.TIED})
"""Roles of tensors that are in no vector."""


def constant_digest(array: NDArray[Any]) -> str:
    """What tells a constant from others of its name, shape and type: BLAKE2b of its bytes, little-endian, in hex."""
    plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return blake2b(plain.tobytes(), digest_size=DIGEST_BYTES).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor: its name, shape, storage type and role.

    Attributes:
        name: Unique in its manifest.
        shape: Its sides.
        dtype: NumPy's name of its type.
        role: What it is for.
        source: Of a constant its digest, of a second name the first one; empty for all others.

    Raises:
        ManifestError: if a field is out of range, or the type does not fit the role.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    role: Role = Role.PARAMETER
    source: str = ""

    def __post_init__(self) -> None:
        if not 0 < len(self.name.encode()) <= NAME_BYTES_MAX:
            raise ManifestError(f"a tensor name takes 1 to {NAME_BYTES_MAX} bytes: {self.name[:40]!r}")
        if len(self.shape) > DIMENSIONS_MAX or any(type(side) is not int or side < 0 for side in self.shape):
            raise ManifestError(f"{self.name}: the shape {self.shape!r} is not allowed")
        if self.size > ENTRIES_MAX:
            raise ManifestError(f"{self.name}: more than {ENTRIES_MAX} entries")
        allowed = FLOATS + INTEGERS if self.role in STAYS else INTEGERS if self.role is Role.COUNTER else FLOATS
        if self.dtype not in allowed:
            raise ManifestError(f"{self.name}: a {self.role} cannot have the type {self.dtype!r}")
        is_digest = len(self.source) == 2 * DIGEST_BYTES and set(self.source) <= set("0123456789abcdef")
        if bool(self.source) != (self.role in STAYS) or (self.role is Role.CONSTANT and not is_digest):
            raise ManifestError(f"{self.name}: a {self.role} cannot have the source {self.source[:40]!r}")

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All tensors of a model in their fixed order.

    Raises:
        ManifestError: if names repeat or a limit is exceeded.
    """

    tensors: tuple[TensorSpec, ...]
    digest: bytes = field(init=False, repr=False, compare=False)
    """16 bytes: BLAKE2b over the canonical encoding."""
    parameter_count: int = field(init=False, compare=False)
    statistic_count: int = field(init=False, compare=False)
    """Entries of the statistics' vector, those of controls included."""
    control_count: int = field(init=False, compare=False)
    """Entries of controls: the last ones of the statistics' vector."""
    counter_count: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.tensors) > TENSORS_MAX:
            raise ManifestError(f"{len(self.tensors)} tensors, the limit is {TENSORS_MAX}")
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise ManifestError("a tensor name occurs twice")
        counts = {role: sum(t.size for t in self.tensors if t.role is role) for role in Role if role not in STAYS}
        self._check_ties()
        if max(*counts.values(), counts[Role.STATISTIC] + counts[Role.CONTROL]) > ENTRIES_MAX:
            raise ManifestError(f"more than {ENTRIES_MAX} entries of one role")
        object.__setattr__(self, "parameter_count", counts[Role.PARAMETER])
        object.__setattr__(self, "statistic_count", counts[Role.STATISTIC] + counts[Role.CONTROL])
        object.__setattr__(self, "control_count", counts[Role.CONTROL])
        object.__setattr__(self, "counter_count", counts[Role.COUNTER])
        object.__setattr__(self, "digest", blake2b(self.to_bytes(), digest_size=16).digest())

    def _check_ties(self) -> None:
        before: dict[str, TensorSpec] = {}
        for tensor in self.tensors:
            if tensor.role is Role.TIED:
                first = before.get(tensor.source)
                if first is None or first.role in STAYS or (first.shape, first.dtype) != (tensor.shape, tensor.dtype):
                    raise ManifestError(f"{tensor.name}: no tensor before it is {tensor.source[:40]!r} and like it")
            before[tensor.name] = tensor

    @property
    def former(self) -> "Manifest":
        """The same model as releases described it that knew no constants and no second names: all of it travels."""
        if not any(tensor.role in STAYS for tensor in self.tensors):
            return self
        return Manifest(
            tuple(
                replace(each, source="", role=Role.PARAMETER if each.dtype in FLOATS else Role.COUNTER)
                if each.role in STAYS
                else each
                for each in self.tensors
            )
        )

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of what never changes."""
        return tuple(tensor.name for tensor in self.tensors if tensor.role is Role.CONSTANT)

    @property
    def fp32_bytes(self) -> int:
        """Bytes of the model as plain float32 (counters as int64)."""
        return 4 * (self.parameter_count + self.statistic_count) + 8 * self.counter_count

    @property
    def frame_bytes_max(self) -> int:
        """No honest frame for this model has more bytes: its values, an eighth for positions, a header."""
        return self.fp32_bytes + self.fp32_bytes // 8 + FRAME_HEADER_BYTES_MAX

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], roles: Mapping[str, Role] | None = None) -> "Manifest":
        """Describe arrays. A float array is a parameter and an integer array a counter unless `roles` says otherwise.

        Args:
            arrays: All tensors by name; a second name has the very array of its first one.
            roles: Roles of those that are not the default.

        Raises:
            ManifestError: if an array has a type that the codec does not know, or `roles` names no array.
        """
        named = dict(roles or {})
        if unknown := named.keys() - arrays.keys():
            raise ManifestError(f"roles for unknown tensors: {', '.join(sorted(unknown))}")
        tensors, firsts = [], dict[int, str]()
        for name, array in arrays.items():
            role = named.get(name, Role.PARAMETER if array.dtype.kind == "f" else Role.COUNTER)
            first = firsts.setdefault(id(array), name)
            source = constant_digest(array) if role is Role.CONSTANT else first if role is Role.TIED else ""
            shape = tuple(int(side) for side in array.shape)
            tensors.append(TensorSpec(name=name, shape=shape, dtype=array.dtype.name, role=role, source=source))
        return cls(tuple(tensors))

    def flatten(self, arrays: Mapping[str, NDArray[Any]]) -> Vectors:
        """Lay arrays out as three vectors, in the manifest's order (copies); what stays may be there or not.

        Raises:
            ShapeError: if an array is missing, extra, or of another shape or type.
        """
        stays = {tensor.name for tensor in self.tensors if tensor.role in STAYS}
        travels = [tensor for tensor in self.tensors if tensor.role not in STAYS]
        if difference := sorted((arrays.keys() - stays) ^ {tensor.name for tensor in travels}):
            raise ShapeError(f"tensors missing or extra: {', '.join(difference[:8])}")
        vectors = Vectors.zeros(self)
        places = self._starts()
        for tensor in travels:
            array = arrays[tensor.name]
            if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
                found = f"{array.dtype.name}{array.shape}"
                raise ShapeError(f"{tensor.name}: expected {tensor.dtype}{tensor.shape}, found {found}")
            start = places[tensor.role]
            places[tensor.role] = start + tensor.size
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which encode refuses
                self._vector(vectors, tensor.role)[start : start + tensor.size] = array.reshape(-1)
        return vectors

    def unflatten(self, vectors: Vectors, *, copies: bool = True) -> dict[str, NDArray[Any]]:
        """Rebuild the named arrays with their own shapes and types, second names too, but no constants.

        Args:
            vectors: Of this model.
            copies: Whether the arrays have memory of their own; else they are read-only views where the type allows.

        Raises:
            ShapeError: if a vector has another length than the manifest implies.
        """
        self.check(vectors)
        arrays: dict[str, NDArray[Any]] = {}
        places = self._starts()
        for tensor in self.tensors:
            if tensor.role in STAYS:
                if tensor.role is Role.TIED:
                    arrays[tensor.name] = arrays[tensor.source]
                continue
            start = places[tensor.role]
            places[tensor.role] = start + tensor.size
            part = self._vector(vectors, tensor.role)[start : start + tensor.size]
            with np.errstate(over="ignore"):
                arrays[tensor.name] = part.astype(tensor.dtype, copy=copies).reshape(tensor.shape)
            arrays[tensor.name].flags.writeable = copies
        return arrays

    def check(self, vectors: Vectors) -> None:
        """Raise `ShapeError` if the vectors do not have the lengths of this manifest."""
        self.check_counts(vectors.parameters.size, vectors.statistics.size, vectors.counters.size)

    def check_counts(self, parameters: int, statistics: int, counters: int) -> None:
        """Raise `ShapeError` if these are not the lengths of this manifest's vectors."""
        found = (parameters, statistics, counters)
        expected = (self.parameter_count, self.statistic_count, self.counter_count)
        if found != expected:
            raise ShapeError(f"expected vectors of {expected} entries, found {found}")

    def to_bytes(self) -> bytes:
        """Encode canonically; `from_bytes` reads it back."""
        return pack_rows(
            [[t.name, list(t.shape), t.dtype, t.role.value, *([t.source] if t.source else [])] for t in self.tensors]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read what `to_bytes` wrote.

        Raises:
            ManifestError: if the bytes are malformed, not canonical, or beyond a limit.
        """
        tensors = []
        for row in unpack_rows(data):
            match row:
                case [str(name), list(shape), str(dtype), str(role)] if role in set(Role):
                    tensors.append(TensorSpec(name=name, shape=tuple(shape), dtype=dtype, role=Role(role)))
                case [str(name), list(shape), str(dtype), str(role), str(source)] if role in set(Role) and source:
                    tensors.append(
                        TensorSpec(name=name, shape=tuple(shape), dtype=dtype, role=Role(role), source=source)
                    )
                case _:
                    raise ManifestError("a manifest row is not [name, shape, type, role], and a source where it stays")
        return cls(tuple(tensors))

    def _starts(self) -> dict[Role, int]:
        """Where the first tensor of each role is in its vector."""
        return dict.fromkeys(Role, 0) | {Role.CONTROL: self.statistic_count - self.control_count}

    @staticmethod
    def _vector(vectors: Vectors, role: Role) -> NDArray[Any]:
        by_role: dict[Role, NDArray[Any]] = {
            Role.PARAMETER: vectors.parameters,
            Role.STATISTIC: vectors.statistics,
            Role.CONTROL: vectors.statistics,
            Role.COUNTER: vectors.counters,
        }
        return by_role[role]


Row = list[Any]


def pack_rows(rows: list[Row]) -> bytes:
    """Encode rows of plain values in the one canonical form.

    Raises:
        ManifestError: if the result is longer than `MANIFEST_BYTES_MAX`.
    """
    data: bytes = msgpack.packb(rows, use_bin_type=True)
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestError(f"the manifest takes {len(data)} bytes, the limit is {MANIFEST_BYTES_MAX}")
    return data


def unpack_rows(data: bytes) -> list[Row]:
    """Decode what `pack_rows` made; every other byte string is refused, also another encoding of the same rows.

    Raises:
        ManifestError: if the bytes are too long, malformed or not canonical.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestError(f"the manifest takes {len(data)} bytes, the limit is {MANIFEST_BYTES_MAX}")
    try:
        rows = msgpack.unpackb(
            data,
            raw=False,
            max_str_len=NAME_BYTES_MAX,
            max_bin_len=0,
            max_array_len=max(TENSORS_MAX, DIMENSIONS_MAX),
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ManifestError(f"the manifest is not valid msgpack: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ManifestError("the manifest is not a list of rows")
    if pack_rows(rows) != data:
        raise ManifestError("the manifest is not in canonical form")
    return rows
