"""What a page shows, to whom and where: told to the process that serves it."""

import signal
from dataclasses import dataclass

__all__ = ["STOPPING", "PageOptions"]

STOPPING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that end the page; while its process loads they wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """What it shows, to whom, and where.

    Attributes:
        state: The state folder.
        socket_fd: The socket that listens.
        token: What visitors bring; empty: nobody needs one.
        local: Only this machine may look.
        certificate: Certificate chain (PEM) for https, with ``key``; empty: no https.
        key: Its private key.
        fleet: The folder of ``coordinator init``, whose certificates are shown; empty: none.
        register: The file in it that says what was issued: where it changes, ends are looked at again.
    """

    state: str
    socket_fd: int
    token: str = ""
    local: bool = False
    certificate: str = ""
    key: str = ""
    fleet: str = ""
    register: str = ""
