"""Decode mutated frames until the count is reached: no crash, no wrong size, no large allocation.

    make fuzz        (a million frames; `make test` tries a sample)

Every mutated frame gets a right length and a right digest, so that the parsers behind the digest are reached. The exit
code is 1 and the frame is printed as hex if the decoder does anything but accept it or raise `FrameError`.
"""

import argparse
import struct
import sys
import time
import tracemalloc
import warnings
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from update_codec import PROFILES, Accumulator, CodecSpec, FrameError, Manifest, Role, decode, encode, inspect
from update_codec.kernel import status

ALLOCATION_BYTES_MAX = 4 << 20


def corpus() -> list[tuple[Manifest, bytes]]:
    """Small valid frames of all profiles and several densities."""
    rng = np.random.default_rng(0)
    frames = []
    specs = [*PROFILES, *(f"deadzone(step={step})" for step in (0.5, 1, 2, 3, 4)), "dither(step=2)"]
    for rows in (3, 40):
        weight = rng.standard_t(3, size=(rows, 25)).astype(np.float32)
        arrays = {"weight": weight, "mean": weight[0, :3].copy(), "steps": np.array([5, -7])}
        manifest = Manifest.of(arrays, {"mean": Role.STATISTIC})
        update = manifest.flatten(arrays)
        frames += [(manifest, encode(update, manifest, CodecSpec.parse(spec), seed=1).frame) for spec in specs]
    return frames


def mutate(frame: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bytes behind the manifest's digest, or cut, or repeat a piece; then seal again."""
    body = bytearray(frame[:-16])
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(24, len(body)))
        match int(rng.integers(5)):
            case 0:
                del body[place : place + int(rng.integers(1, 5))]
            case 1:
                body[place:place] = body[place : place + int(rng.integers(1, 9))]
            case 2:
                body[place - 1] ^= 1 << int(rng.integers(8))
            case _:
                body[place - 1] = int(rng.integers(256))
    body[36:40] = struct.pack("<I", len(body) + 16) if len(body) >= 40 else body[36:40]
    return bytes(body) + blake2b(body, digest_size=16).digest()


def check(frame: bytes, manifest: Manifest) -> bool:
    """Return whether the frame is accepted; all readers must agree."""
    accumulator = Accumulator(manifest)
    try:
        vectors = decode(frame, manifest)
    except FrameError:
        try:
            accumulator.add(frame, 1e-3)
        except FrameError:
            return False
        raise AssertionError("the accumulator took a frame that decode refused") from None
    manifest.check(vectors)
    info = inspect(frame, manifest)
    if not info.finite or abs(info.parameter_norm - np.linalg.norm(vectors.parameters.astype(float))) > 1e-3 * (
        1e-30 + info.parameter_norm
    ):
        raise AssertionError("inspect and decode disagree")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer; returns 1 if a frame made the decoder allocate too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    warnings.simplefilter("error")
    rng = np.random.default_rng(options.seed)
    frames = corpus()
    accepted, peak, begin = 0, 0, time.perf_counter()
    tracemalloc.start()
    for _ in range(options.frames):
        manifest, frame = frames[int(rng.integers(len(frames)))]
        bad = mutate(frame, rng)
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        try:
            accepted += check(bad, manifest)
        except Exception:
            print(bad.hex())
            raise
        peak = max(peak, tracemalloc.get_traced_memory()[1] - base)
    tracemalloc.stop()
    if peak > ALLOCATION_BYTES_MAX:
        print(f"a frame made the decoder allocate {peak} bytes")
        return 1
    seconds = time.perf_counter() - begin
    print(f"loops: {status().name} ({status().reason})")
    print(f"{options.frames} mutated frames in {seconds:.0f} s: {accepted} accepted, the others refused, no failure")
    print(f"largest allocation: {peak / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
