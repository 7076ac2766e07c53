"""Bytes from a site to the federation above: the nodes' own updates, their exact sum, and their mean coded again.

``python -m benchmarks.site_sums [--json | --told]``: a model of 101,770 parameters whose nodes agree in half of what
they learn, as scales and noise with heavy tails. The table says from how many nodes on a sum takes half of the bytes.
With ``--told`` it says what an exact sum tells: of how many different combinations of the nodes' values at one
parameter there are how many different sums. Where these are as many, nobody can code the sum in less than all updates.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from update_codec import Accumulator, CodecSpec, Manifest, decode, encode, sum_frame

PARAMETERS = 101_770
CODECS = ("lossless", "balanced", "edge")
NODES = (2, 3, 4, 8, 16, 24, 32, 48, 64)
TOLD = (2, 4, 8, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One site: its nodes' codec, how many they are, and what each way takes, in bytes."""

    codec: str
    nodes: int
    updates: int
    exact: int
    coded_again: int


MANIFEST = Manifest.of({"w": np.zeros(PARAMETERS, np.float32)})


def frames(codec: str) -> Iterator[bytes]:
    """One node's update after the other."""
    rng = np.random.default_rng(0)
    scale = rng.standard_normal(PARAMETERS).astype(np.float32) ** 2 * 1e-3 + 1e-6
    common = rng.standard_normal(PARAMETERS).astype(np.float32) * scale
    while True:
        own = rng.standard_normal(PARAMETERS).astype(np.float32) * scale
        update = MANIFEST.flatten({"w": np.float32(0.5) * common + own})
        yield encode(update, MANIFEST, CodecSpec.parse(codec)).frame


def rows(codec: str) -> list[Row]:
    """All sizes of a site whose nodes have this codec."""
    manifest = MANIFEST
    total, sent, found = Accumulator(manifest), 0, []
    for count, frame in zip(range(1, max(NODES) + 1), frames(codec), strict=False):
        sent += len(frame)
        total.add(frame, 100.0 + count)
        if count in NODES:
            again = len(encode(total.mean(), manifest, CodecSpec.parse("edge")).frame)
            exact = len(sum_frame(total.sums(), manifest))
            found.append(Row(codec=codec, nodes=count, updates=sent, exact=exact, coded_again=again))
    return found


def told(codec: str) -> Iterator[str]:
    """What sums of a site tell of its nodes' values, a line for each size of the site."""
    total, values, sent = Accumulator(MANIFEST), list[NDArray[np.float32]](), 0
    for count, frame in zip(range(1, max(TOLD) + 1), frames(codec), strict=False):
        total.add(frame, 100.0 + count)
        sent += len(frame)
        values.append(decode(frame, MANIFEST).parameters)
        if count in TOLD:
            combinations = len(np.unique(np.stack(values, 1), axis=0))
            _, often = np.unique(total.sums().parameters, return_counts=True)
            entropy = -np.sum(often * np.log2(often / PARAMETERS)) / 8
            exact = len(sum_frame(total.sums(), MANIFEST))
            yield f"{codec:10}{count:6}{combinations:15,}{len(often):10,}{sent:12,}{exact:10,}{entropy:12,.0f}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.site_sums", description=__doc__)
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--told", action="store_true", help="what an exact sum tells of the single updates")
    options = parser.parse_args()
    if options.told:
        heads = (
            f"{'codec':10}{'nodes':>6}{'combinations':>15}{'sums':>10}{'updates':>12}{'exact':>10}{'entropy, B':>12}"
        )
        sys.stdout.write("\n".join([heads, *(line for codec in CODECS[1:] for line in told(codec))]) + "\n")
        return 0
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
