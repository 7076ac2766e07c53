"""What a coordinator does before its loop begins, and what it says of it."""

from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from coordinator.config.sections import read_config
from coordinator.global_model.initial import InitialModel
from coordinator.runtime.starting import engine_of, ensure_model
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


def test_that_an_own_task_is_imported_is_said_before_it_is(tmp_path: Path) -> None:
    """Its settings are in its file; the coordinator was silent while that imported torch."""
    file = tmp_path / "own.py"
    file.write_text('from federation.runtime.log import get_log\nget_log("coordinator").info("torch")\n')
    given = {"broker.url": "mqtt://localhost", "federation.id": "demo", "task.name": f"{file}:build"}
    config = read_config(None, {**given, "store.folder": tmp_path}, environ={})
    with capture_logs() as said:
        assert engine_of(config, replaces=True).replaces
    assert [line["event"] for line in said] == ["loading_task", "torch"]


@pytest.mark.parametrize("name", ["digits", 'sensors/autoencoder?{"columns":["a"],"window":4}'])
def test_of_a_built_in_task_nothing_is_imported_for_its_settings(name: str, tmp_path: Path) -> None:
    given = {"broker.url": "mqtt://localhost", "federation.id": "demo", "task.name": name}
    config = read_config(None, {**given, "store.folder": tmp_path}, environ={})
    with capture_logs() as said:
        assert not engine_of(config, replaces=False).replaces
    assert said == []
