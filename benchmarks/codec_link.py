"""Nodes on links that differ by four orders of magnitude, with the `link` codec and without: who is in time?

    python -m benchmarks.codec_link [--json]

A simulated federation: machines, codec and protocol as in production, the time and the uplinks' rates simulated. Every
round waits for all nodes; who has not delivered within the lease loses its slot.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.table import Figure, show
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from edge_node.engine.machine import NodeSettings
from federation.protocol.messages import ReceiptStatus
from federation.tasks.registry import default_settings
from federation.types import NodeId
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Scenario
from fedmq.simulation.world.trainer import Stragglers
from update_codec import CodecSpec

PARAMETERS = 400_000
LEASE_S = 30.0
VERSIONS = 12
KBITS = (16, 64, 1_000, 100_000)
"""Uplinks: a narrow-band modem, a poor mobile link, a good one, a LAN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What a run came to.

    Attributes:
        expired: Leases that ended without an update.
        applied: Updates of each node in a version.
        sizes: Mean bytes of each node's updates.
        newest: Bytes of each node's newest update.
    """

    expired: int
    applied: tuple[int, ...]
    sizes: tuple[float, ...]
    newest: tuple[int, ...]


def run(codec: str, *, kbits: Sequence[int] = KBITS, versions: int = VERSIONS) -> Fleet:
    """One federation of nodes on these uplinks, in kbit/s."""
    task = f"quadratic-{PARAMETERS}"
    engine = EngineSettings(
        task=task,
        train=default_settings(task),
        codec_up=codec,
        versions=versions,
        concurrency=len(kbits),
        buffer=len(kbits),
        refill=len(kbits),
        quorum=1,
        nodes_min=len(kbits),
        lease_s=LEASE_S,
        max_wait_s=LEASE_S,
    )
    scenario = Scenario(
        seed=3,
        nodes=len(kbits),
        task=task,
        engine=engine,
        committer=CommitterSettings(downlink=DownlinkSettings(spec=CodecSpec.parse("edge"))),
        node=NodeSettings(node=NodeId("node"), task=task),
        stragglers=Stragglers(train_s=1.0, spread=0.0, jitter=0.0, slow_share=0.0),
        uplinks=tuple(125.0 * rate for rate in kbits),
    )
    with quiet_log():
        simulation = Simulation(scenario)
        outcome = simulation.run()
    if outcome.violations:
        raise RuntimeError("; ".join(outcome.violations))
    sizes, applied = defaultdict[str, list[int]](list), defaultdict[str, int](int)
    for row in simulation.store.updates():
        sizes[row.record.node].append(row.record.payload_bytes)
        applied[row.record.node] += row.verdict.status is ReceiptStatus.APPLIED
    nodes = [f"node-{index}" for index in range(len(kbits))]
    return Fleet(
        expired=outcome.leases_expired,
        applied=tuple(applied[node] for node in nodes),
        sizes=tuple(fmean(sizes[node] or [0]) for node in nodes),
        newest=tuple((sizes[node] or [0])[-1] for node in nodes),
    )


def figures() -> Iterator[Figure]:
    """Leases that expire, and what each node sends."""
    link, fixed = run("link"), run("balanced")
    told = ", ".join(f"{rate} kbit/s {size / 1000:.1f} kB" for rate, size in zip(KBITS, link.newest, strict=True))
    share = min(link.applied) / VERSIONS
    note = f"newest updates: {told}"
    yield Figure(what="link: leases that expired", measured=link.expired, bar=0, note=note)
    note = f"with `balanced` {min(fixed.applied) / VERSIONS:.2f}, and {fixed.expired} leases expired"
    yield Figure(
        what="link: the slowest node's share of the versions", measured=share, bar=1.0, at_least=True, note=note
    )
    seconds = link.newest[0] / (125 * KBITS[0])
    note = f"s of a lease of {LEASE_S:.0f} s; `balanced` would take {fixed.sizes[-1] / (125 * KBITS[0]):.0f} s"
    yield Figure(
        what="link: upload of the slowest node's newest update",
        measured=seconds,
        bar=0.5 * LEASE_S,
        unit="s",
        note=note,
    )
    ratio = link.newest[-1] / link.newest[0]
    note = f"what a LAN sends is 2 bits per parameter, {8 * link.newest[-1] / PARAMETERS:.2f} here"
    yield Figure(what="link: bytes on the LAN / at 16 kbit/s", measured=ratio, bar=2, at_least=True, note=note)


def main() -> int:
    """Run and print; returns 0 if every bar was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    title = f"{PARAMETERS:,} parameters, a lease of {LEASE_S:.0f} s, {VERSIONS} versions"
    return 0 if show(title, list(figures()), as_json=options.json, skipped={}) else 1


if __name__ == "__main__":
    raise SystemExit(main())
