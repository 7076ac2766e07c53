"""``fedmq.load`` of a URL: reports and pages, and every way in which an answer can be wrong."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

import fedmq
from coordinator.artifacts.plots.run import load_run
from coordinator.monitoring.report import build_report
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.types import ModelVersion
from fedmq.api import remote
from fedmq.page import server as page_server
from fedmq.page.access import Access
from fedmq.page.server import make_server
from tests.rigs.model_values import arrived, committer, initialised, update

Answer = Callable[[BaseHTTPRequestHandler], None]
TOKEN = "right"  # noqa: S105 - no secret


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """Two versions of two nodes; the second was evaluated."""
    made = SqliteStore(tmp_path / "state")
    initialised(made)
    commits = committer(made)
    for version, nodes in ((1, "ab"), (2, "a")):
        sent = [arrived(node, update(float(version)), round_id=version - 1) for node in nodes]
        for one in sent:
            made.save_update(one.record, one.payload)
        commits.commit([one.member for one in sent], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    made.save_evaluation(ModelVersion(2), {"accuracy": 0.75, "loss": 0.5})
    yield made
    made.close()


class Site:
    """A server on a free port of this machine whose answers a test writes."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                site.asked.append((path, self.headers.get("Authorization")))
                site.answers[path](self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def gives(body: bytes, *, status: int = 200, said: int | None = None, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if said is None else said))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def report_of(store: SqliteStore) -> bytes:
    return json.dumps(build_report(store, strategy="fedavg", codec="lossless")).encode()


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def test_a_report_at_a_url_is_the_run(store: SqliteStore, site: Site) -> None:
    body = report_of(store)
    site.answers["/plant/report.json"] = gives(body)
    for digest in (None, digest_of(body), digest_of(body).upper().replace("SHA256", "sha256")):
        run = fedmq.load(f"{site.url}/plant/report.json", digest=digest)
        assert isinstance(run, fedmq.StoredRun)
        assert run.rows.name == "plant/report"
        assert [one.version for one in run.versions] == [1, 2]
        assert run.versions[-1].metrics == {"accuracy": 0.75, "loss": 0.5}
    with pytest.raises(fedmq.ConfigError, match="a report holds no model"):
        _ = run.parameters


def test_another_content_than_its_digest_says_is_refused(store: SqliteStore, site: Site) -> None:
    site.answers["/report.json"] = gives(report_of(store))
    with pytest.raises(fedmq.StorageError, match="has another content: sha256:"):
        fedmq.load(f"{site.url}/report.json", digest=digest_of(b"other"))
    for wrong in ("md5:00", "sha256:12", "sha256:" + "x" * 64):
        with pytest.raises(fedmq.ConfigError, match="must be sha256: and 64 digits"):
            fedmq.load(f"{site.url}/report.json", digest=wrong)


def served(folder: Path, access: Access) -> Iterator[str]:
    """The page itself, as `coordinator serve` has it."""
    server = uvicorn.Server(uvicorn.Config(make_server(folder, access), port=0, log_level="error", lifespan="off"))
    sockets = [server.config.bind_socket()]
    sockets[0].listen()  # whoever asks before the server accepts waits, and is not refused
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets})
    thread.start()
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@pytest.mark.filterwarnings("ignore")
def test_a_page_is_the_run_with_its_models(store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "VERSIONS_MAX", 1)
    monkeypatch.setattr(remote, "NODES_AT_ONCE", 1)
    there = load_run(tmp_path / "state")
    for url in served(tmp_path / "state", Access(token=TOKEN)):
        shown = fedmq.load(url, token=TOKEN)
        assert isinstance(shown, fedmq.StoredRun)
        for run in (fedmq.load(f"{url}/?token={TOKEN}"), shown):
            assert isinstance(run, fedmq.StoredRun)
            assert run.versions == there.versions
            assert list(run.rows.nodes) == list(there.nodes)
            assert run.rows.name == url.removeprefix("http://")
            local = fedmq.load(tmp_path / "state")
            assert isinstance(local, fedmq.StoredRun)
            for version in ("newest", "1"):
                found, wanted = run.parameters_of(version), local.parameters_of(version)
                assert found.keys() == wanted.keys()
                assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        with pytest.raises(fedmq.StorageError, match=r"answers 400 .*7 is not kept"):
            shown.parameters_of("7")
        with pytest.raises(fedmq.StorageError, match="answers 401"):
            fedmq.load(f"{url}/")
        with pytest.raises(fedmq.ConfigError, match="a page changes"):
            fedmq.load(f"{url}/", token=TOKEN, digest=digest_of(b""))


def drips(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, in the middle of the headers."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(40):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def drips_a_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.mark.parametrize("answer", [drips, drips_a_body])
def test_an_answer_has_a_time_for_the_whole_of_it(answer: Answer, site: Site) -> None:
    site.answers["/report.json"] = answer
    with pytest.raises(fedmq.StorageError, match=r"did not answer within 0\.5 s"):
        fedmq.load(f"{site.url}/report.json", timeout_s=0.5)
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(fedmq.ConfigError, match="must be above 0"):
            fedmq.load(f"{site.url}/report.json", timeout_s=wrong)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (gives(b"x" * 2000), "is 2000 bytes long; at most 1000 are taken"),
        (
            lambda handler: (handler.send_response(200), handler.end_headers(), handler.wfile.write(b"x" * 2000)),
            "longer",
        ),
        (gives(b"{}", said=500), "broke off after 2 of 500 bytes"),
        (gives(b"<html>"), "what came is no JSON"),
        (gives(b"gone", status=404), "answers 404 Not Found"),
        (gives(b"", status=401), "answers 401 .*give token="),
        (gives(b'{"error": "no such version"}', status=400), "answers 400 .*no such version"),
        (gives(b"", status=302, Location="file:///etc/passwd"), "file:///etc/passwd. is not allowed"),
        (gives(b"", status=302, Location="ftp://example.invalid/a"), "leads to ftp://, which is not followed"),
        (gives(b"", status=302, Location="/report.json"), "cannot be read|answers 302"),
        (lambda handler: handler.wfile.write(b"no http at all\r\n\r\n"), "cannot be read"),
    ],
)
def test_a_wrong_answer_is_refused_with_the_reason(
    answer: Any, words: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ANSWER_BYTES_MAX", 1000)
    site.answers["/report.json"] = answer
    with pytest.raises(fedmq.StorageError, match=words):
        fedmq.load(f"{site.url}/report.json")


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"rounds": [{}]}', b'{"rounds": [{"version": 1}]}'])
def test_json_of_something_else_is_no_report(body: bytes, site: Site) -> None:
    site.answers["/report.json"] = gives(body)
    with pytest.raises(fedmq.ConfigError, match="is no report of a run"):
        fedmq.load(f"{site.url}/report.json")


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"versions": 1}', b'{"versions": [1]}', b'{"versions": [{}]}'])
def test_another_site_is_no_page(body: bytes, site: Site) -> None:
    site.answers["/api/v1/versions"] = gives(body)
    with pytest.raises(fedmq.StorageError, match="is no page of a coordinator"):
        fedmq.load(site.url)


def test_a_page_without_an_end_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAGES_MAX", 3)
    site.answers["/api/v1/versions"] = gives(b'{"versions": [{"version": 1}]}')
    with pytest.raises(fedmq.StorageError, match="comes to no end of versions"):
        fedmq.load(site.url)
    assert [path.partition("?")[0] for path, _ in site.asked] == ["/api/v1/versions"] * 3


def test_a_token_goes_to_no_other_place(store: SqliteStore, site: Site) -> None:
    other = Site()
    try:
        other.answers["/report.json"] = gives(report_of(store))
        site.answers["/report.json"] = gives(b"", status=302, Location=f"{other.url}/report.json")
        fedmq.load(f"{site.url}/report.json", token=TOKEN)
        assert site.asked == [("/report.json", f"Bearer {TOKEN}")]
        assert other.asked == [("/report.json", None)]
    finally:
        other.close()


def test_nobody_there_is_said(site: Site) -> None:
    site.close()
    with pytest.raises(fedmq.StorageError, match=r"cannot be read: .*refused"):
        fedmq.load(f"{site.url}/report.json")


def test_what_only_urls_take_is_refused_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(fedmq.ConfigError, match="are for http:// and https://"):
        fedmq.load(tmp_path, token=TOKEN)
    with pytest.raises(fedmq.ConfigError, match="cannot be read"):
        fedmq.load("https://127.0.0.1:1/report.json", certificate=tmp_path / "missing.pem")
