"""No byte string crashes the codec, gives a wrong result or makes it allocate more than the manifest allows."""

import struct
import tracemalloc
from hashlib import blake2b

import numpy as np
import pytest
import zstandard

from benchmarks import codec_fuzz
from update_codec import (
    PROFILES,
    Accumulator,
    CodecSpec,
    DigestMismatch,
    EntropyError,
    FrameError,
    HeaderError,
    Manifest,
    ManifestMismatch,
    NonFiniteFrame,
    Role,
    SizeMismatch,
    TrailingBytes,
    TruncatedFrame,
    UnknownVersion,
    Vectors,
    decode,
    encode,
)
from update_codec import inspect as inspect_frame

ENVELOPE = 40
"""Bytes before the specification's text."""


def small(seed: int = 0) -> tuple[Manifest, Vectors]:
    """A model that makes frames of about a hundred to a thousand bytes."""
    rng = np.random.default_rng(seed)
    arrays = {
        "weight": rng.laplace(size=(12, 20)).astype(np.float32),
        "bias": rng.normal(size=20).astype(np.float32),
        "mean": rng.normal(size=3).astype(np.float32),
        "steps": np.array([5, -7]),
    }
    manifest = Manifest.of(arrays, {"mean": Role.STATISTIC})
    return manifest, manifest.flatten(arrays)


def reseal(frame: bytes) -> bytes:
    """Give a changed frame a right length and a right digest, as an attacker would."""
    content = bytearray(frame[:-16])
    content[36:40] = struct.pack("<I", len(content) + 16)
    return bytes(content) + blake2b(content, digest_size=16).digest()


def frame_of(profile: str) -> tuple[Manifest, bytes]:
    """A small frame."""
    manifest, update = small()
    return manifest, encode(update, manifest, CodecSpec.parse(profile), seed=3).frame


def refuse(frame: bytes, manifest: Manifest, error: type[FrameError] = FrameError) -> None:
    """Check that nobody accepts the frame, and that an accumulator stays as it was."""
    for read in (decode, inspect_frame):
        with pytest.raises(error):
            read(frame, manifest)
    accumulator = Accumulator(manifest)
    with pytest.raises(error):
        accumulator.add(frame, 1.0)
    assert accumulator.count == 0
    assert accumulator.weight_sum == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_every_prefix_is_refused(profile: str) -> None:
    manifest, frame = frame_of(profile)
    for end in range(len(frame)):
        with pytest.raises(TruncatedFrame):
            decode(frame[:end], manifest)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_flipped_bit_is_refused(profile: str) -> None:
    manifest, frame = frame_of(profile)
    for bit in range(8 * len(frame)):
        changed = bytearray(frame)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            decode(bytes(changed), manifest)


def test_errors_name_what_is_wrong() -> None:
    manifest, frame = frame_of("edge")
    refuse(b"", manifest, TruncatedFrame)
    refuse(b"JUNK" + frame[4:], manifest, UnknownVersion)
    refuse(frame[:4] + b"\x02" + frame[5:], manifest, UnknownVersion)
    refuse(frame + b"\x00", manifest, TrailingBytes)
    refuse(frame + frame, manifest, TrailingBytes)
    refuse(frame[:-1] + bytes([frame[-1] ^ 1]), manifest, DigestMismatch)
    refuse(frame, Manifest.of({"weight": np.zeros((12, 21), np.float32)}), ManifestMismatch)


def test_bytes_behind_the_last_segment_are_refused_even_with_a_right_digest() -> None:
    manifest, frame = frame_of("edge")
    refuse(reseal(frame[:-16] + b"\x00" + frame[-16:]), manifest, TrailingBytes)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (5, 9),  # kind
        (6, 200),  # segments
        (7, 41),  # length of the specification
        (28, 1),  # seed
        (32, 7),  # partition
        (33, 1),  # bits
        (34, 1),  # reserved
        (40, 0xC3),  # not ASCII
    ],
)
def test_header_value_that_the_format_does_not_allow_is_refused(place: int, value: int) -> None:
    manifest, frame = frame_of("edge")
    changed = bytearray(frame)
    changed[place] = value
    refuse(reseal(bytes(changed)), manifest, HeaderError)


@pytest.mark.parametrize("profile", ["edge", "stateless", "common(bits=16,delta=0.0001)"])
@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), 1e-40])
def test_step_that_is_not_a_positive_number_is_refused(profile: str, step: float) -> None:
    manifest, frame = frame_of(profile)
    refuse(reseal(frame[:24] + struct.pack("<f", step) + frame[28:]), manifest, HeaderError)


@pytest.mark.parametrize("profile", PROFILES)
def test_mutated_frames_with_a_right_digest_never_crash(profile: str) -> None:
    manifest, frame = frame_of(profile)
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(300):
        changed = bytearray(frame[:-16])
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(ENVELOPE, len(changed)))] = int(rng.integers(256))
        if rng.random() < 0.3:
            del changed[int(rng.integers(ENVELOPE, len(changed))) :]
        bad = reseal(bytes(changed) + bytes(16))
        try:
            vectors = decode(bad, manifest)
        except FrameError:
            refused += 1
            with pytest.raises(FrameError):
                Accumulator(manifest).add(bad, 1.0)
        else:
            manifest.check(vectors)
            assert np.isfinite(vectors.parameters).all()
            assert inspect_frame(bad, manifest).finite
    assert refused > 0


def lossless(stream: bytes) -> tuple[Manifest, bytes]:
    """A lossless frame of 4096 zeros with another first plane."""
    manifest = Manifest.of({"x": np.zeros(4096, np.float32)})
    frame = encode(Vectors.zeros(manifest), manifest, CodecSpec.parse("lossless")).frame
    start = ENVELOPE + len("lossless") + 1
    coded = frame[start]
    assert coded & 1
    assert coded < 128
    end = start + 1 + (coded >> 1)
    length = len(stream) << 1 | 1
    head = bytes([length & 127 | 128, length >> 7]) if length > 127 else bytes([length])
    return manifest, reseal(frame[:start] + head + stream + frame[end:])


def zstd(data: bytes, **options: int) -> bytes:
    """Compress with any zstd parameters, without the magic number."""
    defaults = {"write_content_size": 1, "window_log": 17}
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, **(defaults | options))
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def test_stream_that_another_encoder_wrote_is_accepted() -> None:
    manifest, frame = lossless(zstd(bytes(4096), compression_level=19))
    assert not decode(frame, manifest).parameters.any()


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (zstd(bytes(4097)), SizeMismatch),
        (zstd(bytes(4095)), SizeMismatch),
        (zstd(bytes(4096), write_content_size=0), SizeMismatch),
        (zstd(bytes(4096), write_checksum=1), EntropyError),
        (zstd(bytes(4096)) + b"\x00", EntropyError),
        (zstd(bytes(4096)) + zstd(b""), EntropyError),
        (zstd(bytes(4096))[:-1], EntropyError),
        (b"", EntropyError),
        (b"\xff\xff\xff", EntropyError),
    ],
)
def test_stream_that_is_not_one_acceptable_zstd_frame_is_refused(stream: bytes, error: type[FrameError]) -> None:
    manifest, frame = lossless(stream)
    refuse(frame, manifest, error)


def test_stream_that_lies_about_its_content_size_is_refused() -> None:
    honest = zstd(bytes(4096))
    for content in (bytes(5000), bytes(3000)):
        liar = bytearray(zstd(content))
        assert liar[0] == honest[0]  # the same descriptor: only the size differs
        liar[1:3] = honest[1:3]
        manifest, frame = lossless(bytes(liar))
        refuse(frame, manifest, EntropyError)


def test_window_beyond_the_limit_is_refused() -> None:
    # A frame header with a window descriptor: no single segment, 2-byte content size, window of 2^27 bytes.
    stream = (
        bytes([0b01000000, 17 << 3]) + struct.pack("<H", 4096 - 256) + (4096 << 3 | 2 | 1).to_bytes(3, "little") + b"\0"
    )
    manifest, frame = lossless(stream)
    refuse(frame, manifest, EntropyError)


def test_bomb_is_refused_before_it_is_allocated() -> None:
    bomb = zstd(bytes(64 << 20))
    assert len(bomb) < 8192
    manifest, frame = lossless(bomb)
    tracemalloc.start()
    refuse(frame, manifest, SizeMismatch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_lossless_frame_with_values_that_are_not_finite_is_described_and_refused() -> None:
    manifest = Manifest.of({"x": np.zeros(4096, np.float32)})
    plane = zstd(b"\xff" * 4096)
    frame = encode(Vectors.zeros(manifest), manifest, CodecSpec.parse("lossless")).frame
    start = ENVELOPE + len("lossless")
    segment = bytes([0]) + 4 * (bytes([len(plane) << 1 | 1]) + plane)
    bad = reseal(frame[:start] + segment + bytes(16))
    assert not inspect_frame(bad, manifest).finite
    with pytest.raises(NonFiniteFrame):
        decode(bad, manifest)
    with pytest.raises(NonFiniteFrame):
        Accumulator(manifest).add(bad, 1.0)


def segments_of(frame: bytes) -> tuple[bytes, bytes]:
    """The envelope's beginning and the segments."""
    start = ENVELOPE + frame[7]
    return frame[:start], frame[start:-16]


def outliers(*entries: tuple[int, float]) -> bytes:
    """A segment of outliers."""
    positions = b"".join(struct.pack("<I", place) for place, _ in entries)
    return bytes([2, len(entries)]) + positions + b"".join(struct.pack("<f", value) for _, value in entries)


def test_an_outlier_over_a_symbol_adds_up_to_the_same_bits_kept_or_not() -> None:
    arrays = {"x": np.sin(np.arange(260), dtype=np.float32)}
    manifest = Manifest.of(arrays)
    honest = encode(manifest.flatten(arrays), manifest, CodecSpec.parse("edge")).frame
    head, body = segments_of(honest)
    coded = np.flatnonzero(decode(honest, manifest).parameters).tolist()
    for place, value in ((coded[0], 1 / 3), (coded[-1], 0.1)):
        frame = reseal(head[:6] + b"\x02" + head[7:] + body + outliers((place, value)) + bytes(16))
        assert decode(frame, manifest).parameters[place] != np.float32(value), "the place has a symbol, too"
        sums = []
        for keep in (False, True):
            info, total = inspect_frame(frame, manifest, keep_values=keep), Accumulator(manifest)
            assert info.values is None
            total.add(frame, 0.7, info=info)
            sums.append(total.sums().parameters.tolist())
        assert sums[0] == sums[1]


@pytest.mark.parametrize("profile", ["edge", "stateless"])
@pytest.mark.parametrize(
    ("segment", "error"),
    [
        (outliers((5, 1.0), (9, -2.0)), None),
        (outliers(), SizeMismatch),
        (outliers((9, 1.0), (5, 1.0)), SizeMismatch),
        (outliers((5, 1.0), (5, 1.0)), SizeMismatch),
        (outliers((260, 1.0)), SizeMismatch),
        (outliers((5, float("nan"))), HeaderError),
        (outliers((5, float("-inf"))), HeaderError),
        (outliers((5, 1.0))[:-1], TruncatedFrame),
    ],
)
def test_outliers_must_increase_within_the_vector(profile: str, segment: bytes, error: type[FrameError] | None) -> None:
    arrays = {"x": np.sin(np.arange(260), dtype=np.float32)}
    arrays["x"][[5, 9]] = 0
    manifest = Manifest.of(arrays)
    frame = encode(manifest.flatten(arrays), manifest, CodecSpec.parse(profile)).frame
    head, body = segments_of(frame)
    changed = reseal(head[:6] + b"\x02" + head[7:] + body + segment + bytes(16))
    if error is None:
        assert decode(changed, manifest).parameters[[5, 9]].tolist() == [1.0, -2.0]
        assert inspect_frame(changed, manifest).parameter_abs_max >= 2
    else:
        refuse(changed, manifest, error)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_scale_shift_or_tag_out_of_range_is_refused(place: int) -> None:
    manifest, frame = frame_of("edge")
    head, body = segments_of(frame)
    changed = body[:place] + b"\x80" + body[place + 1 :]
    refuse(reseal(head + changed + bytes(16)), manifest, HeaderError)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0])
def test_block_scale_that_is_not_a_number_is_refused(scale: float) -> None:
    manifest, frame = frame_of("eden2")
    head, body = segments_of(frame)
    refuse(reseal(head + body[:1] + struct.pack("<f", scale) + body[5:] + bytes(16)), manifest, HeaderError)


def test_wrong_number_of_segments_is_refused() -> None:
    manifest, frame = frame_of("lossless")
    refuse(reseal(frame[:6] + bytes([frame[6] + 1]) + frame[7:]), manifest, HeaderError)


def test_lossless_frame_with_a_step_is_refused() -> None:
    manifest, frame = frame_of("lossless")
    refuse(reseal(frame[:24] + struct.pack("<f", 1.0) + frame[28:]), manifest, HeaderError)


def test_a_sample_of_the_fuzz_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert codec_fuzz.main(["--frames", "600", "--seed", "11"]) == 0
    assert "no failure" in capsys.readouterr().out
