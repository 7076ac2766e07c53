"""What is said waits until everything that was saved before it is on the disk."""

import pytest

from coordinator.runtime.group_commit import GroupCommit
from federation.errors import StorageError


class _World:
    """A disk and a broker that write down what happens to them."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.broken = False

    def sync(self) -> None:
        if self.broken:
            raise StorageError("the disk is gone")
        self.diary.append("sync")

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        self.diary.append(f"{topic} {payload.decode()} {qos} {retain}")


def test_nothing_is_said_before_the_disk_has_it_and_then_in_order() -> None:
    world = _World()
    commits = GroupCommit(world, world, world)
    commits.control.publish("round", b"1", retain=True)
    commits.data.publish("model", b"2")
    commits.control.publish("tel", b"3", qos=0)
    assert world.diary == []
    commits.settle()
    assert world.diary == ["sync", "round 1 1 True", "model 2 1 False", "tel 3 0 False"]


def test_everything_is_said_once() -> None:
    world = _World()
    commits = GroupCommit(world, world, world)
    commits.control.publish("round", b"1")
    commits.settle()
    commits.settle()
    assert world.diary == ["sync", "round 1 1 False", "sync"]


def test_a_disk_that_fails_leaves_everything_unsaid() -> None:
    world = _World()
    commits = GroupCommit(world, world, world)
    commits.control.publish("round", b"1")
    world.broken = True
    with pytest.raises(StorageError):
        commits.settle()
    assert world.diary == []


def test_a_failpoint_is_passed_when_what_precedes_it_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _World()
    monkeypatch.setattr("coordinator.runtime.group_commit.failpoint", lambda name: world.diary.append(f"passed {name}"))
    commits = GroupCommit(world, world, world)
    commits.control.publish("round", b"1")
    commits.passing("after")
    commits.control.publish("round", b"2")
    assert world.diary == []
    commits.settle()
    assert world.diary == ["sync", "round 1 1 False", "passed after", "round 2 1 False"]
