"""docs/reference/json.md says what each document holds: no other member comes, none is missing, each has its type."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from coordinator.artifacts.prediction import Prediction
from coordinator.cli import make_app
from coordinator.engine.events import NodeStateReceived, ProgressReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.report import build_report
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from edge_node.cli import app as node_app
from edge_node.model.versions import Versions
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.model_notes import ModelNotes
from federation.protocol.messages import Activity, NodeState, Presence, Progress
from federation.protocol.site_messages import SiteNode, SiteReport
from federation.types import Incarnation, ModelVersion, NodeId, RoundId
from fedmq.cli import make_app as front_door
from tests.rigs.former_state import CONFIG, FORMER, folder_of_layout
from tests.rigs.model_values import arrived, committer, initialised, update
from tests.unit.edge_node.model.test_versions import write
from tests.unit.fedmq.page.test_server import get

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
Table = Mapping[str, str]
"""Types by path, as the page writes them: ``nodes[].id``; with ``?`` it may be missing; ``*`` is any name."""


def documented(page: str) -> dict[str, Table]:
    """Each table, by its heading."""
    found: dict[str, Table] = {}
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        rows = re.findall(r"^\| `([^`]+)` \| ([a-z, ]+) \|", text.partition("\n## ")[0], re.MULTILINE)
        found[heading.strip("` ")] = dict(rows)
    return found


TABLES = documented(PAGE.read_text(encoding="utf-8"))


def problems(value: Any, table: Table, path: str = "") -> Iterator[str]:
    """Where a document is not as its table says."""
    kinds = {name.removesuffix("?"): kind for name, kind in table.items()}
    if path:
        names = kinds[path].split(", ")
        shared = next((TABLES[name] for name in names if name in TABLES), None)
        if shared is not None and isinstance(value, dict):
            yield from (f"{path}: {one}" for one in problems(value, shared))
            return
        allowed = tuple(one for name in names for one in TYPES.get(name, ()))
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            yield f"{path} is {value!r}, and should be {kinds[path]}"
            return
    if isinstance(value, dict):
        yield from _members(value, table, f"{path}." if path else "")
    elif isinstance(value, list) and value and f"{path}[]" not in kinds:
        if "array, object" not in kinds.get(path, ""):
            yield f"{path}[] is not written down"
    elif isinstance(value, list):
        for one in value:
            yield from problems(one, table, f"{path}[]")


def _members(value: Mapping[str, Any], table: Table, prefix: str) -> Iterator[str]:
    kinds = {name.removesuffix("?") for name in table}
    direct = {name for name in table if name.startswith(prefix) and re.fullmatch(r"[^.\[\]]+", name[len(prefix) :])}
    for name, one in value.items():
        if f"{prefix}{name}" in kinds:
            yield from problems(one, table, f"{prefix}{name}")
        elif f"{prefix}*" in kinds:
            yield from problems(one, table, f"{prefix}*")
        elif direct or not prefix:
            yield f"{prefix}{name} is not written down"
    for name in direct:
        if not name.endswith(("?", "*")) and name[len(prefix) :] not in value:
            yield f"{name} is missing"


def check(heading: str, value: Any) -> None:
    assert list(problems(value, TABLES[heading])) == [], heading


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A state folder of today: two versions, two nodes, the second version evaluated."""
    store = SqliteStore(tmp_path / "run")
    initialised(store)
    commits = committer(store)
    for version, nodes in ((1, "ab"), (2, "a")):
        sent = [arrived(node, update(float(version)), round_id=version - 1) for node in nodes]
        for one in sent:
            store.save_update(one.record, one.payload)
        commits.commit([one.member for one in sent], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    store.save_evaluation(ModelVersion(2), {"accuracy": 0.75, "loss": 0.5})
    store.close()
    return tmp_path / "run"


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """One of a release before, with refusals, absences and a statement of what it waits for."""
    return Path(shutil.copytree(FORMER / "coordinator" / "state", tmp_path / "former"))


def seen_and_lost(folder: Path, run: str) -> None:
    """What a coordinator tells of a node that was there and is lost."""
    file = PresenceFile(folder, run)
    for presence in (Presence.ONLINE, Presence.LOST):
        told = NodeState(presence=presence, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
        file.see(NodeStateReceived(node=NodeId("a"), state=told))
    file.write(lambda: 1)


def told_by_a_gateway(folder: Path, run: str) -> None:
    """What a coordinator tells of a site."""
    file = PresenceFile(folder, run, gateways={NodeId("a"): 8})
    site = SiteReport(waits="above", nodes=3, online=2, some=(SiteNode(node=NodeId("n"), heard_s=1.0),))
    file.see(ProgressReceived(node=NodeId("a"), progress=Progress(round=RoundId(0), activity=Activity.IDLE, site=site)))
    file.write(lambda: 1)


def said(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(make_app(words), [*words, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def called(app: typer.Typer, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", ["status", "status --nodes", "why"])
def test_what_is_said_of_a_run(command: str, run: Path, former: Path) -> None:
    with ReadOnlyStore(former) as store:
        seen_and_lost(former, store.run)
        told_by_a_gateway(former, store.run)
    for folder in (former,) if command == "why" else (run, former):
        check(f"coordinator {command} --json", said(*command.split(), "--state", str(folder)))


def test_a_site_is_told_of_in_words_and_in_json(former: Path) -> None:
    with ReadOnlyStore(former) as store:
        seen_and_lost(former, store.run)
        told_by_a_gateway(former, store.run)
    for command in ("status", "why"):
        assert said(command, "--state", str(former))["sites"]["a"]["nodes_online"] == 2
        words = CliRunner().invoke(make_app([command]), [command, "--state", str(former)]).stdout
        known = r"site a, as known \d+ days ago: its gateway was not there, and was heard"
        assert re.search(known, " ".join(words.split()))
    seen = get(former, "/api/v1/status").json
    assert seen["sites"]["a"]["nodes"] == 3
    assert "not there: n (heard" in seen["waiting"]["sites"][0]
    # Its coordinator is stopped, and had three nodes online.
    assert seen["waiting"]["running"] is False
    assert seen["waiting"]["online"] == 0


def test_what_is_made_of_a_run(run: Path, former: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "run.fedmq.tar")
    check("coordinator backup --json", said("backup", file, "--state", str(former)))
    check("coordinator restore --json", said("restore", file, "--state", str(tmp_path / "restored")))
    check("coordinator restore --json", said("restore", file, "--state", str(tmp_path / "new"), "--new-run"))
    check("coordinator status --json", said("status", "--state", str(tmp_path / "restored")))
    check("coordinator export --json", said("export", str(tmp_path / "m.safetensors"), "--state", str(run)))
    check("coordinator compare --json", said("compare", str(run), str(run)))
    check("coordinator audit --json", said("audit", "--config", str(CONFIG), "--state", str(former)))


def test_what_a_run_has_told_and_promised(run: Path, former: Path, tmp_path: Path) -> None:
    for folder in (run, former):
        check("coordinator privacy --json", said("privacy", "--state", str(folder)))
        check("coordinator plot --json", said("plot", str(folder), "-o", str(tmp_path)))
        with closing(SqliteStore(folder)) as store:
            report = build_report(store, strategy="fedavg", codec="lossless")
            check("coordinator demo --json", json.loads(json.dumps(report)))
    digits = ("--task", "digits", "--nodes", "3")
    check("coordinator partition --json", said("partition", *digits))
    more = ("--nodes", "4", "--rounds", "2")
    for how in ((), ("--train", "--task", "digits")):
        check("coordinator simulate --json", said("simulate", *more, *how))
    check(
        "fedmq new --json", json.loads(called(front_door(["new"]), "new", str(tmp_path / "project"), "--from", "torch"))
    )
    settings = tmp_path / "coordinator.toml"
    settings.write_text(
        f'[broker]\nurl = "mqtt://h"\n[federation]\nid = "f"\n[task]\nname = "digits"\n[store]\nfolder = "{former}"\n'
        "[alerts]\nstopped_s = 0\nno_version_leases = 0\ndisk_free = 0.99\n"
    )
    alerts = called(make_app(["alerts"]), "alerts", "--config", str(settings), "--once")
    check("coordinator alerts --json", json.loads(alerts.splitlines()[-1]))


def test_what_a_prediction_is() -> None:
    for classes in ((), ("ok", "worn")):
        notes = ModelNotes(version=ModelVersion(3), task="press", classes=classes)
        found = Prediction(notes=notes, classes=classes, scores=np.array([0.25, 0.75]), inputs=np.zeros((1, 2)))
        check("coordinator predict --json", json.loads(json.dumps(found.to_dict())))


def test_what_a_device_says(tmp_path: Path) -> None:
    folder_of_layout("node-1", tmp_path / "node")
    with closing(SqliteNodeStore(tmp_path / "node")):  # a start of this release
        pass
    check("edge-node status --json", json.loads(called(node_app, "status", "--state", str(tmp_path / "node"))))
    versions, folder = Versions(tmp_path / "model"), ("--folder", str(tmp_path / "model"))
    for version in (4, 5):
        write(versions, version)
    check("edge-node model list --json", json.loads(called(node_app, "model", "list", *folder)))
    for command in ("show", "rollback", "show"):
        check("kept model", json.loads(called(node_app, "model", command, *folder)))
    check("edge-node model list --json", json.loads(called(node_app, "model", "list", *folder)))
    check("edge-node model resume --json", json.loads(called(node_app, "model", "resume", *folder)))


def test_what_statistics_find(tmp_path: Path) -> None:
    more = ("--scaler", str(tmp_path / "s.json"), "--plot", str(tmp_path / "p.svg"))
    check("coordinator analyze --json", said("analyze", "--task", "digits", "--simulate", "2", *more))


def test_what_an_upgrade_says_of_both_roles(tmp_path: Path) -> None:
    for name in ("coordinator-1", "node-1"):
        folder_of_layout(name, tmp_path / name)
    check("coordinator upgrade --json", said("upgrade", "--state", str(tmp_path / "coordinator-1"), "--check"))
    result = CliRunner().invoke(node_app, ["upgrade", "--state", str(tmp_path / "node-1"), "--json"])
    check("coordinator upgrade --json", json.loads(result.stdout))


def test_the_doctors_findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    check("coordinator doctor --json", said("doctor", "--config", str(CONFIG), code=1))


def test_a_federation_is_made_and_changed(tmp_path: Path) -> None:
    plant = str(tmp_path / "plant")
    made = said("init", plant, "--host", "127.0.0.1", "--enroll", "a", "--no-evaluate")
    check("coordinator init --json", made)
    assert [Path(one["file"]).exists() for one in made["enrolled"]] == [True]
    check("coordinator enroll --json", said("enroll", plant, "b", "c"))
    check("coordinator renew --json", said("renew", plant, "a"))
    renewed = said("renew", plant, "--within", "3650")
    check("coordinator renew --json", renewed)
    assert renewed["server_renewed"]
    revoked = said("revoke", plant, "b", code=1)
    assert (revoked["revoked"], revoked["shut_out"]) == (["b"], False)
    check("coordinator revoke --json", revoked)


def test_an_error_is_a_document_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from coordinator.cli import main

    monkeypatch.setattr("sys.argv", ["coordinator", "upgrade", "--state", str(tmp_path), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    found = json.loads(told.out)
    check("error", found)
    assert ended.value.code == found["exit_code"] == 3
    assert told.err == f"coordinator: {found['error']}\n"


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/versions", "/api/v1/nodes", "/api/v1/news", "/healthz"])
def test_what_the_page_answers(path: str, run: Path, former: Path) -> None:
    with ReadOnlyStore(run) as store:
        seen_and_lost(run, store.run)
    for folder in (run, former):
        check(f"GET {path}", get(folder, path).json)


def test_a_document_that_is_not_as_written_would_be_noticed(run: Path) -> None:
    table, found = TABLES["coordinator status --json"], said("status", "--state", str(run))
    node = found["nodes"][0]
    for value, problem in (
        (found | {"more": 1}, "more is not written down"),
        ({key: one for key, one in found.items() if key != "nodes"}, "nodes is missing"),
        (found | {"nodes": {}}, "nodes is {}"),
        (found | {"nodes": [node | {"asked": "once"}]}, "nodes[]: asked is 'once'"),
        (found | {"nodes": [node | {"asked": True}]}, "nodes[]: asked is True"),
        (found | {"counters": {"drops": None}}, "counters.* is None"),
    ):
        assert any(one.startswith(problem) for one in problems(value, table)), problem
