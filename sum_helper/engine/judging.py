"""What a helper refuses, and why: pure, and the whole of its protection (PROTOCOL.md, FED-151 to FED-153)."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.classes import classes_of
from federation.privacy.releases import objection, plan_text, price
from federation.privacy.terms import batch_digest, check_terms, terms_digest
from federation.protocol.enumerations import PrivacyUnit, SumReason
from federation.protocol.limits import REFUSED_MEMBERS_MAX
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import Digest, ModelVersion
from sum_helper.engine.events import MembersFound, SeedsReceived
from sum_helper.records import HelperRules, Member

__all__ = ["Refusal", "judge_request", "judge_seeds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a sum is not revealed.

    Attributes:
        reason: In one word.
        members: Of whom that is true; none: of the whole batch.
    """

    reason: SumReason
    members: tuple[Digest, ...] = ()

    @property
    def joined(self) -> bytes:
        """As many of them as a message can name, ascending."""
        return b"".join(sorted(self.members)[:REFUSED_MEMBERS_MAX])


def judge_seeds(event: SeedsReceived, rules: HelperRules) -> SumReason:
    """Whether an update's seeds are held: `NONE`, or why not. What is known keeps its first word."""
    if event.known is not None:
        return SumReason.NONE if event.known == event.ticket else SumReason.OTHER_UPDATE
    if event.update is None:
        return event.reason
    held, _ = event.update
    if held.base_version < event.oldest:
        return SumReason.TOO_OLD
    return SumReason.FULL if event.held >= rules.held_max else SumReason.NONE


def judge_request(found: MembersFound, rules: HelperRules) -> Refusal | None:
    """Whether a sum may be revealed: None, or why not. Nothing in a request is believed that is not held here."""
    request, terms = found.request, found.request.terms
    tickets = request.tickets
    if batch_digest(request.run, request.version, terms, tickets) != request.batch:
        return Refusal(reason=SumReason.BATCH_MISMATCH)
    if found.batch is not None and found.batch.members != request.members:
        return Refusal(reason=SumReason.BATCH_MISMATCH)
    if not _sound(terms) or len(tickets) > terms.members or _is_other_plan(found):
        return Refusal(reason=SumReason.TERMS)
    if terms.dimension > rules.parameters_max:
        return Refusal(reason=SumReason.TOO_LARGE)
    unknown = tuple(ticket for ticket in tickets if ticket not in found.members)
    if unknown:
        return Refusal(reason=SumReason.UNKNOWN_UPDATE, members=unknown)
    members = tuple(found.members[ticket] for ticket in tickets)
    return _judge_members(found, members, rules) or _judge_classes(found, members)


def _judge_members(found: MembersFound, members: tuple[Member, ...], rules: HelperRules) -> Refusal | None:
    request, terms = found.request, found.request.terms
    nodes, wanted = Counter(one.held.node for one in members), (request.run, terms_digest(terms))
    shared, doubtful = (terms.count, terms.threshold), _doubtful(members)
    reasons: tuple[tuple[SumReason, Callable[[Member], bool]], ...] = (
        (SumReason.USED, lambda one: one.batch not in (None, request.batch)),
        (SumReason.DUPLICATE_NODE, lambda one: nodes[one.held.node] > 1),
        (SumReason.UNKNOWN_NODE, lambda one: one.held.node not in found.registered),
        (SumReason.TERMS, lambda one: (one.held.run, one.held.terms) != wanted),
        (SumReason.TERMS, lambda one: (one.held.count, one.held.threshold) != shared),
        (SumReason.BASE_MISMATCH, lambda one: one.held.base_version in doubtful),
        (SumReason.BUDGET, lambda one: found.batch is None and not _affords(one, terms, rules)),
        (SumReason.BUDGET, lambda one: _objection(found, one) == "budget"),
        (SumReason.RESTS, lambda one: _objection(found, one) == "rests"),
    )
    for reason, applies in reasons:
        if refused := _tickets(one for one in members if applies(one)):
            return Refusal(reason=reason, members=refused)
    return Refusal(reason=SumReason.TOO_FEW) if len(nodes) < rules.members_min else None


def _judge_classes(found: MembersFound, members: tuple[Member, ...]) -> Refusal | None:
    terms, asked = found.request.terms, set(found.request.classes)
    places = {one.held.place for one in members}
    if len(places) > 1 or not asked <= set(classes_of(min(places), terms.count, terms.threshold)):
        return Refusal(reason=SumReason.NOT_OURS)
    answered = frozenset[int]() if found.batch is None else found.batch.classes
    gone = frozenset[int]() if found.batch is None else found.batch.gone
    if asked & gone:
        return Refusal(reason=SumReason.GONE)
    missing = asked - answered
    if refused := _tickets(one for one in members if not missing <= one.classes):
        return Refusal(reason=SumReason.GONE, members=refused)
    return None


def _is_other_plan(found: MembersFound) -> bool:
    """Whether a run that has begun under one plan of correlated noise, or under none, is asked for another."""
    terms, released = found.request.terms, found.released
    return found.batch is None and bool(released.releases) and plan_text(terms) != released.plan


def _objection(found: MembersFound, member: Member) -> str:
    """Why a member may not be in the next noised sum of its run; nothing where this one was answered before."""
    return "" if found.batch is not None else objection(found.request.terms, member.taking, found.released.releases)


def _affords(member: Member, terms: PrivacyTerms, rules: HelperRules) -> bool:
    """Whether the budget, which is the nodes', has room for one release more; with one, every sum must be noised."""
    if rules.budget is None:
        return True
    if terms.noise is None or terms.unit is not PrivacyUnit.NODES:
        return False
    spent = gaussian_epsilon(math.sqrt(member.spent + price(terms, member.taking.releases)), rules.budget.delta)
    return spent <= rules.budget.epsilon


def _sound(terms: PrivacyTerms) -> bool:
    try:
        check_terms(terms)
    except ValueError:
        return False
    return True


def _doubtful(members: Iterable[Member]) -> set[ModelVersion]:
    """Base versions that are not the same model for all: one that only one node was given would give it away."""
    models = {(one.held.base_version, one.held.base_digest) for one in members}
    versions = Counter(version for version, _ in models)
    return {version for version, count in versions.items() if count > 1}


def _tickets(members: Iterable[Member]) -> tuple[Digest, ...]:
    return tuple(one.held.ticket for one in members)
