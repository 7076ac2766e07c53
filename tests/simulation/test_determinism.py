"""The same seed takes the same steps to the byte; anything else gives another transcript."""

import os
import subprocess
import sys
from pathlib import Path

from fedmq.simulation.protocol.campaign import run_seed

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "from fedmq.simulation.protocol.campaign import run_seed; print([run_seed(seed)[0].transcript for seed in (3, 14)])"
)


def test_the_same_seed_takes_the_same_steps() -> None:
    first, second = (run_seed(5)[0] for _ in range(2))
    assert first.transcript == second.transcript
    assert (first.virtual_s, first.messages, first.staleness) == (second.virtual_s, second.messages, second.staleness)


def test_other_seeds_take_other_steps() -> None:
    assert len({run_seed(seed)[0].transcript for seed in range(4)}) == 4


def test_the_order_of_sets_does_not_show() -> None:
    """Python shuffles the hashes of strings in each process: nothing may follow from it."""
    shown = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1
