"""Who writes ``nodes.json``: it sees what nodes send, and the machine that decides does not know of it."""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import Final

from coordinator.engine.events import (
    ChunkReceived,
    DeclineReceived,
    NodesEnrolled,
    NodeStateReceived,
    OfferReceived,
    ProgressReceived,
    ReportReceived,
)
from coordinator.monitoring.presence import Happening, News, Seen, read_presence
from coordinator.monitoring.sites import SiteSeen, sites_content
from coordinator.storage.files import PRESENCE
from federation.protocol.limits import AWAY_S_MAX
from federation.protocol.messages import NodeState, Presence
from federation.protocol.site_messages import SiteReport
from federation.runtime.clock import SteadyClock, stamp
from federation.storage.folder import write_file
from federation.types import NodeId

__all__ = ["PresenceFile"]

NODES_MAX: Final = 20_000
NEWS_MAX: Final = 1000
"""The newest are kept."""

PAUSE_S: Final = 1.0
"""The file is written this often at most, in seconds; of a large fleet less often."""

NODES_A_SECOND: Final = 2000
"""So many nodes lengthen the pause by a second."""


class PresenceFile:
    """The only writer.

    Args:
        folder: The state folder; what a former start has written there is taken over.
        run: Which run it is about: what another one has left is not taken over.
        clock: Seconds since 1970; None is the wall clock as it is now, and then the time that passes.
        gateways: Nodes that speak for a site, and for how many nodes at most.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        clock: Callable[[], float] | None = None,
        gateways: Mapping[NodeId, int] | None = None,
    ) -> None:
        steady = SteadyClock()
        self._clock: Callable[[], float] = steady.now if clock is None else clock
        self._moved_s: Callable[[], float] = steady.moved_s if clock is None else float
        self._path, self._run = folder / PRESENCE, run
        former = read_presence(folder, run)
        self._nodes = dict(former.nodes)
        self._sites: dict[str, SiteSeen] = {
            name: replace(former.sites.get(name, SiteSeen(members_max=most)), members_max=most)
            for name, most in (gateways or {}).items()
        }
        self._news = deque(former.news, maxlen=NEWS_MAX)
        self._new: list[tuple[float, str, Happening]] = []
        self._changed, self._next_s = False, 0.0

    def see(self, event: object) -> None:
        """Take notice of what a node has sent; whatever else there is says nothing of nodes."""
        match event:
            case NodeStateReceived():
                self._observe(event)
            case NodesEnrolled(nodes=enrolled):
                self._part_from(enrolled)
            case OfferReceived() | ChunkReceived() | DeclineReceived() | ProgressReceived() | ReportReceived() if (
                event.node in self._nodes
            ):
                self._nodes[event.node].at_s = self._clock()
                self._changed = True
                if isinstance(event, ProgressReceived) and event.node in self._sites:
                    self._hear(self._sites[event.node], event.progress.site)
            case _:
                return

    @property
    def nodes(self) -> Mapping[str, Seen]:
        """What is known of each node."""
        return self._nodes

    @property
    def sites(self) -> Mapping[str, SiteSeen]:
        """What gateways have said of their sites."""
        return self._sites

    def heard_s(self, node: str) -> float | None:
        """For how long a node has not been heard, in seconds; None: it never was."""
        seen = self._nodes.get(node)
        return None if seen is None or not seen.at_s else max(0.0, self._clock() - seen.at_s)

    def _hear(self, seen: SiteSeen, report: SiteReport | None) -> None:
        """Only whoever is named as a gateway is heard: so what is kept is bounded by our own settings."""
        if report is not None:
            seen.report, seen.at_s = report, self._clock()

    def _observe(self, event: NodeStateReceived) -> None:
        node, state = event.node, event.state
        known = self._nodes.get(node)
        here = state.presence is Presence.ONLINE
        if known is None:
            if len(self._nodes) < NODES_MAX:
                known = self._nodes[node] = Seen(state.presence, self._clock() if here else 0.0, state.incarnation)
                _describe(known, state)
                self._changed = True
            return
        if state.incarnation < known.incarnation and not here:
            return  # the end of a former life
        was_here, restarted = known.presence is Presence.ONLINE, state.incarnation != known.incarnation
        if here and not restarted and known.back_s:
            pass  # it has checked in: a fleet that comes and goes by the pace is no news
        elif here and (restarted or not was_here):
            self._tell(node, Happening.RESTARTED if restarted else Happening.BACK)
        elif was_here and not here and state.away_s is None:
            self._tell(node, Happening.LOST if state.presence is Presence.LOST else Happening.LEFT)
        known.presence, known.incarnation = state.presence, state.incarnation
        known.back_s = 0.0 if here or state.away_s is None else self._clock() + min(state.away_s, AWAY_S_MAX)
        # Its will is the broker's word, and comes later than its own last one.
        known.at_s = self._clock() if here else known.at_s
        _describe(known, state)
        self._changed = True

    def _part_from(self, enrolled: Container[NodeId]) -> None:
        """Whoever is not enrolled any more is not there: nothing that it sends is heard, its last word neither."""
        for node, seen in self._nodes.items():
            if seen.presence is Presence.ONLINE and node not in enrolled:
                seen.presence, self._changed = Presence.OFFLINE, True
                self._tell(node, Happening.LEFT)

    def _tell(self, node: str, what: Happening) -> None:
        self._new.append((self._clock(), node, what))
        del self._new[:-NEWS_MAX]

    def look(self, now: float, version: Callable[[], int]) -> None:
        """Write what has changed, where the last time is long enough ago; ``now`` is in monotonic seconds."""
        self._number(version)
        if self._changed and now >= self._next_s:
            self._next_s = now + PAUSE_S + len(self._nodes) / NODES_A_SECOND
            self.write(version)

    def due(self) -> float | None:
        """When to look again, in monotonic seconds; None where nothing has changed."""
        return self._next_s if self._changed else None

    def write(self, version: Callable[[], int]) -> None:
        """Write at once, where something has changed."""
        if not self._changed:
            return
        self._number(version)
        self._changed, moved_s = False, self._moved_s()
        content = {
            "run": self._run,
            "clock": stamp(),
            "nodes": {
                node: [seen.presence.value, _told(seen.at_s, moved_s), seen.incarnation, seen.device, seen.battery]
                for node, seen in self._nodes.items()
            },
            "releases": self._releases(),
            "away": {node: _told(seen.back_s, moved_s) for node, seen in self._nodes.items() if seen.back_s},
            "sites": sites_content(self._sites, moved_s),
            "news": [[one.at_ms, one.version, one.node, one.what.value] for one in self._news],
        }
        with contextlib.suppress(OSError):
            write_file(self._path, json.dumps(content, separators=(",", ":")).encode(), durable=False)

    def _releases(self) -> dict[str, list[str]]:
        """Who tells which release: each of the few is written once."""
        told: dict[str, list[str]] = {}
        for node, seen in self._nodes.items():
            if seen.release:
                told.setdefault(seen.release, []).append(node)
        return told

    def _number(self, version: Callable[[], int]) -> None:
        """Say at which version it happened: asked once for all that has come with one message or with many."""
        if self._new:
            head = version()
            self._news.extend(
                News(at_ms=int(1000 * (at_s + self._moved_s())), version=head, node=node, what=what)
                for at_s, node, what in self._new
            )
            self._new.clear()


def _told(at_s: float, moved_s: float) -> float:
    """A time by the wall clock as it is now; 0 is never."""
    return round(at_s + moved_s, 1) if at_s else 0.0


def _describe(seen: Seen, state: NodeState) -> None:
    """What a node says of its device at a birth; its own words will be shown."""
    if state.presence is not Presence.ONLINE:
        return
    seen.device = _shown(state.device)
    seen.release = _shown("".join(filter(str.isascii, state.release or "")))
    charge = (state.capabilities or {}).get("battery")
    seen.battery = None if charge is None or not 0 <= charge <= 1 else charge


def _shown(text: str) -> str:
    return intern("".join(filter(str.isprintable, text)))
