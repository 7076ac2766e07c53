"""The composition root: a task is built and prepared before the node appears, and its errors are said."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import structlog
from structlog.testing import capture_logs

from edge_node import app
from edge_node.app import _keeps_privacy, build_workshop, client_id, run_node
from edge_node.config import NodeConfig, read_config
from edge_node.runtime.connection import node_will
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.errors import ConfigError, StoreLocked, TaskError
from federation.protocol.messages import NodeState, Presence
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message
from federation.runtime.address import TlsFiles, parse_broker_url
from federation.task import Task
from federation.types import FederationId, NodeId

SOURCE = """
from federation.tasks.builtin.synthetic import build_quadratic as quadratic

def build(context):
    task = quadratic(context, size=7)
    {line}
    return task

def broken(context):
    raise ZeroDivisionError("no data here")

def refusing(context):
    from federation.errors import ConfigError
    raise ConfigError("task.data", "is empty")
"""


@pytest.fixture(autouse=True)
def log_is_put_back() -> Iterator[None]:
    """`run_node` sends the process's log to a stream that ends with the test."""
    yield
    structlog.reset_defaults()


def config(tmp_path: Path, function: str = "build", line: str = "pass", **flags: object) -> NodeConfig:
    file = tmp_path / f"task_{abs(hash(line))}.py"
    file.write_text(SOURCE.format(line=line))
    given = {name.replace("__", "."): value for name, value in flags.items()}
    needed = {"federation.id": "demo", "node.id": "pi-3", "broker.url": "mqtt://localhost"}
    chosen = {"task.name": f"{file}:{function}", "store.folder": tmp_path / "state"}
    return read_config(None, {**needed, **chosen, **given}, environ={})


def test_workshop_knows_the_model(tmp_path: Path) -> None:
    setup = build_workshop(config(tmp_path, training__update_norm_max=2.0))
    assert (setup.node, setup.manifest.parameter_count, setup.norm_max) == ("pi-3", 7, 2.0)


def test_that_a_task_is_loaded_is_said_before_it_is(tmp_path: Path) -> None:
    slow = config(tmp_path, line="import structlog; structlog.get_logger().info('torch')")
    with capture_logs() as said:
        build_workshop(slow)
    assert [line["event"] for line in said] == ["loading_task", "torch"]
    assert str(said[0]["task"]).endswith(".py:build")


def test_task_is_prepared_before_its_first_round(tmp_path: Path) -> None:
    ready = config(tmp_path, line="task.prepare = lambda: setattr(task, 'prepared', True)")
    assert getattr(build_workshop(ready).task, "prepared", False)


def test_task_that_cannot_be_built_or_prepared_is_said_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no data here"):
        build_workshop(config(tmp_path, "broken"))
    with pytest.raises(TaskError, match="division"):
        build_workshop(config(tmp_path, line="task.prepare = lambda: 1 / 0"))


def test_error_that_names_its_setting_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        build_workshop(config(tmp_path, "refusing"))


def test_state_folder_is_released_when_the_task_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(TaskError):
        run_node(config(tmp_path, "broken"))
    store = SqliteNodeStore(tmp_path / "state")
    with pytest.raises(StoreLocked):
        run_node(config(tmp_path))
    store.close()


def test_a_task_that_changes_the_working_directory_moves_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written later than the store was opened went into a new folder elsewhere."""
    seen = list[Path]()

    def runs(found: NodeConfig, *_: object) -> int:
        seen.append(found.state_folder)
        return 0

    monkeypatch.setattr(app, "_run", runs)
    monkeypatch.chdir(tmp_path)
    for given in (Path("here"), None):
        assert run_node(config(tmp_path, store__folder=given)) == 0
    assert seen == [tmp_path / "here", tmp_path / "state" / "pi-3"]


def test_wrong_broker_url_is_said_before_the_state_folder_is_touched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"broker\.url"):
        run_node(config(tmp_path, broker__url="http://localhost"))
    assert not (tmp_path / "state").exists()


def test_the_will_tells_of_which_life_it_is(tmp_path: Path) -> None:
    """FED-99, FED-21: a wiped node's will says another state, though both count their first start."""
    store = SqliteNodeStore(tmp_path / "state")
    will = node_will(Writer(Topics(FederationId("demo"))), NodeId("pi-3"), store)
    said = decode_message(will.payload)
    store.close()
    assert isinstance(said, NodeState)
    assert (said.presence, said.incarnation, said.state_id) == (Presence.LOST, 1, store.state_id)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "demo.pi-3"),
        ({"broker.username": "pi-3"}, "pi-3"),
        ({"broker.username": "everybody"}, "demo.pi-3"),
        ({"broker.url": "mqtt://pi-3:secret@localhost"}, "pi-3"),
        ({"broker.url": "mqtts://localhost", "broker.tls_certificate": "node.crt"}, "pi-3"),
        ({"broker.client_id": "as-it-was"}, "as-it-was"),
    ],
)
def test_client_id_has_the_federation_where_the_broker_does_not_know_the_node(
    more: dict[str, object], expected: str
) -> None:
    flags: dict[str, object] = {"federation.id": "demo", "node.id": "pi-3", "broker.url": "mqtt://localhost"}
    config = read_config(None, flags | more, environ={})
    address = parse_broker_url(config.broker.url, tls=TlsFiles() if config.broker.tls_certificate else None)
    username = config.broker.username or address.username
    assert client_id(config, replace(address, username=username)) == expected


def test_why_a_task_cannot_be_private_says_that_nothing_else_is_wrong() -> None:
    """The quickstart's log warned of BatchNorm, and nobody had asked for privacy."""

    class Normalizing:
        def private_objection(self) -> str:
            return "BatchNorm1d mixes the rows"

    with capture_logs() as said:
        assert not _keeps_privacy(cast(Task, Normalizing()))
    assert [line["why"].endswith("any other is as ever: BatchNorm1d mixes the rows") for line in said] == [True]
