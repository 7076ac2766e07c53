"""The command line: `python -m update_codec encode | decode | inspect | bench | kernel`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from update_codec.accumulator import Accumulator
from update_codec.decoding import FrameInfo, decode, inspect
from update_codec.encoding import encode
from update_codec.errors import CodecError
from update_codec.files import join_file, read_arrays, split_file, write_arrays
from update_codec.kernel import status
from update_codec.kernel.build import CompilerError, build
from update_codec.manifest import Manifest
from update_codec.spec import PROFILES, CodecSpec

__all__ = ["main"]

BENCH_ENTRIES = 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if a file cannot be read or written, or nothing can be compiled; 2 for wrong arguments (argparse exits with
        it), and for a file that is not what it should be, or that memory cannot hold.
    """
    options = _parser().parse_args(argv)
    try:
        action: Callable[[argparse.Namespace], None] = options.action
        action(options)
    except (OSError, CompilerError) as error:
        return _fail(error, 1)
    except CodecError as error:
        return _fail(error, 2)
    except MemoryError as error:
        return _fail(f"this does not fit memory: {error}", 2)
    return 0


def _fail(problem: object, code: int) -> int:
    """Say it in one line."""
    sys.stderr.write(" ".join(str(problem).split()) + "\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m update_codec", description="Code arrays as an update frame.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("encode", help="code a .npy or .safetensors file")
    command.add_argument("source", type=Path)
    command.add_argument("target", type=Path)
    rate = command.add_mutually_exclusive_group()
    rate.add_argument("--spec", default="edge", help=f"a profile ({', '.join(PROFILES)}) or kind(option=value,…)")
    rate.add_argument("--target-bpp", type=float, help="deadzone at this rate, in bits per parameter")
    rate.add_argument("--step-rms", type=float, help="deadzone at this step, in rms of the values")
    command.add_argument("--seed", type=int, default=0, help="for the randomised kinds")
    command.set_defaults(action=_encode)
    command = commands.add_parser("decode", help="write the arrays of a coded file")
    command.add_argument("source", type=Path)
    command.add_argument("target", type=Path)
    command.set_defaults(action=_decode)
    command = commands.add_parser("inspect", help="say what is in a coded file and where its bits went")
    command.add_argument("source", type=Path)
    command.add_argument("--json", action="store_true")
    command.set_defaults(action=_inspect)
    command = commands.add_parser("bench", help="rate, error and speed of every profile")
    command.add_argument("source", type=Path, nargs="?", help=f"default: {BENCH_ENTRIES} Laplace values")
    command.add_argument("--json", action="store_true")
    command.set_defaults(action=_bench)
    command = commands.add_parser("kernel", help="say whether compiled loops are in use, or compile them")
    command.add_argument("--build", action="store_true", help="compile them for this machine; needs a C compiler")
    command.set_defaults(action=_kernel)
    return parser


def _encode(options: argparse.Namespace) -> None:
    text = options.spec
    if options.target_bpp is not None:
        text = f"deadzone(bpp={options.target_bpp:.6f})"
    if options.step_rms is not None:
        text = f"deadzone(step={options.step_rms:.6f})"
    arrays = read_arrays(options.source)
    manifest = Manifest.of(arrays)
    encoded = encode(manifest.flatten(arrays), manifest, CodecSpec.parse(text), seed=options.seed)
    options.target.write_bytes(join_file(manifest, encoded.frame))
    _say(f"{len(encoded.frame)} B, {encoded.bits_per_parameter:.4f} bits per parameter, NMSE {encoded.nmse:.4g}")


def _decode(options: argparse.Namespace) -> None:
    manifest, frame = split_file(options.source.read_bytes())
    write_arrays(options.target, manifest.unflatten(decode(frame, manifest)))


def _inspect(options: argparse.Namespace) -> None:
    manifest, frame = split_file(options.source.read_bytes())
    info = inspect(frame, manifest)
    if options.json:
        _say(json.dumps(_plain(info)))
        return
    _say(f"codec {info.spec} ({info.kind.name.lower()}), {info.frame_bytes} B, {info.bits_per_parameter:.4f} bpp")
    _say(f"{manifest.parameter_count} parameters in {len(manifest.tensors)} tensors, norm {info.parameter_norm:.6g}")
    _say(f"{'segment':<12}{'layout':<8}{'entries':>12}{'nonzero':>12}{'bytes':>12}{'share':>8}")
    for part in info.segments:
        name = part.tag.name.lower() + (f" {part.group}" if part.tag.name == "SYMBOLS" else "")
        share = part.bytes / info.frame_bytes
        _say(f"{name:<12}{part.layout:<8}{part.entries:>12}{part.nonzero:>12}{part.bytes:>12}{share:>8.1%}")
    envelope = info.frame_bytes - sum(part.bytes for part in info.segments)
    _say(f"{'envelope':<12}{'':<8}{'':>12}{'':>12}{envelope:>12}{envelope / info.frame_bytes:>8.1%}")


def _bench(options: argparse.Namespace) -> None:
    if options.source is None:
        arrays = {"array": np.random.default_rng(0).laplace(size=(BENCH_ENTRIES // 100, 100)).astype(np.float32)}
    else:
        arrays = read_arrays(options.source)
    manifest = Manifest.of(arrays)
    update = manifest.flatten(arrays)
    rows = []
    for profile, spec in PROFILES.items():
        begin = time.perf_counter()
        encoded = encode(update, manifest, spec)
        between = time.perf_counter()
        Accumulator(manifest).add(encoded.frame, 1e-6)
        end = time.perf_counter()
        size = manifest.fp32_bytes / 1e6
        rows.append(
            {
                "profile": profile,
                "bits_per_parameter": encoded.bits_per_parameter,
                "nmse": encoded.nmse,
                "encode_mb_per_s": size / (between - begin),
                "check_and_accumulate_mb_per_s": size / (end - between),
            }
        )
    if options.json:
        _say(json.dumps(rows))
        return
    _say(f"loops: {status().name} ({status().reason})")
    _say(f"{'profile':<12}{'bpp':>10}{'NMSE':>12}{'encode MB/s':>14}{'add MB/s':>12}")
    for row in rows:
        name, rate, error, write, read = row.values()
        _say(f"{name:<12}{rate:>10.4f}{error:>12.4g}{write:>14.0f}{read:>12.0f}")


def _kernel(options: argparse.Namespace) -> None:
    if options.build:
        _say(f"compiled {build().name}: programs that start from now on load it")
        return
    found = status()
    _say(f"{found.name}: {found.reason}")


def _plain(info: FrameInfo) -> dict[str, Any]:
    plain = asdict(info) | {"kind": info.kind.name.lower()}
    plain["manifest_digest"] = info.manifest_digest.hex()
    plain["frame_digest"] = info.frame_digest.hex()
    plain["segments"] = [asdict(part) | {"tag": part.tag.name.lower()} for part in info.segments]
    return plain


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
