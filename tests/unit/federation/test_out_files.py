"""A command asks where it is to write before its work, and says what is wrong with the place."""

import os
from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.out_files import check_file, make_out_folder


def problem(option: str, file: Path, *endings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_file(option, file, *endings)
    return str(caught.value)


def test_a_place_that_cannot_be_written_is_told_with_its_option(tmp_path: Path) -> None:
    assert f"--report: there is no folder {tmp_path / 'none'}" in problem("--report", tmp_path / "none" / "x.json")
    assert f"--plot: {tmp_path} is a folder" in problem("--plot", tmp_path)
    assert "x.gif must end in .png or .svg" in problem("--plot", tmp_path / "x.gif", ".png", ".svg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ones_own_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "nothing can be written in" in problem("--report", tmp_path / "x.json")


def test_a_place_that_can_be_written_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_file("--report", None)
    check_file("--report", Path("x.json"))
    check_file("--report", Path("/dev/stdout"))
    check_file("--plot", tmp_path / "X.PNG", ".png", ".svg")
    make_out_folder("--plot", None)
    make_out_folder("--plot", Path("a/b"))
    assert (tmp_path / "a/b").is_dir()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"--plot: .*file.* cannot be made"):
            make_out_folder("--plot", place)
