"""What an optimizer has gathered, on the node from one round to the next: as long as its updates are applied.

The arrays are kept at once, as personal layers are, so that they are the very bits that were gathered: sums of changes
would leave a second moment below zero where one of them is dropped. Two counts say whether they may be used. ``sent``
is how many updates they went through; ``settled`` is added to on each `applied` receipt, and counts an update under
way. Where an update was refused, stale or lost, ``settled`` stays behind, and the optimizer begins anew: what a bad
update gathered costs that update alone.
"""

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import torch

from federation.protocol.messages import TrainSettings
from federation.task import KEPT_KEY, Array, Parameters

__all__ = ["PREFIX", "OptimizerState"]

PREFIX = "optimizer."
"""Names of what is kept begin with it."""

_KIND, _SENT, _SETTLED, _SCALE = "kind", "sent", "settled", "scale"


class OptimizerState:
    """One node's state between rounds.

    Args:
        kept: All that the node keeps for its task.
        settings: They say whether it is wanted.
    """

    def __init__(self, kept: Parameters, settings: TrainSettings) -> None:
        self._kept = {name.removeprefix(PREFIX): array for name, array in kept.items() if name.startswith(PREFIX)}
        self._wanted = bool(settings.extra.get(KEPT_KEY))

    def arrays(self, kind: str) -> Parameters:
        """What an optimizer of this kind goes on from, by its own names; empty where it begins anew.

        Args:
            kind: Says what it is and which tensors it moves, of which shapes.
        """
        known = self._kept.get(_KIND)
        usable = self._wanted and known is not None and known.item() == crc32(kind.encode())
        if not usable or self._sent() != self._settled():
            return {}
        return {name: array for name, array in self._kept.items() if name not in {_KIND, _SENT, _SETTLED, _SCALE}}

    @property
    def scale(self) -> float | None:
        """The last factor of a loss in float16."""
        found = self._kept.get(_SCALE)
        return None if found is None else float(found.item())

    def left(
        self, kind: str, tensors: Mapping[str, torch.Tensor | Array], scale: float | None
    ) -> tuple[Parameters, Parameters]:
        """What the node keeps from now on, and what is added when the update is applied.

        Args:
            kind: As for `arrays`.
            tensors: What was gathered; nothing where the optimizer gathers nothing.
            scale: The factor for the next round.
        """
        kept: dict[str, Array] = {} if scale is None else {_SCALE: np.array(scale, np.float64)}
        if not self._wanted or not tensors:
            # What is there belongs to rounds long ago, should the state be wanted again.
            kept |= {_SENT: np.array(-1, np.int64)} if _SENT in self._kept else {}
            return _named(kept), {}
        kept |= {name: each.cpu().numpy() if isinstance(each, torch.Tensor) else each for name, each in tensors.items()}
        kept |= {
            _KIND: np.array(crc32(kind.encode()), np.int64),
            _SENT: np.array(self._settled() + 1, np.int64),
        }
        return _named(kept), _named({_SETTLED: np.ones(1, np.float32)})

    def _sent(self) -> int:
        return int(self._kept.get(_SENT, np.array(-1)).item())

    def _settled(self) -> int:
        return int(self._kept.get(_SETTLED, np.zeros(1)).sum())


def _named(arrays: Mapping[str, Array]) -> Parameters:
    return {PREFIX + name: array for name, array in arrays.items()}
