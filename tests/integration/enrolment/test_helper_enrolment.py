"""A helper joins a federation as its page says: keys of its own, a request, an answer, and a doctor that looks."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edge_node.cli
import edge_node.config
import sum_helper.cli
from coordinator.cli import make_app
from federation.errors import ConfigError
from federation.identity.signing_keys import SigningKey
from sum_helper.config import read_config
from sum_helper.setup.folder import admit, install


def coordinator(*arguments: str) -> str:
    done = CliRunner().invoke(make_app(list(arguments)), arguments)
    assert done.exit_code == 0, done.output
    return done.output


def helper(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(sum_helper.cli.app, list(arguments))
    return done.exit_code, done.output


def test_a_helper_is_enrolled_with_keys_that_nobody_else_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    coordinator("init", "plant", "--host", "broker.example", "--enroll", "edge-01")
    assert helper("init", "works-council")[0] == 0
    coordinator("enroll", "plant", "--csr", "works-council.request")
    code, said = helper("init", "plant/enrolled/works-council.fedmq")
    assert (code, "fedmq helper admit" in said) == (0, True)
    config = read_config(Path("works-council"), {}, environ={})
    assert (config.helper.id, config.federation.id) == ("works-council", "plant")
    assert config.broker.url.startswith("mqtts://broker.example")
    code, said = helper("admit", f"edge-01={SigningKey.new().public_hex}", "--config", "works-council")
    assert (code, said.strip()) == (0, "admitted edge-01: 1 node")
    settings = Path("works-council/helper.toml")
    settings.write_text(settings.read_text().replace("members_min = 8", "members_min = 9"))
    assert helper("init", "plant/enrolled/works-council.fedmq")[0] == 0  # a renewal keeps the settings
    assert read_config(Path("works-council"), {}, environ={}).rules.members_min == 9
    code, said = helper("doctor", "--config", "works-council", "--json")
    found = {one["check"]: one["verdict"] for one in json.loads(said)}
    assert (found["certificate"], found["register"], found["broker port"]) == ("PASS", "FAIL", "FAIL")


def test_a_file_with_private_keys_is_none_for_a_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    coordinator("init", "plant", "--host", "broker.example", "--enroll", "edge-01")
    with pytest.raises(ConfigError, match="a helper makes its own"):
        install(Path("plant/enrolled/edge-01.fedmq"), None)


def test_a_node_pins_a_helper_by_a_persons_word_and_never_by_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The enrolment file's list is a proposal: it is shown, and not obeyed."""
    monkeypatch.chdir(tmp_path)
    coordinator("init", "plant", "--host", "broker.example", "--enroll", "edge-01")
    line = helper("init", "works-council")[1].strip().splitlines()[-1].strip()
    file = Path("plant/coordinator.toml")
    text, wanted = file.read_text(), f'[privacy]\nhelpers = ["{line}"]\n'
    file.write_text(text.replace("[privacy]\n", wanted) if "[privacy]" in text else f"{text}\n{wanted}")
    coordinator("enroll", "plant", "edge-02", "edge-03")
    joined = CliRunner().invoke(edge_node.cli.app, ["join", "plant/enrolled/edge-02.fedmq"])
    assert joined.exit_code == 0, joined.output
    assert f"  {line}" in joined.output
    assert "by its own line: edge-02=" in joined.output
    assert edge_node.config.read_config(Path("edge-02"), {}, environ={}).privacy.helpers == ()
    pinned = CliRunner().invoke(edge_node.cli.app, ["join", "plant/enrolled/edge-03.fedmq", "--helper", line])
    assert pinned.exit_code == 0, pinned.output
    assert "by its own line: edge-03=" in pinned.output
    assert edge_node.config.read_config(Path("edge-03"), {}, environ={}).privacy.helpers == (line,)
    again = CliRunner().invoke(edge_node.cli.app, ["join", "plant/enrolled/edge-02.fedmq", "--helper", line])
    assert again.exit_code == 0, again.output
    assert edge_node.config.read_config(Path("edge-02"), {}, environ={}).privacy.helpers == (line,)
    wrong = CliRunner().invoke(
        edge_node.cli.app, ["join", "plant/enrolled/edge-02.fedmq", "--into", "x", "--helper", "y"]
    )
    assert wrong.exit_code == 2
    own = joined.output.split("own line: ")[1].split()[0]
    assert admit(Path("register.json"), own) == ("edge-02", 1)
