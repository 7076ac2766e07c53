"""``fedmq gateway doctor``: checks what a gateway needs on either side, and what became of its sums."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import coordinator.monitoring.doctor as below
import edge_node.setup.doctor as above
from coordinator.config.sections import CoordinatorConfig
from coordinator.monitoring.presence import PresenceSeen, read_presence
from coordinator.monitoring.sites import added_up
from federation.config import broker_address
from federation.doctor import (
    FREE_BYTES_MIN,
    Finding,
    Verdict,
    check_clock,
    check_folder,
    check_room,
    check_versions,
    failed,
    passed,
    warned,
)
from federation.errors import FederationError, StorageError
from federation.protocol.messages import Presence, Reason
from federation.units import counted
from site_gateway.config import GatewaySettings
from site_gateway.storage.read_only import SiteState, newest_run, read_site

__all__ = ["check_site", "check_sums", "examine"]

REMEDIES = {
    Reason.CODEC: "name this gateway above, in members_max of the section gateways, and start its coordinator",
    Reason.NOT_ASSIGNED: "raise its number above, in members_max of the section gateways, or split the site",
    Reason.BAD_NUM_EXAMPLES: "raise limits.num_examples_max above, or see which node claims so many examples",
    Reason.NORM: "see which node of the site learns wildly, or raise limits.update_norm_max above",
}
"""What to do about a sum that was refused above; one remedy for each reason that is the gateway's own."""


def examine(settings: GatewaySettings) -> Iterator[Finding]:
    """Check everything: first what is of this machine, then the way up, the way down, and the site."""
    yield check_versions()
    yield check_clock(time.time())
    state = above.check_state(settings.above)
    folder = newest_run(settings.below.store.folder) or settings.below.store.folder
    site = settings.below.model_copy(update={"store": settings.below.store.model_copy(update={"folder": folder})})
    yield from _side("above", (state,))
    yield from _side("below", _of_the_site(site, folder))
    yield check_fit(settings)
    yield from _side("above", above.examine_broker(settings.above, runs=state.verdict is Verdict.WARN))
    yield from _side("below", below.check_broker(site))
    try:
        found = read_site(folder)
    except StorageError:
        yield warned("site", "it has no run yet", "start the coordinator above, then fedmq gateway run")
        return
    yield check_site(found, read_presence(folder, found.run))
    yield check_sums(found)


def _of_the_site(site: CoordinatorConfig, folder: Path) -> Iterator[Finding]:
    yield below.check_settings(site)
    yield check_folder(folder)
    yield check_room(folder, bytes_min=FREE_BYTES_MIN, remedy="make room: an update that cannot be saved is not taken")


def check_fit(settings: GatewaySettings) -> Finding:
    """Whether the two sides are two."""
    try:
        up, down = broker_address(settings.above.broker), broker_address(settings.below.broker)
    except FederationError as error:
        return failed("broker settings", str(error), "correct this setting")
    same = (up.host, up.port) == (down.host, down.port)
    if same and settings.above.federation.id == settings.below.federation.id:
        said = f"both sides are federation {settings.above.federation.id} at {up.host}:{up.port}"
        return failed("two sides", said, "give the site a broker of its own, or another federation.id below")
    return passed("two sides", f"above {up.host}:{up.port}, below {down.host}:{down.port}")


def check_site(found: SiteState, seen: PresenceSeen) -> Finding:
    """Whether the site's nodes are there."""
    here = {name: one.presence is Presence.ONLINE for name, one in seen.nodes.items()}
    below = [name for name in seen.sites if name in here]
    behind, behind_online = added_up(seen.sites)
    online = sum(here.values()) - sum(here[name] for name in below)
    nodes = len(here) - len(below) + behind
    said = f"version {found.version}, {online + behind_online} of {counted(nodes, 'node')} online"
    if seen.sites:
        said += f"; gateways below: {sum(here[name] for name in below)} of {len(seen.sites)} online"
    if found.pid is None:
        return warned("site", f"{said} when the gateway was stopped", "start it: fedmq gateway run")
    if any(here.values()):
        return passed("site", said)
    return warned("site", said, "start its nodes, with the site's broker")


def check_sums(found: SiteState) -> Finding:
    """Whether the federation above takes what the site sends."""
    applied, owed = found.updates.get("applied", 0), len(found.owed)
    said = f"in a version above: {counted(applied, 'update')}; without a verdict: {counted(owed, 'sum')}"
    blamed = {reason: count for reason, count in found.refused.items() if reason in REMEDIES}
    if not blamed:
        return passed("sums", said)
    reason = Reason(max(blamed, key=lambda one: blamed[one]))
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(found.refused.items()))
    judge = warned if applied else failed
    return judge("sums", f"{said}; refused: {told}", REMEDIES[reason])


def _side(side: str, findings: Iterator[Finding] | tuple[Finding, ...]) -> Iterator[Finding]:
    """The same, saying on which side it is."""
    for finding in findings:
        yield replace(finding, check=f"{side}: {finding.check}")
