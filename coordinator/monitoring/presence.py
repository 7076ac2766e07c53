"""Who is there, and who came and went: one file beside the store, ``nodes.json``, for the commands that only read.

The store knows what counted. This file knows when a node was last heard, and when one was lost, came back or started
again. It only explains: a full disk is no reason to stop, and a folder without it is read as well as it can be.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from sys import intern
from typing import Any, Final

from coordinator.monitoring.sites import SiteSeen, read_sites
from coordinator.storage.files import PRESENCE
from coordinator.storage.read_only import ReadOnlyStore
from federation.documents import read_json
from federation.protocol.limits import AWAY_GRACE_S
from federation.protocol.messages import Presence
from federation.runtime.clock import moved_s
from federation.storage.folder import open_file
from federation.units import counted

__all__ = [
    "AWAY",
    "Happening",
    "News",
    "PresenceSeen",
    "Seen",
    "online_by_release",
    "presence_of",
    "read_presence",
    "releases_line",
]

FILE_BYTES_MAX: Final = 8 << 20

RELEASES_SHOWN: Final = 4
"""Releases that `releases_line` names, those of most nodes; nodes may invent any number."""

AWAY: Final = "away"
"""The state of a node that has left by the pace, and is to come back."""

NAMED_MAX: Final = 2
"""Nodes of one release that it names; of more it says how many."""


class Happening(StrEnum):
    """What happened to a node."""

    LOST = "lost"
    """Its connection ended without a word: it was killed, lost its power or its link."""
    LEFT = "left"
    """It said that it goes."""
    BACK = "back"
    RESTARTED = "restarted"
    """It is there as a new process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One thing that happened to a node; ``at_ms`` is in milliseconds since 1970, ``version`` the newest one then."""

    at_ms: int
    version: int
    node: str
    what: Happening


@dataclass(slots=True)
class Seen:
    """What is known of one node.

    Attributes:
        presence: Whether it is there.
        at_s: When it was last heard, in seconds since 1970; 0 is never.
        incarnation: Its boot number.
        device: What it trains on, in its own words.
        battery: Its charge at its start, 0 to 1; None where it has none, or does not say.
        release: Which release of fedmq it runs, in its own words; empty where it does not say.
        back_s: When it comes back, by its own word as it left, in seconds since 1970; 0 where it has said nothing.
    """

    presence: Presence
    at_s: float
    incarnation: int
    device: str = ""
    battery: float | None = None
    release: str = ""
    back_s: float = 0.0

    def state(self, now_s: float | None = None) -> str:
        """`Presence`, or ``away``: it checks in by the pace, and is not missed before a minute after it is due.

        Args:
            now_s: Seconds since 1970; None is now.
        """
        left = self.presence is Presence.OFFLINE and self.left_s(now_s) > -AWAY_GRACE_S
        return AWAY if left else self.presence.value

    def left_s(self, now_s: float | None = None) -> float:
        """How long until it is due, in seconds; ``now_s`` as of `state`."""
        return self.back_s - (time.time() if now_s is None else now_s)

    def back_ms(self, now_s: float | None = None) -> int | None:
        """When it is due, in milliseconds since 1970; None of one that is not away."""
        return int(1000 * self.back_s) if self.state(now_s) == AWAY else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceSeen:
    """What the file says.

    Attributes:
        nodes: Each node that was seen.
        news: The newest happenings, in order.
        sites: What is known of each site, by its gateway.
    """

    nodes: Mapping[str, Seen] = field(default_factory=dict)
    news: Sequence[News] = ()
    sites: Mapping[str, SiteSeen] = field(default_factory=dict)

    @property
    def gateways_here(self) -> Mapping[str, bool]:
        """Whether each gateway is online."""
        known = self.nodes
        return {name: name in known and known[name].presence is Presence.ONLINE for name in self.sites}


def read_presence(folder: Path, run: str) -> PresenceSeen:
    """What a coordinator of this run has written; nothing where there is none, or it cannot be read."""
    try:
        with open_file(folder / PRESENCE) as file:
            content = read_json(file.read(FILE_BYTES_MAX))
        return _presence(content) if content["run"] == run else PresenceSeen()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return PresenceSeen()


def presence_of(folder: Path) -> PresenceSeen:
    """Who is there, by the coordinator of this folder's run.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with ReadOnlyStore(folder) as store:
        return read_presence(folder, store.run)


def online_by_release(nodes: Mapping[str, Seen]) -> dict[str, list[str]]:
    """The names of the nodes that are online, by the release that they tell (empty: none), that of most nodes first."""
    found: dict[str, list[str]] = {}
    for node, seen in nodes.items():
        if seen.presence is Presence.ONLINE:
            found.setdefault(seen.release, []).append(node)
    return dict(sorted(found.items(), key=lambda one: (-len(one[1]), one[0])))


def releases_line(nodes: Mapping[str, Seen]) -> str:
    """Which releases the nodes that are online run, for people; empty where all tell the same one, or none."""
    found = online_by_release(nodes)
    if len(found) < 2:
        return ""
    said = [f"{release or 'not told'} on {_some(names)}" for release, names in [*found.items()][:RELEASES_SHOWN]]
    rest = sum(map(len, [*found.values()][RELEASES_SHOWN:]))
    return "nodes run different releases: " + ", ".join(
        [*said, *([f"others on {counted(rest, 'node')}"] if rest else [])]
    )


def _some(names: Sequence[str]) -> str:
    return f"{len(names):,} nodes" if len(names) > NAMED_MAX else " and ".join(sorted(names))


def _presence(content: Any) -> PresenceSeen:
    # A member of its own: a release that does not know of it reads the rest.
    releases = {
        str(node): intern(str(release)) for release, nodes in content.get("releases", {}).items() for node in nodes
    }
    moved = moved_s(content.get("clock"))
    back_s = {str(node): float(at_s) + moved for node, at_s in content.get("away", {}).items()}
    return PresenceSeen(
        nodes={
            intern(str(node)): Seen(
                Presence(presence),
                at_s and float(at_s) + moved,
                int(incarnation),
                intern(str(device)),
                battery and float(battery),
                releases.get(node, ""),
                back_s.get(node, 0.0),
            )
            for node, (presence, at_s, incarnation, device, battery) in content["nodes"].items()
        },
        news=tuple(
            News(at_ms=int(at_ms), version=int(version), node=str(node), what=Happening(what))
            for at_ms, version, node, what in content["news"]
        ),
        sites=read_sites(content.get("sites", {}), moved),
    )
