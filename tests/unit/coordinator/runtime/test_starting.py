"""What a coordinator does before its loop begins, and what it says of it."""

from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from coordinator.config.sections import read_config
from coordinator.global_model.initial import InitialModel
from coordinator.runtime.starting import ensure_model
from coordinator.runtime.task_process import EvaluatedTask
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import TaskError
from federation.runtime.log import get_log


class Slow:
    """A task whose libraries take their time."""

    def initial(self) -> InitialModel:
        get_log("coordinator").info("torch")
        raise TaskError("that is enough")


def test_that_the_task_is_loaded_is_said_before_it_is(tmp_path: Path) -> None:
    given = {"broker.url": "mqtt://localhost", "federation.id": "demo", "task.name": "digits"}
    config = read_config(None, {**given, "store.folder": tmp_path}, environ={})
    store = SqliteStore(tmp_path)
    with capture_logs() as said, pytest.raises(TaskError, match="enough"):
        ensure_model(config, store, cast(EvaluatedTask, Slow()))
    store.close()
    assert [line["event"] for line in said] == ["loading_task", "torch"]
