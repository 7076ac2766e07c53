"""Tells programs of this device that there is another version: a command, a topic, a unit of systemd that is reloaded.

They run on a thread of their own, one version after another, each with a time limit; of versions that wait only the
newest is told. What came of it is in the log, and in ``told.json`` for `edge-node model show`.
"""

import json
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_node.config import ModelSection
from edge_node.model.versions import Versions, Written
from federation.documents import read_json
from federation.errors import FederationError
from federation.programs import run_program
from federation.runtime.log import get_log
from federation.storage.folder import write_file

__all__ = ["TOLD", "Hooks", "Publish", "read_told"]

TOLD = "told.json"

Publish = Callable[[str, bytes], None]
"""Publishes a retained message on the node's own broker."""


class Hooks:
    """Whom a device tells.

    Args:
        settings: Whom, and for how long at most.
        versions: The folder.
        publish: For the topic.
    """

    def __init__(self, settings: ModelSection, versions: Versions, publish: Publish) -> None:
        self._settings, self._versions, self._publish = settings, versions, publish
        self._log = get_log("model")
        self._waiting: queue.SimpleQueue[Written | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, written: Written) -> None:
        """A version has become the present one; returns at once."""
        settings = self._settings
        if not (settings.command or settings.topic or settings.reload_unit):
            return
        if self._thread is None:
            # A daemon: a hook that hangs must not keep the process alive.
            self._thread = threading.Thread(target=self._work, name="model-hooks", daemon=True)
            self._thread.start()
        self._waiting.put(written)

    def close(self, timeout_s: float) -> None:
        """Give what runs and what waits this long, in seconds."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout_s)

    def _work(self) -> None:
        closing = False
        while not closing:
            waiting = [self._waiting.get()]
            while not self._waiting.empty():
                waiting.append(self._waiting.get())
            closing = None in waiting
            if newest := [written for written in waiting if written is not None]:
                self._tell_all(newest[-1])

    def _tell_all(self, written: Written) -> None:
        settings, told = self._settings, dict[str, str]()
        environment = self._environment(written)
        if settings.topic is not None:
            told["topic"] = self._said(written, settings.topic)
        if settings.command:
            told["command"] = run_program(settings.command, limit_s=settings.hook_s, environment=environment)
        if settings.reload_unit is not None:
            command = ("systemctl", "reload", settings.reload_unit)
            told["reload_unit"] = run_program(command, limit_s=settings.hook_s, environment=environment)
        for hook, problem in told.items():
            if problem:
                self._log.error("model_hook_failed", version=written.notes.version, hook=hook, reason=problem)
            else:
                self._log.info("model_told", version=written.notes.version, hook=hook)
        note = {"number": written.number, "version": written.notes.version, "hooks": told}
        try:
            write_file(self._versions.folder / TOLD, json.dumps(note).encode(), durable=False)
        except OSError as error:
            self._log.error("model_hook_not_noted", reason=str(error))

    def _environment(self, written: Written) -> Mapping[str, str]:
        folder = self._versions.folder.absolute()
        return {
            "FEDMQ_MODEL_FOLDER": str(folder),
            "FEDMQ_MODEL_FILE": str(folder / "current" / written.file),
            "FEDMQ_MODEL_NOTE": str(folder / "current" / "model.json"),
            "FEDMQ_MODEL_VERSION": str(written.notes.version),
        }

    def _said(self, written: Written, topic: str) -> str:
        known = written.to_dict()
        names = ("task", "version", "number", "run", "digest", "file", "sha256", "bytes", "written_at", "figure")
        try:
            self._publish(topic, json.dumps({name: known[name] for name in names}).encode())
        except FederationError as error:
            return str(error)
        return ""


def read_told(folder: Path) -> Mapping[str, object]:
    """What came of the hooks last; empty where nothing is known."""
    try:
        found = read_json((folder / TOLD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
