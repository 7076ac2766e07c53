"""Files: arrays from .npy and .safetensors, and a frame together with its manifest.

A coded file is the magic `FMQF`, a version byte 1, the manifest's length as u32 and its bytes, then the frame.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.errors import FrameError, ManifestError, TruncatedFrame, UnknownVersion
from update_codec.limits import MANIFEST_BYTES_MAX
from update_codec.manifest import Manifest

__all__ = ["join_file", "read_arrays", "read_npy", "split_file", "write_arrays"]

_MAGIC: Final = b"FMQF\x01"
_HEADER: Final = struct.Struct("<5sI")
_TYPES: Final = {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}
_NAMES: Final = {name: code for code, name in _TYPES.items()}
_HEADER_BYTES_MAX: Final = 16 << 20
_NPY_MAGIC_BYTES: Final = 8
_NPY_HEADER_BYTES_MAX: Final = 10_000

Arrays = dict[str, NDArray[Any]]


def join_file(manifest: Manifest, frame: bytes) -> bytes:
    """Put the manifest in front of a frame."""
    described = manifest.to_bytes()
    return _HEADER.pack(_MAGIC, len(described)) + described + frame


def split_file(data: bytes) -> tuple[Manifest, bytes]:
    """Take apart what `join_file` made.

    Raises:
        FrameError: if this is not such a file.
        ManifestError: if the manifest is malformed.
    """
    if data[:5] != _MAGIC[: len(data)]:
        raise UnknownVersion("this is not a coded file of version 1")
    if len(data) < _HEADER.size:
        raise TruncatedFrame("the file ends in its header")
    _, size = _HEADER.unpack_from(data)
    if size > MANIFEST_BYTES_MAX:
        raise FrameError(f"the manifest states {size} bytes, the limit is {MANIFEST_BYTES_MAX}")
    if len(data) < _HEADER.size + size:
        raise TruncatedFrame("the file ends in its manifest")
    end = _HEADER.size + size
    return Manifest.from_bytes(data[_HEADER.size : end]), data[end:]


def read_arrays(path: Path) -> Arrays:
    """Read a .npy file as one array named `array`, or all tensors of a .safetensors file.

    Raises:
        ManifestError: if the file is of another kind, malformed, or has a type that the codec does not know.
        OSError: as reading does.
    """
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return {"array": read_npy(file, path.stat().st_size, path.name)}
    if path.suffix == ".safetensors":
        return _read_safetensors(path.read_bytes())
    raise ManifestError(f"{path.name}: only .npy and .safetensors are read")


def read_npy(file: IO[bytes], size: int, name: str) -> NDArray[Any]:
    """Read a .npy file, which is no larger than it says: nothing is allocated for what is not there.

    Args:
        file: At its beginning.
        size: Its bytes.
        name: For the error.

    Raises:
        ManifestError: if it is something else, holds objects, or is shorter than its shape.
        OSError: as reading does.
    """
    try:
        _check_npy(file, size)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy reads the header with Python's own parser, which raises anything
        raise ManifestError(f"{name} is not a plain .npy file: {error}") from error


def _check_npy(file: IO[bytes], size: int) -> None:
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > _NPY_HEADER_BYTES_MAX:
        raise ValueError(f"its header states {length} bytes, the limit is {_NPY_HEADER_BYTES_MAX}")
    file.seek(_NPY_MAGIC_BYTES)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    stated, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or stated > there:
        raise ValueError(f"its shape {shape} takes {stated} bytes, and {there} are there")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as `read_arrays` reads them.

    Raises:
        ManifestError: if the file is of another kind, or .npy and there is not exactly one array.
        OSError: as writing does.
    """
    if path.suffix == ".npy" and len(arrays) == 1:
        np.save(path, next(iter(arrays.values())), allow_pickle=False)
    elif path.suffix == ".safetensors":
        path.write_bytes(_safetensors(arrays))
    else:
        raise ManifestError(f"{path.name}: write a .safetensors file, or .npy for a single array")


def _read_safetensors(data: bytes) -> Arrays:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_HEADER_BYTES_MAX, len(data) - 8):
        raise ManifestError("the safetensors header is longer than the file, or than 16 MiB")
    try:
        entries = json.loads(data[8 : 8 + size])
        body = memoryview(data)[8 + size :]
        return {name: _tensor(entry, body) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ManifestError(f"the safetensors header is malformed: {error!r}") from error


def _tensor(entry: dict[str, Any], body: memoryview) -> NDArray[Any]:
    if entry["dtype"] not in _TYPES:
        raise ManifestError(f"the type {entry['dtype']} is not known; convert it to F32")
    dtype = np.dtype(_TYPES[entry["dtype"]]).newbyteorder("<")
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ManifestError("a tensor's offsets do not fit its shape or the file")
    return np.frombuffer(body[begin:end], dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    header: dict[str, Any] = {}
    pieces, place = [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [place, place + len(data)],
        }
        pieces.append(data)
        place += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)
