"""``fedmq gateway``: what init writes is accepted, status says what stands in the folder, and mistakes are told."""

import datetime as dt
import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coordinator.enrolment.cli as enrolment
from coordinator.enrolment.folder import FleetFolder
from federation.errors import ConfigError
from federation.identity.bundle import decode_bundle
from federation.types import NodeId, UpdateId
from site_gateway.cli import app
from site_gateway.config import read_config
from site_gateway.runtime.uplink import Form
from site_gateway.setup import folder as folder_module
from tests.rigs.gateway_rig import GATEWAY, RUN, Rig
from tests.unit.test_documented_json import check

WORDS = ["--above", "mqtt://hub", "--below", "mqtt://127.0.0.1", "--task", "digits", "--federation", "plant"]


def made(folder: Path, *more: str) -> str:
    """What init says."""
    result = CliRunner().invoke(app, ["init", str(folder), *WORDS, *more])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The enrolment file of a gateway, of a federation ``plant`` whose broker is ``hub``."""
    plant = tmp_path_factory.mktemp("above") / "plant"
    enrolment.init(plant, host=["hub"], task="quadratic-50", evaluate=False, enroll_=["press-shop"])
    return plant / "enrolled" / "press-shop.fedmq"


def test_site_with_an_authority_of_its_own_is_made_from_an_enrolment_file(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "g"
    words = ["init", str(folder), "--join", str(bundle), "--host", "hall.example", "--port", "8884", "--nodes", "64"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "  [gateways]\n  members_max = { press-shop = 64 }\n" in result.output
    settings = read_config(folder, {}, environ={})
    above, below = settings.above, settings.below
    assert (above.node.id, above.broker.url, above.security.require_signatures) == (
        "press-shop",
        "mqtts://hub:8883",
        True,
    )
    assert (below.federation.id, below.task.name, below.broker.url) == (
        "plant",
        "quadratic-50",
        "mqtts://localhost:8884",
    )
    assert (below.privacy.sealed, below.security.require_signatures) == (True, True)
    named = [getattr(section, name) for section in (above.broker, below.broker) for name in section.model_fields_set]
    keys = [one for one in (*named, above.security.signing_key, below.security.node_keys) if isinstance(one, Path)]
    assert len(keys) == 3 + 5 + 2
    assert all(one.is_file() for one in keys)
    # The site's broker takes nobody whom the federation above has enrolled, and the other way round.
    assert (folder / "above/ca.crt").read_text() != (folder / "below/coordinator/ca.crt").read_text()
    nodes = FleetFolder(folder / "below")
    enrolment.enroll(nodes.root, ["press-1"])
    enrolled = decode_bundle(nodes.bundle(NodeId("press-1")).read_text(), now=dt.datetime.now(dt.UTC))
    assert (enrolled.federation, enrolled.broker_url) == ("plant", "mqtts://hall.example:8884")
    # Another authority of the site would shut out its nodes.
    assert CliRunner().invoke(app, words).exit_code == 2


def test_a_crash_leaves_no_settings_of_another_role(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were written twice: before the end there were those of an ordinary node and of a federation of its own."""
    monkeypatch.setattr(folder_module, "_written", lambda *_: 1 / 0)
    folder = tmp_path / "press-shop"
    CliRunner().invoke(app, ["init", str(folder), "--join", str(bundle), "--host", "hall.example"])
    below, above = folder / "below" / "coordinator.toml", folder / "above" / "edge-node.toml"
    assert "As the coordinator of the site" in below.read_text()
    assert "train_s_max = 86400" in above.read_text()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--host", "hall.example", "--above", "mqtts://hub"], "--above"),
        (["--host", "hall.example", "--id", "other"], "--id"),
        ([], "--host"),
    ],
)
def test_what_an_enrolment_file_says_already_is_not_said_twice(
    tmp_path: Path, bundle: Path, words: list[str], option: str
) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "g"), "--join", str(bundle), *words])
    assert result.exit_code == 2
    assert option in result.output
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("option", ["--above", "--below", "--task", "--federation"])
def test_without_an_enrolment_file_everything_is_named(tmp_path: Path, option: str) -> None:
    place = WORDS.index(option)
    result = CliRunner().invoke(app, ["init", str(tmp_path / "g"), *WORDS[:place], *WORDS[place + 2 :]])
    assert result.exit_code == 2
    assert f"{option}: is needed, or --join" in result.output


def test_what_init_writes_is_read_again(tmp_path: Path) -> None:
    told = made(tmp_path / "press-shop", "--form", "mean", "--seed", "7", "--nodes", "64")
    settings = read_config(tmp_path / "press-shop", {}, environ={})
    assert settings.own.gateway.form is Form.MEAN
    assert (settings.above.node.id, settings.below.task.seed, settings.below.round.concurrency) == ("press-shop", 7, 64)
    assert settings.below.store.folder == tmp_path / "press-shop" / "state" / "below"
    assert "  [gateways]\n  members_max = { press-shop = 64 }\n" in told
    assert "round.quorum = 1" in told, "with one site the coordinator above waited for a second one"


def test_a_gateway_that_finds_no_run_says_at_once_where_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{nobody.getsockname()[1]}"
        CliRunner().invoke(app, ["init", str(tmp_path / "g"), *WORDS[2:], "--above", url])
        monkeypatch.setenv("FEDMQ_GATEWAY__GATEWAY__FIND_S", "0.001")
        told = CliRunner().invoke(app, ["run", "--config", str(tmp_path / "g"), "--log-json"])
    assert told.exit_code == 4, told.output
    assert '"event": "looking_above"' in told.output
    assert url.removeprefix("mqtt://") in told.stderr


def test_broker_of_a_site_without_an_authority_is_not_ours_to_start(tmp_path: Path) -> None:
    made(tmp_path / "g")
    told = CliRunner().invoke(app, ["run", "--config", str(tmp_path / "g"), "--with-broker"])
    assert told.exit_code == 2
    assert "needs --config with the folder of fedmq gateway init --join" in told.output


def test_gateway_below_which_more_nodes_may_stand_than_it_may_speak_for_does_not_start(tmp_path: Path) -> None:
    """An honest site would be refused above as a whole."""
    made(tmp_path / "g", "--nodes", "40")
    below = tmp_path / "g" / "below.toml"
    below.write_text(below.read_text() + "\n[gateways]\nmembers_max = { hall-1 = 20, hall-2 = 21 }\n")
    with pytest.raises(ConfigError, match=r"41 nodes, and this gateway for 40"):
        read_config(tmp_path / "g", {}, environ={})
    below.write_text(below.read_text().replace("21", "20"))
    assert sum(read_config(tmp_path / "g", {}, environ={}).below.gateways.caps.values()) == 40


def test_init_writes_over_nothing(tmp_path: Path) -> None:
    made(tmp_path / "g")
    result = CliRunner().invoke(app, ["init", str(tmp_path / "g"), *WORDS])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("file", "line", "key"),
    [
        ("below.toml", 'name = "mnist-mlp"', "task.name"),
        ("gateway.toml", 'form = "all"', "gateway.form"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, file: str, line: str, key: str) -> None:
    made(tmp_path / "g")
    path = tmp_path / "g" / file
    name = line.partition(" = ")[0]
    lines = [line if one.startswith(f"{name} = ") else one for one in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=key):
        read_config(tmp_path / "g", {}, environ={})


def test_folder_without_its_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedmq gateway init"):
        read_config(tmp_path, {}, environ={})


def test_status_says_what_is_owed(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rig")
    rig.above.announce()
    rig.until_offered(UpdateId(f"0-{GATEWAY}"))
    rig.die()
    made(tmp_path / "g", "--id", GATEWAY)
    (tmp_path / "g" / "state" / "below").mkdir(parents=True)
    (tmp_path / "rig" / "site").rename(tmp_path / "g" / "state" / "below" / RUN)
    words = ["status", "--config", str(tmp_path / "g")]
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    check("fedmq gateway status --json", found)
    assert (found["run"], found["nodes"], found["updates"]) == (RUN, 3, {"stored": 3})
    assert [one["update"] for one in found["owed"]] == [f"0-{GATEWAY}"]
    shown = CliRunner().invoke(app, words).stdout
    assert "waits for the verdict from above" in shown
    assert "refused    -\n" in shown


def test_status_of_a_gateway_that_has_never_run_is_told(tmp_path: Path) -> None:
    made(tmp_path / "g")
    result = CliRunner().invoke(app, ["status", "--config", str(tmp_path / "g")])
    assert result.exit_code == 3
