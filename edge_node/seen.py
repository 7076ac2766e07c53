"""The newest that a node has heard of its coordinator, as it is kept on disk."""

from dataclasses import dataclass

from federation.types import Epoch, ModelVersion, RoundId, RunId

__all__ = ["Seen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest that a run's coordinator has said.

    Attributes:
        run: Which run.
        epoch: Its highest epoch.
        began_ms: When the run's store was made, by the coordinator's clock: only ever compared with another run's.
        round: The newest round that was announced, or None.
        version: Its model version.
    """

    run: RunId
    epoch: Epoch
    began_ms: int | None = None
    round: RoundId | None = None
    version: ModelVersion | None = None
