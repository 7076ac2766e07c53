"""`make bench-page`: what the page costs, small and with 10,000 nodes and 10,000 versions, and what it costs others.

The large run is written into a store of today's layout; the page is the process that people start.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.browser import CHROMIUM, browser
from benchmarks.chaos.plan import Plan, coordinator_arguments, node_arguments, node_environment, write_settings
from benchmarks.table import Figure, show
from coordinator.engine.events import NodeStateReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.storage.database import DATABASE
from federation.protocol.messages import NodeState, Presence
from federation.runtime.local_broker import LocalBroker
from federation.types import Incarnation, NodeId

FIRST_LOAD: Final = (
    "/",
    "/static/page.css",
    "/static/uPlot.min.css",
    "/static/uPlot.iife.min.js",
    "/static/charts.js",
    "/static/page.js",
    "/api/v1/status",
    "/api/v1/versions?after=-1",
    "/api/v1/news",
    "/api/v1/nodes?sort=id&query=&offset=0&limit=50",
)
"""What a browser asks for before the first curve."""

REFRESH: Final = FIRST_LOAD[-1]
UPDATES_A_VERSION = 10
CLIENTS = 20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A page that runs.

    Attributes:
        url: Where, without a slash at the end.
        pid: Its process.
    """

    url: str
    pid: int

    def get(self, path: str) -> bytes:
        """One answer as it travels: compressed where the page does that."""
        request = urllib.request.Request(self.url + path, headers={"accept-encoding": "gzip"})  # noqa: S310 - our own
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - as above
            body: bytes = answer.read()
        return body

    @contextlib.contextmanager
    def told(self) -> Iterator[Iterator[int]]:
        """The newest version, each time that the page tells of a change."""
        with urllib.request.urlopen(f"{self.url}/api/v1/events", timeout=120) as stream:  # noqa: S310 - our own
            yield (int(json.loads(line[6:])["head"]) for line in stream if line.startswith(b"data: "))

    def cpu_s(self) -> float:
        """Processor time so far, in seconds."""
        return cpu_s(self.pid)

    def rss_mb(self) -> float:
        """Resident memory in 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found.group(1)) * 1024 / 1e6 if found else 0.0


def cpu_s(pid: int) -> float:
    """Processor time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def served(state: Path) -> Iterator[Served]:
    """`coordinator serve` on a state folder."""
    command = [sys.executable, "-m", "coordinator", "serve", "--state", str(state), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        said = "" if process.stdout is None else process.stdout.readline()
        found = re.search(r"http://\S+?(?=/ )", said)
        if found is None:
            raise RuntimeError(f"the page did not say where it is: {said!r}")
        page = Served(url=found.group(), pid=process.pid)
        page.get("/healthz")
        yield page
    finally:
        process.terminate()
        process.wait()


def large_run(folder: Path, nodes: int, versions: int, updates_a_version: int = UPDATES_A_VERSION) -> None:
    """A store with so many nodes and versions: a real one of a few versions, its rows repeated."""
    each = min(updates_a_version, nodes)  # a node has one update of a round
    with LocalBroker() as broker:
        plan = Plan(nodes=2, task="quadratic", spread_s=0.0)
        settings = write_settings(plan, folder, broker.url)
        text = settings.read_text()
        settings.write_text(text.replace("[round]\n", "[round]\nversions = 2\nexit_when_finished = true\n"))
        run_to_its_end(folder, broker.url, plan)
    database = sqlite3.connect(folder / "coordinator" / DATABASE)
    with contextlib.closing(database), database:
        _repeat(database, "versions", "version", 2, versions, {"wall_s": "0.5"})
        names = ", ".join(
            column
            for column in _columns(database, "updates")
            if column not in {"seq", "update_id", "node", "round", "version", "judged_at"}
        )
        database.execute(
            f"INSERT INTO updates (update_id, node, round, version, judged_at, {names})"  # noqa: S608 - our own names
            " WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :updates)"
            " SELECT printf('%d-node-%05d', 3 + n.i / :each, (n.i * 7919) % :nodes),"
            " printf('node-%05d', (n.i * 7919) % :nodes), 3 + n.i / :each, 3 + n.i / :each, 2 + n.i / :each,"
            f" {names} FROM n, (SELECT * FROM updates WHERE status = 'applied' LIMIT 1)",
            {"updates": versions * each - 1, "nodes": nodes, "each": each},
        )
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT OR IGNORE INTO attendance (node, incarnation, asked) SELECT printf('node-%05d', i), 1, 5 FROM n",
            (nodes - 1,),
        )
        metrics = json.dumps({"accuracy": 0.5, "loss": 1.0})
        database.execute("INSERT OR REPLACE INTO evaluations SELECT version, ? FROM versions", (metrics,))
        run = database.execute("SELECT value FROM meta WHERE key = 'run'").fetchone()[0]
    _presence(folder / "coordinator", run if isinstance(run, str) else bytes(run).decode(), nodes)


def _presence(state: Path, run: str, nodes: int) -> None:
    """Each of the nodes is there, and half of them were lost and came back."""
    file = PresenceFile(state, run)
    for presence in (Presence.ONLINE, Presence.LOST, Presence.ONLINE):
        for number in range(nodes if presence is Presence.ONLINE else nodes // 2):
            told = NodeState(presence=presence, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
            file.see(NodeStateReceived(node=NodeId(f"node-{number:05d}"), state=told))
    file.write(lambda: 1)


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute("SELECT * FROM pragma_table_info(?)", (table,))]


def _repeat(database: sqlite3.Connection, table: str, key: str, row: int, until: int, values: dict[str, str]) -> None:
    names = [column for column in _columns(database, table) if column != key]
    shown = ", ".join(values.get(name, name) for name in names)
    database.execute(
        f"INSERT INTO {table} ({key}, {', '.join(names)})"  # noqa: S608 - our own names
        " WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        f" SELECT n.i, {shown} FROM n, (SELECT * FROM {table} WHERE {key} = ?)",
        (row + 1, until, row),
    )


def run_to_its_end(folder: Path, url: str, plan: Plan) -> None:
    """A federation of real processes, until its coordinator ends."""
    with processes(folder, url, plan) as coordinator:
        coordinator.wait(timeout=120)


@contextlib.contextmanager
def processes(folder: Path, url: str, plan: Plan) -> Iterator["subprocess.Popen[bytes]"]:
    """A coordinator and its nodes; all of them end with this."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([sys.executable, "-m", "coordinator", *coordinator_arguments(folder)], **quiet)]  # type: ignore[call-overload]
    for name in plan.names:
        words = [sys.executable, "-m", "edge_node", *node_arguments(plan, folder, url, name)]
        started.append(subprocess.Popen(words, env=os.environ | node_environment(plan), **quiet))  # type: ignore[call-overload]
    try:
        yield started[0]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)


def touched(state: Path) -> None:
    """One version more, as a coordinator would commit it."""
    database = sqlite3.connect(state / DATABASE)
    with contextlib.closing(database), database:
        head = database.execute("SELECT MAX(version) FROM versions").fetchone()[0]
        _repeat(database, "versions", "version", head, head + 1, {})
        names = ", ".join(one for one in _columns(database, "updates") if one not in {"seq", "update_id", "version"})
        database.execute(
            f"INSERT INTO updates (update_id, version, {names}) SELECT update_id || '+', version + 1, {names}"  # noqa: S608
            " FROM updates WHERE version = ?",
            (head,),
        )


def first_load(page: Served) -> tuple[int, float]:
    """Bytes and seconds until a browser has all that it shows."""
    began_s = time.monotonic()
    size = sum(len(page.get(path)) for path in FIRST_LOAD)
    return size, time.monotonic() - began_s


def refresh_cpu_s(page: Served, state: Path, times: int) -> list[float]:
    """Processor time of the page for each new version, with one visitor, who is told of it and asks for what is new."""
    spent = []
    with page.told() as heads:
        head = next(heads)
        for _ in range(times):
            before_s = page.cpu_s()
            touched(state)
            while (told := next(heads)) == head:
                pass
            for path in (REFRESH, f"/api/v1/versions?after={head}", "/api/v1/news"):
                page.get(path)
            head = told
            spent.append(page.cpu_s() - before_s)
    return spent


def hammered(folder: Path, window_s: float, rounds: int) -> tuple[list[float], list[float]]:
    """A coordinator's processor time for a version while 20 clients are on its page, a round each.

    Returns:
        It over that without clients, and over that while they are on the page of a copy of its folder.
    """
    over_none: list[float] = []
    over_elsewhere: list[float] = []
    with LocalBroker() as broker:
        plan = Plan(nodes=4, task="quadratic", spread_s=0.02)
        write_settings(plan, folder, broker.url)
        state = folder / "coordinator"
        with processes(folder, broker.url, plan) as coordinator:
            while not (state / "status.json").exists():
                time.sleep(0.1)
            time.sleep(3)
            _copied(state, folder / "elsewhere")
            with served(state) as page, served(folder / "elsewhere") as elsewhere:
                for _ in range(rounds):
                    alone_s = _each_version_s(coordinator.pid, state, window_s)
                    with clients(page):
                        here_s = _each_version_s(coordinator.pid, state, window_s)
                    with clients(elsewhere):
                        there_s = _each_version_s(coordinator.pid, state, window_s)
                    over_none.append(here_s / alone_s)
                    over_elsewhere.append(here_s / there_s)
    return over_none, over_elsewhere


def _copied(state: Path, folder: Path) -> None:
    """What a page reads of a run that goes on."""
    folder.mkdir()
    for file in state.glob("*.json"):
        shutil.copy(file, folder)
    source, target = (sqlite3.connect(place / DATABASE) for place in (state, folder))
    with contextlib.closing(source), contextlib.closing(target):
        source.backup(target)


def _each_version_s(pid: int, state: Path, window_s: float) -> float:
    before_s, before = cpu_s(pid), _head(state)
    time.sleep(window_s)
    return (cpu_s(pid) - before_s) / max(1, _head(state) - before)


def _head(state: Path) -> int:
    database = sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)
    with contextlib.closing(database):
        return int(database.execute("SELECT MAX(version) FROM versions").fetchone()[0])


@contextlib.contextmanager
def clients(page: Served) -> Iterator[None]:
    """Clients that ask as fast as they are answered."""
    stopped = threading.Event()

    def hammer() -> None:
        while not stopped.is_set():
            for path in FIRST_LOAD[5:]:
                page.get(path)

    threads = [threading.Thread(target=hammer) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def painted(page: Served) -> tuple[float, float] | None:
    """First paint and first curve in headless Chromium, in seconds since the page was asked for; None without one."""
    if CHROMIUM is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browser(Path(profile)) as tab:
        tab.screen(1280, 900)
        # The first time it reads the browser itself from the disk.
        for _ in range(2):
            tab.open(page.url + "/")
        paint = tab.value("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        curve = tab.value("performance.getEntriesByName('fedmq-curve')[0].startTime")
    return paint / 1000, curve / 1000


def painted_figures(page: Served, of: str) -> list[Figure]:
    """The same, as figures."""
    found = painted(page)
    if found is None:
        return []
    return [
        Figure(what=f"first paint in Chromium, {of}", measured=found[0], bar=2.0, unit="s", note="contentful"),
        Figure(what=f"first curve in Chromium, {of}", measured=found[1], bar=1.0, unit="s", note="all three are drawn"),
    ]


def small_figures(folder: Path) -> list[Figure]:
    """What a run of a few nodes costs."""
    large_run(folder, 2, 60)
    with served(folder / "coordinator") as page:
        size, _ = first_load(page)
        memory, shown = page.rss_mb(), painted_figures(page, "60 versions")
    return [
        *shown,
        Figure(what="first load, 60 versions", measured=size / 1000, bar=150, unit="kB", note="as it travels"),
        Figure(what="memory of the process, 60 versions", measured=memory, bar=80, unit="MB", note="its peak"),
    ]


def large_figures(folder: Path, nodes: int, versions: int) -> list[Figure]:
    """What a large one costs."""
    large_run(folder, nodes, versions)
    state = folder / "coordinator"
    with served(state) as page:
        size, seconds = first_load(page)
        loading_s = page.cpu_s()
        spent = refresh_cpu_s(page, state, 5)
        of = f"{nodes:,} nodes, {versions:,} versions"
        shown, memory = painted_figures(page, of), page.rss_mb()
    parts = ", ".join(f"{1000 * one:.0f}" for one in spent)
    paint, load = (
        "first paint, server's part",
        f"{seconds:.2f} s passed; its start and all answers until the first curve",
    )
    refresh, median = f"one version more; {parts}", 1000 * statistics.median(spent)
    return [
        Figure(what=f"{paint}, {of}", measured=loading_s, bar=2.0, unit="s CPU", note=load),
        *shown,
        Figure(what=f"first load, {of}", measured=size / 1000, bar=None, unit="kB", note="as it travels"),
        Figure(what=f"refresh, {of}", measured=median, bar=100, unit="ms CPU", note=refresh),
        Figure(what=f"memory of the process, {of}", measured=memory, bar=80, unit="MB", note="its peak"),
    ]


def main() -> None:
    """Measure, print, and fail where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of windows with and without clients")
    parser.add_argument("--window", type=float, default=8.0, help="length of a window in seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        figures = small_figures(folder)
        shutil.rmtree(folder / "coordinator")
        figures += large_figures(folder, options.nodes, options.versions)
        shutil.rmtree(folder / "coordinator")
        over_none, over_elsewhere = hammered(folder, options.window, options.pairs)
    for ratios, than in ((over_none, "none"), (over_elsewhere, f"{CLIENTS} on another run's page")):
        what = f"coordinator's CPU a version, {CLIENTS} clients on the page / {than}"
        note = f"median of {len(ratios)} pairs, {min(ratios):.3f} to {max(ratios):.3f}"
        figures += [Figure(what=what, measured=statistics.median(ratios), bar=1.03, note=note)]
    skipped = {} if CHROMIUM else {"first paint and first curve": "Chromium is not installed: apt-get install chromium"}
    sys.exit(0 if show("The page", figures, as_json=options.json, skipped=skipped) else 1)


if __name__ == "__main__":
    main()
