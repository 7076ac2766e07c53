"""The node's settings: defaults that work, and mistakes that are named."""

from pathlib import Path

import pytest

from edge_node.app import node_settings
from edge_node.config import NodeConfig, read_config
from federation import RELEASE
from federation.errors import ConfigError
from federation.protocol.limits import RELEASE_BYTES_MAX
from tests.rigs.model_values import MANIFEST

NEEDED = {"federation.id": "demo", "node.id": "pi-3", "broker.url": "mqtt://localhost"}


def config(**flags: object) -> NodeConfig:
    given = {name.replace("__", "."): value for name, value in flags.items()}
    return read_config(None, {**NEEDED, **given}, environ={})


def test_three_keys_are_enough() -> None:
    ready = config()
    assert (ready.task.name, ready.training.device, ready.bounds.local_epochs_max) == ("digits", "auto", 100)
    assert ready.state_folder == Path("state/pi-3")
    assert config(store__folder="elsewhere").state_folder == Path("elsewhere")


@pytest.mark.parametrize("key", NEEDED)
def test_each_of_them_is_required(key: str) -> None:
    flags = {name: value for name, value in NEEDED.items() if name != key}
    with pytest.raises(ConfigError) as caught:
        read_config(None, flags, environ={})
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node__id", "with/slash"),
        ("node__id", ""),
        ("federation__id", "x" * 65),
        ("task__index", -1),
        ("task__count", 0),
        ("training__device", "tpu"),
        ("training__codecs", ("zip",)),
        ("training__update_norm_max", 0),
        ("broker__keepalive_s", 1),
        ("log__level", "loud"),
        ("eligibility__retry_s", 1e9),
        ("bounds__train_s_max", 1e12),
        ("task__data", "/nowhere/at/all"),
        ("task__data", "/" + "x" * 300),
        ("training__threads", 1_025),
        ("store__outbox_max", True),
        ("bounds__max_steps", 1 << 63),
    ],
)
def test_value_out_of_range_is_refused_with_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{key: value})
    assert caught.value.key.startswith(key.replace("__", "."))


def test_index_must_be_below_the_count() -> None:
    with pytest.raises(ConfigError, match="index 5 needs a count above it"):
        config(task__index=5, task__count=5)


def test_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key, value in NEEDED.items():
        monkeypatch.setenv("FEDMQ_NODE__" + key.replace(".", "__").upper(), value)
    monkeypatch.setenv("FEDMQ_NODE__TASK__DATA", str(tmp_path))
    assert read_config(None, {}).task.data == tmp_path


def test_codecs_are_kept_in_their_canonical_form() -> None:
    assert config(training__codecs=["edge", "deadzone(bpp=0.50)"]).training.codecs == ("edge", "deadzone(bpp=0.5)")


def test_machine_is_told_what_was_configured() -> None:
    ready = config(
        task__name="/opt/tasks/my_task.py:build",
        bounds__local_epochs_max=3,
        bounds__max_steps=50,
        store__outbox_max=4,
        node__exit_when_finished=True,
        training__codecs=["edge"],
    )
    settings = node_settings(ready, "cuda", MANIFEST)
    assert (settings.node, settings.task, settings.device) == ("pi-3", "my_task.py:build", "cuda")
    assert (settings.bounds.local_epochs_max, settings.bounds.max_steps, settings.outbox_max) == (3, 50, 4)
    assert (settings.exit_when_finished, settings.codecs) == (True, ("edge",))
    assert settings.release == RELEASE


def test_a_release_with_a_long_name_is_said_as_far_as_a_message_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.app.RELEASE", "0.3.1.dev12+" + "g" * 60)
    settings = node_settings(config(), "cpu", MANIFEST)
    assert settings.release == "0.3.1.dev12+" + "g" * (RELEASE_BYTES_MAX - 12)
