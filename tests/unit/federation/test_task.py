"""What participants compare to know that they mean the same task."""

import pytest

from federation.protocol.limits import NAME_BYTES_MAX
from federation.task import task_label


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("digits", "digits"),
        ("null-1000", "null-1000"),
        ("package.module:build", "package.module:build"),
        ("/opt/tasks/my_task.py:build", "my_task.py:build"),
        ("my_task.py", "my_task.py:build"),
        ("../my_task.py:other", "my_task.py:other"),
    ],
)
def test_same_file_in_another_folder_is_the_same_task(name: str, label: str) -> None:
    assert task_label(name) == label


def test_long_name_fits_a_message() -> None:
    assert len(task_label("x" * 500).encode()) == NAME_BYTES_MAX
