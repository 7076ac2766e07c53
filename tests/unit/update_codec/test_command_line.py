"""The command line codes files, says where the bits went, and refuses what it cannot read."""

import json
import runpy
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from update_codec import FrameError, Manifest, ManifestError
from update_codec.__main__ import main
from update_codec.files import join_file, read_arrays, split_file, write_arrays


def tensors() -> dict[str, NDArray[Any]]:
    """A small model."""
    rng = np.random.default_rng(0)
    return {
        "weight": rng.laplace(size=(40, 50)).astype(np.float32),
        "half": rng.normal(size=7).astype(np.float16),
        "wide": rng.normal(size=(2, 3)),
        "steps": np.array(7),
        "mask": np.array([True, False]),
    }


def test_npy_goes_through_lossless_and_comes_back(tmp_path: Path) -> None:
    source, coded, back = tmp_path / "in.npy", tmp_path / "out.bin", tmp_path / "back.npy"
    values = tensors()["weight"]
    np.save(source, values)
    assert main(["encode", str(source), str(coded), "--spec", "lossless"]) == 0
    assert main(["decode", str(coded), str(back)]) == 0
    np.testing.assert_array_equal(np.load(back), values)


def test_safetensors_go_through_and_are_read_by_the_reference_library(tmp_path: Path) -> None:
    source, coded, back = (tmp_path / name for name in ("in.safetensors", "out.bin", "back.safetensors"))
    safetensors.numpy.save_file(tensors(), source)
    assert main(["encode", str(source), str(coded), "--spec", "lossless"]) == 0
    assert main(["decode", str(coded), str(back)]) == 0
    found = safetensors.numpy.load_file(back)
    for name, array in tensors().items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "low", "high"), [("--target-bpp", "0.5", 0.4, 1.0), ("--step-rms", "1.5", 0.8, 2.2)]
)
def test_rate_and_step_are_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, low: float, high: float
) -> None:
    source, coded = tmp_path / "in.npy", tmp_path / "out.bin"
    np.save(source, tensors()["weight"])
    assert main(["encode", str(source), str(coded), option, value]) == 0
    assert "bits per parameter" in capsys.readouterr().out
    assert main(["inspect", str(coded), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert low < info["bits_per_parameter"] < high
    assert info["segments"][0]["tag"] == "symbols"


def test_inspect_accounts_for_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, coded = tmp_path / "in.safetensors", tmp_path / "out.bin"
    write_arrays(source, tensors())
    assert main(["encode", str(source), str(coded)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(coded)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("codec edge (deadzone)")
    sizes = [int(line.split()[-2]) for line in lines[3:]]
    _, frame = split_file(coded.read_bytes())
    assert sum(sizes) == len(frame)
    assert lines[-1].startswith("envelope")


def test_bench_prints_every_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.npy"
    np.save(source, tensors()["weight"])
    assert main(["bench", str(source)]) == 0
    assert "stateless" in capsys.readouterr().out
    assert main(["bench", str(source), "--json"]) == 0
    assert {row["profile"] for row in json.loads(capsys.readouterr().out)} >= {"edge", "lossless", "eden4"}


def test_bench_has_values_of_its_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("update_codec.__main__.BENCH_ENTRIES", 2000)
    assert main(["bench"]) == 0
    assert "edge" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["decode", "absent.bin", "x.npy"], ["encode", "absent.npy", "x.bin"]])
def test_missing_file_is_one_line_and_exit_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    paths = [str(tmp_path / name) for name in arguments[1:]]
    assert main([arguments[0], *paths]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_module_runs_as_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["update_codec", "--help"])
    monkeypatch.delitem(sys.modules, "update_codec.__main__")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("update_codec", run_name="__main__")
    assert stopped.value.code == 0
    assert "inspect" in capsys.readouterr().out


def test_every_prefix_of_a_coded_file_is_refused() -> None:
    manifest = Manifest.of({"x": np.zeros(3, np.float32)})
    data = join_file(manifest, b"")
    for end in range(len(data)):
        with pytest.raises((FrameError, ManifestError)):
            split_file(data[:end])
    with pytest.raises(FrameError, match="limit"):
        split_file(data[:5] + struct.pack("<I", 1 << 30))
    with pytest.raises(FrameError, match="version"):
        split_file(b"junk!" + data[5:])


def tensor_file(header: object, body: bytes = bytes(8)) -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 3) + b"{x}",
        tensor_file([]),
        tensor_file({"x": {}}),
        tensor_file({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}),
        tensor_file({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        tensor_file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}),
        tensor_file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}),
        tensor_file({"x": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}}),
        tensor_file({"x": {"dtype": "F32", "shape": [2], "data_offsets": 7}}),
        tensor_file({"x": {"dtype": [], "shape": [2], "data_offsets": [0, 8]}}),
        tensor_file({"x": {"dtype": "F32", "shape": [0, 10**40], "data_offsets": [0, 0]}}),
    ],
)
def test_malformed_safetensors_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ManifestError):
        read_arrays(path)


def test_metadata_of_safetensors_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    safetensors.numpy.save_file({"x": np.arange(3, dtype=np.float32)}, path, {"format": "np"})
    assert list(read_arrays(path)) == ["x"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in.npy").write_bytes(b"not an array")
    (tmp_path / "in.txt").write_text("text")
    for name in ("in.npy", "in.txt"):
        with pytest.raises(ManifestError):
            read_arrays(tmp_path / name)
    with pytest.raises(ManifestError):
        write_arrays(tmp_path / "out.npy", tensors())
    with pytest.raises(ManifestError):
        write_arrays(tmp_path / "out.txt", {"x": np.zeros(1)})


def npy_header(text: str, *, version: int = 1) -> bytes:
    """A .npy file with any header, and 16 bytes."""
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + bytes(16)


BOMBS = {
    "a shape of terabytes": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"),
    "a shape of gigabytes": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }\n"),
    "an item of gigabytes": npy_header("{'descr': '|V2000000000', 'fortran_order': False, 'shape': (1,), }\n"),
    "a negative shape": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
    "a header of gigabytes": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f",
    "a header that does not end": npy_header("{'descr': '<f4', 'shape': (3"),
    "an archive": b"PK\x03\x04" + bytes(40),
    "nothing": b"",
    "half a header": b"\x93NUMPY\x01\x00",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_promises_more_than_it_has_is_one_line_exit_code_two_and_no_memory(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.npy"
    source.write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        assert main(["encode", str(source), str(tmp_path / "out.bin")]) == 2
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert capsys.readouterr().err.count("\n") == 1


def test_what_memory_cannot_hold_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise MemoryError("4 TiB")

    monkeypatch.setattr("update_codec.__main__.read_arrays", full)
    assert main(["encode", "in.npy", "out.bin"]) == 2
    assert capsys.readouterr().err == "this does not fit memory: 4 TiB\n"


def test_a_file_of_a_later_version_of_the_format_is_read(tmp_path: Path) -> None:
    with (tmp_path / "in.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(3.0), version=(2, 0))
    assert read_arrays(tmp_path / "in.npy")["array"].tolist() == [0.0, 1.0, 2.0]


def test_a_file_that_cannot_be_read_on_is_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_file: object, _size: int) -> None:
        raise OSError("the disk is broken")

    np.save(tmp_path / "in.npy", np.zeros(3))
    monkeypatch.setattr("update_codec.files._check_npy", broken)
    with pytest.raises(OSError, match="broken"):
        read_arrays(tmp_path / "in.npy")


def test_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ManifestError):
        read_arrays(tmp_path / "in.npy")
