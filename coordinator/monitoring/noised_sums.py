"""What noised sums tell of whole nodes, in words and as data: epsilon, always with unit, adjacency and delta."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from coordinator.records import ReleaseLedger
from federation.privacy.taking import NOT_DRAWN, Drawn, Plan, Taking
from federation.types import NodeId, RunId
from federation.units import counted

__all__ = [
    "NODES_ADJACENCY",
    "NODES_UNIT",
    "NOT_PROMISED_BY_COORDINATOR",
    "NOT_PROMISED_OF_NODES",
    "NodesReport",
    "nodes_line",
    "nodes_report",
    "nodes_row",
    "nodes_said",
    "not_promised_of_nodes",
]

NODES_UNIT = "nodes"
"""What is protected: all that one node has contributed to the run."""

NODES_ADJACENCY = "a node's contribution or none; that it took part is public"
"""Which two runs are compared."""

DELTA = 1e-5
"""Of a ledger that says none: one that was taken over from helpers alone, after a restore."""

RENAMED = "A machine that is enrolled under another name begins another account: what both say is of one machine."

NOT_PROMISED_OF_NODES = (
    "Noise is each helper's own: the epsilon holds as long as one helper keeps its noise and its secret to itself.",
    "Nodes shorten their own updates: whoever changes its software can contribute more, and is then protected less.",
    "Helpers count all runs in their own ledgers (fedmq helper status); what is stated here is this run alone.",
    RENAMED,
)

NOT_PROMISED_BY_COORDINATOR = (
    "The coordinator, its backups and whoever reads its folder see every update: the epsilon is of the models alone.",
    "What the coordinator shows of nodes (status, page, reports, log: examples, losses, times) has no noise.",
    "Other runs over the same data add to what is stated here, and no helper counts them.",
    RENAMED,
)


class Ledger(Protocol):
    """What is read of a run's store."""

    @property
    def run(self) -> RunId:
        """Which run."""

    def released(self) -> ReleaseLedger:
        """Each node's part in noised sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesReport:
    """What noised sums have spent.

    Attributes:
        run: Which run.
        releases: How many noised sums were made.
        own: To how many of them the coordinator itself has added the noise, and no helper.
        takings: Each node's part in them.
        epsilons: And its epsilon
        delta: at this delta.
        budget: Most that each node's may be; None where it is not known.
        drawn: How much noise there was, and whether the coordinator adds it.
        floor: Epsilon of every node that is not listed: above 0 once a backup was restored.
    """

    run: RunId
    releases: int
    own: int
    takings: Mapping[NodeId, Taking]
    epsilons: dict[NodeId, float]
    delta: float
    budget: float | None
    drawn: Drawn = NOT_DRAWN
    floor: float = 0.0

    @property
    def largest(self) -> float:
        """The largest epsilon of any node, listed or not."""
        return max([self.floor, *self.epsilons.values()])


def nodes_report(store: Ledger) -> NodesReport | None:
    """What noised sums have spent; None where there was none.

    Raises:
        StorageError: The store cannot be read.
    """
    ledger = store.released()
    if not ledger.takings and not ledger.floor.releases:
        return None
    # Imported here: most runs have no noise, and it computes with arrays.
    from federation.privacy.accountant import gaussian_epsilon  # noqa: PLC0415

    delta = DELTA if ledger.delta is None else ledger.delta
    return NodesReport(
        run=store.run,
        releases=ledger.releases,
        own=ledger.own,
        takings=ledger.takings,
        epsilons={node: gaussian_epsilon(math.sqrt(one.spent), delta) for node, one in ledger.takings.items()},
        delta=delta,
        budget=ledger.epsilon,
        drawn=ledger.drawn,
        floor=gaussian_epsilon(math.sqrt(ledger.floor.spent), delta),
    )


def nodes_row(report: NodesReport | None) -> dict[str, object] | None:
    """The same as plain data."""
    if report is None:
        return None
    nodes = {
        node: {"epsilon": report.epsilons[node], "sums": one.releases, "mu": math.sqrt(one.spent)}
        for node, one in report.takings.items()
    }
    return {
        "unit": NODES_UNIT,
        "noise_by": _noise_by(report),
        "adjacency": NODES_ADJACENCY,
        "delta": report.delta,
        "budget": report.budget,
        "noise": report.drawn.noise,
        "clip": report.drawn.clip,
        "correlated": _plan_row(report.drawn.plan),
        "largest_epsilon": report.largest,
        "epsilon_of_others": report.floor,
        "sums": report.releases,
        "nodes": nodes,
    }


def nodes_line(report: NodesReport | None) -> str:
    """The same in one line; nothing where nothing was spent."""
    if report is None:
        return ""
    nodes = counted(len(report.takings), "node")
    budget = "" if report.budget is None else f" of {report.budget:g}"
    return (
        f"noise on sums: largest epsilon {report.largest:.3f}{budget} (delta {report.delta:g}, {nodes}, "
        f"unit {NODES_UNIT}, {NODES_ADJACENCY}{_TRUSTED if _noise_by(report) != 'helpers' else ''})"
    )


_TRUSTED = "; the coordinator adds the noise and sees every update"


def _noise_by(report: NodesReport) -> str:
    """Who has added the noise: ``helpers``, ``coordinator`` or ``both``, one in some sums and one in others.

    What was taken over from another run, or is counted for all after a restore, is the coordinator's.
    """
    if not report.own and report.drawn.here is None:
        return "helpers"
    return "coordinator" if report.own >= report.releases else "both"


def not_promised_of_nodes(report: NodesReport | None) -> tuple[str, ...]:
    """What nobody may conclude from it."""
    if report is None:
        return ()
    by = _noise_by(report)
    helped = NOT_PROMISED_OF_NODES if by != "coordinator" else ()
    return tuple(dict.fromkeys((*helped, *(NOT_PROMISED_BY_COORDINATOR if by != "helpers" else ()))))


def _protected_by(report: NodesReport) -> list[str]:
    said = "What was protected: all that one node has contributed, by noise"
    match _noise_by(report):
        case "helpers":
            return [f"{said} that each helper has added to the sums."]
        case "coordinator":
            return [
                f"{said} that the coordinator has added to the sums.",
                "The coordinator is trusted with it: it has seen each update, and whoever gets a model has not.",
            ]
        case _:
            return [
                f"{said} on the sums: the coordinator has added it to",
                f"{report.own} of {report.releases}, and seen their updates; helpers have added it to the others.",
            ]


_MEANT = (
    "That is: all noised sums together are at most e^epsilon times as likely with the node's contribution as without "
    "it, but for a probability of delta."
)


def _bound(report: NodesReport) -> str:
    """After a restore nodes pay for sums in which they may have been; under a plan, for the worst that it allows."""
    return "exact" if report.drawn.plan is None and not report.floor else "an upper bound"


def _noise_said(report: NodesReport) -> list[str]:
    drawn = report.drawn
    if drawn.noise is None or drawn.clip is None:
        return []
    sums = counted(report.releases, "sum")
    added = {"helpers": "each helper", "coordinator": "the coordinator", "both": "each helper, or the coordinator,"}
    said = f"In {sums} {added[_noise_by(report)]} has added Gaussian noise with a standard deviation of at least"
    end = f"times the clip, the L2 norm of the longest contribution: at most {drawn.clip:g}."
    return [f"{said} {drawn.noise:g} {end}", *_plan_said(drawn.plan)]


def _plan_row(plan: Plan | None) -> dict[str, int] | None:
    return None if plan is None else {"bandwidth": plan.bandwidth, **asdict(plan.participation)}


def _plan_said(plan: Plan | None) -> list[str]:
    if plan is None:
        return []
    kept, rest = plan.participation, ""
    if kept.separation > 1 < kept.participations:
        rest = f", with at least {counted(kept.separation - 1, 'other sum')} between two of them"
    said = (
        f"This noise is correlated: that of each sum depends on {counted(plan.bandwidth - 1, 'sum')} before it. It was "
        f"planned for {kept.releases} sums, and one node is in {kept.participations} of them at most{rest}. Epsilon is "
        "that of all of a node's sums together, where they lie as badly as this allows."
    )
    return [said]


def _floor_said(report: NodesReport) -> list[str]:
    """After a restore: whoever came since the backup may have been in each sum that it does not know of."""
    if not report.floor:
        return []
    return [f"Every node that is not listed is counted with epsilon {report.floor:.4f}: a backup was restored."]


def nodes_said(report: NodesReport | None) -> list[str]:
    """The same as lines of a statement; none where nothing was spent."""
    if report is None:
        return []
    largest = max(report.epsilons, key=lambda node: report.epsilons[node], default="of each")
    budget = "" if report.budget is None else f", of a budget of {report.budget:g}"
    return [
        "Noise on the sums",
        "",
        *_protected_by(report),
        f"Which runs are compared: {NODES_ADJACENCY}.",
        f"Largest epsilon of any node: {report.largest:.4f} at delta {report.delta:g} ({largest}){budget}.",
        _MEANT,
        f"It counts every sum that was charged, used or not, and is {_bound(report)} for Gaussian noise.",
        *_noise_said(report),
        *_floor_said(report),
        "A node that has left, or was revoked, keeps its account here; one that comes back goes on with it.",
        "",
        *(
            f"{node}: epsilon {report.epsilons[node]:.4f} at delta {report.delta:g}, in {one.releases} sums"
            for node, one in sorted(report.takings.items())
        ),
    ]
