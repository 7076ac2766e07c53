"""A TCP connection to the first of a name's addresses that answers: a silent one holds nobody up.

E. Pauly, D. Schinazi: Happy Eyeballs Version 2, RFC 8305. The next address is tried `STAGGER_S` after the one before,
or when all that were tried have failed, while these go on.
"""

import os
import selectors
import socket
import time
from collections.abc import Collection
from itertools import chain, zip_longest
from typing import Self

__all__ = ["dial"]

STAGGER_S = 0.25
"""The head start of an address before the next one, in seconds."""

_IN_PROGRESS = frozenset({0, 115, 36, 10035})
"""Of a connect that does not wait: done, or EINPROGRESS (Linux, macOS, Windows)."""


def dial(host: str, port: int, *, timeout_s: float, last: Collection[str] = ()) -> socket.socket:
    """Connect.

    Args:
        host: Name or address.
        port: Its TCP port.
        timeout_s: For all addresses together, in seconds; afterwards it is the timeout of the socket.
        last: Addresses that are tried after all others: they have connected before, and then said nothing.

    Raises:
        OSError: The name does not resolve, or no address answers: what the first one that failed said.
    """
    waiting = _addresses(host, port, last)
    give_up_s = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector, _Attempts(selector) as attempts:
        while waiting or attempts.pending:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                break
            if waiting:
                attempts.begin(*waiting.pop(0))
            connected = attempts.first(min(STAGGER_S, left_s) if waiting else left_s)
            if connected is not None:
                connected.settimeout(timeout_s)
                return connected
        raise attempts.error or TimeoutError("timed out")


class _Attempts:
    """Connections that are being made; all but the one that is taken are closed at the end."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self.pending: list[socket.socket] = []
        self.error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.pending:
            one.close()

    def begin(self, family: int, address: tuple[object, ...]) -> None:
        """Try one more address, without waiting."""
        try:
            attempt = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # no such family here, such as IPv6
            self.error = self.error or error
            return
        attempt.setblocking(False)
        code = attempt.connect_ex(address)
        if code not in _IN_PROGRESS:
            self._failed(attempt, code)
            return
        self.pending.append(attempt)
        self._selector.register(attempt, selectors.EVENT_WRITE)

    def first(self, wait_s: float) -> socket.socket | None:
        """The first one that is connected, after ``wait_s`` at most; None also when all have failed."""
        until_s = time.monotonic() + wait_s
        while self.pending and (left_s := until_s - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                attempt = key.fileobj
                if not isinstance(attempt, socket.socket):
                    continue
                self._selector.unregister(attempt)
                self.pending.remove(attempt)
                code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return attempt
                self._failed(attempt, code)
        return None

    def _failed(self, attempt: socket.socket, code: int) -> None:
        attempt.close()
        self.error = self.error or OSError(code, os.strerror(code))


def _addresses(host: str, port: int, last: Collection[str]) -> list[tuple[int, tuple[object, ...]]]:
    """Each once, the families in turn, as the resolver prefers them."""
    found = dict.fromkeys(
        (family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    families = dict.fromkeys(family for family, _ in found)
    columns = [[one for one in found if one[0] == family] for family in families]
    mixed = [one for one in chain.from_iterable(zip_longest(*columns)) if one is not None]
    return sorted(mixed, key=lambda one: one[1][0] in last)
