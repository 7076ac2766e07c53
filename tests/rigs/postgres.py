"""A PostgreSQL of a test's own: on a socket in a temporary folder, with a database for each that asks."""

import contextlib
import os
import pwd
import queue
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from coordinator.config.sections import StoreSection
from coordinator.runtime.leading import open_store
from coordinator.storage.sqlite_store import SqlStore

_FOLDERS = (
    "/usr/lib/postgresql/*/bin/initdb",
    "/usr/local/pgsql/bin/initdb",
    "/opt/homebrew/opt/postgresql*/bin/initdb",
)
_USER = "fedmq"
_FAST = ("fsync=off", "max_connections=60", "shared_buffers=16MB", "autovacuum=off", "listen_addresses=")
_NAMES = count(1)
_GUARDED = """
exec 3<&0
(log=$0; "$@" >"$log" 2>&1 3<&- & p=$!; cat <&3 >/dev/null; kill -INT $p 2>/dev/null; wait $p) >/dev/null 2>&1 &
"""


@cache
def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; None where there is none."""
    found = [path for pattern in _FOLDERS for path in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)]
    found += [Path(one).resolve() for one in [shutil.which("initdb")] if one is not None]
    return next((path.parent for path in found if (path.parent / "postgres").exists()), None)


def why_not() -> str:
    """Why there can be no server here; empty where there can."""
    try:
        import psycopg
    except ImportError:
        return "psycopg is not installed: make setup"
    del psycopg
    if programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.getuid() == 0 and _owner() is None:
        return "PostgreSQL refuses root, and there is no user postgres"
    return ""


def _owner() -> pwd.struct_passwd | None:
    """Who runs the server where we are root."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return None


class PostgresServer:
    """One server; what it has is gone with it.

    Args:
        durable: Whether it waits for the disk, so that it may be killed.
    """

    def __init__(self, *, durable: bool = False) -> None:
        bins = programs()
        assert bins is not None
        self._bins = bins
        self._owner = _owner() if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="fedmq-pg-"))
        if self._owner is not None:
            os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
        self._settings = [one for one in _FAST if not (durable and one == "fsync=off")]
        self._guard: int | None = None
        try:
            self._run("initdb", "-D", self.data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
            self.start()
        except BaseException:
            self.stop()
            raise

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The url of an empty database."""
        name = f"run{next(_NAMES)}"
        self.script("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def script(self, database: str, statement: str) -> list[tuple[object, ...]]:
        import psycopg

        with contextlib.closing(psycopg.connect(self.url(database), autocommit=True)) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        settings = [word for one in self._settings for word in ("-c", one)]
        command = [str(self._bins / "postgres"), "-D", self.data, "-k", str(self.folder), *settings]
        self._guard, ours = os.pipe()[::-1]
        # No child of ours. It goes when we do, however that is: then its guard reads the end of a pipe.
        subprocess.run(
            ["/bin/sh", "-c", _GUARDED, str(self.folder / "log"), *command], stdin=ours, check=True, **self._as_owner()
        )
        os.close(ours)
        self._await()

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """End it as a power cut does: all its processes at once, and nothing is written any more."""
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")
        self._let_go()

    def stop(self) -> None:
        """End it at once, and remove all that it has: a checkpoint of hundreds of databases takes seconds."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")
        self._let_go()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _let_go(self) -> None:
        if self._guard is not None:
            os.close(self._guard)
        self._guard = None

    def _await(self) -> None:
        """Wait until it answers: the program that does so asks it, up to its own limit."""
        url = ["-h", str(self.folder), "-U", _USER]
        for _ in range(600):
            if subprocess.run([str(self._bins / "pg_isready"), *url, "-t", "1", "-q"], check=False).returncode == 0:
                return
            time.sleep(0.05)
        pytest.fail((self.folder / "log").read_text())

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([str(self._bins / program), *arguments], check=True, capture_output=True, **self._as_owner())

    def _as_owner(self) -> dict[str, Any]:
        if self._owner is None:
            return {"start_new_session": True, "cwd": self.folder}
        return {
            "user": self._owner.pw_uid,
            "group": self._owner.pw_gid,
            "extra_groups": [],
            "start_new_session": True,
            "cwd": self.folder,
            "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        }


@contextlib.contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server, or the test is skipped with the reason."""
    if why := why_not():
        pytest.skip(why)
    server = PostgresServer(durable=durable)
    try:
        yield server
    finally:
        server.stop()


def store_at(folder: Path, url: str | None, lease_s: float = 5.0) -> SqlStore:
    """The store of a folder, or of a database."""
    store = open_store(StoreSection(folder=folder, url=url, lease_s=lease_s), queue.Queue())
    assert store is not None
    return store
