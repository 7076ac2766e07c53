"""The page's answers: what they hold, who gets them, and what a stranger's text does to them."""

import asyncio
import gzip
import io
import json
import resource
import socket
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from starlette.types import ASGIApp

from coordinator.artifacts.plots.run import load_run
from coordinator.engine.events import NodeStateReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation import RELEASE
from federation.errors import ConfigError
from federation.protocol.messages import NodeState, Presence
from federation.types import Incarnation, ModelVersion, NodeId
from fedmq.page.access import Access
from fedmq.page.cli import _tell, serve
from fedmq.page.metrics import exposition
from fedmq.page.server import STATIC, make_server
from fedmq.run_view import FoundCertificates, RunView, encoded
from tests.rigs.model_values import arrived, committer, initialised, update

TOKEN = "right"  # noqa: S105 - no secret
"""What visitors must bring."""

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """Two versions of two nodes, the second of which was evaluated."""
    made = SqliteStore(tmp_path / "state")
    initialised(made)
    commits = committer(made)
    for version, nodes in ((1, "ab"), (2, "a")):
        sent = [arrived(node, update(float(version)), round_id=version - 1) for node in nodes]
        for one in sent:
            made.save_update(one.record, one.payload)
        commits.commit([one.member for one in sent], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    made.save_evaluation(ModelVersion(2), {"accuracy": 0.75, "loss": float("inf"), EVIL: 1.0})
    yield made
    made.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(
    folder: Path, path: str, *, token: str = "", local: bool = False, app: ASGIApp | None = None, **headers: str
) -> Reply:
    """Ask the application as its server does."""
    where, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": where,
        "raw_path": where.encode(),
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "scheme": "http",
        "server": ("127.0.0.1", 8790),
        "http_version": "1.1",
    }
    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        asked = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not asked:
                await asyncio.Event().wait()
            return asked.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        await (app or make_server(folder, Access(token=token, local=local)))(scope, receive, send)

    asyncio.run(ask())
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(
        status=sent[0]["status"], headers=told, body=b"".join(message.get("body", b"") for message in sent[1:])
    )


def test_the_summary_says_what_the_run_came_to(store: SqliteStore, tmp_path: Path) -> None:
    found = get(tmp_path / "state", "/api/v1/status").json
    assert (found["head"], found["nodes"], found["updates"]) == (2, 2, 3)
    assert (found["bytes_up"], found["bytes_down"]) == (200, 80)
    assert found["run"] == store.run
    assert found["waiting"]["running"] is False


@pytest.mark.usefixtures("store")
def test_the_versions_are_those_of_the_report(tmp_path: Path) -> None:
    found = get(tmp_path / "state", "/api/v1/versions").json["versions"]
    assert [one["version"] for one in found] == [0, 1, 2]
    assert [one["accepted"] for one in found] == [0, 2, 1]
    assert found[2]["metrics"]["accuracy"] == 0.75
    assert found[2]["metrics"]["loss"] is None, "no JSON has infinity"
    after = get(tmp_path / "state", "/api/v1/versions?after=1").json["versions"]
    assert after == found[2:]
    assert len(load_run(tmp_path / "state").versions) == 3


@pytest.mark.usefixtures("store")
def test_nodes_are_found_sorted_and_cut(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    both = get(folder, "/api/v1/nodes?sort=-updates_applied").json
    assert (both["total"], [node["id"] for node in both["nodes"]]) == (2, ["a", "b"])
    assert get(folder, "/api/v1/nodes?query=B").json["nodes"][0]["id"] == "b"
    assert get(folder, "/api/v1/nodes?offset=1&limit=1").json["nodes"][0]["id"] == "b"
    refused = get(folder, "/api/v1/nodes?sort=reasons")
    assert (refused.status, refused.json["error"]) == (
        400,
        "sort: nodes have no 'reasons' to sort by (from the request)",
    )
    assert get(folder, "/api/v1/nodes?offset=x").status == 400


@pytest.mark.usefixtures("store")
def test_prometheus_gets_its_own_format_with_bounded_labels(tmp_path: Path) -> None:
    text = get(tmp_path / "state", "/metrics").body.decode()
    assert "fedmq_model_version 2.0\n" in text
    assert 'fedmq_updates_total{status="applied"} 3.0\n' in text
    assert 'fedmq_evaluation{metric="accuracy"} 0.75\n' in text
    assert 'node="' not in text


def test_no_node_makes_a_series_of_its_own_by_the_release_that_it_tells(store: SqliteStore, tmp_path: Path) -> None:
    file = PresenceFile(tmp_path / "state", store.run)
    for name, release in (("a", RELEASE), ("b", "0.0.1"), ("c", EVIL), ("d", None)):
        told = NodeState(
            presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1, release=release
        )
        file.see(NodeStateReceived(node=NodeId(name), state=told))
    file.write(lambda: 1)
    seen = RunView(tmp_path / "state").now()
    assert seen.summary["notes"][-1].startswith("nodes run different releases: ")
    running = replace(seen, summary={**seen.summary, "waiting": {**seen.summary["waiting"], "connected": True}})
    counts = {"same": 1.0, "other": 2.0, "not_told": 1.0}
    for snapshot, factor in ((running, 1), (seen, 0)):
        lines = [one for one in exposition(snapshot).decode().splitlines() if one.startswith("fedmq_nodes_by_release")]
        assert lines == [
            f'fedmq_nodes_by_release{{release="{kind}"}} {factor * count}' for kind, count in counts.items()
        ]


@pytest.mark.usefixtures("store")
def test_the_first_certificate_that_ends_is_told_and_why_it_is_not_known(tmp_path: Path) -> None:
    known = FoundCertificates(ends={"b": "2027-01-02T00:00:00+00:00", "a": "2027-01-01T00:00:00+00:00"}, unknown="lost")
    seen = RunView(tmp_path / "state", lambda: known).now()
    assert "fedmq_certificate_end_timestamp_seconds 1.7987616e+09\n" in exposition(seen).decode()
    assert seen.summary["notes"][0] == "nobody can tell when certificates end: lost"
    assert "fedmq_certificate_end_timestamp_seconds 1" not in exposition(RunView(tmp_path / "state").now()).decode()


@pytest.mark.usefixtures("store")
def test_a_model_can_be_taken_away(tmp_path: Path) -> None:
    found = get(tmp_path / "state", "/download/model.safetensors?version=newest")
    assert found.headers["content-disposition"] == 'attachment; filename="model-2.safetensors"'
    assert safetensors.numpy.load(found.body)
    assert get(tmp_path / "state", "/download/model.safetensors?version=9").status == 400


@pytest.mark.usefixtures("store")
def test_every_answer_forbids_scripts_of_others(tmp_path: Path) -> None:
    for path in ("/", "/api/v1/status", "/static/page.js", "/nothing", "/metrics"):
        policy = get(tmp_path / "state", path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    page = (get(tmp_path / "state", "/").body + get(tmp_path / "state", "/static/page.js").body).decode()
    assert not any(word in page for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("))
    assert "<script>" not in page
    assert 'style="' not in page


def test_all_that_a_first_visit_loads_is_small(tmp_path: Path) -> None:
    sizes = [
        len(gzip.compress(get(tmp_path, "/" if name == "index.html" else f"/static/{name}").body)) for name in STATIC
    ]
    assert sum(sizes) < 40_000


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/metrics", "/download/model.safetensors", "/static/page.js"])
def test_without_the_token_nothing_is_told(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert get(folder, path, token=TOKEN).status == 401
    assert get(folder, path, token=TOKEN, authorization="Bearer wrong").status == 401
    assert get(folder, path, token=TOKEN, authorization="Bearer right").status == 200
    assert get(folder, path, token=TOKEN, cookie="fedmq_page=right").status == 200
    assert get(folder, "/healthz", token=TOKEN).json == {"ok": True}


@pytest.mark.usefixtures("store")
def test_a_name_that_a_page_of_elsewhere_gave_our_address_is_told_nothing(tmp_path: Path) -> None:
    """A browser lets a page read what has the page's own name, whatever address the name has by now."""
    for name, status in (("127.0.0.1:8790", 200), ("localhost", 200), ("[::1]:8790", 200), ("evil.example:8790", 401)):
        assert get(tmp_path / "state", "/api/v1/status", local=True, host=name).status == status
    assert get(tmp_path / "state", "/api/v1/status", host="plant.example").status == 200


@pytest.mark.usefixtures("store")
def test_a_link_with_the_token_leaves_it_in_a_cookie(tmp_path: Path) -> None:
    moved = get(tmp_path / "state", "/?token=right", token=TOKEN)
    assert (moved.status, moved.headers["location"]) == (303, "/")
    assert "fedmq_page=right; HttpOnly" in moved.headers["set-cookie"]
    wrong = get(tmp_path / "state", "/?token=wrong", token=TOKEN)
    assert "set-cookie" not in wrong.headers


def test_a_folder_without_a_run_is_a_reason_and_not_an_end(tmp_path: Path) -> None:
    found = get(tmp_path, "/api/v1/status")
    assert found.status == 503
    assert "cannot be read" in found.json["error"]


def test_the_folder_is_read_again_only_where_something_has_changed(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = RunView(tmp_path / "state")
    first = view.now()
    assert view.now() is first, "a moment ago is recent enough"
    monkeypatch.setattr(view, "_next_s", 0.0)
    assert view.now().versions is first.versions, "no file has changed"
    store.save_evaluation(ModelVersion(2), {"accuracy": 0.8})
    monkeypatch.setattr(view, "_next_s", 0.0)
    again = view.now()
    assert again.summary["rows"] > first.summary["rows"]
    assert again.versions[2]["metrics"]["accuracy"] == 0.8


@pytest.mark.usefixtures("store")
def test_whoever_has_the_newest_is_not_sent_it_again(tmp_path: Path) -> None:
    app = make_server(tmp_path / "state", Access())
    for path in ("/api/v1/versions?after=-1", "/api/v1/nodes", "/static/page.js", "/"):
        first = get(tmp_path / "state", path, app=app)
        assert first.headers["cache-control"] == "private, no-cache"
        again = get(tmp_path / "state", path, app=app, if_none_match=first.headers["etag"])
        assert (again.status, again.body) == (304, b"")
    assert get(tmp_path / "state", "/healthz").headers["cache-control"] == "no-store"


def test_nodes_say_whether_they_are_there(store: SqliteStore, tmp_path: Path) -> None:
    file = PresenceFile(tmp_path / "state", store.run, lambda: 5.0)
    for name, presence in (("a", Presence.ONLINE), ("b", Presence.ONLINE), ("b", Presence.LOST)):
        told = NodeState(
            presence=presence,
            incarnation=Incarnation(1),
            protocol_min=1,
            protocol_max=1,
            device="cpu",
            release="9.8.7" if name == "b" and presence is Presence.ONLINE else None,
        )
        file.see(NodeStateReceived(node=NodeId(name), state=told))
    file.write(lambda: 1)
    found = get(tmp_path / "state", "/api/v1/nodes?sort=state").json["nodes"]
    assert {one["back_ms"] for one in found} == {None}
    assert [(one["id"], one["state"], one["seen_ms"], one["device"], one["release"]) for one in found] == [
        ("b", None, 5000, "cpu", "9.8.7"),
        ("a", None, 5000, "cpu", ""),
    ], "while no coordinator runs nobody knows who is there"
    (news,) = get(tmp_path / "state", "/api/v1/news").json["news"]
    assert news == {"at_ms": 5000, "version": 1, "node": "b", "what": "lost"}


@pytest.mark.usefixtures("store")
def test_the_plots_are_taken_away_in_one_file(tmp_path: Path) -> None:
    found = get(tmp_path / "state", "/download/plots.zip")
    with zipfile.ZipFile(io.BytesIO(found.body)) as packed:
        assert {"learning.png", "learning.svg"} <= set(packed.namelist())


def test_what_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    found = get(tmp_path, "/download/report.html")
    assert (found.status, "cannot be read" in found.json["error"]) == (503, True)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("begun", [False, True])
def test_a_full_disk_under_what_is_made_for_a_visitor_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    """It was `Internal Server Error`, with a traceback in the log."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path) if begun else None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        found = get(tmp_path / "state", "/download/report.html")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.status == 503
    assert "make room" in found.json["error"]


def test_no_number_breaks_the_json() -> None:
    assert encoded({"a": [float("nan"), -float("inf"), 1.5, "ü", None, True]}) == (
        b'{"a":[null,null,1.5,"\\u00fc",null,true]}'
    )


def test_what_cannot_be_served_is_told_before_anything_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the state folder"):
        serve()
    with pytest.raises(ConfigError, match="goes with --key"):
        serve(state=tmp_path, certificate=tmp_path)
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        serve(state=tmp_path, token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match=r"--host: 203\.0\.113\.1 is no address of this machine"):
        serve(state=tmp_path, host="203.0.113.1", port=1)
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ConfigError, match="choose another --port"):
        serve(state=tmp_path, port=taken.getsockname()[1])
    # It was a traceback, after the page's address.
    with pytest.raises(ConfigError, match="are no certificate chain and its key in PEM, without a password"):
        serve(state=tmp_path, certificate=tmp_path / "token", key=tmp_path / "token")


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "https://server-7:"), ("::", "https://server-7:"), ("::1", "https://[::1]:")]
)
def test_the_address_that_is_told_can_be_opened(
    host: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://0.0.0.0:8790/ leads nowhere from another machine."""
    monkeypatch.setattr(socket, "gethostname", lambda: "server-7")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        _tell(listening, host, "", secure=True)
    assert shown in capsys.readouterr().out
