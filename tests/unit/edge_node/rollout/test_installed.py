"""What a device keeps of releases survives, and never goes below what it has heard (FED-241, FED-244)."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.rollout.installed import STARTS_MAX, STOPPED_MAX, Installed, task_of
from federation.errors import StorageError
from federation.identity.task_release import TaskRelease
from federation.protocol.task_messages import TaskState
from federation.rollout.archive import pack


@pytest.fixture(autouse=True)
def _path_as_before() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def bundle(folder: Path, number: int, task: str = "task.py:build") -> tuple[TaskRelease, bytes]:
    place = folder / f"bundle-{number}"
    place.mkdir()
    (place / "task.py").write_text(f"VERSION = {number}\n")
    body = pack(place)
    digest = hashlib.sha256(body).hexdigest()
    made = TaskRelease(
        federation="plant", number=number, task=task, sha256=digest, archive_bytes=len(body), chunk_bytes=1_024
    )
    return made, body


def begun(folder: Path, number: int) -> Installed:
    """A release on trial, as the process sees it that has begun it."""
    installed = Installed(folder)
    release, body = bundle(folder, number)
    installed.place_archive(release, body)
    installed.begin(release)
    return installed


def test_at_first_the_owners_task_runs(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    installed.began()
    assert (installed.name("digits?x=1"), installed.on_trial, installed.state.running) == ("digits?x=1", False, 0)
    assert not (tmp_path / "rollout.json").exists()


def test_a_release_runs_from_the_next_start_on_and_is_told_what_the_owner_says(tmp_path: Path) -> None:
    begun(tmp_path, 1)
    installed = Installed(tmp_path)
    installed.began()
    place = installed.place(1)
    assert installed.name('mine.py:build?{"window":60}') == f'{place}/task.py:build?{{"window":60}}'
    assert (place / "task.py").read_text() == "VERSION = 1\n"
    assert sys.path[0] == str(place)
    assert installed.on_trial
    assert installed.trained()
    assert not installed.trained()  # only the first one ends a trial
    assert not Installed(tmp_path).on_trial


def test_a_module_is_imported_from_the_release_before_what_is_installed(tmp_path: Path) -> None:
    assert task_of(tmp_path, "pumps.task:build") == "pumps.task:build"
    assert sys.path[0] == str(tmp_path)


def test_the_one_before_is_kept_and_the_rest_removed(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        assert begun(tmp_path, number).trained()
    installed = Installed(tmp_path)
    assert (installed.state.running, installed.state.previous) == (3, 2)
    assert sorted(one.name[0] for one in (tmp_path / "tasks").iterdir()) == ["2", "3"]
    installed.go_back("it failed")
    assert (Installed(tmp_path).state.running, Installed(tmp_path).state.ended[3].reason) == (2, "it failed")


def test_one_on_trial_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    begun(tmp_path, 1).trained()
    begun(tmp_path, 2)
    installed = begun(tmp_path, 3)
    installed.go_back("no rows")
    assert installed.state.running == 1


def test_a_release_that_ends_the_process_is_given_up(tmp_path: Path) -> None:
    """FED-244: also one that ends it so that nothing can be said."""
    begun(tmp_path, 1)
    for _ in range(STARTS_MAX):
        installed = Installed(tmp_path)
        installed.began()
        assert installed.state.running == 1
    installed = Installed(tmp_path)
    installed.began()
    assert (installed.state.running, installed.on_trial) == (0, False)
    assert installed.state.ended[1].state == TaskState.FAILED.value
    assert "3 times" in installed.state.ended[1].reason


def test_a_release_whose_trainings_are_stopped_is_given_up(tmp_path: Path) -> None:
    installed = begun(tmp_path, 1)
    assert [installed.training_stopped() for _ in range(STOPPED_MAX)] == [False, False, True]
    assert not Installed(tmp_path / "other").training_stopped()


def test_an_older_statement_is_a_replay_over_a_restart_too(tmp_path: Path) -> None:
    """FED-241."""
    assert Installed(tmp_path).hear((3, 1))
    installed = Installed(tmp_path)
    assert [installed.hear(order) for order in ((3, 0), (2, 9), (3, 1), (3, 2), (4, 0), (3, 9))] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("text", ["", "{", "{}x", '{"format": "other"}', '{"running": "1"}', '{"heard": [1]}'])
def test_a_damaged_file_is_never_read_as_none(text: str, tmp_path: Path) -> None:
    """Without what was heard, an older release could be taken for a newer one (FED-241)."""
    (tmp_path / "rollout.json").write_text(text)
    with pytest.raises(StorageError, match=r"task\.updates to manual"):
        Installed(tmp_path)


def test_failures_that_are_remembered_are_bounded(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    for number in range(1, 100):
        installed.end(number, TaskState.REFUSED, "é" * 500)
    assert (len(installed.state.ended), max(installed.state.ended)) == (32, 99)
    assert all(len(one.reason.encode()) <= 200 for one in Installed(tmp_path).state.ended.values())


def test_why_a_release_has_failed_is_said_without_the_devices_folders(tmp_path: Path) -> None:
    """The path was said twice, and the limit of a reason cut off what followed."""
    installed, (release, body) = Installed(tmp_path), bundle(tmp_path, 3)
    place = installed.place_archive(release, body)
    reason = f"task: '{place}/task.py:build' cannot be imported: no sensor (from {place}/task.py:build)"
    installed.end(3, TaskState.REFUSED, reason)
    said = "task: 'task.py:build' cannot be imported: no sensor (from task.py:build)"
    assert (installed.state.ended[3].reason, installed.told(reason)) == (said, said)
