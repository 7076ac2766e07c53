"""The command line of a helper: its folder, its register, what it tells, and exit codes."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from federation.doctor import Verdict, passed
from federation.errors import ConfigError, StorageError
from federation.identity.private_files import PUBLIC, write_text
from federation.identity.signing_keys import SigningKey, enrolled_nodes, node_keys_text
from federation.protocol.sum_messages import SumOffer
from federation.runtime.address import parse_broker_url
from federation.storage.folder import FolderLock
from fedmq.cli import make_app
from sum_helper import app as composition
from sum_helper.cli import app, main
from sum_helper.config import HelperConfig, read_config
from sum_helper.records import Budget, HelperRules
from tests.rigs.helper_rig import COORDINATOR, HelperRig, fleet, request, terms
from tests.unit.test_documented_json import check

SETTINGS = """[federation]
id = "plant"
[helper]
id = "works_council"
register = "{here}/register.json"
[broker]
url = "mqtt://127.0.0.1:1"
[security]
coordinator_key = "{here}/coordinator.pub"
signing_key = "{here}/signing.key"
[store]
folder = "{here}/state"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A helper's folder that needs no certificates."""
    write_text(tmp_path / "helper.toml", SETTINGS, mode=PUBLIC)
    write_text(tmp_path / "register.json", node_keys_text({}), mode=PUBLIC)
    write_text(tmp_path / "coordinator.pub", COORDINATOR.public_pem, mode=PUBLIC)
    write_text(tmp_path / "signing.key", SigningKey.new().pem, mode=PUBLIC)
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_the_front_door_has_it() -> None:
    result = CliRunner().invoke(make_app(["helper"]), ["helper", "--help"])
    assert result.exit_code == 0
    assert all(word in result.output for word in ("init", "admit", "run", "status", "doctor"))


def test_init_makes_keys_once_and_prints_the_line_that_is_pinned(tmp_path: Path) -> None:
    into = tmp_path / "box"
    code, said = invoke("init", "works_council", "--into", str(into))
    assert code == 0
    line = said.strip().splitlines()[-1].strip()
    name, _, key = line.partition("=")
    assert (name, len(bytes.fromhex(key))) == ("works_council", 32)
    assert (tmp_path / "works_council.request").exists()
    assert enrolled_nodes(into / "register.json") == frozenset()
    assert ((into / "signing.key").stat().st_mode & 0o777) == 0o600
    assert invoke("init", "works_council", "--into", str(into))[1].strip().splitlines()[-1].strip() == line
    code, said = invoke("init", "a/b")
    assert code == 2


def test_an_answer_that_is_not_there_is_named() -> None:
    """It was called a bad helper id."""
    code, said = invoke("init", "works-council.fedmq")
    assert code == 2
    assert "there is no file works-council.fedmq" in said


def test_a_node_is_admitted_by_its_line_or_its_request_file_and_no_key_under_two_names(folder: Path) -> None:
    one, two = SigningKey.new(), SigningKey.new()
    config = ["--config", str(folder)]
    code, said = invoke("admit", f"press_1={one.public_hex}", f"press_2={two.public_hex}", *config)
    assert (code, said.splitlines()[-1]) == (0, "admitted press_2: 2 nodes")
    assert invoke("admit", f"press_1={one.public_hex}", *config)[0] == 0  # again: nothing changes
    assert enrolled_nodes(folder / "register.json") == {"press_1", "press_2"}
    code, said = invoke("admit", f"press_3={one.public_hex}", *config)
    assert code == 2
    assert "press_1 has this key" in said
    for wrong in ("press_4=abc", "press_4=" + "g" * 64, "a b=" + "0" * 64):
        assert invoke("admit", wrong, *config)[0] == 2
    code, said = invoke("admit", "press_4", *config)
    assert code == 2
    assert "press_4 is no file and has no key: edge-node doctor prints the line" in said
    invoke("init", "press_9", "--into", str(folder / "device"))
    assert invoke("admit", str(folder / "press_9.request"), *config)[0] == 0
    assert len(enrolled_nodes(folder / "register.json")) == 3


def test_status_tells_what_was_revealed_of_whom(folder: Path) -> None:
    code, said = invoke("status", "--config", str(folder))
    assert code == 3
    nodes = fleet(6)
    rig = HelperRig(folder, nodes)
    under = terms()
    updates = [node.update(1, under, [rig.public]) for node in nodes]
    rig.hold(*updates)
    assert isinstance(rig.ask(request(updates[:5], under)), SumOffer)
    code, said = invoke("status", "--config", str(folder), "--json")  # also while it runs
    found = json.loads(said)
    check("fedmq helper status --json", found)
    assert (code, found["held"], found["used"], found["sums"], found["admitted"]) == (0, 1, 5, 1, 6)
    assert found["newest"]["members"] == 5
    assert found["nodes"]["press_00"] == {"sums": 1, "epsilon": None}
    assert "press_05" not in found["nodes"]
    code, said = invoke("status", "--config", str(folder))
    assert "press_00" in said
    assert "in 1 sum, no noise" in said
    assert re.search(r"^newest +version \d+ of run \w+, 5 nodes, \d{4}-", said, re.MULTILINE), "it was a dictionary"
    rig.close()


def test_doctor_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sum_helper.setup import doctor

    monkeypatch.setattr(doctor, "coordinators_here", lambda: {7: "coordinator run"})
    code, said = invoke("doctor", "--config", str(folder), "--json")
    found = {one["check"]: one for one in json.loads(said)}
    assert code == 1
    assert found["register"]["verdict"] == "FAIL"
    assert "fedmq helper admit" in found["register"]["remedy"]
    assert found["apart"]["verdict"] == "FAIL"
    assert "another administrator" in found["apart"]["remedy"]
    assert found["own key"]["detail"].startswith("works_council=")
    assert found["broker port"]["verdict"] == "FAIL"


def test_doctor_does_not_take_a_running_helpers_session_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that takes the client id from the certificate ended the helper's connection for the visit."""
    from sum_helper.setup import doctor

    monkeypatch.setattr(doctor, "check_dial", lambda _: passed("broker port", "open"))
    monkeypatch.setattr(doctor, "visit_broker", lambda *_, **__: pytest.fail("the helper would lose its session"))
    monkeypatch.setattr(doctor, "check_own_certificate", lambda *_, **__: passed("certificate", "good"))
    monkeypatch.setattr(doctor, "broker_address", lambda _: parse_broker_url("mqtt://127.0.0.1"))
    settings = read_config(folder, {})
    broker = settings.broker.model_copy(update={"tls_certificate": folder / "helper.crt"})
    lock = FolderLock(settings.state_folder)
    try:
        found = list(doctor.examine(settings.model_copy(update={"broker": broker})))
    finally:
        lock.release()
    assert (found[-1].check, found[-1].verdict) == ("broker session", Verdict.WARN)
    assert "not tried" in found[-1].detail


def test_a_coordinator_on_this_machine_is_seen(tmp_path: Path) -> None:
    from sum_helper.setup.doctor import check_apart, coordinators_here

    for pid, words in {
        "11": ["/usr/bin/python3", "/srv/bin/coordinator", "run", "--config", "plant"],
        "12": ["python3", "-m", "coordinator", "run"],
        "13": ["vi", "coordinator.toml"],
        "14": ["python3", "-m", "sum_helper", "run"],
        "15": ["fedmq", "helper", "run"],
        "16": ["/usr/bin/fedmq", "coordinator", "run"],
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes("\0".join(words).encode() + b"\0")
    (tmp_path / "17").mkdir()  # gone meanwhile
    found = coordinators_here(tmp_path)
    assert set(found) == {11, 12, 16}
    assert check_apart(found, broker_here=False).verdict == "FAIL"
    assert check_apart({}, broker_here=True).verdict == "WARN"
    assert check_apart({}, broker_here=False).verdict == "PASS"


def test_the_register_must_allow_a_sum(folder: Path) -> None:
    from sum_helper.setup.doctor import check_register

    config = read_config(folder, {})
    nodes = {f"n{index}": [SigningKey.new().public_hex] for index in range(8)}
    write_text(folder / "register.json", node_keys_text(nodes), mode=PUBLIC)
    assert check_register(config).verdict == "PASS"
    (folder / "register.json").write_text("{")
    assert check_register(config).verdict == "FAIL"


@pytest.mark.parametrize(("error", "code"), [(ConfigError("a", "b"), 2), (StorageError("x"), 3)])
def test_an_error_is_one_line_and_an_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def run_helper(_config: HelperConfig) -> int:
        raise error

    monkeypatch.setattr(composition, "run_helper", run_helper)
    found, said = invoke("run", "--config", str(folder))
    assert (found, len(said.strip().splitlines())) == (code, 1)


def test_flags_reach_their_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[HelperConfig] = []

    def run_helper(config: HelperConfig) -> int:
        seen.append(config)
        return 130

    monkeypatch.setattr(composition, "run_helper", run_helper)
    flags = ["--broker", "mqtt://elsewhere", "--state", str(folder / "s"), "--log-json"]
    assert invoke("run", "--config", str(folder), *flags)[0] == 130
    (config,) = seen
    assert (config.broker.url, config.state_folder, config.log.as_json) == ("mqtt://elsewhere", folder / "s", True)


def test_rules_have_a_floor_and_a_budget_needs_both_numbers(folder: Path) -> None:
    assert read_config(folder, {}).helper_rules == HelperRules()
    given = read_config(folder, {"rules.epsilon": 3.0, "rules.delta": 1e-5, "keys.kem": "mlkem768_x25519"})
    assert given.helper_rules.budget == Budget(epsilon=3.0, delta=1e-5)
    assert given.keeping.kem.name == "MLKEM768_X25519"
    for wrong in ({"rules.members_min": 4}, {"rules.epsilon": 3.0}, {"rules.delta": 1e-5}, {"helper.id": "a b"}):
        with pytest.raises(ConfigError):
            read_config(folder, wrong)


def test_the_program_answers_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["helper", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "sums over many machines" in " ".join(capsys.readouterr().out.split())
