"""The coordinator's doctor against a real broker: healthy, forbidding, damaged, in use; and over TLS."""

import datetime as dt
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.global_model.initial import InitialRequest, initial_model
from coordinator.monitoring.doctor import judge_visit
from coordinator.storage.sqlite_store import SqliteStore
from federation.doctor import Verdict, check_tls
from federation.identity.certificates import Purpose, new_authority, new_identity
from federation.protocol.messages import Presence
from federation.protocol.topics import Topics
from federation.runtime.address import BrokerAddress, TlsFiles
from federation.runtime.local_broker import LocalBroker
from federation.runtime.log import configure_log
from federation.runtime.visit import Seen
from federation.storage.folder import FolderLock
from federation.types import FederationId
from tests.rigs.scripted_nodes import ScriptedNodes

pytestmark = pytest.mark.broker

MANIFEST = initial_model(InitialRequest(task="quadratic-12")).manifest


@pytest.fixture(autouse=True)
def log_is_put_back() -> Iterator[None]:
    """The command sends the process's log to a stream that ends with the test; other clients must not say a word."""
    configure_log(json=True, level="error", stream=io.StringIO())
    yield
    structlog.reset_defaults()


def findings(url: str, folder: Path, task: str = "quadratic-12", more: str = "") -> tuple[int, dict[str, Any]]:
    file = folder / "coordinator.toml"
    file.write_text(
        f'[federation]\nid = "it"\n[broker]\nurl = "{url}"\n{more}[task]\nname = "{task}"\n'
        f'[store]\nfolder = "{folder / "state"}"\n'
    )
    result = CliRunner().invoke(make_app(["doctor"]), ["doctor", "--config", str(file), "--json"])
    assert result.stdout, result.exception
    return result.exit_code, {finding["check"]: finding for finding in json.loads(result.stdout)}


def verdicts(url: str, folder: Path, task: str = "quadratic-12") -> tuple[int, dict[str, str]]:
    code, found = findings(url, folder, task)
    return code, {check: finding["verdict"] for check, finding in found.items()}


def make_store(folder: Path) -> None:
    made = initial_model(InitialRequest(task="quadratic-12"))
    store = SqliteStore(folder / "state")
    store.initialise(made.manifest, first_commit(made.vectors, made.manifest, DownlinkSettings(), seed=0))
    store.close()


def test_a_healthy_federation_passes_every_check(broker: LocalBroker, tmp_path: Path) -> None:
    make_store(tmp_path)
    with ScriptedNodes(broker.url, MANIFEST, ("ann",)) as nodes:
        nodes.present("ann", Presence.ONLINE)
        code, found = verdicts(broker.url, tmp_path)
    assert (code, set(found.values())) == (0, {"PASS"})
    assert set(found) >= {"versions", "store", "broker port", "broker session", "access rules", "nodes", "coordinator"}


def test_a_visit_leaves_nothing_behind(broker: LocalBroker, tmp_path: Path) -> None:
    assert verdicts(broker.url, tmp_path)[1]["nodes"] == "WARN"
    assert verdicts(broker.url, tmp_path)[1]["coordinator"] == "PASS"
    assert not (tmp_path / "state").exists()


def test_models_without_their_database_fail(broker: LocalBroker, tmp_path: Path) -> None:
    make_store(tmp_path)
    (tmp_path / "state" / "coordinator.sqlite3").write_bytes(b"")
    code, found = findings(broker.url, tmp_path)
    assert (code, found["store"]["verdict"]) == (1, "FAIL")
    assert "is empty, but its folder has blobs/" in found["store"]["detail"]
    assert "coordinator restore" in found["store"]["remedy"]


def test_access_rules_that_forbid_what_a_coordinator_says_are_found(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\ntopic write fl/it/srv\n")
    rules.chmod(0o644)
    with LocalBroker(lines=(f"acl_file {rules}",)) as forbidding:
        code, found = findings(forbidding.url, tmp_path)
    assert (code, found["access rules"]["verdict"]) == (1, "FAIL")
    assert "3 of 4 publishes were refused: fl/it/round, fl/it/model/" in found["access rules"]["detail"]


def test_a_store_in_use_is_left_alone_and_another_tasks_store_fails(broker: LocalBroker, tmp_path: Path) -> None:
    make_store(tmp_path)
    lock = FolderLock(tmp_path / "state")
    code, found = verdicts(broker.url, tmp_path)
    lock.release()
    assert (code, found["state folder"], found["store"]) == (0, "WARN", "PASS")
    code, found = verdicts(broker.url, tmp_path, task="quadratic-13")
    assert (code, found["store"]) == (1, "FAIL")


def test_a_damaged_model_and_an_unknown_task_fail(broker: LocalBroker, tmp_path: Path) -> None:
    make_store(tmp_path)
    model = next((tmp_path / "state" / "blobs").glob("model-*"))
    model.write_bytes(model.read_bytes()[:-1] + b"\xff")
    code, found = verdicts(broker.url, tmp_path, task="quadratik")
    assert (code, found["store"], found["task"]) == (1, "FAIL", "FAIL")
    assert "settings" not in found  # it is the same mistake


def test_tls_says_whose_certificate_is_not_trusted_and_when_it_ends(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    ours, foreign = new_authority("ours", now=now), new_authority("foreign", now=now)
    made = new_identity(ours, "127.0.0.1", purpose=Purpose.BROKER, now=now, days=60, hosts=("127.0.0.1",))
    for name, text in (
        ("ca", ours.certificate_pem),
        ("foreign", foreign.certificate_pem),
        ("crt", made.certificate_pem),
        ("key", made.key_pem),
    ):
        (tmp_path / name).write_text(text)
    lines = (f"cafile {tmp_path / 'ca'}", f"certfile {tmp_path / 'crt'}", f"keyfile {tmp_path / 'key'}")
    with LocalBroker(lines=lines) as broker:
        trusted, other, missing = (
            BrokerAddress(host=broker.host, port=broker.port, tls=TlsFiles(authority=str(tmp_path / name)))
            for name in ("ca", "foreign", "nothing")
        )
        later_s = (now + dt.timedelta(days=50)).timestamp()
        found = [check_tls(trusted, now.timestamp()), check_tls(trusted, later_s)]
        found += [check_tls(other, now.timestamp()), check_tls(missing, now.timestamp())]
    assert [finding.verdict for finding in found if finding] == [
        Verdict.PASS,
        Verdict.WARN,
        Verdict.FAIL,
        Verdict.FAIL,
    ]
    assert check_tls(BrokerAddress(host="x"), 0.0) is None


def test_no_session_is_tried_where_tls_has_failed(broker: LocalBroker, tmp_path: Path) -> None:
    code, found = findings(broker.url.replace("mqtt:", "mqtts:"), tmp_path)
    assert (code, found["tls"]["verdict"]) == (1, "FAIL")
    assert "broker session" not in found


def test_a_wrong_password_names_the_setting_once(tmp_path: Path) -> None:
    for name, text, mode in (("passwords", "", 0o644), ("password", "wrong", 0o600)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    more = f'username = "coordinator"\npassword_file = "{tmp_path / "password"}"\n'
    with LocalBroker(lines=("allow_anonymous false", f"password_file {tmp_path / 'passwords'}")) as closed:
        session = findings(closed.url, tmp_path, more=more)[1]["broker session"]
    assert session["detail"] == "refused by the broker: Not authorized"
    assert "broker.password_file" in session["remedy"]


def test_a_port_that_speaks_no_tls_fails(broker: LocalBroker) -> None:
    finding = check_tls(BrokerAddress(host=broker.host, port=broker.port, tls=TlsFiles()), 0.0)
    assert finding is not None
    assert finding.verdict is Verdict.FAIL


def test_a_broker_that_answers_no_publish_has_allowed_none() -> None:
    seen = Seen(accepted=True, packet_bytes_max=262_144, unanswered=2)
    found = {one.check: one for one in judge_visit(seen, Topics(FederationId("plant")))}["access rules"]
    assert (found.verdict, found.detail) == (Verdict.WARN, "the broker has not answered to 2 trial messages")
