"""The doctor against a real broker: open, closed, forbidding, with and without a coordinator."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from edge_node.cli import app
from federation.runtime.local_broker import LocalBroker
from federation.runtime.log import configure_log
from tests.rigs.scripted_coordinator import ScriptedCoordinator, point_model

pytestmark = pytest.mark.broker


@pytest.fixture(autouse=True)
def log_is_put_back() -> Iterator[None]:
    """The command sends the process's log to a stream that ends with the test; other clients must not say a word."""
    configure_log(json=True, level="error", stream=io.StringIO())
    yield
    structlog.reset_defaults()


def verdicts(url: str, folder: Path) -> tuple[int, dict[str, str]]:
    arguments = ["doctor", "--broker", url, "--federation", "it", "--id", "n1", "--task", "quadratic-50"]
    result = CliRunner().invoke(app, [*arguments, "--state", str(folder), "--json"])
    return result.exit_code, {finding["check"]: finding["verdict"] for finding in json.loads(result.stdout)}


def test_healthy_federation_passes_every_check(broker: LocalBroker, tmp_path: Path) -> None:
    manifest, content = point_model(50)
    with ScriptedCoordinator(broker.url) as coordinator:
        coordinator.announce(1, coordinator.publish_model(3, content, manifest), task="quadratic-50")
        code, found = verdicts(broker.url, tmp_path)
    assert code == 0
    assert set(found.values()) == {"PASS"}
    assert "task of the run" in found


def test_missing_coordinator_is_a_warning(broker: LocalBroker, tmp_path: Path) -> None:
    code, found = verdicts(broker.url, tmp_path)
    assert (code, found["coordinator"]) == (0, "WARN")


def test_broker_that_wants_credentials_fails_the_session(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o644)
    with LocalBroker(lines=("allow_anonymous false", f"password_file {passwords}")) as closed:
        code, found = verdicts(closed.url, tmp_path / "state")
    assert (code, found["broker session"]) == (1, "FAIL")


def test_access_rule_that_forbids_the_nodes_topic_is_found(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    rules.chmod(0o644)
    with LocalBroker(lines=(f"acl_file {rules}",)) as forbidding:
        code, found = verdicts(forbidding.url, tmp_path / "state")
    assert (code, found["access rules"]) == (1, "FAIL")


def test_text_names_the_remedy(tmp_path: Path) -> None:
    arguments = ["doctor", "--broker", "mqtt://127.0.0.1:1", "--federation", "it", "--id", "n1", "--task", "null"]
    result = CliRunner().invoke(app, [*arguments, "--state", str(tmp_path)])
    assert result.exit_code == 1
    assert "FAIL  broker port" in result.output
    assert "firewalls" in result.output
