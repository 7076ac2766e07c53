"""Bytes from a site to the federation above: the nodes' own updates, their exact sum, and their mean coded again.

``python -m benchmarks.site_sums [--json]``: a model of 101,770 parameters whose nodes agree in half of what they
learn, as scales and noise with heavy tails. The table says from how many nodes on a sum takes half of the bytes.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import numpy as np

from update_codec import Accumulator, CodecSpec, Manifest, encode, sum_frame

PARAMETERS = 101_770
CODECS = ("lossless", "balanced", "edge")
NODES = (2, 3, 4, 8, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One site: its nodes' codec, how many they are, and what each way takes, in bytes."""

    codec: str
    nodes: int
    updates: int
    exact: int
    coded_again: int


def rows(codec: str) -> list[Row]:
    """All sizes of a site whose nodes have this codec."""
    rng = np.random.default_rng(0)
    manifest = Manifest.of({"w": np.zeros(PARAMETERS, np.float32)})
    scale = rng.standard_normal(PARAMETERS).astype(np.float32) ** 2 * 1e-3 + 1e-6
    common = rng.standard_normal(PARAMETERS).astype(np.float32) * scale
    total, sent, found = Accumulator(manifest), 0, []
    for count in range(1, max(NODES) + 1):
        own = rng.standard_normal(PARAMETERS).astype(np.float32) * scale
        update = manifest.flatten({"w": np.float32(0.5) * common + own})
        frame = encode(update, manifest, CodecSpec.parse(codec)).frame
        sent += len(frame)
        total.add(frame, 100.0 + count)
        if count in NODES:
            again = len(encode(total.mean(), manifest, CodecSpec.parse("edge")).frame)
            exact = len(sum_frame(total.sums(), manifest))
            found.append(Row(codec=codec, nodes=count, updates=sent, exact=exact, coded_again=again))
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.site_sums", description=__doc__)
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    options = parser.parse_args()
    found = [row for codec in CODECS for row in rows(codec)]
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in found]) + "\n")
        return 0
    sys.stdout.write(f"{'codec':10}{'nodes':>6}{'updates':>12}{'exact':>10}{'':>7}{'again':>8}\n")
    for row in found:
        share, less = row.exact / row.updates, row.updates / row.coded_again
        line = (
            f"{row.codec:10}{row.nodes:6}{row.updates:12,}{row.exact:10,}{share:7.2f}{row.coded_again:8,}  1/{less:.0f}"
        )
        sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
