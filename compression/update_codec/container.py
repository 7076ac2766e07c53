"""Canonical, bounded msgpack for the manifest: the only place where the codec uses msgpack."""

from typing import Any

import msgpack

from update_codec.errors import ManifestError
from update_codec.limits import DIMENSIONS_MAX, MANIFEST_BYTES_MAX, NAME_BYTES_MAX, TENSORS_MAX

__all__ = ["pack_rows", "unpack_rows"]

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
