"""The accounts of noised sums as invariants P1 to P5; each returns what is wrong.

The coordinator charges a sum in the transaction that freezes its batch, a helper in that which marks its members as
used, both before anybody can see anything of it; a coordinator that adds the noise itself charges a version in the
transaction that makes it. So an account below its charges, a version of a sum that nobody has
paid for, and an account of the coordinator below a helper's are damage, whatever was killed.
"""

import math
from collections.abc import Iterator

from coordinator.monitoring.noised_sums import nodes_report
from federation.privacy.accountant import gaussian_epsilon
from federation.protocol.messages import ReceiptStatus
from federation.types import ModelVersion, NodeId
from fedmq.audit.evidence import Evidence
from fedmq.audit.invariants import Check, some

__all__ = ["is_noised", "noised_checks", "noised_not_checked"]

_ROUNDING = 1e-9
"""Share by which sums of the same numbers in another order may differ."""


def is_noised(evidence: Evidence) -> bool:
    """Whether any sum of this run had noise for whole nodes."""
    return bool(evidence.released.takings)


def noised_checks() -> list[tuple[str, str, Check]]:
    """Each invariant, its claim for noised sums, and its check."""
    return [
        ("P1", "no account is less than what its sums cost", lambda evidence: some(_lowered(evidence))),
        ("P2", "each noised sum is charged to each of its nodes, once", lambda evidence: some(_charged(evidence))),
        ("P3", "the epsilon of nodes that is reported is not too low", lambda evidence: some(_understated(evidence))),
        ("P4", "no sum was asked for beyond a node's budget", lambda evidence: some(_beyond(evidence))),
        ("P5", "the coordinator knows of all that helpers have charged", lambda evidence: some(_behind(evidence))),
    ]


def noised_not_checked(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What the named stores do not show."""
    if evidence.released.own >= evidence.released.releases > 0:
        return  # no helper has ever added any noise
    if not evidence.helpers:
        yield "P5", "not checked: the accounts of the helpers, whose folders were not named (--helper)"
    elif evidence.restored is not None and any(_less(evidence)):
        yield "P5", "the run was begun again from a backup, and not all nodes have been heard of by helpers since"


def _lowered(evidence: Evidence) -> Iterator[str]:
    """An account against the charges that stand beside it, and a helper's against its own sums of this run."""
    prices = dict[NodeId, list[float]]()
    for release in evidence.releases:
        for node, price in release.prices.items():
            prices.setdefault(node, []).append(price)
    for node, paid in prices.items():
        taking = evidence.released.takings.get(node)
        if taking is None or taking.releases < len(paid) or taking.spent < sum(paid) * (1 - _ROUNDING):
            yield f"{node} has paid for {len(paid)} sums (mu² {sum(paid):.6g}), and its account has less"
    for helper in evidence.helpers:
        for node, taking in helper.takings.items():
            if helper.releases.get(node, 0) < taking.releases:
                yield f"{helper.folder}: {node} was in {taking.releases} noised sums, and its ledger has less"


def _charged(evidence: Evidence) -> Iterator[str]:
    by_batch = {release.batch: release for release in evidence.releases}
    if evidence.released.own:
        yield from _charged_with_versions(evidence)
    for row in evidence.versions:
        batch = evidence.store.batch(row.record.version)
        if batch is None or batch.request.terms.noise is None:
            continue
        release = by_batch.get(batch.request.batch)
        if release is None:
            yield f"the sum of version {row.record.version} was charged to nobody"
        elif release.prices.keys() != {member.node for member in batch.members}:
            yield f"the sum of version {row.record.version} was charged to others than its members"
    numbers = [release.release for release in evidence.releases]
    if len(by_batch) < len(numbers):
        yield "a batch was charged twice"


def _charged_with_versions(evidence: Evidence) -> Iterator[str]:
    """Where the coordinator adds the noise, a version's newest charge is of exactly those whose updates made it."""
    newest = {release.version: release for release in evidence.releases}
    nodes = dict[int, set[NodeId]]()
    for update in evidence.updates.values():
        if update.verdict.status is ReceiptStatus.APPLIED and update.verdict.version is not None:
            nodes.setdefault(update.verdict.version, set()).add(update.record.node)
    first = min((release.version for release in evidence.releases), default=0)
    for version, members in sorted(nodes.items()):
        release = newest.get(ModelVersion(version))
        if version < first or evidence.store.batch(ModelVersion(version)) is not None:
            continue
        if release is None:
            yield f"the updates of version {version} were charged to nobody"
        elif release.prices.keys() != members:
            yield f"version {version} was charged to others than its members"


def _understated(evidence: Evidence) -> Iterator[str]:
    report = nodes_report(evidence.store)
    for release in evidence.releases:
        for node in release.prices:
            if report is None or node not in report.epsilons:
                yield f"nothing is reported of {node}, which was in noised sum {release.release}"
    if report is None:
        return
    for node, taking in _greatest(evidence).items():
        again = gaussian_epsilon(math.sqrt(taking * (1 - _ROUNDING)), report.delta)
        if again > report.epsilons.get(node, 0.0) * (1 + _ROUNDING) and evidence.restored is None:
            yield f"{node} is reported with epsilon {report.epsilons.get(node, 0.0):.4f}, and has spent {again:.4f}"


def _greatest(evidence: Evidence) -> dict[NodeId, float]:
    """The most that any store knows of each node, as mu²."""
    found = {node: taking.spent for node, taking in evidence.released.takings.items()}
    for helper in evidence.helpers:
        for node, taking in helper.takings.items():
            found[node] = max(found.get(node, 0.0), taking.spent)
    return found


def _beyond(evidence: Evidence) -> Iterator[str]:
    spent = dict[NodeId, float]()
    for release in evidence.releases:
        for node, price in release.prices.items():
            spent[node] = spent.get(node, 0.0) + price
            epsilon = gaussian_epsilon(math.sqrt(spent[node] * (1 - _ROUNDING)), release.delta)
            if epsilon > release.epsilon * (1 + _ROUNDING):
                yield f"{node} had spent {epsilon:.4f} of {release.epsilon:g} with noised sum {release.release}"


def _behind(evidence: Evidence) -> Iterator[str]:
    """A coordinator that was restored hears of it with the next update of the node; before that it is no damage."""
    if evidence.restored is not None:
        return
    yield from _less(evidence)


def _less(evidence: Evidence) -> Iterator[str]:
    for helper in evidence.helpers:
        for node, taking in helper.takings.items():
            known = evidence.released.takings.get(node)
            if known is None or known.releases < taking.releases or known.spent < taking.spent * (1 - _ROUNDING):
                had = 0 if known is None else known.releases
                yield f"{helper.folder} has charged {node} for {taking.releases} noised sums, the coordinator for {had}"
