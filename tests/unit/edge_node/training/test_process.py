"""What a task may do to the process that it trains in, and what is said of it."""

import os
import queue
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from edge_node.training import process
from edge_node.training.process import TrainingMark, end_if_forked
from edge_node.training.worker import ThreadTrainer, TrainingJob, run_round
from federation.errors import TaskError
from federation.runtime.clock import MonotonicClock
from federation.runtime.transport import Inbox
from federation.task import TrainResult
from federation.types import RoundId
from tests.rigs.node_doubles import ToyTask, announcement, training_setup, vectors

LIMIT_S = 20.0


def told(folder: Path) -> list[tuple[object, object, object]]:
    """What the next start says of the one before, and its mark."""
    with structlog.testing.capture_logs() as lines:
        TrainingMark(folder, "pump.py:build").tell()
    return [(line["task"], line["round"], line["times"]) for line in lines if line["event"] == "died_in_training"]


def test_a_training_that_ended_the_process_is_told_at_the_next_start(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    with TrainingMark(tmp_path, "pump.py:build").training(RoundId(7)):
        assert told(tmp_path) == [("pump.py:build", 7, 1)]
        again = TrainingMark(tmp_path, "pump.py:build")
        again.tell()
        with again.training(RoundId(9)):
            assert told(tmp_path) == [("pump.py:build", 9, 2)]
        assert told(tmp_path) == []
        with again.training(RoundId(10)):
            assert told(tmp_path) == [("pump.py:build", 10, 1)]


@pytest.mark.parametrize("content", [b"", b"7", b"x y", b"\xff" * 100])
def test_a_mark_that_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / process.MARK).write_bytes(content)
    assert told(tmp_path) == []


def test_a_folder_that_cannot_be_written_does_not_keep_a_node_from_training(tmp_path: Path) -> None:
    mark = TrainingMark(tmp_path / "gone", "pump.py:build")
    mark.tell()
    with mark.training(RoundId(7)):
        pass
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("raises", [None, SystemExit(1)])
def test_the_mark_is_there_while_the_task_trains_and_no_longer(tmp_path: Path, raises: BaseException | None) -> None:
    seen = list[bool]()
    task = ToyTask(during=lambda _stop: seen.append((tmp_path / process.MARK).exists()), raises=raises)
    inbox: Inbox = queue.Queue(10)
    setup = replace(training_setup(task), mark=TrainingMark(tmp_path, "pump.py:build"))
    trainer = ThreadTrainer(setup, inbox, MonotonicClock())
    trainer.start(TrainingJob(announcement=announcement(7, codec="lossless"), base=vectors(), residual=None))
    inbox.get(timeout=LIMIT_S)
    assert trainer.close(timeout_s=LIMIT_S)
    assert seen in ([True], [])
    assert not (tmp_path / process.MARK).exists()


def test_a_child_that_a_task_forked_ends_where_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = list[int]()
    monkeypatch.setattr(os, "_exit", ends.append)
    end_if_forked(os.getpid())
    assert ends == []
    end_if_forked(os.getpid() + 1)
    assert ends == [70]
    assert threading.current_thread() is threading.main_thread()


def test_a_training_that_gives_nothing_is_told_what_it_must_give() -> None:
    class Forgetful(ToyTask):
        def train(self, *_: object) -> TrainResult:
            return None  # type: ignore[return-value]

    job = TrainingJob(announcement=announcement(7, codec="lossless"), base=vectors(), residual=None)
    with pytest.raises(TaskError, match=r"the task's train\(\) must give a TrainResult, not NoneType"):
        run_round(training_setup(Forgetful()), job, lambda: False, MonotonicClock())
