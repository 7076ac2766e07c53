"""What gateways say of their sites, in ``nodes.json`` and in a person's words; nothing is decided by it (ADR 79)."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, Final

from coordinator.monitoring.why import span, waited_words
from federation.protocol.site_messages import SiteNode, SiteReport
from federation.units import counted

__all__ = ["SiteSeen", "added_up", "read_sites", "site_lines", "sites_content", "sites_row"]

SITES_SHOWN: Final = 10
"""Sites that people are told of one by one, those with something to say first; of the rest the sum."""

_FIELDS, _NODE_FIELDS = (frozenset(one.name for one in fields(made)) for made in (SiteReport, SiteNode))


@dataclass(slots=True, kw_only=True)
class SiteSeen:
    """What is known of one site.

    Attributes:
        members_max: For so many nodes its gateway may speak (``gateways.members_max``).
        at_s: When its gateway has said it, in seconds since 1970; 0 is never.
        report: What it has said last; None: nothing, as a gateway of an earlier release.
    """

    members_max: int
    at_s: float = 0.0
    report: SiteReport | None = None

    @property
    def nodes(self) -> int:
        """Nodes that it has by its own word, and not more than it may have."""
        return 0 if self.report is None else min(self.report.nodes, self.members_max)

    @property
    def online(self) -> int:
        """Those of them that are online."""
        return 0 if self.report is None else min(self.report.online, self.nodes)


def added_up(sites: Mapping[str, SiteSeen]) -> tuple[int, int]:
    """The nodes of all sites, and those of them that are online, as far as each gateway may speak for them."""
    return sum(one.nodes for one in sites.values()), sum(one.online for one in sites.values())


def sites_content(sites: Mapping[str, SiteSeen], moved_s: float = 0.0) -> dict[str, object]:
    """What the file holds of them; `read_sites` reads it. ``moved_s``: added to each time, in seconds."""
    return {
        name: [
            seen.members_max,
            seen.at_s and round(seen.at_s + moved_s, 1),
            None if seen.report is None else asdict(seen.report),
        ]
        for name, seen in sites.items()
    }


def read_sites(content: Mapping[str, Any], moved_s: float = 0.0) -> dict[str, SiteSeen]:
    """What `sites_content` has made, of any release; ``moved_s`` as there.

    Raises:
        ValueError: It is damaged; so do `TypeError`, `KeyError` and `AttributeError`.
    """
    return {
        str(name): SiteSeen(
            members_max=int(most), at_s=at_s and float(at_s) + moved_s, report=None if said is None else _report(said)
        )
        for name, (most, at_s, said) in content.items()
    }


def _report(said: Mapping[str, Any]) -> SiteReport:
    some = tuple(SiteNode(**_known(one, _NODE_FIELDS)) for one in said.get("some", ()))
    return SiteReport(**_known(said, _FIELDS) | {"some": some})


def _known(said: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Without what a later release says more."""
    return {name: value for name, value in said.items() if name in names}


def sites_row(
    sites: Mapping[str, SiteSeen], here: Mapping[str, bool], known_s: float | None, now_s: float | None = None
) -> dict[str, Any]:
    """Every site as plain data, by its gateway.

    Args:
        sites: What gateways have said.
        here: Whether each gateway is online, or was when that was known.
        known_s: How long ago the coordinator that knew it was heard, in seconds; None while one runs.
        now_s: Seconds since 1970; None is now.
    """
    now_s = time.time() if now_s is None else now_s
    return {name: _row(seen, now_s, known_s, online=here.get(name, False)) for name, seen in sites.items()}


def _row(seen: SiteSeen, now_s: float, known_s: float | None, *, online: bool) -> dict[str, Any]:
    said = SiteReport() if seen.report is None else seen.report
    age = max(0.0, now_s - seen.at_s)
    return {
        "online": online,
        "known_s": known_s,
        "said_s": None if seen.report is None else age,
        "members_max": seen.members_max,
        "nodes": said.nodes,
        "nodes_online": said.online,
        "nodes_training": said.training,
        "nodes_failing": said.failing,
        "sites": said.sites,
        "updates": said.updates,
        "sums": said.sums,
        "version": said.version,
        "round": said.round,
        "waits_for": said.waits,
        "waits_s": said.waits_s + max(0.0, age - (known_s or 0.0)),
        "some": {
            one.node: {"reason": one.reason, "heard_s": None if one.heard_s is None else one.heard_s + age}
            for one in said.some
        },
    }


def site_lines(
    sites: Mapping[str, SiteSeen], here: Mapping[str, bool], known_s: float | None, now_s: float | None = None
) -> Iterator[str]:
    """A sentence for each site, those first of which somebody should know; of the rest one for all.

    The arguments are those of `sites_row`.
    """
    rows = sites_row(sites, here, known_s, now_s)
    ordered = sorted(rows, key=lambda name: (rows[name]["online"] and not rows[name]["some"], name))
    when = "" if known_s is None else f", as known {span(known_s)} ago"
    for name in islice(ordered, SITES_SHOWN):
        yield f"site {name}{when}: {'; '.join(_words(rows[name]))}"
    rest = ordered[SITES_SHOWN:]
    if rest:
        nodes, online = added_up({name: sites[name] for name in rest})
        yield f"and {counted(len(rest), 'more site')}{when}: {online:,} of {counted(nodes, 'node')} online"


def _words(row: Mapping[str, Any]) -> Iterator[str]:
    """What is not known any more is told as what was: of a gateway that is not there, or without a coordinator."""
    if row["said_s"] is None:
        yield "its gateway has said nothing of it" if row["online"] else "its gateway has not been here"
        return
    current = row["known_s"] is None
    then = f"{row['nodes_online']:,} of {counted(row['nodes'], 'node')} online"
    if row["online"]:
        yield then
    else:
        there = "is" if current else "was"
        yield f"its gateway {there} not there, and was heard {span(row['said_s'])} ago with {then}"
    if row["sites"]:
        yield f"gateways below it: {row['sites']}"
    if row["waits_for"]:
        what, now = waited_words(row["waits_for"]), current and row["online"]
        ended = what.removeprefix("nothing: ")
        said = ended if ended != what else f"waits for {what}" if now else f"waited for {what}"
        yield f"{said}, since {span(row['waits_s'])}" if now else said
    if row["updates"]:
        sums = f", {counted(row['sums'], 'sum')} without a verdict" if row["sums"] else ""
        yield f"{counted(row['updates'], 'update')} in no version yet{sums}"
    if row["nodes_failing"] or row["some"]:
        yield _named(row)
    if row["nodes"] > row["members_max"]:
        yield f"it claims more nodes than it may speak for, which is {row['members_max']:,} (gateways.members_max)"


def _named(row: Mapping[str, Any]) -> str:
    some: Mapping[str, Mapping[str, Any]] = row["some"]
    failing = [f"{node}: {one['reason']}" for node, one in some.items() if one["reason"]]
    gone = [f"{node} ({_heard(one['heard_s'])})" for node, one in some.items() if not one["reason"]]
    return "; ".join(
        said
        for said in (
            _part("what comes to nothing there", failing, row["nodes_failing"]),
            _part("not there", gone, max(len(gone), row["nodes"] - row["nodes_online"])),
        )
        if said
    )


def _part(what: str, named: Sequence[str], count: int) -> str:
    more = f" and {count - len(named):,} more" if count > len(named) > 0 else ""
    return f"{what}: {', '.join(named)}{more}" if named else ""


def _heard(seconds: float | None) -> str:
    return "never heard" if seconds is None else f"heard {span(seconds)} ago"
