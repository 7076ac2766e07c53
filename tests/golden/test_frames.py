"""Frames written by an earlier version decode to the very same bits.

The files hold a manifest and one frame per case; `expected.json` holds the digest of the decoded vectors. What is
pinned is the meaning of the bytes, not what zstd makes of them: an encoder may write other bytes for the same update.
After a deliberate change of the format (and of its version) run `python tests/golden/test_frames.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden import format_decoder
from update_codec import PROFILES, CodecSpec, Manifest, Role, Vectors, decode, encode
from update_codec import inspect as inspect_frame
from update_codec.quantizers.dithered import hash_words

FOLDER = Path(__file__).parent / "frames"
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


@pytest.mark.parametrize("spec", SPECS)
def test_golden_frame_decodes_to_the_same_bits(spec: str) -> None:
    manifest = Manifest.from_bytes((FOLDER / "manifest.msgpack").read_bytes())
    frame = file_of(spec).read_bytes()
    case = expected()[spec]
    assert decode(frame, manifest).digest().hex() == case["vectors"]
    info = inspect_frame(frame, manifest)
    assert info.spec == str(CodecSpec.parse(spec))
    assert info.parameter_norm == pytest.approx(case["parameter_norm"], rel=1e-9)
    assert [segment.layout for segment in info.segments] == str(case["layouts"]).split()


def test_golden_manifest_has_the_same_digest() -> None:
    manifest = Manifest.from_bytes((FOLDER / "manifest.msgpack").read_bytes())
    assert manifest.digest.hex() == expected()["manifest"]["digest"]


@pytest.mark.parametrize("spec", SPECS)
def test_decoder_written_from_the_format_alone_gives_the_same_bits(spec: str) -> None:
    manifest = Manifest.from_bytes((FOLDER / "manifest.msgpack").read_bytes())
    tensors = [(tensor.name, list(tensor.shape), tensor.dtype, tensor.role.value) for tensor in manifest.tensors]
    parameters, statistics, counters = format_decoder.decode(file_of(spec).read_bytes(), tensors)
    vectors = Vectors(np.array(parameters, np.float32), np.array(statistics, np.float32), np.array(counters, np.int64))
    assert vectors.digest().hex() == expected()[spec]["vectors"]


def test_example_of_the_format_decodes_as_it_says() -> None:
    text = (Path(__file__).parents[2] / "compression" / "FORMAT.md").read_text()
    example = text.split("## 8. Example")[1].split("```")[1]
    frame = bytes.fromhex(" ".join(line[:50] for line in example.splitlines()))
    manifest = Manifest.of({"x": np.zeros(3, np.float32)})
    assert decode(frame, manifest).parameters.tolist() == pytest.approx([0, 2.00205, -0.9985035], rel=1e-6)


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
    (FOLDER / "expected.json").write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
