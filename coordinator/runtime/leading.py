"""Which store a coordinator runs on; with a database that several share, it waits here until it leads."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from coordinator.config.sections import StoreSection
from coordinator.engine.events import StopRequested
from coordinator.storage.database import DATABASE
from coordinator.storage.parts import Leader
from coordinator.storage.places import NOTE, remember_url, require_library
from coordinator.storage.sqlite_store import SqliteStore, SqlStore
from federation.errors import ConfigError, LeadershipLost, StorageError
from federation.runtime.log import get_log
from federation.runtime.signals import StopSignals
from federation.runtime.supervision import Notifier
from federation.runtime.transport import Inbox, InboxItem
from federation.storage.folder import FolderLock

__all__ = ["LeadLost", "open_store", "while_leading"]

EventT = TypeVar("EventT")


@dataclass(frozen=True, slots=True)
class LeadLost:
    """Another coordinator leads, or may."""

    why: str


def open_store(section: StoreSection, inbox: Inbox) -> SqlStore | None:
    """Open the store to write, once nobody else does.

    Args:
        section: Where it is.
        inbox: Hears when the lead is lost, and of a signal that comes meanwhile.

    Returns:
        The store; None where a signal has ended the wait for the lead.

    Raises:
        ConfigError: A library is not installed.
        StorageError: The folder is in use, or folder or database cannot be used.
        LeadershipLost: Another process has taken the lead at once.
    """
    try:
        _check_place(section)
    except OSError as error:
        raise StorageError(f"the state folder {section.folder} cannot be used: {error}") from error
    if section.url is None:
        kept = section.updates_kept
        return SqliteStore(section.folder, audit_versions=section.audit_versions, updates_kept=kept)
    require_library()
    lock = FolderLock(section.folder)
    try:
        return _lead(section, section.url, inbox, lock)
    except BaseException:
        lock.release()
        raise


def _check_place(section: StoreSection) -> None:
    """See that the run of this folder is where it was before.

    Raises:
        ConfigError: It is elsewhere, and another one would begin.
    """
    folder = section.folder
    if section.url is not None and (folder / DATABASE).exists():
        problem = f"{folder} has a run of its own: coordinator move-store takes it into the database"
        raise ConfigError("store.url", f"{problem}; or choose another store.folder")
    if section.url is None and (folder / NOTE).exists():
        problem = f"the run of {folder} is in the database that {NOTE} there names: give store.url"
        raise ConfigError("store.url", f"{problem}, or choose another store.folder")


def _lead(section: StoreSection, url: str, inbox: Inbox, lock: FolderLock) -> SqlStore | None:
    from coordinator.storage.postgresql.lead import take_lead  # noqa: PLC0415 - of an extra
    from coordinator.storage.postgresql.store import PostgresStore  # noqa: PLC0415

    holder = f"{socket.gethostname()}:{os.getpid()}"
    with StopSignals(inbox, StopRequested()) as signals:
        standby = _Standby(section.folder, url)
        lead = take_lead(
            url,
            holder,
            lease_s=section.lease_s,
            waits=standby.waits,
            stopped=lambda: signals.received is not None,
        )
    if lead is None:
        lock.release()
        return None
    get_log("coordinator").info("coordinator_leads", holder=holder, term=lead.term)
    lead.watch(lambda why: inbox.put(InboxItem(event=LeadLost(why))))
    try:
        return PostgresStore(
            section.folder,
            url,
            lead,
            lock,
            audit_versions=section.audit_versions,
            updates_kept=section.updates_kept,
            patience_s=section.lease_s,
        )
    except BaseException:
        lead.release()
        raise


def while_leading(translate: Callable[[object], EventT | None]) -> Callable[[object], EventT | None]:
    """``translate`` for the driver, which ends with `LeadershipLost` when the lead is."""

    def watched(event: object) -> EventT | None:
        if isinstance(event, LeadLost):
            raise LeadershipLost(f"{event.why}: stopped; the next start waits as standby where another one leads")
        return translate(event)

    return watched


class _Standby:
    """Says once whom it waits for, and again and again to a service manager that it lives.

    Args:
        folder: The state folder: commands that are given it read the run that another one leads.
        url: The database.
        environ: None is the process's own.
    """

    def __init__(self, folder: Path, url: str, environ: Mapping[str, str] | None = None) -> None:
        self._folder, self._url = folder, url
        variables = os.environ if environ is None else environ
        self._notifier, self._leader = Notifier(variables), ""
        health = variables.get("FEDMQ_HEALTH_FILE")
        self._health = Path(health) if health else None

    def waits(self, leader: Leader | None) -> None:
        """Hear who leads."""
        name = "another one" if leader is None else leader.holder
        if name != self._leader:
            self._leader = name
            remember_url(self._folder, self._url)
            get_log("coordinator").info("coordinator_standby", leader=name)
        self._notifier.say("READY=1", "WATCHDOG=1", f"STATUS=standby: {name} leads")
        if self._health is not None:
            with suppress(OSError):
                self._health.touch()
