"""A file is whole or as it was before, and a key is never readable by others."""

import os
from pathlib import Path

import pytest

from federation.errors import ConfigError, StorageError
from federation.identity.private_files import PRIVATE, PUBLIC, read_text, write_text


def test_a_private_file_is_its_owners_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_text(tmp_path / "new" / "key", "secret", mode=PRIVATE)
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == PRIVATE


def test_a_file_that_was_open_to_all_becomes_private(tmp_path: Path) -> None:
    write_text(tmp_path / "key", "a", mode=PUBLIC)
    write_text(tmp_path / "key", "b", mode=PRIVATE)
    assert ((tmp_path / "key").stat().st_mode & 0o777, (tmp_path / "key").read_text()) == (PRIVATE, "b")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "key", "before", mode=PRIVATE)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_text(tmp_path / "key", "after", mode=PRIVATE)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").read_text() == "before"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * 11)
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, problem in (
        ("none", "No such file"),
        ("large", "larger than 10"),
        ("binary", "UTF-8"),
        (".", "director"),
    ):
        with pytest.raises(ConfigError, match=problem):
            read_text(tmp_path / name, bytes_max=10)
    (tmp_path / "fits").write_text("x" * 10)
    assert read_text(tmp_path / "fits", bytes_max=10) == "x" * 10
