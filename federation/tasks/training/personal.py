"""What stays on a node of a torch model: local layers by name (FedPer) and BatchNorm (FedBN).

FedPer (Arivazhagan et al., arXiv 1912.00818): the model is w = (w_B, w_P). Nodes train both; only the base layers w_B
travel and are averaged, the personal layers w_P never leave the node::

    node k    (w_B, w_P,k) <- SGD(w_B, w_P,k)          server    w_B <- sum n_k w_B,k / sum n_k

FedBN (Li et al., arXiv 2102.07623) is the same with every BatchNorm layer as w_P: scale, shift, running mean and
variance, and the counter of batches.
"""

from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from federation.errors import TaskError
from federation.task import Array, Parameters
from federation.tasks.training.tensors import Layout, matching, state_of

__all__ = ["PREFIX", "PersonalLayers", "local_names"]

PREFIX = "local."
"""What a node keeps of a model is called by this and the tensor's name."""


def local_names(module: nn.Module, layout: Layout, patterns: Sequence[str], *, norms: bool) -> frozenset[str]:
    """Names of the tensors that never leave the node; what never changes is none of them, and is everywhere.

    Args:
        module: The model.
        layout: What becomes of its tensors.
        patterns: Shell patterns of names; each must match.
        norms: Whether all BatchNorm layers stay.

    Raises:
        TaskError: A pattern matches nothing, there is no BatchNorm, or nothing would be left to share.
    """
    tensors = state_of(module)
    found = set(matching("local", patterns, tensors))
    if norms:
        layers = [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
        of_norms = {name for name in tensors if name.rpartition(".")[0] in layers}
        if not of_norms:
            raise TaskError("local_norms: the model has no BatchNorm layer")
        found |= of_norms
    found = {layout.tied.get(name, name) for name in found} & set(layout.travelling)
    if len(found) == len(layout.travelling):
        if not found:
            raise TaskError("nothing of the model is trained: it has no parameters, or all have requires_grad=False")
        raise TaskError("local: all tensors stay on the node, so nothing is left to share")
    return frozenset(found)


class PersonalLayers:
    """The local tensors of one node: as they were made first, or as the node keeps them.

    Attributes:
        names: Which tensors.
    """

    def __init__(self, names: frozenset[str], first: Parameters) -> None:
        """Args: ``first`` has all tensors of the model as it was made."""
        self.names = names
        self._first = {name: np.array(first[name]) for name in names}

    def shared(self, arrays: Parameters) -> Parameters:
        """What travels; all of it as it is where nothing is local."""
        return arrays if not self.names else {name: array for name, array in arrays.items() if name not in self.names}

    def kept(self, arrays: Parameters) -> dict[str, Array]:
        """What the node keeps, by the names that it keeps it under."""
        return {PREFIX + name: arrays[name] for name in self.names}

    def join(self, shared: Parameters, state: Parameters) -> dict[str, Array]:
        """The whole model: what came, and what the node keeps (of another shape or type, it is of another model)."""
        local = {}
        for name, first in self._first.items():
            array = state.get(PREFIX + name)
            if array is not None and array.shape == (1,) and first.shape == ():
                array = array.reshape(())  # nodes of earlier releases stored a single number so
            fits = array is not None and (array.shape, array.dtype) == (first.shape, first.dtype)
            local[name] = array if array is not None and fits else first
        return {**shared, **local}

    def without_correction(self, correction: Parameters | None) -> Parameters | None:
        """SCAFFOLD's correction with zeros for local tensors: they have no control variate."""
        if correction is None:
            return None
        return {**{name: np.zeros(first.shape, np.float32) for name, first in self._first.items()}, **correction}
