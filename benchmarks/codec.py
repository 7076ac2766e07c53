"""``make bench-codec``: the codec's figures beside their bars, and the same errors at the rates of its peers.

    python -m benchmarks.codec [--json] [--entries N]

One core, no network, no training; the figures of whole federated runs are `make bench`'s.
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from typing import Any, Final
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import codec_link, codec_system
from benchmarks.codec_sources import PEERS, SOURCES, entropy, layers, network
from benchmarks.table import Figure, show
from update_codec import (
    Accumulator,
    CodecSpec,
    EntropyError,
    FrameError,
    Manifest,
    Vectors,
    decode,
    encode,
    frame,
    inspect,
)
from update_codec.coders.rated import step_for
from update_codec.entropy import StreamReader
from update_codec.kernel import Reference, status, using
from update_codec.layouts.layout import write_symbols
from update_codec.quantizers.deadzone import quantize

STEPS: Final = (0.22, 0.3, 0.42, 0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5)
F32 = NDArray[np.float32]


def closeness(entries: int) -> Iterator[Figure]:
    """Coded size over entropy, the worst of the rates from 4 to 0.08 bits per parameter."""
    for name, bar in (("gaussian", 1.02), ("laplace", 1.04), ("student-t(4)", 1.04)):
        values = SOURCES[name](np.random.default_rng(1), entries)
        found = []
        for step in STEPS:
            symbols, _ = quantize(values, step)
            rate = entropy(symbols)
            if 0.08 <= rate <= 4.4:
                found.append((8 * len(write_symbols(symbols)) / entries / rate, rate))
        worst, rate = max(found)
        note = f"worst of {len(found)} rates, at {rate:.2f} bpp; mean {np.mean([ratio for ratio, _ in found]):.4f}"
        yield Figure(what=f"coded size / entropy, {name}", measured=worst, bar=bar, note=note)


def rate_at(values: F32, manifest: Manifest, nmse: float) -> float:
    """Bits per parameter of the frame whose error is `nmse`, everything included."""
    update = vectors(values)
    spread = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))

    def error(step: float) -> float:
        return -encode(update, manifest, CodecSpec.parse(f"deadzone(step={step / spread:.6f})")).nmse

    step = step_for(error, -nmse, 0.1 * spread, 12 * spread)
    return encode(update, manifest, CodecSpec.parse(f"deadzone(step={step / spread:.6f})")).bits_per_parameter


def rates(entries: int) -> Iterator[Figure]:
    """Bits that an error costs."""
    values = SOURCES["gaussian"](np.random.default_rng(2), entries)
    manifest = Manifest.of({"x": values})
    for nmse, bar in ((0.192, 1.48), (0.340, 1.04), (0.524, 0.67)):
        limit = 0.5 * np.log2(1 / nmse)
        measured = rate_at(values, manifest, nmse)
        note = f"whole frame; the Gaussian limit is {limit:.2f}"
        yield Figure(what=f"Gaussian at NMSE {nmse}", measured=measured, bar=bar, unit="bpp", note=note)
    equal, falling = (
        rate_at(manifest.flatten(arrays).parameters, manifest, 0.11)
        for arrays in (layers(entries, equal=True), layers(entries))
        for manifest in (Manifest.of(arrays),)
    )
    note = f"large layers move least; {equal:.2f} if all have one size (limit 0.71); EDEN per tensor takes 2.0"
    yield Figure(
        what="22 layers, spread over 1.5 decades, NMSE 0.11", measured=falling, bar=0.75, unit="bpp", note=note
    )


SPEED_BARS: Final = {"edge": (1_000, 4_000), "balanced": (500, 2_000)}
"""Of encoding, and of decoding and adding, in megabytes of float32 per second."""


def speeds(entries: int) -> Iterator[Figure]:
    """Megabytes of float32 per second of one core: best of several, since caches are shared.

    The bars are for the loops that are in use; NumPy's figures stand beside them where these are compiled ones.
    """
    values = SOURCES["laplace"](np.random.default_rng(3), entries)
    sums = np.zeros_like(values)
    adding = 4e-6 * entries / best(partial(np.add, sums, values, out=sums))
    for profile, (to_write, to_read) in SPEED_BARS.items():
        writing, reading, checking = speed_of(profile, values)
        beside = ""
        if status().name == "compiled":
            with using(Reference()):
                plain_writing, plain_reading, _ = speed_of(profile, values)
            beside = f"NumPy alone {plain_writing:.0f}; "
        ratio = f"an addition of as many float32 is {adding / writing:.0f} times as fast"
        note = f"{status().name} loops; {beside}rate control included; {ratio}"
        what = f"encode, `{profile}`"
        yield Figure(what=what, measured=writing, bar=to_write, unit="MB/s", at_least=True, note=note)
        beside = f"NumPy alone {plain_reading:.0f}; " if beside else ""
        ratio = f"the addition is {adding / reading:.1f} times as fast"
        note = f"{beside}frame checked on arrival ({checking:.0f} MB/s); {ratio}"
        what = f"decode + accumulate, `{profile}`"
        yield Figure(what=what, measured=reading, bar=to_read, unit="MB/s", at_least=True, note=note)


def speed_of(profile: str, values: F32) -> tuple[float, float, float]:
    """Of encoding, of decoding and adding, and of checking."""
    manifest = Manifest.of({"x": values.reshape(-1, 100)})
    update, size = vectors(values), 4e-6 * len(values)
    spec = CodecSpec.parse(profile)
    coded = encode(update, manifest, spec).frame
    info = inspect(coded, manifest)
    accumulator = Accumulator(manifest)
    return (
        size / best(partial(encode, update, manifest, spec)),
        size / best(partial(accumulator.add, coded, 1.0, info=info)),
        size / best(partial(inspect, coded, manifest)),
    )


def best(action: Callable[[], Any], repeats: int = 15) -> float:
    """Shortest of several runs, in seconds of this thread on its core: other programs do not count."""
    found = []
    for _ in range(repeats):
        begin = time.thread_time()
        action()
        found.append(time.thread_time() - begin)
    return min(found)


def small_model() -> Iterator[Figure]:
    """J1's model: 109,386 parameters in six tensors."""
    manifest, update = network()
    for profile, bar in (("balanced", 2.0), ("edge", 0.40), ("extreme", 0.12)):
        encoded = encode(update, manifest, CodecSpec.parse(profile))
        note = f"{len(encoded.frame)} B of {manifest.fp32_bytes}; NMSE {encoded.nmse:.3f}"
        rate = encoded.bits_per_parameter
        yield Figure(what=f"J1's shapes, `{profile}`", measured=rate, bar=bar, unit="bpp", note=note)
    stored = []

    class Counting(StreamReader):
        def __init__(self, method: Any, data: memoryview, size: int) -> None:
            stored.append(len(data))
            super().__init__(method, data, size)

    worst = 0.0
    for profile in ("lossless", "fine", "balanced", "edge", "extreme", "stateless"):
        stored.clear()
        coded = encode(update, manifest, CodecSpec.parse(profile)).frame
        with mock.patch.object(frame, "StreamReader", Counting):
            segments = inspect(coded, manifest).segments
        worst = max(worst, len(coded) - sum(stored) - 12 * len(segments))
    note = "frame less its streams less 12 B per segment, worst of the profiles"
    yield Figure(what="overhead of a frame", measured=worst, bar=96, unit="B", note=note)


def safety() -> Iterator[Figure]:
    """Order of arrival, and a bomb."""
    manifest, update = network()
    profiles = ("edge", "balanced", "lossless", "stateless")
    frames = [encode(update, manifest, CodecSpec.parse(profile), seed=9).frame for profile in profiles]
    rng = np.random.default_rng(4)
    weights = rng.uniform(1, 1000, len(frames))
    results = set()
    for _ in range(100):
        accumulator = Accumulator(manifest)
        for index in rng.permutation(len(frames)):
            accumulator.add(frames[index], float(weights[index]), clip=0.5)
        results.add(accumulator.mean().digest())
    note = "100 random arrival orders of four profiles"
    yield Figure(what="different aggregates", measured=len(results), bar=1, note=note)
    bomb, manifest = make_bomb()
    tracemalloc.start()
    seconds = best(partial(refuse, bomb, manifest), 3)
    peak = tracemalloc.get_traced_memory()[1] / (1 << 20)
    tracemalloc.stop()
    note = f"{len(bomb)} B that claim 64 MiB; {peak:.2f} MiB allocated"
    yield Figure(what="bomb refused in", measured=1000 * seconds, bar=50, unit="ms", note=note)


def make_bomb() -> tuple[bytes, Manifest]:
    """A frame with a right digest whose stream decodes to 64 MiB; the model has 4096 parameters."""
    manifest = Manifest.of({"x": np.zeros(4096, np.float32)})
    large = Manifest.of({"x": np.zeros(16 << 20, np.float32)})
    coded = encode(Vectors.zeros(large), large, CodecSpec.parse("lossless")).frame
    body = coded[:8] + manifest.digest + coded[24:-16]
    return body + blake2b(body, digest_size=16).digest(), manifest


def refuse(bomb: bytes, manifest: Manifest) -> None:
    """Insist that the frame is refused."""
    try:
        decode(bomb, manifest)
    except EntropyError as error:
        raise AssertionError("it was decompressed first") from error
    except FrameError:
        return
    raise AssertionError("the bomb was accepted")


def peers(entries: int) -> list[tuple[str, float, float, float]]:
    """For each peer its rate and error on a Gaussian vector, and our rate at that error."""
    values = SOURCES["gaussian"](np.random.default_rng(5), entries)
    manifest = Manifest.of({"x": values})
    low, high = 0.0009, 0.95
    return [
        (name, rate, nmse, rate_at(values, manifest, nmse) if low < nmse < high else float("nan"))
        for name, rate, nmse in PEERS
    ]


def vectors(values: F32) -> Vectors:
    """Parameters only."""
    return Vectors(values.reshape(-1), np.zeros(0, np.float32), np.zeros(0, np.int64))


def main() -> int:
    """Measure and print; returns 0 if every bar was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--entries", type=int, default=1_100_000)
    parser.add_argument("--system", action="store_true", help="also whole federations through a broker (an hour)")
    options = parser.parse_args()
    figures = [
        *closeness(options.entries),
        *rates(options.entries),
        *speeds(options.entries),
        *small_model(),
        *safety(),
        *codec_link.figures(),
    ]
    met = show("Codec", figures, as_json=options.json, skipped={})
    if not options.json:
        table = Table(title="Peers on a Gaussian vector, and our rate at the same error", title_justify="left")
        for name in ("peer", "bpp", "NMSE", "ours, bpp"):
            table.add_column(name, justify="left" if name == "peer" else "right")
        for name, rate, nmse, ours in peers(options.entries):
            table.add_row(name, f"{rate:.2f}", f"{nmse:.4g}", f"{ours:.2f}" if ours == ours else "-")  # noqa: PLR0124 - NaN
        Console(width=None if sys.stdout.isatty() else 120).print(table)
    if options.system:
        met = codec_system.main(["--json"] if options.json else []) == 0 and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
