"""What a coordinator that adds noise itself must have charged, held against its store (P1 to P5 of a simulation).

- P1 no process finds less in its accounts than the versions on its disk have cost
- P2 each version is charged once, to exactly its members, each of which is in it once; a number of a noised sum is of
  one version for ever
- P3 what is reported of a node is not below what the versions that it was in have cost
- P4 nobody is in a version beyond its budget
- P5 a node that has lost its state goes on with its account: here the coordinator alone keeps accounts, by name, so
  what was charged to any life of it is in P1 and P3
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import copy

from coordinator.engine.settings import NoiseSettings
from coordinator.global_model.noised import secret_of
from coordinator.monitoring.noised_sums import NodesReport
from coordinator.records import ReleaseLedger, ReleaseRecord
from coordinator.storage.store import Commit
from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.releases import mu_within
from federation.types import Digest, ModelVersion, NodeId

__all__ = ["Accounts"]

_ROUNDING = 1e-9


class Accounts:
    """The ledger of one store over its restarts.

    Args:
        say: Hears what must not be.
        noise: What the coordinator adds; None: nothing is looked at.

    Attributes:
        made: What each version was charged, and the secret of its noise: with these it can be made again.
    """

    def __init__(self, say: Callable[[str], None], noise: NoiseSettings | None) -> None:
        self._say, self._noise = say, noise
        self._most = 0.0
        if noise is not None:
            self._most = mu_within(noise.budget.epsilon, noise.budget.delta) ** 2 * (1 + _ROUNDING)
        self._spent = defaultdict[NodeId, float](float)
        self._sums: dict[int, tuple[ModelVersion, Digest]] = {}
        self.made: dict[ModelVersion, tuple[ReleaseRecord, bytes]] = {}

    def fork(self, say: Callable[[str], None]) -> "Accounts":
        """Those of a copy of the store, as they are now."""
        other = copy(self)
        parts = {"_say": say, "_spent": self._spent.copy(), "_sums": self._sums.copy(), "made": self.made.copy()}
        for name, value in parts.items():
            setattr(other, name, value)
        return other

    def outlive(self, lost: Iterable["Accounts"]) -> None:
        """A restored store must know of no less than those whose place it takes."""
        for other in lost:
            for node, spent in other._spent.items():  # noqa: SLF001 - another one of ours
                self._spent[node] = max(self._spent[node], spent)

    def committed(self, commit: Commit) -> None:
        """A version is on disk."""
        release, version, noise = commit.release, commit.record.version, self._noise
        if noise is None:
            if release is not None:
                self._say(f"P2: version {version} is charged, and nobody adds noise")
            return
        if release is None or set(release.prices) != {member.node for member in commit.members}:
            self._say(f"P2: version {version} is not charged to its members")
            return
        if len(release.prices) < len(commit.members):
            self._say(f"P2: version {version} has two updates of one node, and noise for one")
        if self._sums.setdefault(release.release, (version, release.batch)) != (version, release.batch):
            self._say(f"P2: noised sum {release.release} is of {self._sums[release.release]}, and of version {version}")
        secret = secret_of(commit.model.strategy)
        if secret is None or secret in (known for _, known in self.made.values()):
            self._say(f"P2: version {version} has no noise of its own")
            return
        self.made[version] = release, secret
        for node in release.prices:
            self._spent[node] += noise.noise**-2
            if self._spent[node] > self._most:
                self._say(f"P4: {node} is in version {version}, and has no budget for it")

    def started(self, ledger: ReleaseLedger) -> None:
        """A process begins with these accounts."""
        for node, least in self._spent.items():
            taking = ledger.takings.get(node, ledger.floor)
            if taking.spent < least * (1 - _ROUNDING):
                self._say(f"P1: {node} has spent {least:.6g}, and the store says {taking}")

    def reported(self, report: NodesReport | None) -> None:
        """People are told this at the end."""
        if self._noise is None or not self._spent:
            return
        delta = self._noise.budget.delta
        told, of_others = ({}, 0.0) if report is None or report.delta > delta else (report.epsilons, report.floor)
        for node, spent in self._spent.items():
            least, said = gaussian_epsilon(math.sqrt(spent), delta), told.get(node, of_others)
            if said < least * (1 - _ROUNDING):
                self._say(f"P3: {node} has an epsilon of {least:.6g} at delta {delta:g}, and {said:.6g} is reported")
