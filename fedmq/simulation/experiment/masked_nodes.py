"""Virtual nodes and helpers under masked sums: the frames, tickets and sums of the real ones, in one process.

Boxes are not sealed and tickets not signed, since nobody is between node and helper. With ``masks`` False the integers
travel as they are and helpers answer with zeros: the sum, and so the model, is the same to the bit. Noise of helpers is
another one in each run, masked or not, since their secrets are; from the same secrets it is the same.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from coordinator.engine.masked.effects import HelperCommand
from coordinator.engine.masked.events import HelperSpoke
from coordinator.engine.settings import MaskingSettings
from edge_node.records import MaskedOffer, Residual
from edge_node.training.masking import Learnt, MaskedFrame, masked_frame, unmasked
from edge_node.training.update import added
from federation.errors import TaskError
from federation.privacy.classes import classes
from federation.privacy.seeds import SEED_BYTES
from federation.privacy.terms import terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import SIGNATURE_BYTES
from federation.protocol.messages import Presence, RoundAnnouncement
from federation.protocol.sum_messages import (
    Held,
    HeldStatus,
    HelperState,
    SealedSeeds,
    SumOffer,
    SumReason,
    SumRequest,
    Ticket,
)
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION, encode_message
from federation.types import DIGEST_BYTES, Digest, HelperId, Incarnation, RunId, StateId, UpdateId
from fedmq.simulation.training.local_trainer import TrainedUpdate
from sum_helper.records import SumJob
from sum_helper.runtime.summing import add_masks, noise_from
from update_codec import Manifest

__all__ = ["VirtualMasks", "learnt_of"]

BOX = b"not sealed: nobody is between a virtual node and its helper"


@dataclass(slots=True)
class _Made:
    """One masked update, until its verdict."""

    run: RunId
    update: UpdateId
    seeds: bytes

    def of_class(self, number: int) -> tuple[UpdateId, bytes]:
        """Its name, and its seed of one class."""
        return self.update, self.seeds[number * SEED_BYTES : (number + 1) * SEED_BYTES]


@dataclass(slots=True)
class VirtualMasks:
    """All nodes' masks, and all helpers.

    Attributes:
        settings: Who helps.
        masks: Whether integers are masked.
        draw: Gives so many random bytes.
    """

    settings: MaskingSettings
    masks: bool = True
    draw: Callable[[int], bytes] = os.urandom
    _made: dict[Digest, _Made] = field(default_factory=dict)
    _tickets: dict[UpdateId, Digest] = field(default_factory=dict)
    _releases: dict[Digest, int] = field(default_factory=dict)
    _secrets: dict[HelperId, bytes] = field(default_factory=dict)

    # --- nodes ------------------------------------------------------------------------------------------------------

    def mask(
        self, learnt: Learnt, announcement: RoundAnnouncement, update: UpdateId, manifest: Manifest
    ) -> tuple[MaskedFrame, MaskedOffer]:
        """A masked update, and what goes to the helpers with it.

        Raises:
            TaskError: The terms are not for this model, or a value is not finite.
        """
        terms = announcement.privacy
        if terms is None:
            raise TaskError("the round is not masked")
        numbers = range(len(classes(terms.count, terms.threshold)) if self.masks else 0)
        seeds = [self.draw(SEED_BYTES) for _ in numbers]
        made = masked_frame(learnt, announcement, update, manifest, seeds)
        ticket = Ticket(
            run=announcement.run,
            update=update,
            base_version=announcement.model.version,
            base_digest=announcement.model.digest,
            terms=terms_digest(terms),
            payload_digest=payload_digest(made.frame),
            boxes=(payload_digest(BOX),) * terms.count,
        )
        signed = encode_message(ticket, sign=lambda _: bytes(SIGNATURE_BYTES))
        offer = MaskedOffer(ticket=signed, boxes=(BOX,) * terms.count, seeds=b"".join(seeds))
        digest = payload_digest(signed)
        self._made[digest] = _Made(announcement.run, update, offer.seeds)
        self._tickets[update] = digest
        return made, offer

    def settle(self, update: UpdateId) -> None:
        """It has its verdict, and its batch is over."""
        self._made.pop(self._tickets.pop(update, Digest(b"")), None)

    def back(self, residual: Residual | None, frame: bytes, update: UpdateId, manifest: Manifest) -> Residual | None:
        """The residual after an update was not applied: what it has said goes back."""
        made = self._made[self._tickets[update]]
        return added(residual, unmasked(frame, manifest, made.seeds, (made.run, update)))

    # --- helpers ----------------------------------------------------------------------------------------------------

    def born(self) -> Iterator[HelperSpoke]:
        """All helpers say that they are there."""
        for name in self.settings.helpers:
            state = HelperState(
                presence=Presence.ONLINE,
                incarnation=Incarnation(1),
                state_id=StateId(1),
                protocol_min=PROTOCOL_MIN,
                protocol_max=PROTOCOL_VERSION,
                kem=32,
                key=bytes(32),
                members_min=self.settings.members_min,
            )
            yield HelperSpoke(helper=name, message=state)

    def answers(self, helper: HelperId, command: HelperCommand) -> Iterator[HelperSpoke]:
        """What a helper says at once; all sums are small enough to ride in their offers."""
        match command:
            case SealedSeeds():
                held = Held(
                    run=command.run,
                    update=command.update,
                    ticket=payload_digest(command.ticket),
                    status=HeldStatus.HELD,
                    reason=SumReason.NONE,
                )
                yield HelperSpoke(helper=helper, message=held)
            case SumRequest():
                for offer in self._sums(helper, command):
                    yield HelperSpoke(helper=helper, message=offer)
            case _:
                return

    def _sums(self, helper: HelperId, request: SumRequest) -> Iterator[SumOffer]:
        members = [self._made[ticket] for ticket in request.tickets]
        release = self._releases.setdefault(request.batch, len(self._releases))
        seeds = {number: tuple(one.of_class(number) for one in members if one.seeds) for number in request.classes}
        # By its number alone: tickets are others where integers are masked, and noise must not be.
        named = replace(request, batch=Digest(release.to_bytes(DIGEST_BYTES)))
        job = SumJob(request=named, seeds=seeds, release=release)
        for number, body in add_masks(job, noise_from(self._secret(helper))).items():
            yield SumOffer(
                run=request.run,
                batch=request.batch,
                part=number,
                payload_bytes=len(body),
                payload_digest=payload_digest(body),
                chunk_bytes=len(body),
                inline=body,
            )

    def _secret(self, helper: HelperId) -> bytes:
        """Of which a helper makes its noise."""
        if helper not in self._secrets:
            self._secrets[helper] = self.draw(32)
        return self._secrets[helper]


def learnt_of(trained: TrainedUpdate, residual: Residual | None, share: float) -> Learnt:
    """What a node has trained, before anything of it is hidden; ``share`` of its residual still counts."""
    assert trained.update is not None  # noqa: S101 - a training that failed is not sent
    return Learnt(
        delta=trained.update,
        num_examples=trained.num_examples,
        loss=trained.metrics.get("loss"),
        residual=residual,
        share=share,
    )
