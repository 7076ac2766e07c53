"""Compare a 4-state trellis with the deadzone quantizer: entropies at the same error, and the trellis's speed.

    python -m benchmarks.codec_trellis

The trellis is dependent quantization as in VVC (Schwarz et al., "Hybrid video codec based on flexible block
partitioning and dependent quantization", IEEE TCSVT 30, 2020): quantizer 0 has the points 2k, quantizer 1 the points
2k - sign(k), and the parity of k drives the state. Figures of docs/adr/0010.
"""

import sys
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.quantizers.deadzone import Quantizer, centroids, quantize

NEXT: Final = np.array([[0, 2], [2, 0], [1, 3], [3, 1]])
LARGEST: Final = 24
SHAPE: Final = (150, 1500)
PASSES: Final = 4
LAGRANGE: Final = 0.3
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def entropy(counts: NDArray[Any]) -> float:
    """Bits per symbol of a histogram."""
    shares = counts[counts > 0] / counts.sum()
    return float(-np.dot(shares, np.log2(shares)))


def deadzone(values: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Errors, increasing, and rates of the deadzone quantizer at many steps."""
    points = []
    for step in np.geomspace(0.3, 4.5, 60).tolist():
        symbols, _ = quantize(values, step)
        table = Quantizer(step=step, scale=0, shifts=centroids(values, symbols, step)).table()
        decoded = table[symbols.astype(np.intp) + 127]
        points.append((float(np.mean((values - decoded) ** 2)), entropy(np.bincount(symbols.astype(np.int64) + 127))))
    errors, rates = np.array(sorted(points)).T
    return errors, rates


def search(values: Floats, step: float, rates: list[Floats]) -> tuple[Ints, Ints]:
    """Viterbi search of all columns at once; return magnitudes of the indices and states, both of the values' shape."""
    steps, lanes = values.shape
    cost = np.full((lanes, 4), np.inf)
    cost[:, 0] = 0
    parents = np.zeros((steps, lanes, 4), np.int64)
    chosen = np.zeros((steps, lanes, 4), np.int64)
    for t in range(steps):
        scaled = np.abs(values[t]) / step
        new = np.full((lanes, 4), np.inf)
        for state in range(4):
            odd = int(state >= 2)
            near = np.floor((scaled + odd) / 2).astype(np.int64)
            for index in (near - 1, near, near + 1, np.zeros_like(near)):
                k = np.clip(index, 0, LARGEST)
                total = cost[:, state] + (scaled - (2 * k - odd * (k > 0))) ** 2 + LAGRANGE * rates[odd][k]
                after = NEXT[state, k & 1]
                for target in NEXT[state]:
                    better = (after == target) & (total < new[:, target])
                    new[better, target] = total[better]
                    parents[t, better, target] = state
                    chosen[t, better, target] = k[better]
        cost = new
    return _trace(cost, parents, chosen)


def _trace(cost: Floats, parents: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    steps, lanes, _ = parents.shape
    state = cost.argmin(axis=1)
    indices, states = np.zeros((steps, lanes), np.int64), np.zeros((steps, lanes), np.int64)
    lane = np.arange(lanes)
    for t in range(steps - 1, -1, -1):
        indices[t] = chosen[t, lane, state]
        state = parents[t, lane, state]
        states[t] = state
    return indices, states


def trellis(values: Floats, step: float) -> tuple[float, float, float]:
    """Bits per entry, error and seconds of one pass."""
    rates = [np.concatenate([[0.7], 1.5 + 1.2 * np.arange(LARGEST)]) for _ in range(2)]
    begin = time.perf_counter()
    for _ in range(PASSES):
        indices, states = search(values, step, rates)
        bits, error = 0.0, 0.0
        for odd in (0, 1):
            mine = (states >= 2) == bool(odd)
            found, wanted = indices[mine], np.abs(values[mine])
            counts = np.bincount(found, minlength=LARGEST + 1)
            bits += len(found) * entropy(counts) + np.count_nonzero(found)
            rates[odd] = -np.log2((counts + 0.3) / (counts + 0.3).sum()) + (np.arange(LARGEST + 1) > 0)
            centres = np.bincount(found, weights=wanted, minlength=LARGEST + 1) / np.maximum(counts, 1)
            centres[0] = 0
            error += float(np.sum((wanted - centres[found]) ** 2))
    return bits / values.size, error / float(np.sum(values**2)), (time.perf_counter() - begin) / PASSES


def main() -> None:
    """Print one line per source and step."""
    rng = np.random.default_rng(0)
    for name, values in (("Gaussian", rng.normal(size=SHAPE)), ("Laplace", rng.laplace(size=SHAPE) / 2**0.5)):
        errors, rates = deadzone(values.reshape(-1).astype(np.float32))
        for step in (0.25, 0.45, 0.65, 0.85, 1.05):
            bits, error, seconds = trellis(values, step)
            plain = float(np.interp(error, errors, rates))
            speed = 4e-6 * values.size / seconds
            sys.stdout.write(
                f"{name:<9} NMSE {error:.4f}: trellis {bits:.3f}, deadzone {plain:.3f} bits, saved "
                f"{1 - bits / plain:.1%}, {speed:.0f} MB/s a pass\n"
            )


if __name__ == "__main__":
    main()
