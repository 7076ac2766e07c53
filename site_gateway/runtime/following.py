"""The model at a site: it begins as the site's store says, and follows what the node above holds, bit by bit."""

from collections.abc import Callable, Mapping, Sequence

from coordinator.global_model.aggregation import Unusable
from coordinator.global_model.codec_contexts import KnownContexts
from coordinator.global_model.committer import Committer, CommitterSettings
from coordinator.global_model.downlink import followed_model
from coordinator.records import Member, ReleaseRecord, VersionRecord
from coordinator.storage.store import Commit, Figures, ModelState
from edge_node.storage.store import HeldModel
from federation.errors import LocalProtocolError, TaskError
from federation.protocol.messages import Reason, TrainSettings
from federation.task import Metrics, Parameters, Stop, TrainResult
from federation.types import Digest
from site_gateway.storage.store import SiteStore
from update_codec import Manifest, Role, Vectors

__all__ = ["Follower", "SiteTask", "site_model"]


class Follower(Committer):
    """A `Committer` that takes over what the federation above has made.

    Args:
        store: The site's.
        head: Its newest version.
        settings: How the model travels below.
        held: Gives the model that the node above holds, or None.
    """

    def __init__(
        self, store: SiteStore, head: VersionRecord, settings: CommitterSettings, held: Callable[[], HeldModel | None]
    ) -> None:
        super().__init__(store, head, settings)
        self._held = held

    def commit(
        self,
        members: Sequence[Member],
        reason: str,
        figures: Figures,
        *,
        plain: bool = False,
        release: ReleaseRecord | None = None,
    ) -> VersionRecord | Unusable:
        """Make the held model the site's next version; the head stays where it is when that fails.

        Raises:
            LocalProtocolError: Members are given: a site makes no version of its own.
            StorageError: Nothing can be saved.
        """
        del plain, release  # all that goes down here is lossless, and noise is added above
        held = self._held()
        if members:
            raise LocalProtocolError("a site's versions are made above, of no members here")
        if held is None or held.version <= self._head.version or held.manifest_digest != self.manifest.digest:
            known = None if held is None else held.version
            detail = f"the node above holds version {known}, the site is at {self._head.version}"
            return Unusable(culprits=(), reason=Reason.BASE_MISMATCH, detail=detail)
        published = followed_model(self._model, held.vectors, held.version, self.manifest, self._settings.downlink)
        record = VersionRecord(
            version=held.version,
            digest=Digest(published.model.shadow.digest()),
            previous=self._head.digest,
            manifest_digest=self._head.manifest_digest,
            parts=published.parts,
        )
        if record.digest != held.digest:
            return Unusable(culprits=(), reason=Reason.BASE_MISMATCH, detail="the model above has other bits here")
        commit = Commit(record=record, model=published.model, frames=published.frames, reason=reason, figures=figures)
        self._store.commit(commit)
        self._head, self._model, self._delta = record, published.model, None
        self._contexts = KnownContexts(published.model.strategy, self.manifest.parameter_count)
        return record


def site_model(store: SiteStore) -> HeldModel:
    """What the site's nodes hold, as the node above would.

    Raises:
        StorageError: It cannot be read.
    """
    head = store.recovered(recent=1).head
    return HeldModel(
        version=head.version,
        digest=head.digest,
        manifest_digest=head.manifest_digest,
        vectors=store.model(head.version).shadow,
    )


class SiteTask:
    """Gives version 0, and trains nothing.

    Args:
        manifest: The model's.
        first: The site's version 0, or None where it is not kept any more; then it is pulled.
    """

    def __init__(self, manifest: Manifest, first: ModelState | None) -> None:
        self._manifest = manifest
        self._first: Vectors | None = None if first is None or first.version else first.shadow

    def initial_parameters(self, seed: int) -> Parameters:
        """Version 0, as the site's store began with it.

        Raises:
            TaskError: It is not kept any more.
        """
        del seed
        if self._first is None:
            raise TaskError("version 0 is not kept here any more")
        return self._manifest.unflatten(self._first)

    def roles(self) -> Mapping[str, Role]:
        """The manifest has them."""
        return {tensor.name: tensor.role for tensor in self._manifest.tensors}

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Never.

        Raises:
            TaskError: The site's nodes train.
        """
        del parameters, settings, stop
        raise TaskError("a gateway trains nothing: its site's nodes do")

    def evaluate(self, parameters: Parameters) -> Metrics:
        """A gateway has no data."""
        del parameters
        return {}
