"""``benchmarks.five_hosts`` ends when every device has taken part: the first version needs one of them."""

import pytest

from benchmarks.five_hosts import wait_for_all

LINES = [
    "[info] update_stored bytes=142 component=coordinator node=pi-1 round=0",
    "[info] version_committed accepted=1 version=1",
    "[info] update_stored bytes=142 component=coordinator node=pi-2 round=1",
    "[info] version_committed accepted=2 version=2",
    "[info] waiting reason=interval",
]


def test_it_waits_for_a_version_after_an_update_of_each_device() -> None:
    lines = iter(LINES)
    wait_for_all(lines, {"pi-1", "pi-2"})
    assert list(lines) == LINES[4:]


def test_who_is_missing_is_named() -> None:
    with pytest.raises(RuntimeError, match="no version with pi-3:"):
        wait_for_all(LINES, {"pi-1", "pi-3"})
