"""What the inputs and targets of a task mean: said by the coordinator, compared and mapped by name on every node.

Whoever does not know a part says nothing of it, and nothing is compared: arrays without names have none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, Protocol, runtime_checkable

from federation.documents import read_json
from federation.errors import TaskError
from federation.protocol.limits import INPUTS_BYTES_MAX
from federation.types import DIGEST_BYTES, Digest

__all__ = ["Describable", "Inputs", "agree"]

_SHOWN: Final = 6
_FIELDS: Final = ("features", "classes", "target", "shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A task's signature; each part is empty where it is not known.

    Attributes:
        features: Names of the inputs, in their order.
        classes: Names of the classes, in the order of their numbers.
        target: What the target is, such as ``state (class)``.
        shape: Shape of one input, as the task declares it.
        features_digest: Names them where they are too many to be said.
        classes_digest: The same of the classes.
    """

    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    target: str = ""
    shape: tuple[int, ...] = ()
    features_digest: str = ""
    classes_digest: str = ""

    def to_text(self) -> str:
        """One spelling, ASCII, at most `INPUTS_BYTES_MAX` bytes; what is too long is said by its digest."""
        said = {name: getattr(self, name) for name in (*_FIELDS, "features_digest", "classes_digest")}
        for name in ("features", "classes"):
            if len(_spelled(said)) > INPUTS_BYTES_MAX:
                said |= {name: (), f"{name}_digest": _digest_of(said[name])}
        if len(_spelled(said)) > INPUTS_BYTES_MAX:
            said["target"] = ""
        return _spelled(said)

    @classmethod
    def from_text(cls, text: str) -> "Inputs":
        """What `to_text` made; parts that a newer release has added are passed over.

        Raises:
            TaskError: It is something else.
        """
        try:
            found = read_json(text)
            return cls(
                features=tuple(map(str, found.get("features", ()))),
                classes=tuple(map(str, found.get("classes", ()))),
                target=str(found.get("target", "")),
                shape=tuple(map(int, found.get("shape", ()))),
                features_digest=str(found.get("features_digest", "")),
                classes_digest=str(found.get("classes_digest", "")),
            )
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise TaskError(f"the coordinator's description of the inputs cannot be read: {error}") from error

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self != Inputs()

    @property
    def digest(self) -> Digest:
        """Names the description."""
        return Digest(blake2b(self.to_text().encode(), digest_size=DIGEST_BYTES).digest())

    def disagreement(self, wanted: "Inputs") -> str | None:
        """What is known of both and differs, with the names; None where nothing does."""
        for name in ("features", "classes"):
            own, other = getattr(self, name), getattr(wanted, name)
            digest = getattr(wanted, f"{name}_digest")
            if own and other and own != other:
                return f"its {name} are {_listed(own)}, and the run's are {_listed(other)}{_difference(own, other)}"
            if own and digest and digest != _digest_of(own):
                return f"its {name} are {_listed(own)}, and the run has others (of digest {digest[:8]})"
        if self.target and wanted.target and self.target != wanted.target:
            return f"its target is {self.target}, and the run's is {wanted.target}"
        if self.shape and wanted.shape and self.shape != wanted.shape:
            return f"its inputs have the shape {self.shape}, and the run's {wanted.shape}"
        return None

    def contradiction(self, began: "Inputs") -> str | None:
        """What a run that began so cannot go on with: other classes, another target, its features in another order.

        A table may have other columns than it had then: they are taken by name, or missed when it is read.
        """
        features = self.features if sorted(self.features) == sorted(began.features) else ()
        return replace(self, features=features, shape=()).disagreement(began)


@runtime_checkable
class Describable(Protocol):
    """A task that knows what its inputs mean, and can read its data as another description says."""

    def inputs(self) -> Inputs:
        """What is known here.

        Raises:
            TaskError: A node's data cannot be read.
        """

    def adopt_inputs(self, wanted: Inputs) -> None:
        """Take inputs and classes by these names from now on, where the data has names."""


def agree(task: object, digest: Digest | None, text: str | None) -> None:
    """See that a node's inputs mean what the run's do, by taking them by name where they do not [FED-126].

    Args:
        task: The node's.
        digest: Names the run's inputs; None: nobody has described them.
        text: Their description, where it has been heard.

    Raises:
        TaskError: They differ, and cannot be taken by name: it names what differs.
    """
    if digest is None or not isinstance(task, Describable):
        return
    own = task.inputs()
    if own.digest == digest or not own.known:
        return
    if text is None:
        raise TaskError("the coordinator has not been heard to say what the inputs are: it will ask again")
    wanted = Inputs.from_text(text)
    if (difference := own.disagreement(wanted)) is None:
        return
    task.adopt_inputs(wanted)
    try:
        left = task.inputs().disagreement(wanted)
    except TaskError as error:
        task.adopt_inputs(own)
        raise TaskError(f"this node means something else: {difference} ({error})") from error
    if left is not None:
        task.adopt_inputs(own)
        raise TaskError(f"this node means something else: {left}")


def _spelled(said: dict[str, object]) -> str:
    known = {name: list(value) if isinstance(value, tuple) else value for name, value in said.items() if value}
    return json.dumps(known, sort_keys=True, separators=(",", ":"))


def _digest_of(names: Sequence[str]) -> str:
    return blake2b(json.dumps(list(names)).encode(), digest_size=DIGEST_BYTES).hexdigest()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _difference(own: Sequence[str], other: Sequence[str]) -> str:
    """What one lacks of the other; nothing where only the order differs."""
    missing, extra = sorted(set(other) - set(own)), sorted(set(own) - set(other))
    said = [f"it lacks {_listed(missing)}"] if missing else []
    said += [f"{_listed(extra)} {'is' if len(extra) == 1 else 'are'} not the run's"] if extra else []
    return f": {'; '.join(said)}" if said else ": the same in another order"
