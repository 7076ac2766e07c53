"""``coordinator why``: what the coordinator waits for, for whom and since when, in a person's words."""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from coordinator.engine.round import ENDINGS, CommitReason, WaitReason
from coordinator.monitoring.state_files import Waiting
from federation.units import counted

__all__ = [
    "MADE",
    "behind_words",
    "claim_words",
    "explain",
    "failures",
    "lift_words",
    "nobody_trains",
    "span",
    "waited_words",
]

NODES_NAMED = 3
"""Nodes named with one reason."""

REASONS_NAMED = 5

_OWN_NUMBER = re.compile(r" on node \d+(?=: )")

MEANINGS: Mapping[WaitReason, str] = {
    WaitReason.ASSIGNMENTS: "updates of nodes that are training",
    WaitReason.BEHIND: (
        "a person: this state is older than what nodes have seen of its run, so it is a copy or was restored, and"
        " nothing is decided. Stop it and start the newest state folder of the run; if that is lost, begin again from"
        " a backup, or from this folder, with `coordinator restore`"
    ),
    WaitReason.BROKER: "the broker, which cannot be reached",
    WaitReason.BUDGET: (
        "nothing: fewer nodes than a version needs have any privacy budget left, and that ended the run"
        " (coordinator privacy has what each has spent)"
    ),
    WaitReason.COMMITTING: "the new version to be saved",
    WaitReason.ABOVE: "the federation above: this site has done what it was asked, or was not asked yet",
    WaitReason.HELPER: "its helper: without it no masked sum can be made",
    WaitReason.INTERVAL: "the end of the least interval between two versions (round.interval_min_s)",
    WaitReason.FINISHED: "nothing: the run is over, late updates still get their receipts",
    WaitReason.NO_CANDIDATES: (
        "nodes that are online, compatible and free (coordinator status has who declined, and why)"
    ),
    WaitReason.NODES_MIN: "more nodes to come online",
    WaitReason.SETTLING: "the nodes' retained states, just after a connect",
    WaitReason.STOPPED_EARLY: (
        "nothing: stopping.patience evaluations in a row brought no improvement, and that ended the run"
    ),
    WaitReason.STORAGE: (
        "the disk: nothing can be saved, so nothing is acknowledged; the log has its error and the remedy"
    ),
    WaitReason.TRANSFERS: "large updates that are arriving",
}
"""Every reason of the machine in a person's words; a reason of another release is shown as it is."""

NOBODY = "nodes to come online"
"""Where none is there, what those that are would lack says nothing."""

MADE: Mapping[str, str] = {
    CommitReason.BUFFER_FULL: "enough came",
    CommitReason.MAX_WAIT: "time was up",
    CommitReason.NOBODY_LEFT: "nobody left",
}
"""Why a version was made when it was: `round.buffer` updates, `round.max_wait_s`, or no node that could still help."""

ABOVE = "node"
"""A gateway's connection to the broker above."""

CONNECTIONS: Mapping[str, str] = {
    ABOVE: "the broker above",
    "control": "the broker",
    "data": "the broker, for the connection that carries updates",
}


def explain(waiting: Waiting) -> str:
    """One sentence or two for a person."""
    reason = str(waiting.fields.get("reason", "unknown"))
    nobody = reason == WaitReason.NO_CANDIDATES and not waiting.fields.get("online", 1)
    awaited = _blocked(waiting.fields) or waited_words(reason)
    what = NOBODY if nobody else f"{awaited}{_whom(waiting.fields)}"
    counts = _counts(waiting.fields)
    seen = f"{_seen(waiting.fields.get('behind'))}{_claims(waiting.fields.get('claims'))}"
    if waiting.starting:
        begun = f"a coordinator has started (process {waiting.pid}), and has not said yet what it waits for"
        return f"{begun}; {span(waiting.said_s)} ago the one before waited for {what}{counts}"
    if waiting.pid is None:
        return _ended(waiting, reason) if reason in ENDINGS else _stopped(waiting, f"{what}{counts}", seen)
    more = f"{_masked(waiting.fields)}{_pausing(waiting.fields)}{seen}{_failing(waiting.fields)}"
    more += _obstructed(waiting.fields)
    if reason in ENDINGS:
        more += _goes_on(waiting.fields)
        return f"{what.removeprefix('nothing: ')}; since {span(waiting.since_s)}{counts}{more}"
    return f"waiting for {what}; since {span(waiting.since_s)}{counts}{more}"


def _stopped(waiting: Waiting, awaited: str, seen: str) -> str:
    """That the run is not over, and nobody leads it."""
    last = f"no coordinator is running; {span(waiting.said_s)} ago the last one waited for {awaited}"
    if waiting.fields.get("reason") == WaitReason.BEHIND:
        return f"{last}{seen}"
    if waiting.fields.get("nobody_trains"):
        heard = f"no coordinator is running; it was heard {span(waiting.said_s)} ago"
        return f"{heard}{_failing(waiting.fields)}; mend that, and start it again: it goes on where it was"
    return f"{last}; start it again: it goes on where it was{_failing(waiting.fields)}"


def _blocked(fields: Mapping[str, Any]) -> str:
    """Why there is no broker, where that is waited for: of one connection, as both have about the same."""
    own = [why for name, why in sorted(_obstacles(fields).items()) if name != ABOVE]
    return f"the broker: {own[0]}" if own and fields.get("reason") == WaitReason.BROKER else ""


def _obstructed(fields: Mapping[str, Any]) -> str:
    """What is in the way beside what is waited for."""
    others = _obstacles(fields)
    if fields.get("reason") == WaitReason.BROKER:
        others = {name: why for name, why in others.items() if name == ABOVE}
    return "".join(f"; {CONNECTIONS.get(name, name)}: {why}" for name, why in others.items())


def _obstacles(fields: Mapping[str, Any]) -> Mapping[str, str]:
    found = fields.get("trouble")
    return {str(name): str(why) for name, why in found.items()} if isinstance(found, Mapping) else {}


def _ended(waiting: Waiting, reason: str) -> str:
    """That a run is over whose coordinator has ended: as it should be, so that does not come first."""
    why = "" if reason == WaitReason.FINISHED else f" ({waited_words(reason).removeprefix('nothing: ')})"
    version = f", version {waiting.fields['version']}" if "version" in waiting.fields else ""
    heard = f"its coordinator was heard {span(waiting.said_s)} ago"
    return f"the run is over{why}{version}; {heard}{_goes_on(waiting.fields)}"


def _goes_on(fields: Mapping[str, Any]) -> str:
    """What a person changes who wants more of a run that is over; a budget that is spent is spent."""
    reason = str(fields.get("reason"))
    if fields.get("follows"):
        return "; it goes on when the run above does"
    key = {WaitReason.FINISHED: "round.versions", WaitReason.STOPPED_EARLY: "stopping.patience"}.get(WaitReason(reason))
    return f"; to go on, raise {key} and start it again" if key else ""


def nobody_trains(version: object, failing: Mapping[str, str], failed: int = 0) -> str:
    """That nobody trains, and why.

    Args:
        version: The newest version.
        failing: Nodes and their reasons, perhaps not all.
        failed: How many there are; 0 is those of ``failing``.
    """
    return f"nobody trains after version {version}: {failures(failing, failed)}"


def failures(failing: Mapping[str, str], failed: int = 0) -> str:
    """Whose work comes to nothing, and why: each reason once, with the nodes that have given it."""
    by_reason: dict[str, list[str]] = {}
    for node, reason in failing.items():
        # Of an experiment's nodes each says its own number, too: the name before it says which.
        by_reason.setdefault(_OWN_NUMBER.sub("", reason, count=1), []).append(node)
    shown = dict(islice(by_reason.items(), REASONS_NAMED))
    said = [f"{_some(nodes)}: {reason}" for reason, nodes in shown.items()]
    more = max(failed, len(failing)) - sum(map(len, shown.values()))
    return "; ".join([*said, f"and {counted(more, 'more node')}"] if more else said)


def _some(nodes: Sequence[str]) -> str:
    named = f"{'node' if len(nodes) == 1 else 'nodes'} {', '.join(nodes[:NODES_NAMED])}"
    return named if len(nodes) <= NODES_NAMED else f"{named} and {len(nodes) - NODES_NAMED} more"


def _failing(fields: Mapping[str, Any]) -> str:
    """What a person should know beside the waiting; a file of an older release says nothing of it."""
    failing, failed = fields.get("failing") or {}, int(fields.get("failed") or 0)
    if not failing:
        return ""
    if fields.get("nobody_trains"):
        return f"; {nobody_trains(fields.get('version', '?'), failing, failed)}"
    return f"; what comes to nothing: {failures(failing, failed)}"


def _seen(row: object) -> str:
    return f"; {behind_words(row)}: {lift_words(row)}" if isinstance(row, Mapping) and row else ""


def _claims(row: object) -> str:
    words = claim_words(row)
    return f"; {words}" if words else ""


def behind_words(row: object) -> str:
    """What was seen of a later coordinator of this run, by whom; nothing where nothing was."""
    if not isinstance(row, Mapping) or not row:
        return ""
    nodes, named = row.get("nodes", 0), ", ".join(map(str, row.get("said_by") or []))
    who = f"{nodes} {'node has' if nodes == 1 else 'nodes have'} ({named})" if nodes else "the broker has"
    version = "" if row.get("our_version") is None else f" and version {row['our_version']}"
    rounds = counted(int(row.get("our_rounds") or 0), "round")
    ours = f"this state is of epoch {row.get('our_epoch')} with {rounds}{version}"
    return f"{who} seen a later coordinator of this run ({_beyond(row)}); {ours}"


def _beyond(row: Mapping[str, Any]) -> str:
    named = (("epoch", row.get("epoch") or None), ("round", row.get("round")), ("version", row.get("version")))
    return ", ".join(f"{name} {value}" for name, value in named if value is not None)


def claim_words(row: object) -> str:
    """Who claims to have seen a later coordinator of this run without a proof; nothing where nobody does."""
    if not isinstance(row, Mapping) or not row:
        return ""
    nodes, named = row.get("nodes", 0), ", ".join(map(str, row.get("said_by") or []))
    who = f"node {named} claims" if nodes == 1 else f"{nodes} nodes ({named}) claim"
    lies = "the run goes on; a node of an older release has no proof, another one lies"
    return f"{who} a later coordinator of this run ({_beyond(row)}) without proof: {lies}"


def lift_words(row: Mapping[str, Any]) -> str:
    """The command that makes of this state one that is obeyed, whatever was seen."""
    above = max(row.get("epoch") or 0, row.get("our_epoch") or 0)
    return f"coordinator restore FOLDER_OR_BACKUP --state NEW_FOLDER --above {above}"


def waited_words(reason: str) -> str:
    """What is waited for, in a person's words; a word of another release is shown as it is."""
    return MEANINGS[WaitReason(reason)] if reason in set(WaitReason) else reason


def _whom(fields: Mapping[str, Any]) -> str:
    if fields.get("reason") == WaitReason.BROKER:
        return ""  # whoever trains meanwhile is not what is waited for
    nodes, live = fields.get("nodes") or [], fields.get("live", 0)
    more = f" and {live - len(nodes)} more" if live > len(nodes) > 0 else ""
    return f": {', '.join(map(str, nodes))}{more}" if nodes else ""


def _counts(fields: Mapping[str, Any]) -> str:
    """What there is, each after a comma; a file of an older release has less."""
    reason, online = fields.get("reason"), fields.get("online", 0)
    said = []
    if reason == WaitReason.NODES_MIN and "nodes_min" in fields:
        said.append(f"{online} of {fields['nodes_min']} online (round.nodes_min)")
    elif fields.get("connected", True):
        said.append(f"{online} online")
    else:
        # Without its broker it hears of nobody: this is how it was before.
        said.append(f"{online} {'was' if online == 1 else 'were'} online")
    if fields.get("gone"):
        said.append(f"gone: {', '.join(map(str, fields['gone']))}")
    if fields.get("away"):
        due = fields.get("back_s")
        said.append(f"{fields['away']} away until they check in{'' if due is None else f' (next in {span(due)})'}")
    if "version" in fields:
        said.append(f"version {fields['version']}")
    # Between two versions nobody is asked: the size of the next one is known once its round begins.
    if fields.get("buffer") and reason not in ENDINGS and (reason != WaitReason.INTERVAL or fields.get("buffered")):
        said.append(f"{fields.get('buffered', 0)} of {_buffer(fields)} for the next one")
    return "".join(f", {one}" for one in said)


def _buffer(fields: Mapping[str, Any]) -> str:
    """What a version is made of; while fewer nodes are there than that, it is made of what they send."""
    buffer = int(fields["buffer"])
    return f"{'at most ' if fields.get('online', 0) < buffer else ''}{counted(buffer, 'update')}"


def _pausing(fields: Mapping[str, Any]) -> str:
    """Whom nobody asks just now, where nobody else is left."""
    named = fields.get("pausing") or []
    if not named or fields.get("reason") not in (WaitReason.NO_CANDIDATES, WaitReason.HELPER):
        return ""
    return f"; left alone for a while after a decline or a refused update: {', '.join(map(str, named))}"


def _masked(fields: Mapping[str, Any]) -> str:
    """What a masked version still lacks, and who may be in none yet; a file of an older release says nothing of it."""
    ready, quorum, rest = fields.get("ready"), fields.get("quorum"), int(fields.get("rest") or 0)
    said = ""
    if isinstance(ready, int) and isinstance(quorum, int) and ready < quorum and fields.get("reason") not in ENDINGS:
        said = f"; {counted(ready, 'update')} can be summed now, a masked version has {quorum} or more (round.quorum)"
    if rest:
        named = ", ".join(map(str, fields.get("resting") or []))
        more = f" and {rest - len(fields['resting'])} more" if rest > len(fields.get("resting") or []) > 0 else ""
        said += f"; resting between two noised sums (privacy.separation): {named}{more}"
    return said


def span(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
