"""A standby decides nothing: whoever asks its folder is told whom to ask."""

from pathlib import Path

import pytest

from coordinator.monitoring.state_files import read_waiting
from coordinator.storage.parts import Leader
from federation.errors import StorageError


def leader(renewed_s: float) -> Leader:
    return Leader(holder="hall-2:417", term=5, lease_s=10.0, since_s=90.0, renewed_s=renewed_s)


def test_the_leader_is_named_where_the_folder_does_not_say(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"by its leader, hall-2:417 \(machine:process, term 5\): ask `coordinator why`"
    ):
        read_waiting(tmp_path, leader(1.0))


def test_nobody_is_to_be_asked_where_nobody_leads(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nobody leads this run now: hall-2:417"):
        read_waiting(tmp_path, leader(11.0))


def test_a_folder_of_its_own_database_says_as_ever(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has a coordinator run with this store"):
        read_waiting(tmp_path)
