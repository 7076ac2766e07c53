"""The commands say what was done and what to do next, and refuse what makes no sense."""

import datetime as dt
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edge_node.cli
import edge_node.config
from coordinator.cli import make_app
from coordinator.enrolment import cli, shut_out
from coordinator.enrolment.broker import FleetBroker, reload_broker
from coordinator.enrolment.register import load_register
from federation.errors import ConfigError
from federation.identity.bundle import decode_bundle
from federation.runtime.local_broker import BrokerFailed, free_port


def command(*arguments: str) -> str:
    done = CliRunner().invoke(make_app(list(arguments)), arguments)
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    command("init", str(tmp_path / "plant"), "--host", "broker.example", "--enroll", "edge-01", "--days", "20")
    return tmp_path / "plant"


def test_init_names_the_folder_and_says_what_comes_next(tmp_path: Path) -> None:
    said = command("init", str(tmp_path / "plant"), "--host", "::1", "--host", "b", "--port", "1", "--enroll", "e1")
    assert "federation plant made" in said
    assert "mqtts://[::1]:1" in said
    assert "edge-node join e1.fedmq --run" in said
    assert "coordinator run --config" in said
    bundle = decode_bundle((tmp_path / "plant/enrolled/e1.fedmq").read_text(), now=dt.datetime.now(dt.UTC))
    assert (bundle.federation, bundle.broker_url) == ("plant", "mqtts://[::1]:1")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--host", "a b"),
        ("--host", ""),
        ("--host", "broker:1883"),
        ("--host", "user:Tr0ub4dor@broker"),
        ("--host", "Tr0ub4dor@broker"),
        ("--federation", "a/b"),
        ("--federation", "x" * 41),
    ],
)
def test_init_refuses_what_cannot_be_an_address_or_a_name(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        command("init", str(tmp_path / "plant"), *arguments)
    assert "Tr0ub4dor" not in str(caught.value)
    assert not (tmp_path / "plant" / "authority").exists()


def test_revoke_fails_loudly_where_no_broker_is_reached(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shut_out, "PATIENCE_S", 0.0)
    monkeypatch.setenv("FEDMQ_COORDINATOR__BROKER__URL", f"mqtts://localhost:{free_port()}")
    done = CliRunner().invoke(make_app(["revoke"]), ["revoke", str(plant), "edge-01"])
    assert done.exit_code == 1
    assert "edge-01 is revoked" in done.stdout
    assert "NOT SHUT OUT: the broker at localhost:" in done.stderr
    assert "kill -s HUP broker" in done.stderr
    assert f"then check it: coordinator revoke {plant} edge-01" in done.stderr


def test_revoke_does_not_send_people_to_the_broker_for_a_coordinator_that_hangs(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "reload_broker", lambda _: True)
    monkeypatch.setattr(cli, "still_open", lambda *_: ["the coordinator (pid 7) has not taken note: restart it"])
    done = CliRunner().invoke(make_app(["revoke"]), ["revoke", str(plant), "edge-01"])
    assert done.exit_code == 1
    assert done.stderr == (
        "NOT SHUT OUT: the coordinator (pid 7) has not taken note: restart it\n"
        f"then check it: coordinator revoke {plant} edge-01\n"
    )


def test_renew_says_what_to_do_where_the_broker_runs_elsewhere(plant: Path) -> None:
    assert "kill -s HUP broker" in command("renew", str(plant), "--within", "400")


def test_renew_takes_what_ends_soon_or_what_is_named(plant: Path) -> None:
    said = command("renew", str(plant))
    assert "broker and coordinator renewed" in said
    assert "edge-01: bring" in said
    assert len(load_register(plant / "authority" / "issued.json").of("edge-01")) == 2
    said = command("renew", str(plant))
    assert "renewed" not in said
    assert "no certificate ends within 30 days: nothing was written" in said
    assert "edge-01: bring" in command("renew", str(plant), "edge-01")


def test_a_file_that_brings_the_tasks_code_says_how_a_device_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def build(context):\n    raise NotImplementedError\n")
    command("init", "plant", "--host", "broker.example", "--task", "own.py:build")
    assert "join edge-01.fedmq --with-task --run" in command("enroll", "plant", "edge-01", "--bundle")
    assert CliRunner().invoke(edge_node.cli.app, ["request", "edge-02"]).exit_code == 0
    said = command("enroll", "plant", "--csr", "edge-02.request", "--bundle")
    assert "join edge-02.fedmq --with-task --run" in said
    joined = CliRunner().invoke(edge_node.cli.app, ["join", "plant/enrolled/edge-02.fedmq", "--with-task"])
    assert joined.exit_code == 0, joined.output
    assert Path("edge-02/task/own.py").read_text() == Path("own.py").read_text()
    again = CliRunner().invoke(edge_node.cli.app, ["join", "plant/enrolled/edge-02.fedmq", "--updates", "signed"])
    assert "edge-02/edge-node.toml was there and is kept as it is" in again.output


def test_status_says_which_certificates_end_soon(plant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from coordinator.enrolment.cli import tell_expiring

    tell_expiring(plant)
    said = capsys.readouterr().out
    assert [line.split()[3] for line in said.splitlines()] == [
        "coordinator-plant-control",
        "coordinator-plant-data",
        "broker",
        "edge-01",
    ]
    tell_expiring(plant, within_days=10)
    tell_expiring(plant.parent)
    assert capsys.readouterr().out == ""


def test_a_broker_needs_the_folder_of_init(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[federation]\nid = "a"\n[broker]\nurl = "mqtt://h"\n')
    with pytest.raises(ConfigError, match="--with-broker"):
        command("run", "--config", str(file), "--with-broker")


@pytest.mark.parametrize("text", ["", "x", "-1", "1", "99999999"])
def test_a_stale_process_number_is_nobodys(tmp_path: Path, text: str) -> None:
    assert not reload_broker(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mosquitto.pid").write_text(text)
    assert not reload_broker(tmp_path)


@pytest.mark.broker
def test_a_broker_that_does_not_start_says_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "mosquitto.conf").write_text("no_such_option 1\n")
    with pytest.raises(BrokerFailed, match="no_such_option"), FleetBroker(tmp_path):
        pass


@pytest.mark.broker
def test_a_broker_that_was_left_behind_is_used_as_it_is(tmp_path: Path) -> None:
    from federation.runtime.local_broker import LocalBroker

    with LocalBroker() as other:
        (tmp_path / "mosquitto.conf").write_text(f"listener {other.port} 127.0.0.1\n")
        with FleetBroker(tmp_path):
            assert other.running
        assert other.running


def test_a_device_asks_with_its_own_keys_as_the_page_says(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plant.parent)
    asked = CliRunner().invoke(edge_node.cli.app, ["request", "edge-04"])
    assert asked.exit_code == 0, asked.output
    assert "coordinator enroll DIR --csr edge-04.request" in asked.output
    assert "edge-04: bring" in command("enroll", str(plant), "--csr", "edge-04.request")
    joined = CliRunner().invoke(edge_node.cli.app, ["join", str(plant / "enrolled/edge-04.fedmq")])
    assert joined.exit_code == 0, joined.output
    assert edge_node.config.read_config(Path("edge-04"), {}, environ={}).security.require_signatures
    with pytest.raises(ConfigError, match="name a node"):
        command("enroll", str(plant))
    Path("edge-04.request").write_text("damaged")
    with pytest.raises(ConfigError, match="request file"):
        command("enroll", str(plant), "--csr", "edge-04.request")


def test_what_comes_next_names_a_task_of_ones_own(plant: Path, tmp_path: Path) -> None:
    """The line that was printed failed on the device: it did not name the task there."""
    assert "--task" not in command("enroll", str(plant), "edge-02")
    said = command("init", str(tmp_path / "own"), "--host", "b", "--task", "press.py:build", "--enroll", "e1")
    assert "edge-node join e1.fedmq --task press.py:build --run" in said
    assert "--data DIR" in said
    more = command("enroll", str(tmp_path / "own"), "e2")
    assert "edge-node join e2.fedmq --task press.py:build --run" in more


@pytest.mark.parametrize("words", [("enroll", "a"), ("revoke", "a"), ("renew", "a"), ("renew",)])
def test_a_folder_without_an_authority_is_told_alike(words: tuple[str, ...], tmp_path: Path) -> None:
    """`renew` named a file of ours that could not be read."""
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"has no authority: make it with coordinator init"):
            command(words[0], str(place), *words[1:])
