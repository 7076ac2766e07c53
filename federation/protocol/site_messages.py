"""What a gateway says of its site, for people (PROTOCOL.md, section 17): counts, and the names of a few nodes."""

from dataclasses import dataclass
from typing import Final

from federation.protocol.fields import Field, Record, Sequence, Text
from federation.protocol.limits import (
    ID_CHARS_MAX,
    SITE_NODES_NAMED_MAX,
    SITE_REASON_BYTES_MAX,
    WAIT_REASON_BYTES_MAX,
)
from federation.protocol.tables import COUNT, SECONDS
from federation.types import ModelVersion, NodeId, RoundId

__all__ = ["SITE_NODE", "SITE_REPORT", "SiteNode", "SiteReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNode:
    """A node of a site that is not as it should be.

    Attributes:
        node: Its name.
        reason: Why its work comes to nothing; empty: it is not there.
        heard_s: For how long it has not been heard, in seconds; None: it never was.
    """

    node: NodeId
    reason: str = ""
    heard_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReport:
    """How a site stands; nothing is decided by it.

    Attributes:
        waits: What the site waits for, a word of ``coordinator why``; empty: it has not said.
        waits_s: For how long, in seconds.
        nodes: Nodes that it knows, those behind gateways of its own too.
        online: Those that are online; ``training``: those that train now.
        updates: Updates that are here, and in no version yet.
        sums: Sums that have no verdict yet.
        failing: Nodes whose work comes to nothing.
        sites: Gateways below it.
        version: Its newest version; ``round``: what it was asked last. None: there is none.
        some: Some of those that fail, and of those that are not there.
    """

    waits: str = ""
    waits_s: float = 0.0
    nodes: int = 0
    online: int = 0
    training: int = 0
    updates: int = 0
    sums: int = 0
    failing: int = 0
    sites: int = 0
    version: ModelVersion | None = None
    round: RoundId | None = None
    some: tuple[SiteNode, ...] = ()


SITE_NODE: Final = Record(
    SiteNode,
    (
        Field(1, "node", Text(ID_CHARS_MAX, least=1)),
        Field(2, "reason", Text(SITE_REASON_BYTES_MAX)),
        Field(3, "heard_s", SECONDS, optional=True),
    ),
)

SITE_REPORT: Final = Record(
    SiteReport,
    (
        Field(1, "waits", Text(WAIT_REASON_BYTES_MAX)),
        Field(2, "waits_s", SECONDS),
        Field(3, "nodes", COUNT),
        Field(4, "online", COUNT),
        Field(5, "training", COUNT),
        Field(6, "updates", COUNT),
        Field(7, "sums", COUNT),
        Field(8, "failing", COUNT),
        Field(9, "sites", COUNT),
        Field(10, "version", COUNT, optional=True),
        Field(11, "round", COUNT, optional=True),
        Field(12, "some", Sequence(SITE_NODE, SITE_NODES_NAMED_MAX)),
    ),
)
