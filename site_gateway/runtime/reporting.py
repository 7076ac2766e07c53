"""Says above how the site stands, for people: after a connect, and when something has changed; nothing follows from it.

What is said is bounded whatever the site is like (`SiteReport`): counts, and a few names.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from heapq import nlargest
from itertools import islice
from typing import Any, Final

import edge_node.engine.events as above
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.sites import added_up
from federation.protocol.limits import (
    INT32_MAX,
    SECONDS_MAX,
    SITE_NODES_NAMED_MAX,
    SITE_REASON_BYTES_MAX,
    WAIT_REASON_BYTES_MAX,
    fit_text,
)
from federation.protocol.messages import Activity, Presence, Progress
from federation.protocol.site_messages import SiteNode, SiteReport
from federation.types import NodeId, RoundId
from site_gateway.engine.events import AboveEvent, BelowEvent

__all__ = ["REPORT_PAUSE_S", "REPORT_PAUSE_S_MAX", "SiteWatch", "site_report"]

REPORT_PAUSE_S: Final = 2.0
"""A change is said this often at most, in seconds; twice that after each further one, up to `REPORT_PAUSE_S_MAX`."""

REPORT_PAUSE_S_MAX: Final = 60.0
"""A site that always changes costs the line above one small message in so many seconds."""


class SiteWatch:
    """Stands where a coordinator has its `PresenceFile`: it hands on what is of the site, and reports.

    Args:
        presence: Who is there, of the site.
        snapshot: Where the gateway's machine stands.
        say: Says something on the gateway's telemetry above.
    """

    def __init__(
        self,
        presence: PresenceFile,
        snapshot: Callable[[], Mapping[str, Any]],
        say: Callable[[Progress], None],
    ) -> None:
        self._presence, self._snapshot, self._say = presence, snapshot, say
        self._connected = self._pending = False
        self._next_s, self._pause_s = 0.0, REPORT_PAUSE_S
        self._said: SiteReport | None = None

    def see(self, event: object) -> None:
        """Take notice of what has come, from either side."""
        match event:
            case BelowEvent(event=heard):
                self._presence.see(heard)
            case AboveEvent(event=above.BrokerConnected()):
                self._connected, self._said, self._next_s = True, None, 0.0
            case AboveEvent(event=above.BrokerDisconnected()):
                self._connected = False
            case AboveEvent(event=above.CoordinatorStateReceived()):
                self._said, self._next_s = None, 0.0  # perhaps of one that has heard nothing yet
        self._pending = True

    def look(self, now: float, version: Callable[[], int]) -> None:
        """Write and say what has changed, where the last time is long enough ago; ``now`` is in monotonic seconds."""
        self._presence.look(now, version)
        if self._connected and self._pending and now >= self._next_s:
            self._pending = False
            self._report(now)

    def due(self) -> float | None:
        """When to look again, in monotonic seconds; None where nothing has changed."""
        dues = (self._presence.due(), self._next_s if self._connected and self._pending else None)
        return min((due for due in dues if due is not None), default=None)

    def write(self, version: Callable[[], int]) -> None:
        """Write at once, where something has changed."""
        self._presence.write(version)

    def _report(self, now: float) -> None:
        found = site_report(self._snapshot(), self._presence, now)
        if self._said is None or _ageless(found) != _ageless(self._said):
            quiet = now - self._next_s >= REPORT_PAUSE_S_MAX
            self._pause_s = REPORT_PAUSE_S if quiet else min(REPORT_PAUSE_S_MAX, 2 * self._pause_s)
            self._said, self._next_s = found, now + self._pause_s
            activity = Activity.TRAINING if found.training else Activity.IDLE
            self._say(Progress(round=found.round or RoundId(0), activity=activity, site=found))


def site_report(snapshot: Mapping[str, Any], presence: PresenceFile, now: float) -> SiteReport:
    """How a site stands.

    Args:
        snapshot: Of the gateway's machine.
        presence: Who is there, of the site, and what gateways below it say.
        now: Monotonic seconds.
    """
    waiting, sites = snapshot["waiting_for"], presence.sites
    nodes, online = added_up(sites)
    below = [one.report for one in sites.values() if one.report is not None]
    failing: Mapping[str, str] = waiting["failing"]
    gateways = [presence.nodes[name] for name in sites if name in presence.nodes]
    known = max(0, snapshot["known"] - len(gateways))
    here = max(0, snapshot["online"] - sum(one.presence is Presence.ONLINE for one in gateways))
    # A gateway that trains holds a place here, and its nodes are what is trained.
    training = sum(
        min(one.report.training, one.nodes) - 1 for one in sites.values() if one.report and one.report.training
    )
    failed = sum(min(one.report.failing, one.nodes) for one in sites.values() if one.report)
    return SiteReport(
        waits=fit_text(waiting["reason"], WAIT_REASON_BYTES_MAX),
        waits_s=min(SECONDS_MAX, max(0.0, now - waiting["since"])),
        nodes=_counted(known + nodes),
        online=_counted(here + online),
        training=_counted(max(0, snapshot["live"] + training)),
        updates=_counted(snapshot["buffered"]),
        sums=_counted(snapshot["sums"]),
        failing=_counted(waiting["failed"] + failed),
        sites=_counted(len(sites) + sum(one.sites for one in below)),
        version=snapshot["version"],
        round=snapshot["order"],
        some=tuple(islice(_some(failing, presence), SITE_NODES_NAMED_MAX)),
    )


def _some(failing: Mapping[str, str], presence: PresenceFile) -> Iterator[SiteNode]:
    """Those that fail, as the machine names them, and at gateways below; then those that are not there.

    Of these whoever has gone last comes first.
    """
    for node, reason in failing.items():
        said = fit_text(reason, SITE_REASON_BYTES_MAX) or "?"
        yield SiteNode(node=NodeId(node), reason=said, heard_s=_age(node, presence))
    for gateway, site in presence.sites.items():
        first = next((one for one in (site.report.some if site.report else ()) if one.reason), None)
        if first is not None and gateway not in failing:
            said = fit_text(f"{first.node}: {first.reason}", SITE_REASON_BYTES_MAX)
            yield SiteNode(node=NodeId(gateway), reason=said, heard_s=first.heard_s)
    gone = ((seen.at_s, node) for node, seen in presence.nodes.items() if seen.presence is not Presence.ONLINE)
    for _, node in nlargest(SITE_NODES_NAMED_MAX, gone):
        if node not in failing:
            yield SiteNode(node=NodeId(node), heard_s=_age(node, presence))


def _age(node: str, presence: PresenceFile) -> float | None:
    heard_s = presence.heard_s(node)
    return None if heard_s is None else min(SECONDS_MAX, heard_s)


def _counted(number: int) -> int:
    return min(INT32_MAX, number)


def _ageless(report: SiteReport) -> SiteReport:
    """Without what changes although nothing happens."""
    return replace(report, waits_s=0.0, some=tuple(replace(one, heard_s=None) for one in report.some))
