"""Releases of the task in the state folder: keeps the newest one at the broker, and what nodes say of it on the disk.

``coordinator task publish`` writes a release there; a coordinator that runs sees it within a second. The work is done
on a thread of its own: neither the disk nor a large archive holds the rounds up.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from federation.documents import read_json
from federation.errors import FederationError, StorageError
from federation.identity.private_files import read_text
from federation.identity.task_release import RELEASE_BYTES_MAX, TaskRelease, unverified_release
from federation.protocol.task_messages import TaskReport
from federation.protocol.topics import Topics
from federation.rollout.transfer import chunk_topic, release_topic, to_chunks
from federation.runtime.log import get_log
from federation.runtime.transport import Transport
from federation.storage.folder import write_file
from federation.types import NodeId

__all__ = ["NodeTask", "ReleaseShelf", "TaskReleases"]

LOOK_S: Final = 1.0
"""How often the folder is looked at, in seconds."""

NODES_MAX: Final = 20_000
"""Nodes whose word is kept."""

KEPT: Final = 8
"""Releases that stay in the folder."""

_FOLDER, _CURRENT, _REPORTS, _AT_BROKER = "tasks", "current.json", "reports.json", "at_broker.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTask:
    """What a node has said last of a release."""

    number: int
    step: int
    state: str
    running: int
    reason: str


class ReleaseShelf:
    """The releases in a coordinator's state folder, as files.

    Args:
        state: The state folder.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / _FOLDER

    def save(self, text: str, release: TaskRelease, archive: bytes | None) -> None:
        """Make a signed release the current one; of a further statement about it the archive is there.

        Raises:
            StorageError: The folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if archive is not None:
                write_file(self._archive(release.number), archive)
            write_file(self.folder / f"{release.number}.json", text.encode())
            write_file(self.folder / _CURRENT, text.encode())
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {error.strerror}") from error
        for old in [one.number for one in self.releases()][:-KEPT]:
            self._archive(old).unlink(missing_ok=True)
            (self.folder / f"{old}.json").unlink(missing_ok=True)

    def releases(self) -> list[TaskRelease]:
        """All that are there, the newest one last.

        Raises:
            ConfigError: One of them is damaged.
        """
        files = [file for file in self.folder.glob("*.json") if file.stem.isdigit()]
        found = [unverified_release(read_text(file, bytes_max=RELEASE_BYTES_MAX)) for file in files]
        return sorted(found, key=lambda release: release.order)

    def current(self) -> tuple[str, TaskRelease] | None:
        """The newest one, signed and read; None where nothing was published.

        Raises:
            ConfigError: It is damaged.
        """
        file = self.folder / _CURRENT
        if not file.exists():
            return None
        text = read_text(file, bytes_max=RELEASE_BYTES_MAX)
        return text, unverified_release(text)

    def archive(self, number: int) -> bytes:
        """A release's archive.

        Raises:
            StorageError: It is not there.
        """
        try:
            return self._archive(number).read_bytes()
        except OSError as error:
            raise StorageError(f"the archive of release {number} cannot be read: {error.strerror}") from error

    def reports(self) -> dict[NodeId, NodeTask]:
        """What nodes have said; a damaged file is as good as none: nodes say it again."""
        found = self.read(_REPORTS)
        try:
            return {NodeId(node): NodeTask(**said) for node, said in found.items()}
        except TypeError:
            return {}

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; empty where it is missing or damaged."""
        try:
            found = read_json((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, name: str, found: Mapping[str, object]) -> None:
        """Replace it; raises `OSError`."""
        write_file(self.folder / name, json.dumps(found).encode())

    def _archive(self, number: int) -> Path:
        return self.folder / f"{number}.zip"


class TaskReleases:
    """While entered, keeps the newest release at the broker, and the nodes' word on the disk.

    Args:
        shelf: The folder.
        topics: The federation's tree.
        transport: The connection for bulk.
    """

    def __init__(self, shelf: ReleaseShelf, topics: Topics, transport: Transport) -> None:
        self._shelf, self._topics, self._transport = shelf, topics, transport
        self._log = get_log("coordinator")
        self._lock = threading.Lock()
        self._reports: dict[NodeId, NodeTask] = shelf.reports()
        self._unsaved = False
        self._told, self._problem = "", ""
        self._stopped, self._again = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="task-releases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._save_reports()

    def connected(self) -> None:
        """The broker is back: it may have lost what it retained."""
        self._again.set()

    def hear(self, node: NodeId, report: TaskReport) -> None:
        """A node has said what has become of a release."""
        said = NodeTask(
            number=report.number,
            step=report.step,
            state=report.state.value,
            running=report.running,
            reason=report.reason,
        )
        with self._lock:
            known = self._reports.get(node)
            if known == said or (known is None and len(self._reports) >= NODES_MAX):
                return
            self._reports[node], self._unsaved = said, True
        fields = {"reason": said.reason} if said.reason else {}
        self._log.info("task_release_on_node", node=node, number=said.number, state=said.state, **fields)

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Publish what is new, and save what nodes have said."""
        try:
            self._publish()
        except (FederationError, OSError) as error:
            self._tell(f"{error}")
        self._save_reports()

    def _publish(self) -> None:
        current = self._shelf.current()
        if current is None:
            return
        text, release = current
        again = self._again.is_set()
        if text == self._told and not again:
            return
        self._again.clear()
        self._take_away(release)
        for topic, body in self._pieces(release):
            self._transport.publish(topic, body, retain=True)
        self._transport.publish(release_topic(self._topics), text.encode(), retain=True)
        self._told = text
        self._log.info("task_release_published", number=release.number, step=release.step, share=release.share)

    def _pieces(self, release: TaskRelease) -> Iterator[tuple[str, bytes]]:
        """The archive; of a withdrawn release empty messages, which take its pieces away."""
        if release.withdrawn:
            yield from ((topic, b"") for topic in self._topics_of(release.name, release.chunks))
            return
        self._shelf.write(_AT_BROKER, {"name": release.name, "chunks": release.chunks})
        pieces = to_chunks(self._shelf.archive(release.number), release.chunk_bytes)
        yield from ((chunk_topic(self._topics, release.name, index), body) for index, body in enumerate(pieces))

    def _take_away(self, release: TaskRelease) -> None:
        """Clear the pieces of the release before."""
        found = self._shelf.read(_AT_BROKER)
        name, chunks = found.get("name"), found.get("chunks")
        if isinstance(name, str) and isinstance(chunks, int) and name != release.name:
            for topic in self._topics_of(name, chunks):
                self._transport.publish(topic, b"", retain=True)

    def _topics_of(self, name: str, chunks: int) -> Iterator[str]:
        return (chunk_topic(self._topics, name, index) for index in range(chunks))

    def _save_reports(self) -> None:
        with self._lock:
            if not self._unsaved:
                return
            found: Mapping[str, object] = {node: asdict(said) for node, said in self._reports.items()}
            self._unsaved = False
        try:
            self._shelf.folder.mkdir(parents=True, exist_ok=True)
            self._shelf.write(_REPORTS, found)
        except OSError as error:
            self._unsaved = True
            self._tell(str(error))

    def _tell(self, problem: str) -> None:
        """Once for each problem in a row."""
        if problem != self._problem:
            self._log.error("task_release_not_published", reason=problem)
        self._problem = problem
