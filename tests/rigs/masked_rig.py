"""The coordinator's machine with masked sums: a store model that keeps batches, and helpers with a disk each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from coordinator.engine import effects, events
from coordinator.engine.effects import Effect
from coordinator.engine.events import Event
from coordinator.engine.masked import effects as asked
from coordinator.engine.masked import events as said
from coordinator.engine.settings import EngineSettings, MaskingSettings
from coordinator.records import (
    BatchRecord,
    HiddenEvaluation,
    NodesEvaluation,
    RecoveredState,
    ReleaseRecord,
    Restored,
    Verdict,
)
from federation.privacy.metrics import metric_terms, names_digest
from federation.privacy.terms import read_ticket, shape_of, terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import EvaluationReport, Grant, Presence, ReceiptStatus, UpdateOffer
from federation.protocol.sum_messages import (
    Held,
    HeldStatus,
    HelperState,
    MaskedReport,
    PrivacyTerms,
    SealedSeeds,
    SumOffer,
    SumReason,
    SumRefusal,
    SumRequest,
    Ticket,
    transfer_id,
)
from federation.protocol.wire import encode_message
from federation.types import (
    MASKED_REPORTS,
    Digest,
    HelperId,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    StateId,
    UpdateId,
)
from tests.rigs.coordinator_rig import DIGEST, RUN, Rig, StoreModel, digest_of, engine, fresh, offer_of
from update_codec.masking import sum_bytes

HELPERS = (HelperId("alder"), HelperId("birch"))
NAMES = ("accuracy", "loss")
MEMBERS_MIN = 2
"""Small batches for short tests; the configuration allows none below 5."""


def terms(**changes: object) -> PrivacyTerms:
    """Ternary updates for two helpers."""
    plain = PrivacyTerms(
        scheme=1,
        helpers=Digest(b"h" * 16),
        count=len(HELPERS),
        threshold=len(HELPERS),
        dimension=100,
        tail=7,
        step=0.001,
        levels=1,
        members=8,
        bits=5,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def masked_engine(**changes: object) -> EngineSettings:
    """Small synchronous rounds of two, masked."""
    masking = MaskingSettings(helpers=HELPERS, threshold=len(HELPERS), members_min=MEMBERS_MIN)
    return engine(**{"masking": masking, "quorum": MEMBERS_MIN, **changes})


def masked_offer(node: str, round_id: int, base: int = 0, *, under: PrivacyTerms | None = None) -> UpdateOffer:
    """An honest masked offer."""
    update, boxes = UpdateId(f"{round_id}-{node}"), (b"box for alder", b"box for birch")
    ticket = Ticket(
        run=RUN,
        update=update,
        base_version=ModelVersion(base),
        base_digest=digest_of(base),
        terms=terms_digest(under or terms()),
        payload_digest=DIGEST,
        boxes=tuple(map(payload_digest, boxes)),
    )
    return offer_of(
        node,
        round_id,
        num_examples=1,
        codec="masked",
        base_version=ModelVersion(base),
        base_digest=digest_of(base),
        ticket=encode_message(ticket, sign=lambda _: bytes(64)),
        boxes=boxes,
    )


def masked_report(node: str, version: int, attempt: int = 0) -> MaskedReport:
    """What an honest node says under masks of the metrics `NAMES`."""
    under, update = metric_terms(terms(), len(NAMES)), UpdateId(f"{(1 << 31) + attempt}-{node}")
    payload, boxes = bytes(sum_bytes(shape_of(under))), (b"box for alder", b"box for birch")
    ticket = Ticket(
        run=RUN,
        update=update,
        base_version=ModelVersion(version),
        base_digest=digest_of(version),
        terms=terms_digest(under),
        payload_digest=payload_digest(payload),
        boxes=tuple(map(payload_digest, boxes)),
    )
    signed = encode_message(ticket, sign=lambda _: bytes(64))
    return MaskedReport(update=update, metrics=names_digest(NAMES), payload=payload, ticket=signed, boxes=boxes)


@dataclass(slots=True)
class Helper:
    """A helper's disk and process, with no cryptography: it holds each ticket once, and gives each batch one answer."""

    name: HelperId
    state_id: int = 1
    incarnation: int = 1
    held: dict[Digest, UpdateId] = field(default_factory=dict)
    used: dict[Digest, Digest] = field(default_factory=dict)
    answered: list[SumRequest] = field(default_factory=list)
    refusing: dict[UpdateId, SumReason] = field(default_factory=dict)
    sum_bytes: int = 40
    full: bool = False

    def state(self, presence: Presence = Presence.ONLINE) -> HelperState:
        return HelperState(
            presence=presence,
            incarnation=Incarnation(self.incarnation),
            state_id=StateId(self.state_id),
            protocol_min=1,
            protocol_max=1,
            kem=32,
            key=b"k" * 32,
            members_min=5,
        )

    def lose_disk(self) -> None:
        """Another store: nothing that was held is known, and its key cannot open what was sealed before."""
        self.state_id, self.incarnation = self.state_id + 1, 1
        self.refusing |= dict.fromkeys(self.held.values(), SumReason.BAD_BOX)
        self.held.clear()

    def hear(self, command: SealedSeeds | SumRequest | Grant) -> list[Held | SumOffer | SumRefusal]:
        match command:
            case SealedSeeds():
                return [self._hold(command)]
            case SumRequest():
                return self._answer(command)
            case Grant():
                return []

    def _hold(self, seeds: SealedSeeds) -> Held:
        digest = payload_digest(seeds.ticket)
        reason = self.refusing.get(seeds.update, SumReason.FULL if self.full else SumReason.NONE)
        if reason is SumReason.NONE:
            self.held[digest] = seeds.update
        status = HeldStatus.HELD if reason is SumReason.NONE else HeldStatus.REFUSED
        return Held(run=seeds.run, update=seeds.update, ticket=digest, status=status, reason=reason)

    def _answer(self, request: SumRequest) -> list[Held | SumOffer | SumRefusal]:
        if any(ticket not in self.held for ticket in request.tickets):
            unknown = b"".join(ticket for ticket in request.tickets if ticket not in self.held)
            refusal = SumRefusal(run=request.run, batch=request.batch, reason=SumReason.UNKNOWN_UPDATE, members=unknown)
            return [refusal]
        if any(self.used.get(ticket, request.batch) != request.batch for ticket in request.tickets):
            return [SumRefusal(run=request.run, batch=request.batch, reason=SumReason.USED)]
        self.used |= dict.fromkeys(request.tickets, request.batch)
        self.answered.append(request)
        return [self.offer(request, part) for part in request.classes]

    def offer(self, request: SumRequest, part: int) -> SumOffer:
        body = self.body(request.batch, part)
        if request.terms.dimension == 1:
            body = body.ljust(sum_bytes(shape_of(request.terms)), b".")
        return SumOffer(
            run=request.run,
            batch=request.batch,
            part=part,
            payload_bytes=len(body),
            payload_digest=payload_digest(body),
            chunk_bytes=61_440,
            inline=body,
        )

    def body(self, batch: Digest, part: int) -> bytes:
        return (bytes([part]) + batch).ljust(self.sum_bytes, b".")


@dataclass(slots=True)
class MaskedStoreModel(StoreModel):
    """Also keeps who is frozen, and the sums."""

    batch: BatchRecord | None = None
    sums: dict[int, SumOffer] = field(default_factory=dict)
    versions_of: dict[UpdateId, ModelVersion] = field(default_factory=dict)
    terms: PrivacyTerms | None = None

    hidden: dict[tuple[ModelVersion, NodeId], EvaluationReport] = field(default_factory=dict)
    chunks: set[UpdateId] = field(default_factory=set)
    frozen: dict[ModelVersion, SumRequest] = field(default_factory=dict)

    def freeze(self, batch: BatchRecord, release: ReleaseRecord | None = None) -> None:
        assert self.batch in (None, batch), "another batch was frozen"
        assert batch.version == self.versions[-1].version + 1
        assert set(batch.updates) <= set(self.stored()), "frozen, and not stored"
        seeds = [self.updates[update].seeds for update in batch.updates]
        tickets = [read_ticket(one.ticket) for one in seeds if one is not None]
        bases = {(one.base_version, one.base_digest) for one in tickets if one is not None}
        assert len(bases) == len(dict(bases)), "two models under one number: helpers refuse it [FED-151]"
        assert len({member.node for member in batch.members}) == len(batch.members)
        self.batch, self.sums = batch, self.sums if self.batch == batch else {}
        if release is not None:
            self.charge(release, batch.members)

    def drop(self, version: ModelVersion, verdicts: tuple[Verdict, ...]) -> None:
        assert self.batch is not None
        assert version == self.batch.version
        assert {verdict.update for verdict in verdicts} == self.batch.updates
        for verdict in verdicts:
            self.save_verdict(verdict, None)
        self.batch, self.sums = None, {}

    def freeze_evaluation(self, request: SumRequest) -> None:
        assert self.frozen.setdefault(request.version, request) == request, "other reports were frozen"
        known = {payload_digest(one.masked.ticket) for one in self.hidden.values() if one.masked is not None}
        assert set(request.tickets) <= known, "frozen, and not on disk"

    def close_hidden(self, effect: asked.CloseHidden) -> NodesEvaluation:
        version, survey = effect.version, self.surveys[effect.version]
        assert not effect.sums or version in self.frozen, "summed before it was frozen"
        nodes = len(self.frozen[version].tickets) if effect.sums else 0
        self.surveys[version] = replace(survey, closed=True, nodes=nodes)
        self.hidden = {key: report for key, report in self.hidden.items() if key[0] != version}
        self.frozen.pop(version, None)
        return self.surveys[version]

    def recovered(self, epoch: int) -> RecoveredState:
        # Two calls of `super` without arguments do not work in a slotted dataclass.
        plain = StoreModel.recovered(self, epoch)
        hidden = tuple(
            HiddenEvaluation(
                version=version,
                reports={node: one.masked for (of, node), one in self.hidden.items() if of == version and one.masked},
                request=self.frozen.get(version),
            )
            for version in sorted({version for version, _ in self.hidden})
        )
        found = replace(plain, batch=self.batch, sums=frozenset(self.sums), terms=self.terms)
        return replace(found, masked_reports=hidden)


class MaskedRig(Rig):
    """One machine with two helpers; what is sent to them waits in ``mail`` until the test delivers it."""

    store: MaskedStoreModel

    def __init__(
        self,
        settings: EngineSettings | None = None,
        seed: int = 0,
        *,
        first: PrivacyTerms | None = None,
        restored: Restored | None = None,
    ) -> None:
        first = first or terms()
        super().__init__(masked_engine() if settings is None else settings, fresh(terms=first, restored=restored), seed)
        self.store = MaskedStoreModel(recent_max=self.settings.max_staleness + 1, terms=first)
        self.helpers = {name: Helper(name) for name in HELPERS}
        self.down: set[HelperId] = set()
        self.mail: list[tuple[HelperId, SealedSeeds | SumRequest | Grant]] = []
        self.next_terms: Callable[[PrivacyTerms], PrivacyTerms] = lambda now: now

    def _run(self, effect: Effect) -> list[Event]:  # noqa: PLR0911 - one branch per effect
        match effect:
            case asked.KeepReport() | asked.FreezeEvaluation() | asked.CloseHidden():
                return [self._hide(effect)]
            case asked.FreezeBatch(batch=batch, release=release):
                self.store.freeze(batch, release)
                return [said.BatchFrozen(batch=batch, release=release)]
            case asked.DropBatch(version=version, verdicts=verdicts):
                self.store.drop(version, verdicts)
                return [said.BatchDropped(verdicts=verdicts)]
            case asked.ForgetSums(transfers=transfers):
                self.store.chunks -= set(transfers)
                return []
            case asked.StoreSumChunk(offer=offer, index=index):
                self.store.chunks.add(transfer_id(offer.batch, offer.part))
                return [said.SumChunkStored(offer=offer, index=index)]
            case asked.StoreSum(version=version, offer=offer, part=part):
                assert self.store.batch is not None
                assert version == self.store.batch.version
                self.store.sums[part] = offer
                self.store.chunks.discard(transfer_id(offer.batch, offer.part))
                return [said.SumStored(part=part)]
            case asked.SendToHelper() | asked.RaiseTaking():
                return self._tell_or_raise(effect)
            case _:
                return super()._run(effect)

    def _hide(self, effect: asked.KeepReport | asked.FreezeEvaluation | asked.CloseHidden) -> Event:
        match effect:
            case asked.KeepReport(node=node, report=report):
                self.store.hidden[report.version, node] = report
                return said.ReportKept(report=report)
            case asked.FreezeEvaluation(request=request):
                self.store.freeze_evaluation(request)
                return said.EvaluationFrozen(request=request)
            case asked.CloseHidden():
                return events.FederatedEvaluationClosed(evaluation=self.store.close_hidden(effect))

    def _tell_or_raise(self, effect: asked.SendToHelper | asked.RaiseTaking) -> list[Event]:
        if isinstance(effect, asked.RaiseTaking):
            self.store.takings[effect.node] = effect.taking
        else:
            self._check_command(effect.command)
            self.mail.append((effect.helper, effect.command))
        return []

    def _check_command(self, command: SealedSeeds | SumRequest | Grant) -> None:
        match command:
            case SealedSeeds(update=update):
                reports = {one.masked.update for one in self.store.hidden.values() if one.masked is not None}
                assert update in {*self.store.stored(), *reports}, "said before it was saved"
            case SumRequest(batch=batch):
                known = set() if self.store.batch is None else {one.batch for one in self.store.batch.requests}
                known |= {one.batch for one in self.store.frozen.values()}
                assert batch in known, "asked before it was frozen"
            case _:
                pass

    def _commit(self, effect: effects.CommitVersion) -> list[Event]:
        batch = self.store.batch
        assert batch is not None
        assert (effect.version, effect.members) == (batch.version, batch.members)
        count = len(batch.request.classes)
        assert set(self.store.sums) == set(range(count * len(batch.requests))), "a version without all its sums"
        for part, offer in self.store.sums.items():
            group, number = divmod(part, count)
            assert offer.inline in (None, self.helpers[HELPERS[number]].body(batch.requests[group].batch, number))
        made = super()._commit(effect)
        for event in made:
            if isinstance(event, events.VersionCommitted):
                self.store.batch, self.store.sums = None, {}
                self.store.versions_of |= dict.fromkeys(batch.updates, batch.version)
                assert self.store.terms is not None
                self.store.terms = self.next_terms(self.store.terms)
                return [replace(event, terms=self.store.terms)]
        return made

    # --- what helpers do ----------------------------------------------------------------------------------------------

    def hear_helper(self, name: HelperId, presence: Presence = Presence.ONLINE) -> list[Effect]:
        return self.tell(said.HelperSpoke(helper=name, message=self.helpers[name].state(presence)))

    def go(self, name: HelperId) -> list[Effect]:
        """A helper is gone: what is sent to it now is lost."""
        self.down.add(name)
        return self.hear_helper(name, Presence.LOST)

    def come(self, name: HelperId) -> list[Effect]:
        """Its next process."""
        self.down.discard(name)
        self.helpers[name].incarnation += 1
        return self.hear_helper(name)

    def start(self, *nodes: str) -> list[Effect]:
        self.connect()
        for name in HELPERS:
            self.hear_helper(name)
        able = {MASKED_REPORTS: 1.0}
        return [self.state(node, codecs=("edge", "masked"), capabilities=able) for node in nodes][-1]

    def deliver(self, *names: HelperId) -> list[Effect]:
        """Bring the mail of these helpers (nobody: of all), and their answers, until nothing is left."""
        done: list[Effect] = []
        wanted = set(names or HELPERS)
        while any(name in wanted for name, _ in self.mail):
            place = next(place for place, (name, _) in enumerate(self.mail) if name in wanted)
            name, command = self.mail.pop(place)
            if name in self.down:
                continue
            for answer in self.helpers[name].hear(command):
                done += self.tell(said.HelperSpoke(helper=name, message=answer))
        return done

    def offer_masked(self, node: str, round_id: int, *, under: PrivacyTerms | None = None) -> list[Effect]:
        """An honest masked offer from the round's own version."""
        base = self.store.rounds[RoundId(round_id)].version
        offer = masked_offer(node, round_id, base, under=under or self.store.terms)
        known = self.store.verdicts.get(offer.update)
        stored = self.store.updates[offer.update] if offer.update in self.store.stored() else None
        record = self.store.rounds.get(RoundId(round_id))
        event = events.OfferReceived(node=NodeId(node), offer=offer, known=known, stored=stored, asked=record)
        return self.tell(event)

    def report_masked(self, node: str, version: int, *, attempt: int = 0, **changes: object) -> list[Effect]:
        """An honest masked report; each attempt has another name, as after a restart of the node."""
        return self.report(
            node, version, num_examples=0, **{"masked": masked_report(node, version, attempt), **changes}
        )

    def status(self, update: str) -> ReceiptStatus | None:
        verdict = self.store.verdicts.get(UpdateId(update))
        return None if verdict is None else verdict.status
