"""The ledgers of differential privacy as invariants P1 to P5 of a stopped federation; each returns what is wrong.

A node charges an update in the transaction that makes it, and says in the offer all that it has spent [FED-180,
FED-183]; the coordinator keeps the highest count that it was told before it keeps the update. So a ledger below what
the updates cost, an update without a charge, and a charge that nobody was told of are damage, whatever was killed.
"""

from collections.abc import Iterable, Iterator

from coordinator.monitoring.privacy import privacy_report
from edge_node.storage.read_only import StoppedNode
from federation.privacy.budget import epsilon_of, greatest, merged
from federation.types import NodeId, SampledSteps, UpdateId
from fedmq.audit.evidence import Evidence
from fedmq.audit.invariants import Check, some

__all__ = ["is_private", "private_checks", "private_not_checked"]

Steps = tuple[SampledSteps, ...]
_Kind = tuple[float, float]

_ROUNDING = 1e-6
"""Share that an epsilon may be above its budget: the accountant's bounds are so exact."""

_ADOPTED = UpdateId("")
"""Whose charge is what the coordinator knew better: of updates of a state that was lost."""


def is_private(evidence: Evidence) -> bool:
    """Whether anybody has spent anything in this run."""
    return bool(evidence.spent) or any(node.charges for node in evidence.nodes)


def private_checks() -> list[tuple[str, str, Check]]:
    """Each invariant of the ledgers, its claim, and its check."""
    return [
        ("P1", "no ledger is less than what its updates cost", lambda evidence: some(_lowered(evidence))),
        ("P2", "each update that left its node is charged once", lambda evidence: some(_charged_once(evidence))),
        ("P3", "the epsilon that is reported is not too low", lambda evidence: some(_understated(evidence))),
        ("P4", "nothing has left a node beyond its budget", lambda evidence: some(_beyond(evidence))),
        (
            "P5",
            "a node that lost its state has taken over what was known of it",
            lambda evidence: some(_forgot(evidence)),
        ),
    ]


def private_not_checked(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What the named stores do not show of the ledgers, each with its invariant."""
    read = {name for node in evidence.nodes if (name := _name(evidence, node)) is not None}
    unread = sorted(evidence.spent.keys() - read)
    if unread:
        yield "P2", f"not checked: the ledgers of {some(unread)} themselves, whose folders were not named"
    for node in evidence.nodes:
        name = _name(evidence, node)
        if name is None:
            yield "P1", f"not checked: {node.folder} has charged nothing in this run, and does not say whose it is"
        elif _has_lost_its_state(evidence, node, name):
            yield "P1", f"{node.folder} has lost its state, and not heard yet what {name} had spent before"
        gone = sorted(node.charges.keys() - {_ADOPTED} - _released(evidence, node, name))
        gone = [update for update in gone if _can_have_been(evidence, update, name)]
        if gone:
            yield "P2", f"not checked: {some(gone)} of {node.folder}, charged, and in neither store any more"


def _lowered(evidence: Evidence) -> Iterator[str]:
    for name, updates in evidence.updates_of.items():
        known = evidence.spent.get(name)
        steps = 0 if known is None else sum(each.steps for each in known.steps)
        if steps < len(updates):
            yield f"{name} has {len(updates)} updates here, and the coordinator's ledger of it {steps} steps"
    for node in evidence.nodes:
        total = _total(node)
        said = greatest(*(offer.spent or () for offer, _ in node.outbox.values()))
        if lack := _lack(total, said):
            yield f"{node.folder} has told of {lack} in its ledger"
        whose = _name(evidence, node)
        if whose is None:
            continue
        known_here = _known(evidence, whose)
        if (lack := _lack(total, known_here)) and not _has_lost_its_state(evidence, node, whose):
            yield f"{node.folder}: the coordinator knows of {lack} in the ledger of {whose}"
        if lack := _lack(known_here, _cost(evidence, node, whose)):
            yield f"{node.folder} has charged {lack} in the coordinator's ledger of {whose}"


def _charged_once(evidence: Evidence) -> Iterator[str]:
    for node in evidence.nodes:
        name = _name(evidence, node)
        released = _released(evidence, node, name)
        lost = name is not None and _has_lost_its_state(evidence, node, name)
        missing = [] if lost else sorted(released - node.charges.keys())
        # Those of a state that was lost are in what was taken over from the coordinator, each a step at least.
        if len(missing) > sum(each.steps for each in node.charges.get(_ADOPTED, ())):
            yield f"{node.folder}: {some(missing)} left without a charge"
        for update in sorted(node.charges.keys() - released - {_ADOPTED}):
            if not _can_have_been(evidence, update, name):
                yield f"{node.folder}: a charge is for {update}, which is no update of this node"
        told = greatest(_known(evidence, name), *(offer.spent or () for offer, _ in node.outbox.values()))
        charged = merged(each for update in {*released, _ADOPTED} for each in node.charges.get(update, ()))
        if lack := _lack(told, charged):
            yield f"{node.folder}: updates are charged with {lack} in what was told with them"


def _understated(evidence: Evidence) -> Iterator[str]:
    report = privacy_report(evidence.store)
    for name, updates in evidence.updates_of.items():
        if report is None or name not in report.epsilons:
            yield f"nothing is reported of {name}, which has {len(updates)} updates here"
    for node in evidence.nodes:
        whose = _name(evidence, node)
        if whose is None or report is None or whose not in report.epsilons:
            continue
        delta = report.spent[whose].privacy.delta
        again = epsilon_of(greatest(report.spent[whose].steps, _cost(evidence, node, whose)), delta)
        if again > report.epsilons[whose]:
            yield f"{whose} is reported with epsilon {report.epsilons[whose]:.4f}, and has spent {again:.4f}"


def _beyond(evidence: Evidence) -> Iterator[str]:
    """A budget may have been lowered since: then nothing may have been released that was asked for under it."""
    for name, spent in evidence.spent.items():
        steps, privacy = spent.steps, spent.privacy
        epsilon = epsilon_of(steps, privacy.delta)
        if epsilon > privacy.epsilon * (1 + _ROUNDING):
            yield f"{name} has spent {epsilon:.4f} of {privacy.epsilon:g}"
    for node in evidence.nodes:
        name_of = _name(evidence, node)
        known = None if name_of is None else evidence.spent.get(name_of)
        if known is None:
            continue
        own = epsilon_of(_total(node), known.privacy.delta)
        if own > known.privacy.epsilon * (1 + _ROUNDING):
            yield f"{node.folder} has spent {own:.4f} of {known.privacy.epsilon:g}"


def _forgot(evidence: Evidence) -> Iterator[str]:
    """A folder that has charged none of the updates that the coordinator has is another one than theirs [FED-184]."""
    for node in evidence.nodes:
        whose = _name(evidence, node)
        if whose is None or _has_lost_its_state(evidence, node, whose):
            continue
        before = [update for update in evidence.updates_of.get(whose, ()) if update not in node.charges]
        known = _known(evidence, whose)
        if before and _ADOPTED not in node.charges and (lack := _lack(_total(node), known)):
            yield f"{node.folder} does not know of {some(sorted(before))}, nor of {lack} in the ledger of {whose}"


def _name(evidence: Evidence, node: StoppedNode) -> NodeId | None:
    """Whose folder it is: as its updates say; without any, as it is called, where there is such a node."""
    for update in (*node.outbox, *sorted(node.charges)):
        if name := update.partition("-")[2]:
            return NodeId(name)
    called = NodeId(node.folder.name)
    return called if called in evidence.spent or called in evidence.updates_of else None


def _released(evidence: Evidence, node: StoppedNode, name: NodeId | None) -> set[UpdateId]:
    """Updates of a node that somebody can have seen."""
    here = () if name is None else evidence.updates_of.get(name, ())
    return {*here, *node.outbox}


def _can_have_been(evidence: Evidence, update: UpdateId, name: NodeId | None) -> bool:
    """Whether a node can have made an update of this name: one that the coordinator refused unseen, or has lost."""
    number, _, whose = update.partition("-")
    return whose == name and number.isdecimal() and int(number) < evidence.store.rounds_reserved()


def _cost(evidence: Evidence, node: StoppedNode, name: NodeId) -> Steps:
    """What the node's own rows charge for updates that the coordinator has, and what it was told by it."""
    here = {_ADOPTED, *evidence.updates_of.get(name, ())}
    return merged(each for update in here for each in node.charges.get(update, ()))


def _total(node: StoppedNode) -> Steps:
    return merged(each for charge in node.charges.values() for each in charge)


def _known(evidence: Evidence, name: NodeId | None) -> Steps:
    known = None if name is None else evidence.spent.get(name)
    return () if known is None else known.steps


def _has_lost_its_state(evidence: Evidence, node: StoppedNode, name: NodeId) -> bool:
    """Whether a folder is a new one, from which nothing has left yet: it hears first what was spent [FED-184]."""
    unused = not node.charges and not node.outbox and (node.seen is None or node.seen.applied is None)
    return unused and name in evidence.spent


def _lack(ledger: Iterable[SampledSteps], least: Iterable[SampledSteps]) -> str:
    """How many steps of which kind a ledger lacks; empty where it has them all."""
    have = {_kind(each): each.steps for each in merged(ledger)}
    lacks = ((each, each.steps - have.get(_kind(each), 0)) for each in merged(least))
    return some(
        f"{count} steps (q {each.sampling_rate:g}, noise {each.noise:g}) that are not"
        for each, count in lacks
        if count > 0
    )


def _kind(each: SampledSteps) -> _Kind:
    return each.sampling_rate, each.noise
