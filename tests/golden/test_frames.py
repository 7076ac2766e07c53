"""Frames written by an earlier version decode to the very same bits.

The files hold a manifest and one frame per case; `expected.json` holds the digest of the decoded vectors. What is
pinned is the meaning of the bytes, not what zstd makes of them: an encoder may write other bytes for the same update.
After a deliberate change of the format (and of its version) run `python tests/golden/test_frames.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.golden import format_decoder
from update_codec import PROFILES, Accumulator, CodecSpec, Manifest, Role, Vectors, decode, encode, read_sum, sum_frame
from update_codec import inspect as inspect_frame
from update_codec.masking import MaskedSum, Shape, masked
from update_codec.quantizers.dithered import hash_words

FOLDER = Path(__file__).parent / "frames"
MEAN = {"mean": Role.STATISTIC}
RETIRED = "secagg"
"""A profile that is gone; its frames are read as ever."""
SPECS = [
    *PROFILES,
    *(f"deadzone(step={step})" for step in (0.5, 1, 2, 4)),
    "dither(step=2)",
    "common(bits=5,delta=0.1)",
]


def expected() -> dict[str, dict[str, str | int | float]]:
    """What each file must decode to."""
    cases: dict[str, dict[str, str | int | float]] = json.loads((FOLDER / "expected.json").read_text())
    return cases


def file_of(spec: str) -> Path:
    """The frame's file."""
    return FOLDER / (spec.replace("(", "-").replace(")", "").replace("=", "").replace(",", "-") + ".bin")


@pytest.mark.parametrize("spec", [*SPECS, RETIRED])
def test_golden_frame_decodes_to_the_same_bits(spec: str) -> None:
    manifest = Manifest.from_bytes((FOLDER / "manifest.msgpack").read_bytes())
    frame = file_of(spec).read_bytes()
    case = expected()[spec]
    assert decode(frame, manifest).digest().hex() == case["vectors"]
    info = inspect_frame(frame, manifest)
    assert info.spec == (spec if spec == RETIRED else str(CodecSpec.parse(spec)))
    assert info.parameter_norm == pytest.approx(case["parameter_norm"], rel=1e-9)
    assert [segment.layout for segment in info.segments] == str(case["layouts"]).split()


def test_golden_manifest_has_the_same_digest() -> None:
    manifest = Manifest.from_bytes((FOLDER / "manifest.msgpack").read_bytes())
    assert manifest.digest.hex() == expected()["manifest"]["digest"]


@pytest.mark.parametrize("spec", [*SPECS, RETIRED])
def test_decoder_written_from_the_format_alone_gives_the_same_bits(spec: str) -> None:
    manifest = Manifest.from_bytes((FOLDER / "manifest.msgpack").read_bytes())
    tensors = [(tensor.name, list(tensor.shape), tensor.dtype, tensor.role.value) for tensor in manifest.tensors]
    parameters, statistics, counters = format_decoder.decode(file_of(spec).read_bytes(), tensors)
    vectors = Vectors(np.array(parameters, np.float32), np.array(statistics, np.float32), np.array(counters, np.int64))
    assert vectors.digest().hex() == expected()[spec]["vectors"]


def turned_example() -> tuple[Manifest, Vectors]:
    """Matrices whose rows are smooth, one with rows longer than a block, and a bias; no library for random numbers."""
    words = hash_words(9, 0, 20_000).astype(np.int64) % 201 - 100
    waves = np.cumsum(words[:19_000]).astype(np.float32) * np.float32(0.001)
    arrays = {
        "first.weight": waves[:15_000].reshape(10, 1500),
        "first.bias": words[:10].astype(np.float32) * np.float32(0.01),
        "kernel": waves[15_000:18_000].reshape(5, 6, 10, 10),
        "rough": words[18_000:19_000].astype(np.float32).reshape(50, 20) ** 3 * np.float32(1e-5),
        "batches": np.array(7),
    }
    manifest = Manifest.of(arrays)
    return manifest, manifest.flatten(arrays)


@pytest.mark.parametrize("bpp", [0.5, 4])
def test_turned_matrices_decode_to_the_same_bits_as_ever_and_by_the_format_alone(bpp: float) -> None:
    manifest = Manifest.from_bytes((FOLDER / "turned-manifest.msgpack").read_bytes())
    frame, case = (FOLDER / f"turned-{bpp}.bin").read_bytes(), expected()[f"turned-{bpp}"]
    vectors = decode(frame, manifest)
    assert vectors.digest().hex() == case["vectors"]
    info = inspect_frame(frame, manifest)
    assert [segment.layout for segment in info.segments] == str(case["layouts"]).split()
    assert info.parameter_norm == pytest.approx(case["parameter_norm"], rel=1e-9)
    tensors = [(tensor.name, list(tensor.shape), tensor.dtype, tensor.role.value) for tensor in manifest.tensors]
    parameters, _, counters = format_decoder.decode(frame, tensors)
    assert np.array(parameters, np.float32).tobytes() == vectors.parameters.tobytes()
    assert counters == [7]


def test_example_of_the_format_decodes_as_it_says() -> None:
    text = (Path(__file__).parents[2] / "compression" / "FORMAT.md").read_text()
    example = text.split("## 8. Example")[1].split("```")[1]
    frame = bytes.fromhex(" ".join(line[:50] for line in example.splitlines()))
    manifest = Manifest.of({"x": np.zeros(3, np.float32)})
    assert decode(frame, manifest).parameters.tolist() == pytest.approx([0, 2.00205, -0.9985035], rel=1e-6)


class Words:
    """A keystream for examples: the dither's hash, four bytes at a time."""

    def __init__(self, seed: int) -> None:
        self._seed, self._place = seed, 0

    def take(self, size: int) -> bytes:
        found = hash_words(self._seed, self._place, -(-size // 4))
        self._place += len(found)
        return found.astype("<u4").tobytes()[:size]


@dataclass(frozen=True)
class WordMask:
    codes: Words
    tail: Words


def masks_of(member: int) -> list[WordMask]:
    """The two masks of one member."""
    return [WordMask(Words(100 * member + number), Words(100 * member + number + 50)) for number in (1, 2)]


def masked_example(bits: int) -> tuple[Manifest, dict[str, bytes]]:
    """Two members and the sum of their masks."""
    manifest = Manifest.of({"weight": np.zeros((7, 3), np.float32), "mean": np.zeros(1, np.float32)}, MEAN)
    shape = Shape(dimension=21, tail=2, bits=bits)
    revealed, files = MaskedSum(shape), {}
    for member in (1, 2):
        made = masked(shape, np.arange(21) % 3 - 1, np.array([member, -member * 1000]), masks_of(member))
        files[f"masked-{bits}-{member}"] = made.frame(manifest, step=0.5, spec=CodecSpec.parse("masked"))
        for mask in masks_of(member):
            revealed.add_mask(mask)
    return manifest, files | {f"masked-{bits}-sum": revealed.to_bytes()}


@pytest.mark.parametrize("bits", [3, 20])
def test_masked_frames_and_sums_have_the_same_bytes_as_ever(bits: int) -> None:
    """They hold no entropy coder: the bytes themselves are pinned."""
    _, files = masked_example(bits)
    for name, content in files.items():
        assert (FOLDER / f"{name}.bin").read_bytes().hex() == content.hex()


@pytest.mark.parametrize("bits", [3, 20])
def test_decoder_written_from_the_format_alone_takes_the_masks_away(bits: int) -> None:
    frames = [(FOLDER / f"masked-{bits}-{member}.bin").read_bytes() for member in (1, 2)]
    revealed = (FOLDER / f"masked-{bits}-sum.bin").read_bytes()
    values, tail = format_decoder.unmask(frames, revealed, size=21)
    assert values == [float(entry % 3 - 1) for entry in range(21)]  # 2 members, step 0.5
    assert tail == [3, -3000]


def summed_example() -> tuple[Manifest, bytes]:
    """Two golden frames of different weight, added."""
    manifest = Manifest.from_bytes((FOLDER / "manifest.msgpack").read_bytes())
    total = Accumulator(manifest)
    for spec, weight in (("edge", 3.0), ("lossless", 5.0)):
        total.add(file_of(spec).read_bytes(), weight)
    return manifest, sum_frame(total.sums(), manifest)


def test_golden_sum_is_read_as_ever_and_by_the_decoder_of_the_format() -> None:
    manifest, made = summed_example()
    golden, again = (read_sum(frame, manifest) for frame in ((FOLDER / "sum.bin").read_bytes(), made))
    sizes = (manifest.parameter_count, manifest.statistic_count, manifest.counter_count)
    members, weight, vectors = format_decoder.read_sum((FOLDER / "sum.bin").read_bytes(), sizes)
    assert (members, weight) == (golden.members, golden.weight) == (again.members, again.weight) == (2, 8 << 20)
    for name, integers in zip(("parameters", "statistics", "counters"), vectors, strict=True):
        assert integers == getattr(golden, name).tolist() == getattr(again, name).tolist()


def write() -> None:
    """Write all golden files anew, from values that need no random number library."""
    words = hash_words(1, 0, 40_000).astype(np.int64) % 2001 - 1000
    values = (np.sign(words) * (np.abs(words) / 1000.0) ** 3).astype(np.float32)
    arrays = {
        "first.weight": values[:30_000].reshape(150, 200),
        "first.bias": values[30_000:30_150],
        "norm.mean": values[31_000:31_150],
        "norm.batches": np.array(1234),
        "second.weight": values[32_000:35_000].reshape(20, 150) * np.float32(0.125),
        "second.bias": values[36_000:36_020],
    }
    manifest = Manifest.of(arrays, {"norm.mean": Role.STATISTIC})
    update = manifest.flatten(arrays)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "manifest.msgpack").write_bytes(manifest.to_bytes())
    cases: dict[str, dict[str, str | float]] = {"manifest": {"digest": manifest.digest.hex()}}
    for spec in SPECS:
        frame = encode(update, manifest, CodecSpec.parse(spec), seed=77).frame
        info = inspect_frame(frame, manifest)
        file_of(spec).write_bytes(frame)
        cases[spec] = {
            "vectors": decode(frame, manifest).digest().hex(),
            "parameter_norm": info.parameter_norm,
            "layouts": " ".join(segment.layout for segment in info.segments),
        }
    turned, smooth = turned_example()
    (FOLDER / "turned-manifest.msgpack").write_bytes(turned.to_bytes())
    for bpp in (0.5, 4):
        frame = encode(smooth, turned, CodecSpec.parse(f"cosine(bpp={bpp})")).frame
        info = inspect_frame(frame, turned)
        (FOLDER / f"turned-{bpp}.bin").write_bytes(frame)
        cases[f"turned-{bpp}"] = {
            "vectors": decode(frame, turned).digest().hex(),
            "parameter_norm": info.parameter_norm,
            "layouts": " ".join(segment.layout for segment in info.segments),
        }
    for bits in (3, 20):
        for name, content in masked_example(bits)[1].items():
            (FOLDER / f"{name}.bin").write_bytes(content)
    (FOLDER / "sum.bin").write_bytes(summed_example()[1])
    cases[RETIRED] = expected()[RETIRED]  # nothing writes it any more
    (FOLDER / "expected.json").write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
