"""SCAFFOLD's control variates of all virtual nodes: what each keeps, and what waits for the receipt of its update."""

from collections.abc import Iterable, Mapping

import numpy as np

from edge_node.storage.task_state import added, expected_state
from federation.protocol.messages import Receipt, ReceiptStatus
from federation.task import Parameters
from federation.types import UpdateId
from update_codec import Manifest, Role, Vectors

__all__ = ["NodeControls"]


class NodeControls:
    """Does nothing where the model has no controls; `edge_node.storage.task_state` has the rules.

    Args:
        manifest: The model.

    Attributes:
        settled: What each node keeps, by its index; nothing before its first update was applied.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._names = [tensor.name for tensor in manifest.tensors if tensor.role is Role.CONTROL]
        self.settled: dict[int, Parameters] = {}
        self._pending: dict[int, dict[UpdateId, Parameters]] = {}

    def divided(self, model: Parameters) -> tuple[Parameters, Parameters]:
        """The model with controls of zero, and its controls: see `federation.tasks.pool.work.Work`."""
        controls = {name: model[name] for name in self._names}
        return {**model, **{name: np.zeros_like(array) for name, array in controls.items()}}, controls

    def states(self, nodes: Iterable[int]) -> Mapping[int, Parameters]:
        """What these nodes train with: their controls as they are if every update under way is applied."""
        return {node: self._expected(node) for node in nodes} if self._names else {}

    def sent(self, node: int, update: UpdateId, change: Vectors) -> None:
        """A node has offered an update; its change waits for the receipt."""
        if self._names:
            arrays = self._manifest.unflatten(change)
            self._pending.setdefault(node, {})[update] = {name: np.array(arrays[name]) for name in self._names}

    def settle(self, node: int, receipt: Receipt) -> None:
        """A final receipt: what was applied is kept, anything else is dropped."""
        change = self._pending.get(node, {}).pop(receipt.update, None)
        if change is not None and receipt.status is ReceiptStatus.APPLIED:
            self.settled[node] = added(self.settled.get(node, {}), change)

    def _expected(self, node: int) -> Parameters:
        return expected_state(self.settled.get(node, {}), self._pending.get(node, {}).values())
