"""What noised sums have cost each node, who may be in the next one, and when the run has to end (FED-186 to FED-188).

The account is written with each batch, before a helper is asked for its sum, and never goes down: a sum that was
revealed is paid for, whatever becomes of it. Helpers keep accounts of their own, and say what they know better. Where
the coordinator itself adds the noise, a version is charged in the transaction that makes it (FED-310).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b

from coordinator.engine.ledger import Absent
from coordinator.engine.masked.effects import RaiseTaking
from coordinator.engine.state import MachineState
from coordinator.records import BatchRecord, Member, RecoveredState, ReleaseRecord, UpdateRecord
from federation.privacy.releases import Taking, mu_within, objection, plan_of, price
from federation.protocol.sum_messages import Held, PrivacyTerms
from federation.types import DIGEST_BYTES, Digest, HelperId, ModelVersion, NodeId

__all__ = ["NoisedSums"]

_ROUNDING = 1e-9
"""Share of a budget that sums of many small numbers may be off."""


class NoisedSums:
    """One machine's; without noise for whole nodes it does nothing.

    Args:
        state: The machine's.
        recovered: What the store has.
    """

    def __init__(self, state: MachineState, recovered: RecoveredState) -> None:
        self._state = state
        masking, self._own = state.settings.masking, state.settings.noise
        self._budget = None if masking is None else masking.budget
        if self._own is not None:
            self._budget = self._own.budget
        self._takings = dict(recovered.released.takings)
        self._next, self._floor = recovered.released.releases, recovered.released.floor
        self._raised = Counter[HelperId]()  # accounts that were raised on a helper's word
        self._claims: dict[NodeId, dict[HelperId, Taking]] = {}
        self._restored = recovered.restored is not None
        self._spent: set[NodeId] = set()
        self._absent = Absent(state, recovered)
        self._most = 0.0
        if self._budget is not None:
            self._most = mu_within(self._budget.epsilon, self._budget.delta) ** 2 * (1 + _ROUNDING)
            state.masked.admits = self.admits
            for node in self._takings:
                self._look(node)

    def admits(self, node: NodeId) -> bool:
        """Whether a node may be in the next noised sum."""
        return not self._objection(node)

    def admitted(self, records: Iterable[UpdateRecord]) -> list[UpdateRecord]:
        """The updates whose nodes can pay for a version, in their order; all of them where none is charged."""
        return list(records) if self._own is None else [record for record in records if self.admits(record.node)]

    def charged(self, version: ModelVersion, members: Sequence[Member]) -> ReleaseRecord | None:
        """What a version costs its members, where the coordinator itself adds the noise; None where it does not.

        A version that is made again, since its first one was lost, is another release with noise of its own.
        """
        own = self._own
        if own is None:
            return None
        said = "|".join((str(self._next), str(version), *sorted(member.update for member in members)))
        return ReleaseRecord(
            release=self._next,
            batch=Digest(blake2b(said.encode(), digest_size=DIGEST_BYTES, person=b"fedmq-version").digest()),
            version=version,
            noise=own.noise,
            clip=own.clip,
            epsilon=own.budget.epsilon,
            delta=own.budget.delta,
            prices=dict.fromkeys((member.node for member in members), own.noise**-2),
        )

    def charge(self, batch: BatchRecord) -> ReleaseRecord | None:
        """What a batch costs its members; None without noise."""
        terms, budget = batch.request.terms, self._budget
        if budget is None or terms.noise is None or terms.clip is None:
            return None
        nodes = [member.node for member in batch.members]
        return ReleaseRecord(
            release=self._next,
            batch=batch.request.batch,
            version=batch.version,
            noise=terms.noise,
            clip=terms.clip,
            epsilon=budget.epsilon,
            delta=budget.delta,
            prices={node: price(terms, self._taking(node).releases) for node in nodes},
            plan=plan_of(terms),
        )

    def saved(self, record: ReleaseRecord | None) -> None:
        """It is on disk: its members have paid, and whoever has rested long enough may be asked again."""
        if record is None:
            return
        self._next = record.release + 1
        for node, paid in record.prices.items():
            before = self._taking(node)
            self._takings[node] = Taking(releases=before.releases + 1, last=record.release, spent=before.spent + paid)
        for node in dict.fromkeys((*record.prices, *self._state.masked.resting)):
            self._look(node)

    def heard(self, helper: HelperId, node: NodeId, held: Held) -> bool:
        """A helper says what it has of an update's node; returns whether that cannot be, on its word alone.

        A batch is charged here before any helper is asked for it, so only a store that went back can know of less. One
        that was restored as it should be knows that it was, and believes each helper. Any other believes no more than
        what all of them say [FED-200].
        """
        if self._budget is None or held.taken is None or held.gap is None or held.spent is None:
            return False
        known = self._taking(node)
        said = Taking(releases=held.taken, last=self._next - held.gap, spent=held.spent)
        more = said.releases > known.releases or said.spent > known.spent * (1 + _ROUNDING)
        if not self._restored:
            # Sums that were frozen and made no version have numbers here, and perhaps none at the helper.
            newest = known.last + max(0, self._next - self._state.head.version)
            said = replace(said, last=min(said.last, newest))
            if more:
                said = self._all_say(helper, node, said)
        raised = Taking(
            releases=max(known.releases, said.releases),
            last=max(known.last, said.last) if known.releases else said.last,
            spent=max(known.spent, said.spent),
        )
        if (
            raised.releases > known.releases
            or (known.releases and raised.last > known.last)
            or raised.spent > known.spent * (1 + _ROUNDING)
        ):
            self._raise(helper, node, raised)
            return False
        return more

    def _all_say(self, helper: HelperId, node: NodeId, said: Taking) -> Taking:
        """What all helpers say at least, of a node of which one says more than is known."""
        masking, claims = self._state.settings.masking, self._claims.setdefault(node, {})
        if helper not in claims:
            self._state.note("helper_claims_more", helper=helper, node=node, releases=said.releases, spent=said.spent)
        claims[helper] = said
        if masking is None or len(claims) < len(masking.helpers):
            return self._taking(node)
        return Taking(
            releases=min(one.releases for one in claims.values()),
            last=min(one.last for one in claims.values()),
            spent=min(one.spent for one in claims.values()),
        )

    def _raise(self, helper: HelperId, node: NodeId, taking: Taking) -> None:
        self._takings[node] = taking
        self._raised[helper] += 1
        self._state.emit(RaiseTaking(node=node, taking=taking))
        self._state.note("ledger_raised", helper=helper, node=node, releases=taking.releases)
        self._look(node)

    def follow_enrolled(self, nodes: frozenset[NodeId]) -> None:
        """Only these may come: a run does not wait for the budget of whoever has left the federation."""
        self._absent.follow_enrolled(nodes)

    def end(self) -> None:
        """The run is over when a version cannot be made any more of those that have budget."""
        state = self._state
        if self._budget is None or state.progress.over_budget or state.masked.batch is not None:
            return
        known = self._absent.still({*state.registry.nodes(), *self._takings})
        if self._floor.releases:
            for node in sorted(known - self._takings.keys() - self._spent):
                self._look(node)
        left = sum(1 for node in known if self._objection(node) != "budget") + self._absent.beside(len(known))
        if known and (self._takings or self._floor.releases) and left < max(1, state.settings.quorum):
            state.progress.spend_budget()
            state.note("budget_ends_run", left=left, quorum=state.settings.quorum, raised_by=dict(self._raised))

    def _taking(self, node: NodeId) -> Taking:
        return self._takings.get(node, self._floor)

    def _objection(self, node: NodeId) -> str:
        terms: PrivacyTerms | None = self._state.masked.terms
        taking = self._taking(node)
        if self._own is not None:
            return "budget" if taking.spent + self._own.noise**-2 > self._most else ""
        if self._budget is None or terms is None or terms.noise is None:
            return ""
        found = objection(terms, taking, self._next)
        if found != "budget" and taking.spent + price(terms, taking.releases) > self._most:
            return "budget"
        return found

    def _look(self, node: NodeId) -> None:
        """Ask a node only where its update may be in the next sum."""
        state, found = self._state, self._objection(node)
        if found == "budget" and node not in self._spent:
            self._spent.add(node)
            state.note("budget_spent", node=node)
        if found == "rests":
            state.masked.resting[node] = None
        else:
            state.masked.resting.pop(node, None)
        (state.registry.exclude if found else state.registry.include)(node)
