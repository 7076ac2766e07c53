"""The kernel's loops compiled: the same results as `Reference`, which does what the library has no loop for.

The library trusts its arguments: before each call the arrays are plain ones, long enough, and of the types that the
loop reads. What is not goes to NumPy.
"""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.kernel.build import version_of
from update_codec.kernel.operands import F32, Bytes, Marks, Picked, Places, Positions, Scale, Small
from update_codec.kernel.reference import BINS, FOLD, Reference

__all__ = ["Compiled", "LibraryError"]

_TYPES: Final[dict[str, Any]] = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "d": ctypes.c_double}
_BYTES: Final = 256

Loop = Callable[..., int]


class LibraryError(Exception):
    """The library cannot be used; the message says why."""


class Compiled(Reference):
    """Loops of the library.

    Args:
        path: the library.

    Raises:
        LibraryError: if it cannot be loaded, or is of another version.
    """

    name = "compiled"

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
            told = library.update_codec_kernel_version
            told.restype = ctypes.c_uint32
            version, wanted = told(), version_of()
        except (OSError, AttributeError) as error:
            raise LibraryError(f"{path.name} cannot be loaded: {error}") from error
        if version != wanted:
            raise LibraryError(f"{path.name} was compiled from another kernel.c: compile it again")
        self._bind(lambda name, arguments: _loop(library, name, arguments))

    def _bind(self, loop: Callable[[str, str], Loop]) -> None:
        """Take the library's functions, by name and types of the arguments."""
        self._rows = {size: loop(f"rows_{size}", "pllplp") for size in (1, 4, 8)}
        self._add_rows = {kind: loop(f"add_rows_{kind}", "pllplp") for kind in ("f4", "i8")}
        self._add_at = {kind: loop(f"add_at_{kind}", "plppl") for kind in ("f4", "i8")}
        self._marked = loop("marked", "plplp")
        self._count_marked = loop("count_marked", "plpl")
        self._add_marked = {kind: loop(f"add_marked_{kind}", "pplplplp") for kind in ("f4", "i8")}
        self._gap_positions = loop("gap_positions", "plpp")
        self._spread = loop("spread", "pplpl")
        self._add_scaled = loop("add_scaled", "pldp")
        self._peak = loop("peak", "pl")
        self._row_sums = loop("row_sums", "plp")
        self._quantize, self._beyond = loop("quantize", "plddp"), loop("beyond", "plddp")
        self._count_large, self._large = loop("count_large", "pld"), loop("large", "pldlpp")
        self._pick = loop("pick", "pplddlpppppp")
        self._excess = loop("excess", "ppldpp")
        self._count_nonzero, self._nonzero = loop("count_nonzero", "pl"), loop("nonzero", "plpp")
        self._squeeze = loop("squeeze", "plp")
        self._gap_bytes = loop("gap_bytes", "plp")
        self._pack = loop("pack", "plllp")
        self._above = loop("above", "pllp")
        self._zigzag = loop("zigzag", "plp")

    def rows(self, table: NDArray[Any], chosen: Bytes, size: int) -> NDArray[Any]:
        """See `Reference.rows`."""
        count, width = table.shape
        loop = self._rows.get(table.itemsize)
        if loop is None or not _are_plain(table, chosen) or len(chosen) * width < size:
            return super().rows(table, chosen, size)
        out = np.empty(size, table.dtype)
        if loop(_address(table), count, width, _address(chosen), size, _address(out)):
            raise IndexError("a byte chooses a row that there is not")
        return out

    def add_rows(self, target: NDArray[Any], table: NDArray[Any], chosen: Bytes) -> None:
        """See `Reference.add_rows`."""
        count, width = table.shape
        size, loop = len(target), self._add_rows.get(_kind(target))
        if loop is None or _kind(table) != _kind(target) or not _are_plain(target, table, chosen):
            super().add_rows(target, table, chosen)
        elif len(chosen) * width < size or loop(
            _address(table), count, width, _address(chosen), size, _address(target)
        ):
            raise IndexError("a byte chooses a row that there is not, or there are too few")

    def marked(self, masks: Bytes, width: int, chosen: Bytes, size: int) -> Places:
        """See `Reference.marked`."""
        if not _are_marks(masks, width, chosen, size):
            return super().marked(masks, width, chosen, size)
        marks = _address(masks), width, _address(chosen), size
        out = np.empty(self._count_marked(*marks) + 1, np.int64)  # not one for each place: several levels wait at once
        return out[: self._marked(*marks, _address(out))]

    def count_marked(self, masks: Bytes, width: int, chosen: Bytes, size: int) -> int:
        """See `Reference.count_marked`."""
        if not _are_marks(masks, width, chosen, size):
            return super().count_marked(masks, width, chosen, size)
        return self._count_marked(_address(masks), width, _address(chosen), size)

    def add_marked(self, target: NDArray[Any], table: NDArray[Any], where: Marks, indices: Bytes) -> None:
        """See `Reference.add_marked`."""
        size, loop = len(target), self._add_marked.get(_kind(target))
        is_fit = _kind(target) == _kind(table) and len(table) >= _BYTES and _are_plain(target, table, indices)
        if loop is None or not is_fit or not _are_marks(where.masks, where.width, where.chosen, size):
            super().add_marked(target, table, where, indices)
            return
        marks = _address(where.masks), where.width, _address(where.chosen), size
        if loop(_address(table), *marks, _address(indices), len(indices), _address(target)):
            raise ValueError("there are more values than places, or fewer")

    def gap_positions(self, gaps: Bytes, place: int) -> tuple[Places, int]:
        """See `Reference.gap_positions`."""
        if not _are_plain(gaps):
            return super().gap_positions(gaps, place)
        out, last = np.empty(len(gaps) + 1, np.int64), np.array([place])
        found = self._gap_positions(_address(gaps), len(gaps), _address(last), _address(out))
        return out[:found], int(last[0])

    def add_at(self, target: NDArray[Any], positions: Places | Positions, values: NDArray[Any]) -> None:
        """See `Reference.add_at`."""
        loop = self._add_at.get(_kind(target))
        if _kind(positions) == "u4":
            positions = positions.astype(np.int64)
        is_fit = _kind(values) == _kind(target) and _kind(positions) == "i8" and len(values) == len(positions)
        if loop is None or not is_fit or not _are_plain(target, positions, values):
            super().add_at(target, positions, values)
        elif loop(_address(target), len(target), _address(positions), _address(values), len(values)):
            raise IndexError("a position is beyond the end")

    def spread(self, positions: Places, values: Bytes, size: int) -> Bytes:
        """See `Reference.spread`."""
        if not _are_plain(positions, values) or _kind(positions) != "i8" or len(values) != len(positions):
            return super().spread(positions, values, size)
        out = np.empty(size, np.uint8)
        if self._spread(_address(positions), _address(values), len(values), _address(out), size):
            raise IndexError("a position is beyond the end")
        return out

    def add_scaled(self, sums: Places, values: NDArray[np.float32], factor: float) -> None:
        """See `Reference.add_scaled`."""
        is_fit = _kind(sums) == "i8" and _kind(values) == "f4" and len(sums) == len(values)
        if is_fit and _are_plain(sums, values):
            self._add_scaled(_address(values), len(values), factor, _address(sums))
        else:
            super().add_scaled(sums, values, factor)

    def peak(self, values: F32) -> float:
        """See `Reference.peak`."""
        if not _are_plain(values) or _kind(values) != "f4":
            return super().peak(values)
        bits = self._peak(_address(values), len(values))
        return float(np.uint32(bits).view(np.float32))

    def row_sums(self, values: F32) -> F32:
        """See `Reference.row_sums`."""
        if not _are_plain(values) or _kind(values) != "f4":
            return super().row_sums(values)
        sums = np.empty(-(-len(values) // FOLD), np.float32)
        self._row_sums(_address(values), len(values), _address(sums))
        return sums

    def quantize(self, values: F32, scale: Scale, symbols: NDArray[np.int8], peak: float = math.inf) -> Places:
        """See `Reference.quantize`."""
        is_fit = _kind(values) == "f4" and _kind(symbols) == "i1" and len(values) == len(symbols)
        if not is_fit or not _are_plain(values, symbols):
            return super().quantize(values, scale, symbols, peak)
        arguments = _address(values), len(values), float(scale.inverse), float(scale.rounding)
        beyond = np.empty(self._quantize(*arguments, _address(symbols)), np.int64)
        if len(beyond):
            self._beyond(*arguments, _address(beyond))
        return beyond

    def large(self, values: F32, limit: float, first: int) -> tuple[Positions, F32]:
        """See `Reference.large`."""
        if not _are_plain(values) or _kind(values) != "f4":
            return super().large(values, limit, first)
        count = self._count_large(_address(values), len(values), limit)
        positions, found = np.empty(count + 1, np.uint32), np.empty(count + 1, np.float32)
        self._large(_address(values), len(values), limit, first, _address(positions), _address(found))
        return positions[:-1], found[:-1]

    def pick(self, positions: Positions, values: F32, scale: Scale, stride: int) -> Picked:
        """See `Reference.pick`."""
        size = len(values)
        is_fit = _kind(values) == "f4" and _kind(positions) == "u4" and len(positions) == size
        if not is_fit or not _are_plain(values, positions):
            return super().pick(positions, values, scale, stride)
        kept, symbols = np.empty(size + 1, np.uint32), np.empty(size + 1, np.int8)
        outliers, shown = np.empty(size, np.int64), (np.empty(size, np.float32), np.empty(size, np.int8))
        found = np.empty(3, np.int64)
        arguments = _address(positions), _address(values), size, float(scale.inverse), float(scale.rounding), stride
        results = _address(kept), _address(symbols), _address(outliers), _address(shown[0]), _address(shown[1])
        self._pick(*arguments, *results, _address(found))
        places, beyond, seen = found.tolist()
        return Picked(kept[:places], symbols[:places], outliers[:beyond], (shown[0][:seen], shown[1][:seen]))

    def excess(self, values: F32, symbols: NDArray[np.int8], step: float) -> tuple[Places, NDArray[np.float64]]:
        """See `Reference.excess`."""
        is_fit = _kind(values) == "f4" and _kind(symbols) == "i1" and len(values) == len(symbols)
        if not is_fit or not _are_plain(values, symbols):
            return super().excess(values, symbols, step)
        counts, sums = np.zeros(BINS, np.int64), np.zeros(BINS)
        self._excess(_address(values), _address(symbols), len(values), step, _address(counts), _address(sums))
        return counts, sums

    def nonzero(self, values: Small) -> tuple[Positions, Small]:
        """See `Reference.nonzero`."""
        if not _are_plain(values) or values.itemsize != 1:
            return super().nonzero(values)
        count = self._count_nonzero(_address(values), len(values))
        positions, found = np.empty(count + 1, np.uint32), np.empty(count + 1, values.dtype)
        self._nonzero(_address(values), len(values), _address(positions), _address(found))
        return positions[:-1], found[:-1]

    def squeeze(self, values: Small) -> Small:
        """See `Reference.squeeze`."""
        if not _are_plain(values) or values.itemsize != 1:
            return super().squeeze(values)
        out = np.empty(len(values) + 1, values.dtype)
        return out[: self._squeeze(_address(values), len(values), _address(out))]

    def gap_bytes(self, positions: Positions) -> Bytes:
        """See `Reference.gap_bytes`."""
        if not _are_plain(positions) or _kind(positions) != "u4" or not len(positions):
            return super().gap_bytes(positions)
        out = np.empty(len(positions) + int(positions[-1]) // 255, np.uint8)
        return out[: self._gap_bytes(_address(positions), len(positions), _address(out))]

    def pack(self, values: Bytes, base: int, width: int) -> Bytes:
        """See `Reference.pack`."""
        if not _are_plain(values) or _kind(values) != "u1":
            return super().pack(values, base, width)
        packed = np.empty(-(-len(values) // width), np.uint8)
        self._pack(_address(values), len(values), base, width, _address(packed))
        return packed

    def above(self, values: Bytes, limit: int) -> Bytes:
        """See `Reference.above`."""
        if not _are_plain(values) or _kind(values) != "u1":
            return super().above(values, limit)
        out = np.empty(len(values) + 1, np.uint8)
        return out[: self._above(_address(values), len(values), limit, _address(out))]

    def zigzag(self, symbols: NDArray[np.int8]) -> Bytes:
        """See `Reference.zigzag`."""
        if not _are_plain(symbols) or _kind(symbols) != "i1":
            return super().zigzag(symbols)
        out = np.empty(len(symbols), np.uint8)
        self._zigzag(_address(symbols), len(symbols), _address(out))
        return out


def _loop(library: ctypes.CDLL, name: str, arguments: str) -> Loop:
    loop = library[name]
    loop.argtypes = [_TYPES[each] for each in arguments]
    loop.restype = ctypes.c_int64
    return loop


def _are_plain(*arrays: NDArray[Any]) -> bool:
    """Whether all are in one piece, and aligned."""
    return all(array.flags.c_contiguous and array.flags.aligned for array in arrays)


def _are_marks(masks: Bytes, width: int, chosen: Bytes, size: int) -> bool:
    """Whether these are enough bytes for as many places, and a mask for each byte."""
    return _are_plain(masks, chosen) and 0 < width <= 8 and len(chosen) * width >= size and len(masks) >= _BYTES


def _kind(array: NDArray[Any]) -> str:
    """Type and size of the entries, as NumPy names them; nothing where the bytes have another order."""
    dtype = array.dtype
    return f"{dtype.kind}{dtype.itemsize}" if dtype.isnative else ""


def _address(array: NDArray[Any]) -> int:
    """Where the entries are. `ctypes.data` tells it too, for three times the time."""
    if not array.size:
        return 0
    if array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return array.ctypes.data
