"""What is wrong with a run at one moment, as far as a person should hear of it; pure."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from coordinator.config.alerts import AlertKind, AlertsSection
from coordinator.engine.round import ENDINGS
from coordinator.monitoring.why import span
from federation.units import counted, human_bytes
from fedmq.alerts.watch import Condition
from fedmq.run_view import Snapshot

__all__ = ["OF_RUN", "Surroundings", "conditions", "of_surroundings"]

OF_RUN: Final[frozenset[AlertKind]] = frozenset(
    {"stopped", "nobody_online", "no_version", "node_silent", "accuracy_fell", "dropped"}
)
"""What only whoever reads the run can see."""

DROPPED_QUIET_S = 3600.0
"""A broker that has dropped nothing for so long, in seconds, has done with it."""

REGAINED = 0.5
"""An accuracy that is this share of `accuracy_drop` below the best is regained: one that wavers is told once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is not in the store.

    Attributes:
        today: The time of day, with its zone.
        lease_s: How long an assignment lasts, in seconds.
        interval_s: Least time between two versions, in seconds.
        disk_free: Bytes that are free where the state folder is.
        disk_total: Bytes of that disk; 0: it cannot be read.
        certificates: When each valid name's newest certificate ends.
        certificates_unknown: Why that cannot be read; empty: it can.
    """

    today: dt.datetime
    lease_s: float
    interval_s: float = 0.0
    disk_free: int = 0
    disk_total: int = 0
    certificates: Mapping[str, dt.datetime] = field(default_factory=dict)
    certificates_unknown: str = ""


def conditions(run: Snapshot, around: Surroundings, limits: AlertsSection) -> Iterator[Condition]:
    """Everything that is wrong now; how long it must last before it is told is in each.

    Args:
        run: The run.
        around: What is not in the store.
        limits: From when on it is worth telling.
    """
    yield from of_surroundings(around, limits)
    waiting = run.summary["waiting"]
    if waiting["reason"] in ENDINGS:
        return
    if waiting["running"]:
        yield from _of_its_coordinator(run, around, limits)
        return
    if limits.stopped_s:
        yield Condition(kind="stopped", text=waiting["sentence"], hold_s=limits.stopped_s)
    # What was told is not over because nobody is there to see it.
    for one in _of_its_coordinator(run, around, limits):
        yield replace(one, begins=False)


def of_surroundings(around: Surroundings, limits: AlertsSection) -> Iterator[Condition]:
    """What is wrong whether or not the run can be read; the arguments are those of `conditions`."""
    if limits.disk_free and around.disk_total > 0 and around.disk_free < limits.disk_free * around.disk_total:
        free = f"{human_bytes(around.disk_free)} of {human_bytes(around.disk_total)}"
        yield Condition(kind="disk", text=f"the state folder's disk is nearly full: {free} are free")
    yield from _certificates(around, limits)


def _of_its_coordinator(run: Snapshot, around: Surroundings, limits: AlertsSection) -> Iterator[Condition]:
    """What only a coordinator that runs can see begin or end."""
    yield from _standing_still(run, around, limits)
    yield from _silent(run, limits)
    yield from _worse(run, limits)
    dropped = int(run.summary["counters"].get("broker_dropped", 0))
    if limits.dropped and dropped:
        text = (
            f"the broker has dropped {counted(dropped, 'message')} since the coordinator's start: see its queue limits"
        )
        yield Condition(kind="dropped", text=text, grows=dropped, base=0, quiet_s=DROPPED_QUIET_S)


def _standing_still(run: Snapshot, around: Surroundings, limits: AlertsSection) -> Iterator[Condition]:
    waiting, head = run.summary["waiting"], run.summary["head"]
    # Of a fleet that checks in nobody may be there for a while; who does not come back is no longer away.
    if limits.nobody_online_s and not waiting["online"] and not waiting["away"]:
        away = f"no node can be reached; {waiting['sentence']}"
        text = "no node is online" if waiting["connected"] else away
        yield Condition(kind="nobody_online", text=text, hold_s=limits.nobody_online_s)
    if limits.no_version_leases and head is not None:
        hold_s = around.interval_s + limits.no_version_leases * around.lease_s
        text = f"no version after {head} for {span(hold_s)}; {waiting['sentence']}"
        yield Condition(kind="no_version", mark=head, text=text, hold_s=hold_s)


def _silent(run: Snapshot, limits: AlertsSection) -> Iterator[Condition]:
    """Nodes that have sent nothing for long; those that are not asked are not expected to."""
    if not limits.node_silent_s:
        return
    for node in run.nodes:
        sent = sum(int(node[f"updates_{kind}"]) for kind in ("applied", "stale", "refused", "waiting"))
        text = f"node {node['id']} has sent nothing for {span(limits.node_silent_s)}, though it was asked"
        hold_s, asked = limits.node_silent_s, int(node["asked"])
        yield Condition(kind="node_silent", subject=str(node["id"]), mark=sent, text=text, hold_s=hold_s, grows=asked)


def _worse(run: Snapshot, limits: AlertsSection) -> Iterator[Condition]:
    found = [(float(one["accuracy"]), one["version"]) for one in run.versions if one["accuracy"] is not None]
    if not found or not limits.accuracy_drop:
        return
    (best, at), (newest, version) = max(found), found[-1]
    if newest < best - REGAINED * limits.accuracy_drop:
        text = f"accuracy fell to {newest:.2%} (version {version}) from {best:.2%} (version {at})"
        yield Condition(kind="accuracy_fell", text=text, begins=newest < best - limits.accuracy_drop)


def _certificates(around: Surroundings, limits: AlertsSection) -> Iterator[Condition]:
    if limits.certificate_days and around.certificates_unknown:
        text = f"nobody can tell when certificates end: {around.certificates_unknown}"
        yield Condition(kind="certificate", text=text)
    for name, ends in around.certificates.items():
        days = (ends - around.today).days
        if days < limits.certificate_days:
            soon = f"ends in {counted(days, 'day')}" if days else "ends within a day"
            when = "has ended" if ends <= around.today else soon
            text = f"the certificate of {name} {when}: coordinator renew"
            yield Condition(kind="certificate", subject=name, text=text)
