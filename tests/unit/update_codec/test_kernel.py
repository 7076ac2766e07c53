"""The compiled loops give what NumPy gives, bit for bit, and touch nothing outside."""

import ctypes
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import update_codec.kernel as room
from tests.rigs.kernels import Emulated, compiled_kernel, emulated_kernel
from update_codec import Accumulator, CodecSpec, Manifest, decode, encode, inspect
from update_codec.__main__ import main
from update_codec.kernel import Compiled, LibraryError, Marks, Reference, Scale, build, load, status, using
from update_codec.kernel.operands import Picked
from update_codec.layouts.digits import BASES, escaping, expansion
from update_codec.layouts.levels import ALL_BITS

REFERENCE = Reference()
SEEDS = st.integers(0, 2**32 - 1)
ODD = [0.0, -0.0, 1e-45, -1e-40, 0.42, -0.5, 1.5, 2.5, 127.5, -128.0, 3e38, -3e38]


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compiled_kernel(tmp_path_factory)


def outcome(action: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gave, its writable arguments afterwards, and the kind of its error."""
    own = [_copied(each) if isinstance(each, np.ndarray) else each for each in arguments]
    try:
        with np.errstate(over="ignore"):
            result = action(*own)
    except (IndexError, ValueError) as error:
        return type(error)
    return [_plain(each) for each in (result, *own)]


def _copied(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that is in one piece if the array is."""
    if array.flags.c_contiguous:
        return array.copy()
    return np.repeat(array, 2, axis=0)[::2]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, Picked):
        value = (value.positions, value.symbols, value.outliers, value.shown)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def agree(fast: Reference, name: str, *arguments: Any) -> None:
    """Both give the same."""
    assert outcome(getattr(fast, name), *arguments) == outcome(getattr(REFERENCE, name), *arguments)


def floats(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Of all magnitudes, denormal and huge ones too."""
    values = rng.normal(size=size) * 2.0 ** rng.integers(-30, 30, size)
    odd = rng.random(size) < 0.2
    return np.where(odd, rng.choice(ODD, size), values).astype(np.float32)


def check_decoding(fast: Reference, rng: np.random.Generator, size: int) -> None:
    """Every loop of the decoder, once, on random content."""
    base, width = list(BASES.items())[int(rng.integers(len(BASES)))]
    chosen = rng.integers(0, base**width if width > 1 else 256, -(-size // width)).astype(np.uint8)
    for kind in (np.uint8, np.float32, np.int64, np.float64):
        table = rng.integers(0, 200, (256, width)).astype(kind)
        agree(fast, "rows", table, chosen, size)
        agree(fast, "rows", table[::2], chosen, size)  # not in one piece, and too short
        agree(fast, "rows", table[:100].copy(), chosen, size)
    marks = Marks(escaping(base), width, chosen)
    count = REFERENCE.count_marked(marks.masks, width, chosen, size)
    agree(fast, "marked", marks.masks, width, chosen, size)
    strided = np.repeat(chosen, 2)[::2]
    agree(fast, "count_marked", marks.masks, width, chosen, size)
    agree(fast, "count_marked", marks.masks, width, strided, size)
    indices = rng.integers(0, 256, count).astype(np.uint8)
    for values in (floats(rng, 256), rng.integers(-(2**40), 2**40, 256)):
        target = floats(rng, size) if values.dtype == np.float32 else rng.integers(-(2**61), 2**61, size)
        table = values[: len(expansion(base))][expansion(base)]
        agree(fast, "add_rows", target, table, chosen)
        agree(fast, "add_rows", target, table[:7].copy(), chosen)
        agree(fast, "add_rows", target, table, strided)
        agree(fast, "add_marked", target, values, marks, indices)
        if count:
            agree(fast, "add_marked", target, values, marks, indices[1:])
        agree(fast, "add_marked", target, values, marks, np.append(indices, indices[:1] + 0))
    check_positions(fast, rng, size)


def check_positions(fast: Reference, rng: np.random.Generator, size: int) -> None:
    """Loops that know where a value goes."""
    bits = rng.integers(0, 256, -(-size // 8)).astype(np.uint8)
    agree(fast, "marked", ALL_BITS, 8, bits, size)
    agree(fast, "marked", ALL_BITS, 8, np.repeat(bits, 2)[::2], size)
    gaps = np.minimum(rng.geometric(0.02, size + 1), 255).astype(np.uint8)
    agree(fast, "gap_positions", gaps, int(rng.integers(-1, 2**33)))
    positions, last = REFERENCE.gap_positions(gaps, -1)
    for kind in (np.float32, np.int64, np.float64):
        values = floats(rng, len(positions)).clip(-1e9, 1e9).astype(kind)
        agree(fast, "add_at", np.ones(last + 1, kind), positions, values)
        agree(fast, "add_at", np.ones(last + 1, kind), positions.astype(np.uint32), values)
        agree(fast, "add_at", np.ones(max(last - 1, 1), kind), positions, values)
    levels = rng.integers(0, 256, len(positions)).astype(np.uint8)
    agree(fast, "spread", positions, levels, last + 1)
    agree(fast, "spread", positions, levels, max(0, last - 1))
    agree(fast, "spread", np.repeat(positions, 2)[::2], levels, last + 1)
    agree(fast, "gap_positions", np.repeat(gaps, 2)[::2], -1)
    values = floats(rng, size)
    factor = float(2.0 ** rng.integers(-20, 60) / max(1.0, float(np.abs(values).max(initial=0))))
    sums = rng.integers(-(2**61), 2**61, size)
    agree(fast, "add_scaled", sums, values, factor)
    agree(fast, "add_scaled", np.repeat(sums, 2)[::2], np.repeat(values, 2)[::2], factor)


def check_encoding(fast: Reference, rng: np.random.Generator, size: int) -> None:
    """Every loop of the encoder, once, on random content."""
    values = floats(rng, size)
    symbols = (rng.integers(-127, 128, size) * (rng.random(size) < rng.random())).astype(np.int8)
    step, rounding = float(2.0 ** rng.uniform(-140, 100)), float(rng.uniform(0, 0.5))
    scale = Scale(step if rng.random() < 0.2 else float(2.0 ** rng.uniform(-8, 8)), rounding)
    for view in (values, values[::3], np.repeat(values, 2)[::2]):
        agree(fast, "peak", view)
        agree(fast, "row_sums", view)
        agree(fast, "quantize", view, scale, np.empty(len(view), np.int8))
        agree(fast, "large", view, float(np.float32(0.5)), 77)
    positions, large = REFERENCE.large(values, 1e-6, 5)
    for stride in (1, 3, 152):
        agree(fast, "pick", positions, large, scale, stride)
        agree(fast, "pick", np.repeat(positions, 2)[::2], large, scale, stride)
    agree(fast, "excess", values, symbols, step)
    agree(fast, "excess", values[::2], symbols[::2], step)
    check_packing(fast, rng, symbols)


def check_packing(fast: Reference, rng: np.random.Generator, symbols: NDArray[np.int8]) -> None:
    """Loops over symbols."""
    values = np.minimum(symbols.view(np.uint8), rng.integers(1, 255)).astype(np.uint8)
    for base, width in BASES.items():
        if width > 1:
            agree(fast, "pack", values, base, width)
            agree(fast, "pack", np.repeat(values, 2)[::2], base, width)
            agree(fast, "above", values, base - 1)
            agree(fast, "above", values[::2], base - 1)
    for each in (values, symbols, symbols[::2]):
        agree(fast, "nonzero", each)
        agree(fast, "squeeze", each)
    agree(fast, "zigzag", symbols)
    agree(fast, "zigzag", symbols[::2])
    gaps = rng.geometric(0.01, len(symbols)).cumsum()
    gaps[len(gaps) // 2 :] += int(rng.integers(0, 100_000))
    agree(fast, "gap_bytes", gaps.astype(np.uint32))
    agree(fast, "gap_bytes", gaps.astype(np.uint32)[::2])


@given(seed=SEEDS, size=st.integers(0, 3000) | st.integers(15_000, 50_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_encoding_loops_give_the_bits_of_numpy(fast: Compiled, seed: int, size: int) -> None:
    check_encoding(fast, np.random.default_rng(seed), size)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_by_the_peak(fast: Compiled, bad: float) -> None:
    for place in (0, 70, 99):
        values = np.ones(100, np.float32)
        values[place] = bad
        assert np.array_equal(fast.peak(values), REFERENCE.peak(values), equal_nan=True)


def test_beyond_the_last_symbol_is_told_at_the_last_float(fast: Compiled) -> None:
    near = np.array([127.5, 128.0, 127.99999, -127.99999, -128.0, 1e30], np.float32)
    agree(fast, "quantize", near, Scale(1.0, 0.0), np.empty(len(near), np.int8))
    agree(fast, "quantize", near - np.float32(0.42), Scale(1.0, 0.42), np.empty(len(near), np.int8))


@given(seed=SEEDS, size=st.integers(0, 3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decoding_loops_give_the_bits_of_numpy(fast: Compiled, seed: int, size: int) -> None:
    check_decoding(fast, np.random.default_rng(seed), size)


def test_halves_are_rounded_to_even_as_numpy_does(fast: Compiled) -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2**23 + 0.5, 4.4e9], np.float32)
    agree(fast, "add_scaled", np.zeros(len(values), np.int64), values, 1.0)


def test_unaligned_and_foreign_arrays_go_to_numpy(fast: Compiled) -> None:
    raw = np.arange(8 * 50 + 1, dtype=np.uint8)
    unaligned = raw[1:].view(np.int64)
    assert not unaligned.flags.aligned
    fast.add_scaled(unaligned, np.ones(50, np.float32), 3.0)
    expected = np.arange(8 * 50 + 1, dtype=np.uint8)[1:].copy().view(np.int64) + 3
    np.testing.assert_array_equal(unaligned, expected)
    swapped = np.zeros(50, ">i8")
    fast.add_scaled(swapped, np.ones(50, np.float32), 3.0)
    assert (swapped == 3).all()


def updates() -> Iterator[tuple[Manifest, Any, CodecSpec]]:
    """Updates of several densities, sizes and groups, in every kind of frame."""
    rng = np.random.default_rng(7)
    for rows in (3, 700, 3000):
        weight = rng.laplace(size=(rows, 100)).astype(np.float32)
        arrays = {"weight": weight, "bias": weight[:, 0].copy(), "turned": weight[:, :50] * 1e-3}
        manifest = Manifest.of(arrays)
        specs = (
            "edge",
            "balanced",
            "fine",
            "extreme",
            "link",
            "deadzone(step=0.15)",
            "deadzone(step=1)",
            "cosine(bpp=1)",
        )
        for spec in specs:
            yield manifest, manifest.flatten(arrays), CodecSpec.parse(spec)


def all_of(manifest: Manifest, update: Any, spec: CodecSpec) -> tuple[Any, ...]:
    """A frame, and all that can be read from it."""
    coded = encode(update, manifest, spec, residual=update.parameters[::-1] * np.float32(0.1))
    accumulator = Accumulator(manifest)
    accumulator.add(coded.frame, 3.7)
    kept = inspect(coded.frame, manifest, keep_values=True)
    accumulator.add(coded.frame, 0.3, info=kept, clip=1.0)
    residual = None if coded.residual is None else coded.residual.tobytes()
    info = repr(inspect(coded.frame, manifest))
    return coded.frame, residual, info, decode(coded.frame, manifest).digest(), accumulator.mean().digest()


def test_frames_residuals_and_sums_are_the_same(fast: Compiled) -> None:
    for manifest, update, spec in updates():
        with using(fast):
            found = all_of(manifest, update, spec)
        with using(REFERENCE):
            assert found == all_of(manifest, update, spec), spec


@pytest.mark.thorough
def test_the_kernel_of_another_machine_gives_the_same_bits(tmp_path: Path) -> None:
    other, patched = emulated_kernel(tmp_path)
    assert isinstance(other, Emulated)
    with patched:
        for seed in range(2):
            check_decoding(other, np.random.default_rng(seed), 700 + seed)
            check_encoding(other, np.random.default_rng(seed), 17_000 + seed)
        rng = np.random.default_rng(1)
        arrays = {"x": rng.laplace(size=(180, 100)).astype(np.float32)}
        manifest = Manifest.of(arrays)
        for text in ("balanced", "edge"):
            spec = CodecSpec.parse(text)
            with using(other):
                found = all_of(manifest, manifest.flatten(arrays), spec)
            with using(REFERENCE):
                assert found == all_of(manifest, manifest.flatten(arrays), spec)
    assert other.calls > 50


def test_the_library_needs_no_other_and_no_executable_stack(fast: Compiled, tmp_path: Path) -> None:
    reader = shutil.which("readelf")
    if reader is None:
        pytest.skip("needs readelf")
    told = subprocess.run(
        [reader, "-Wdl", str(build.build(into=tmp_path))], capture_output=True, text=True, check=True
    ).stdout
    assert "NEEDED" not in told
    assert "GNU_STACK" in told
    assert "RWE" not in told


def test_the_same_source_gives_the_same_library(fast: Compiled, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert build.build(into=tmp_path).read_bytes() == build.build(into=tmp_path / "one").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([build.library_name(), "one"])


def test_what_is_in_use_is_said_and_can_be_switched_off(
    fast: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(folder: Path) -> tuple[str, str]:
        found = load.__wrapped__(folder)[1]
        return found.name, found.reason

    monkeypatch.delenv(room.VARIABLE, raising=False)
    path = build.build(into=tmp_path)
    assert loaded(tmp_path) == ("compiled", path.name)
    monkeypatch.setattr(sys, "byteorder", "big")
    assert loaded(tmp_path)[0] == "numpy"
    monkeypatch.undo()
    monkeypatch.setenv(room.VARIABLE, "numpy")
    assert loaded(tmp_path) == ("numpy", "UPDATE_CODEC_KERNEL=numpy")
    monkeypatch.delenv(room.VARIABLE)
    (tmp_path / "none").mkdir()
    assert loaded(tmp_path / "none") == ("numpy", f"there is no {path.name}")
    (tmp_path / "none" / path.name).write_bytes(b"not a library")
    assert "cannot be loaded" in loaded(tmp_path / "none")[1]


def test_a_library_of_another_source_is_not_used(
    fast: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "version_of", lambda: 7)
    path = build.build(into=tmp_path)
    with pytest.raises(LibraryError, match=r"another kernel\.c"):
        Compiled(path)
    assert ctypes.CDLL(str(path)).update_codec_kernel_version() == 7


def test_no_compiler_and_a_wrong_source_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(build.CompilerError, match="pdp11-linux-gnu-gcc is not in PATH"):
        build.build("pdp11", tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(build.CompilerError, match="false failed"):
        build.build(into=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_in_use_and_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernel"]) == 0
    assert capsys.readouterr().out == f"{status().name}: {status().reason}\n"
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main(["kernel", "--build"]) == 1
    assert capsys.readouterr().err == "no C compiler: no-such-compiler is not in PATH\n"
    monkeypatch.setattr("update_codec.__main__.build", lambda: tmp_path / build.library_name())
    assert main(["kernel", "--build"]) == 0
    assert f"compiled kernel-{platform.machine()}.so" in capsys.readouterr().out
