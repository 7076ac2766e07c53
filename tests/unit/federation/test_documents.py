"""TOML and JSON of others: whatever is wrong with them is one kind of error."""

import os
import threading
from pathlib import Path

import pytest

from federation.documents import TOML_LEVELS_MAX, read_file, read_json, read_toml
from federation.errors import TaskError
from federation.inputs import Inputs

DEEP = "[" * 200_000
LONG = "9" * 5_000


@pytest.mark.parametrize("text", ["", "{", DEEP, '{"a":' * 100_000, f"[{LONG}]", "\0", "[1]x"])
def test_json_that_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_json(text)


@pytest.mark.parametrize("text", ["a", f"a = {DEEP}", f"a = {LONG}", "a." * 5_000 + "b = 1", "a = 1\na = 2", "a = \0"])
def test_toml_that_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_toml(text)


def test_tables_are_nested_as_deep_as_settings_need() -> None:
    keys = ".".join("a" * (TOML_LEVELS_MAX - 1))
    assert read_toml(f"{keys}.b = 1")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_toml(f"{keys}.a.b = 1")


def test_constants_that_no_standard_has_are_numbers() -> None:
    assert read_json("[Infinity]") == [float("inf")]


@pytest.mark.parametrize("text", ["[" * 3_000, '{"shape":[1e999]}', '{"shape":[NaN]}', '{"shape":5}', "5"])
def test_inputs_that_nobody_can_have_meant_are_refused(text: str) -> None:
    """FED-125: a coordinator says them, and a node's training reads them."""
    with pytest.raises(TaskError, match="cannot be read"):
        Inputs.from_text(text)


def test_what_is_right_is_read() -> None:
    assert read_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert read_toml("[a]\nb = [1, 2]") == {"a": {"b": [1, 2]}}


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    assert read_file(path, bytes_max=100_000) == b"x" * 100_000
    with pytest.raises(ValueError, match="larger than 99999 bytes"):
        read_file(path, bytes_max=99_999)


def test_a_device_without_an_end_is_no_document() -> None:
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        read_file(Path("/dev/zero"), bytes_max=1_000)


def test_a_pipe_is_read_and_not_waited_for_without_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(TimeoutError, match="nobody has written"):
        read_file(path, bytes_max=10, writer_s=0.01)
    writer = threading.Thread(target=path.write_bytes, args=(b"secret",))
    writer.start()
    assert read_file(path, bytes_max=10, writer_s=20.0) == b"secret"
    writer.join()


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_what_is_no_file_is_an_error_of_the_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"directory"):
        read_file(tmp_path / name, bytes_max=10)
