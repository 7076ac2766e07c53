"""Which store a coordinator opens, and what is wrong with its place."""

import queue
from pathlib import Path

import pytest

from coordinator.config.sections import StoreSection
from coordinator.runtime.leading import open_store
from federation.errors import StorageError


def test_a_path_that_is_too_long_is_named() -> None:
    section = StoreSection(folder=Path("/") / ("x" * 5_000))
    with pytest.raises(StorageError, match=r"cannot be used: .*name too long"):
        open_store(section, queue.Queue())
