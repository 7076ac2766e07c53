"""Makes versions: the first one from initial parameters, and each next one from the stored updates of its members."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Combine, Unusable, aggregate
from coordinator.global_model.codec_contexts import KnownContexts, followed
from coordinator.global_model.combining import SumStore, combine_for
from coordinator.global_model.downlink import (
    DownlinkSettings,
    Published,
    advance,
    first_model,
    follows_initial,
    parts_again,
)
from coordinator.global_model.masked import MaskedCombine, MaskedModel
from coordinator.global_model.masked_groups import GroupedCombine
from coordinator.global_model.noised import SECRET_BYTES, CoordinatorNoise, secret_state
from coordinator.global_model.statistics import (
    LOSSLESS,
    STRATEGY,
    StatisticsCombine,
    is_statistics,
    limits_for,
    statistics_terms,
)
from coordinator.global_model.update_checks import Examine, Inspections
from coordinator.records import Member, ReleaseRecord, VersionRecord
from coordinator.storage.store import Commit, Figures, ModelState
from coordinator.strategies.lag_compensation import LagCompensation
from coordinator.strategies.strategy import Averaging, Strategy
from federation.errors import ConfigError, DamagedStore, LocalProtocolError, StorageError
from federation.privacy.terms import shape_of, terms_digest
from federation.protocol.messages import ModelPart, PartKind, Reason, RoundAnnouncement
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import Digest, ModelVersion, UpdateId
from update_codec import Manifest, NonFiniteError, Vectors, frame_kind
from update_codec.masking import Shape
from update_codec.spec import Kind

__all__ = ["Committer", "CommitterSettings", "first_commit", "settings_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitterSettings:
    """How updates become a model.

    Attributes:
        strategy: Weights and server step.
        downlink: How the model travels.
        limits: Bounds of what may enter the model.
        contexts: Versions whose codec contexts are kept; 0 is none, see `coordinator.global_model.codec_contexts`.
        masked: Updates are masked, and come with the sums of their masks; None: they do not.
        noise: For whole nodes, that is added here; None: none is.
        draw: Gives so many random bytes that nobody can know.
        plain_strategy: In place of ``strategy`` where a version goes down as ``downlink.plain`` says; None is the same.
        has_frame_min: Small models take rates that suit them.
    """

    strategy: Strategy = field(default_factory=Averaging)
    downlink: DownlinkSettings = field(default_factory=DownlinkSettings)
    limits: AggregateLimits = field(default_factory=AggregateLimits)
    contexts: int = 0
    masked: MaskedModel | None = None
    noise: CoordinatorNoise | None = None
    draw: Callable[[int], bytes] = os.urandom
    plain_strategy: Strategy | None = None
    has_frame_min: bool = True

    def plainly(self) -> Self:
        """As they hold where a node reads no frames of the cosine kind, and for small and large models."""
        return replace(self, downlink=self.downlink.plainly(), strategy=self.plain_strategy or self.strategy)

    def with_frame_min(self, parameters: int) -> Self:
        """As they hold for a model of so many parameters, see `coordinator.strategies.codecs.with_frame_min`."""
        if not self.has_frame_min:
            return self
        plain = None if self.plain_strategy is None else _for_model(self.plain_strategy, parameters)
        downlink = self.downlink.with_frame_min(parameters)
        return replace(self, downlink=downlink, strategy=_for_model(self.strategy, parameters), plain_strategy=plain)

    def without_frame_min(self) -> Self:
        """As releases to 0.2.0 made versions of small models."""
        return replace(self, has_frame_min=False)


def _for_model(strategy: Strategy, parameters: int) -> Strategy:
    return strategy.for_model(parameters) if isinstance(strategy, LagCompensation) else strategy


class VersionStore(SumStore, Protocol):
    """The part of a `CoordinatorStore` that makes versions."""

    def manifest(self) -> Manifest | None:
        """The model's manifest."""

    def model(self, version: ModelVersion) -> ModelState:
        """A version's arrays."""

    def payload(self, update: UpdateId) -> bytes:
        """The codec frame of a stored update."""

    def commit(self, commit: Commit) -> None:
        """Save a version."""


class PartStore(Protocol):
    """The part of a `CoordinatorStore` that keeps what is published."""

    def frame(self, part: ModelPart) -> bytes:
        """The codec frame of a part."""

    def replace_parts(self, head: VersionRecord, frames: Mapping[ModelPart, bytes]) -> None:
        """Save the head's parts, and the frames that are new."""


class Committer:
    """Holds the head's arrays, and makes the next version from them.

    Args:
        store: Has the head and the payloads.
        head: The head's record.
        settings: How.
        combine: See `coordinator.global_model.aggregation.aggregate`; a simulation without frames has its own.

    Raises:
        ConfigError: A robust rule is asked for, and the model has sums.
        StorageError: The head cannot be read.
    """

    def __init__(
        self,
        store: VersionStore,
        head: VersionRecord,
        settings: CommitterSettings,
        combine: Combine | None = None,
    ) -> None:
        manifest = store.manifest()
        if manifest is None:
            raise StorageError("the store has no manifest")
        if settings.limits.rule is not None and manifest.control_count:
            why = "the task's model has sums that every node adds to, which a rule would average or leave out"
            raise ConfigError("strategy.robust", f"{why}: take none")
        self.manifest: Manifest = manifest
        self.examine: Examine = Inspections(manifest, lambda: self._contexts)
        self._store, self._settings, self._combine = store, settings_for(manifest, settings), combine
        self._head, self._model = head, store.model(head.version)
        self._contexts = KnownContexts(self._model.strategy, manifest.parameter_count)
        self._delta: bytes | None = None
        self._plain: frozenset[ModelPart] = frozenset()

    @property
    def head(self) -> VersionRecord:
        """The newest version."""
        return self._head

    @property
    def model(self) -> ModelState:
        """Its arrays."""
        return self._model

    @property
    def terms(self) -> PrivacyTerms | None:
        """Under which updates from the head are masked; None where they are not."""
        masked = self._settings.masked
        return None if masked is None else masked.terms(self.manifest, self._model.strategy)

    def shape_for(self, terms: Digest) -> Shape | None:
        """The shape of updates under the terms of this digest; None where nothing is masked.

        Only those of the first version have another one: that is sent finely.
        """
        masked = self._settings.masked
        if masked is None:
            return None
        first, settled = masked.terms(self.manifest, {}), masked.settled(self.manifest)
        return shape_of(first if terms_digest(first) == terms else settled)

    def as_published(self, record: VersionRecord) -> VersionRecord:
        """A version as it is published: who asks may know the head by parts that were damaged meanwhile."""
        return self._head if record.version == self._head.version else record

    def announced(self, announcement: RoundAnnouncement) -> RoundAnnouncement:
        """An announcement of the head with the parts that are published."""
        head, model = self._head, announcement.model
        if model.version != head.version or model.parts == head.parts:
            return announcement
        return replace(announcement, model=replace(model, parts=head.parts, seed=head.seed))

    @property
    def evaluated_model(self) -> Vectors:
        """The global model as nodes hold it, which is what the version's digest names.

        It is also the better one: what a lossy downlink leaves for later is mostly the noise of the last aggregates.
        """
        return self._model.shadow

    @property
    def delta(self) -> bytes | None:
        """The frame that leads from the version before to the head: None without one, and after a start."""
        return self._delta

    def repair(self, store: PartStore) -> VersionRecord | None:
        """Make again from the model what is damaged of its parts, and cut what is too large now for the broker.

        Args:
            store: What is published.

        Returns:
            The head with its new parts; None where all is well.

        Raises:
            StorageError: Nothing could be saved.
        """
        return self._replaced(store, {part: _frame(store, part) for part in self._head.parts})

    def replace_turned(self, store: PartStore) -> VersionRecord | None:
        """Make a way to the head without frames of the cosine kind, for a node that does not read them.

        Args:
            store: What is published.

        Returns:
            The head with its new parts; None where no frame is of that kind.

        Raises:
            StorageError: Nothing could be saved.
        """
        deltas = [part for part in self._head.parts if part.kind is PartKind.DELTA]
        frames = {part: _frame(store, part) for part in deltas if part not in self._plain}
        turned = {part for part, frame in frames.items() if frame is not None and frame_kind(frame) == Kind.COSINE}
        self._plain = frozenset(deltas) - turned
        if not turned:
            return None
        return self._replaced(
            store, {part: None if part in turned else _frame(store, part) for part in self._head.parts}
        )

    def _replaced(self, store: PartStore, found: Mapping[ModelPart, bytes | None]) -> VersionRecord | None:
        """The head with parts in place of those without a frame."""
        frames = {part: frame for part, frame in found.items() if frame is not None}
        parts, made = parts_again(self._model, self.manifest, self._settings.downlink, tuple(frames))
        if parts == self._head.parts and not made:
            return None
        known = {(part.kind, part.version): frame for part, frame in frames.items()}
        known |= {(part.kind, part.version): frame for part, frame in made.items()}
        seed = self._head.seed if follows_initial(parts) or self._head.version == 0 else None
        head = replace(self._head, parts=parts, seed=seed)
        store.replace_parts(
            head, {part: known[part.kind, part.version] for part in parts if part in made or part not in frames}
        )
        self._head = head
        return head

    def commit(
        self,
        members: Sequence[Member],
        reason: str,
        figures: Figures,
        *,
        plain: bool = False,
        release: ReleaseRecord | None = None,
    ) -> VersionRecord | Unusable:
        """Make the next version durable; the head stays where it is when that fails.

        Args:
            members: Its updates.
            reason: Why now.
            figures: What it has cost so far.
            plain: A node that is there reads no frames of the cosine kind.
            release: What it costs the members, where noise is added here.

        Raises:
            LocalProtocolError: Noise is added, and nobody is charged for it.
            StorageError: A payload cannot be read, or nothing can be saved.
        """
        if release is None and self._settings.noise is not None:
            raise LocalProtocolError("a noised version is charged to its members")
        made = self._make(members, plain=plain)
        if isinstance(made, Unusable):
            return made
        record = VersionRecord(
            version=made.model.version,
            digest=Digest(made.model.shadow.digest()),
            previous=self._head.digest,
            manifest_digest=self._head.manifest_digest,
            # Version 0 made from the seed and all deltas since are a way to this version.
            seed=self._head.seed if follows_initial(made.parts) else None,
            parts=made.parts,
            accepted=len(members),
        )
        self._store.commit(
            Commit(
                record=record,
                model=made.model,
                frames=made.frames,
                members=members,
                reason=reason,
                figures=figures,
                release=release,
            )
        )
        self._head, self._model = record, made.model
        self._contexts = KnownContexts(made.model.strategy, self.manifest.parameter_count)
        frames = (frame for part, frame in made.frames.items() if part.kind is PartKind.DELTA)
        self._delta = next(frames, None)
        return record

    def _make(self, members: Sequence[Member], *, plain: bool) -> Published | Unusable:
        settings = self._settings.plainly() if plain else self._settings
        context = (self.manifest, self._model.strategy, settings.limits)
        secret = b"" if settings.noise is None else settings.draw(SECRET_BYTES)
        made = combine_for(self._store, self.manifest, self._model, settings.noise, secret)
        combine = made or self._combine
        result = aggregate(members, self._store.payload, settings.strategy, context, self.examine, combine)
        match result:
            case Unusable():
                return result
            case Aggregated(step=step, state=state):
                kept = {name: np.asarray(array) for name, array in state.items()} | self._masked_state(combine)
                kept |= secret_state(secret) if secret else {}
                return self._advance(members, step, state=kept, downlink=settings.downlink)

    def _masked_state(self, combine: Combine | None) -> dict[str, np.ndarray]:
        """What the next version's nodes are told of the step, after the sums of these."""
        inner = combine.masked if isinstance(combine, StatisticsCombine) else combine
        masked = self._settings.masked
        if masked is None or not isinstance(inner, MaskedCombine | GroupedCombine) or inner.tail is None:
            return {}
        version, parameters = self._head.version + 1, self.manifest.parameter_count
        return dict(masked.follow(self._model.strategy, version, inner.tail.length, parameters, inner.share))

    def _advance(
        self, members: Sequence[Member], step: Vectors, *, state: dict[str, np.ndarray], downlink: DownlinkSettings
    ) -> Published | Unusable:
        try:
            published = advance(self._model, step, self.manifest, downlink, older=self._head.parts)
        except NonFiniteError as error:
            everyone = tuple(member.update for member in members)
            return Unusable(culprits=everyone, reason=Reason.NOT_FINITE, detail=str(error))
        moved = None if published.change is None else published.change.parameters
        known = followed(self._model.strategy, moved, published.model.version, self._settings.contexts)
        return replace(published, model=replace(published.model, strategy={**state, **known}))


def settings_for(manifest: Manifest, settings: CommitterSettings) -> CommitterSettings:
    """The settings as they hold for a model: statistics are exact sums, whatever the configuration trains with."""
    if not is_statistics(manifest):
        least, most = settings.downlink.plain_outside or (0, manifest.parameter_count)
        outside = not least <= manifest.parameter_count <= most
        return (settings.plainly() if outside else settings).with_frame_min(manifest.parameter_count)
    masked = settings.masked
    return replace(
        settings,
        strategy=STRATEGY,
        limits=limits_for(settings.limits),
        downlink=replace(settings.downlink, spec=LOSSLESS, plain=None),
        contexts=0,
        masked=None if masked is None else statistics_terms(masked),
        noise=None,
    )


def first_commit(initial: Vectors, manifest: Manifest, settings: DownlinkSettings, *, seed: int | None) -> Commit:
    """Version 0.

    Args:
        initial: The initial model.
        manifest: Its manifest.
        settings: How it travels.
        seed: The seed of `Task.initial_parameters` that gives it; None when it came from elsewhere.
    """
    published = first_model(initial, manifest, settings)
    digest = Digest(published.model.shadow.digest())
    record = VersionRecord(
        version=published.model.version,
        digest=digest,
        previous=Digest(b""),
        manifest_digest=Digest(manifest.digest),
        # A node that builds it from the seed must get these very bits.
        seed=seed if digest == initial.digest() else None,
        parts=published.parts,
    )
    return Commit(record=record, model=published.model, frames=published.frames, reason="initial")


def _frame(store: PartStore, part: ModelPart) -> bytes | None:
    try:
        return store.frame(part)
    except DamagedStore:
        return None
