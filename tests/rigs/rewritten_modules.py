"""Test modules whose assertions are rewritten before they are collected: each worker does its share, once."""

from pathlib import Path

import pytest
from _pytest.assertion import AssertionState, rewrite

TESTS = Path(__file__).parents[1]


def rewrite_share(config: pytest.Config, share: int, shares: int) -> int:
    """Compile every *shares*-th test module from the *share*-th on, where pytest has no compiled file that fits.

    Each worker of pytest-xdist collects all modules, so that in a fresh clone each would rewrite all of them. pytest
    offers no call for this: these are the functions of its own import hook (``AssertionRewritingHook.exec_module``).

    Returns:
        How many modules were compiled.
    """
    state: AssertionState = config.stash[rewrite.assertstate_key]
    compiled = 0
    for module in sorted(TESTS.rglob("test_*.py"))[share::shares]:
        folder = rewrite.get_cache_dir(module)
        file = folder / (module.stem + rewrite.PYC_TAIL)
        if rewrite._read_pyc(module, file) is None and rewrite.try_makedirs(folder):
            source, code = rewrite._rewrite_test(module, config)
            compiled += rewrite._write_pyc(state, code, source, file)
    return compiled
