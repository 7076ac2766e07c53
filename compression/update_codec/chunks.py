"""Many frames side by side, a chunk of entries at a time: what robust rules such as the median need.

Memory is proportional to the number of frames times the chunk, whatever the size of the model (dithered frames hold
one byte per parameter besides).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from update_codec.context import Contexts
from update_codec.errors import NonFiniteFrame
from update_codec.layouts.layout import Symbols, Where
from update_codec.manifest import Manifest, Role
from update_codec.partition import Group
from update_codec.segments import Content, Outliers, Pieces, parse

__all__ = ["iter_chunks"]

F32 = NDArray[np.float32]


def iter_chunks(
    frames: Sequence[bytes],
    manifest: Manifest,
    chunk: int,
    *,
    role: Role = Role.PARAMETER,
    context: Contexts | None = None,
) -> Iterator[tuple[int, F32]]:
    """Yield (first entry, values) for consecutive chunks; values are float32 of shape (frames, entries of the chunk).

    Args:
        frames: complete frames of the same model.
        manifest: the model.
        chunk: entries at a time.
        role: parameters or statistics (with the controls).
        context: the one that frames were coded with, if any, or several by their keys.

    Raises:
        ValueError: if the chunk is not positive, or the role is another one.
        FrameError: if a frame is not valid or not finite; earlier chunks may have been yielded.
    """
    if chunk < 1 or role not in (Role.PARAMETER, Role.STATISTIC):
        raise ValueError("a chunk has at least one entry, of parameters or statistics")
    size = manifest.parameter_count if role is Role.PARAMETER else manifest.statistic_count
    rows = [_row(parse(frame, manifest, context), role) for frame in frames]
    for start in range(0, size, chunk):
        values = np.zeros((len(rows), min(chunk, size - start)), np.float32)
        for row, out in zip(rows, values, strict=True):
            row.fill(start, out)
        if not np.isfinite(values).all():
            raise NonFiniteFrame("an update holds NaN or infinity")
        yield start, values


class _Row:
    """One frame, read in steps.

    Args:
        sources: what makes up the vector; each fills its own entries.
        outliers: added at the end.
    """

    def __init__(self, sources: list["_Source"], outliers: Outliers | None) -> None:
        self._sources = sources
        self._outliers = outliers

    def fill(self, start: int, out: F32) -> None:
        """Fill zeros with the entries from `start` on; every call begins where the last one ended."""
        for source in self._sources:
            source.fill(start, out)
        if self._outliers is not None:
            low, high = np.searchsorted(self._outliers.positions, (start, start + len(out)))
            out[self._outliers.positions[low:high] - start] += self._outliers.values[low:high]


@dataclass(slots=True)
class _Source:
    """Pieces of a group, or of the whole vector where there is no group."""

    pieces: Iterator[tuple[Where, NDArray[Any]]]
    group: Group | None
    places: NDArray[np.int64]
    values: F32

    def fill(self, start: int, out: F32) -> None:
        """Take pieces until they go beyond the end of `out`."""
        end = start + len(out)
        while not len(self.places) or self.places[-1] < end:
            piece = next(self.pieces, None)
            if piece is None:
                break
            where, values = piece
            positions = np.arange(where, where + len(values)) if isinstance(where, int) else where
            places = positions if self.group is None else self.group.locate(positions)
            self.places = np.concatenate([self.places, places])
            self.values = np.concatenate([self.values, values])
        count = int(np.searchsorted(self.places, end))
        out[self.places[:count] - start] = self.values[:count]
        self.places, self.values = self.places[count:], self.values[count:]


def _row(content: Content, role: Role) -> _Row:
    if role is Role.STATISTIC:
        return _Row([_whole(content.statistics)], None)
    sources = [_of_group(part.symbols, part.quantizer.table(), part.group) for part in content.groups]
    return _Row([*sources, _whole(content.values)], content.outliers)


def _of_group(symbols: Symbols, table: F32, group: Group) -> _Source:
    return _Source(symbols.pieces(table), group, np.empty(0, np.int64), np.empty(0, np.float32))


def _whole(values: Pieces | None) -> _Source:
    pieces: Iterator[tuple[Where, NDArray[Any]]] = iter(()) if values is None else values.pieces()
    return _Source(pieces, None, np.empty(0, np.int64), np.empty(0, np.float32))
