"""What a run of statistics has found, read from its state folder; and where that folder is."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coordinator.artifacts.export import read_model
from coordinator.config.sections import CoordinatorConfig
from coordinator.global_model.statistics import is_statistics
from coordinator.storage.places import has_store
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import Participation, UpdateRow
from federation.errors import ConfigError, StorageError, TaskError
from federation.inputs import Inputs
from federation.protocol.messages import ReceiptStatus
from federation.task import Parameters
from federation.tasks.statistics.layout import PASSES
from federation.tasks.statistics.summary import Statistics
from federation.types import RunId

__all__ = ["Findings", "findings_in", "findings_of", "folder_for", "passes_done", "why_left_out"]

SUFFIX = "-statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A run of statistics that is over.

    Attributes:
        folder: Its state folder.
        run: Its id.
        task: Label of its task.
        nodes: Whose rows are in the figures, by name.
        left_out: Nodes whose rows are not, although they were asked, and what is known of why.
        statistics: The figures.
    """

    folder: Path
    run: str
    task: str
    nodes: tuple[str, ...]
    left_out: Mapping[str, str]
    statistics: Statistics

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {"task": self.task, "run": self.run, "state": str(self.folder)}
        return {**told, "nodes": list(self.nodes), "left_out": dict(self.left_out), **self.statistics.to_dict()}


def folder_for(config: CoordinatorConfig, given: Path | None, *, again: bool) -> Path:
    """The state folder: as given, or beside the training's, where one that is not over goes on.

    Args:
        config: The configuration, whose own folder is the training's.
        given: Of the command line.
        again: Whether to count anew although a run is over: then it is the next folder that is free.
    """
    if given is not None:
        return given
    plain = config.store.folder.with_name(config.store.folder.name + SUFFIX)
    candidates = (plain.with_name(f"{plain.name}-{number}") for number in itertools.count(2))
    folder = plain
    while (later := next(candidates)).exists():
        folder = later
    return later if again and passes_done(folder) == PASSES else folder


def passes_done(folder: Path) -> int | None:
    """How many passes a run of statistics has counted; None where there is none yet.

    Raises:
        ConfigError: The folder has a run that trains.
        StorageError: It cannot be read.
    """
    if not has_store(folder):
        return None
    with ReadOnlyStore(folder) as store:
        head = store.head()
        if head is None:
            return None
        if not is_statistics(store.manifest()):
            problem = f"{folder} has a run that trains: name another folder"
            raise ConfigError("--state", problem, source="command line")
    return int(head)


def findings_of(folder: Path) -> Findings:
    """Read a run that is over.

    Raises:
        ConfigError: It trains.
        StorageError: It cannot be read.
        TaskError: It is not over.
    """
    if passes_done(folder) is None:
        raise StorageError(f"{folder} has no run")
    _, arrays = read_model(folder)
    with ReadOnlyStore(folder) as store:
        return findings_in(store, arrays, folder)


class Readable(Protocol):
    """What a store must tell."""

    @property
    def run(self) -> RunId:
        """Its run."""

    def inputs(self) -> str | None:
        """What the columns are called."""

    def task(self) -> str | None:
        """Whose rows are counted."""

    def updates(self) -> Iterable[UpdateRow]:
        """Who has counted what."""

    def participation(self) -> list[Participation]:
        """Who has not."""


def findings_in(store: Readable, arrays: Parameters, folder: Path) -> Findings:
    """Read the model of a last pass, and who is in it.

    Raises:
        StorageError: The store cannot be read.
        TaskError: The model is not that of a last pass.
    """
    text, columns = store.inputs(), len(arrays["statistics.bounds"])
    described = Inputs() if text is None else Inputs.from_text(text)
    counted = {
        str(row.record.node)
        for row in store.updates()
        if row.verdict.status is ReceiptStatus.APPLIED and row.verdict.version == PASSES
    }
    others = {str(each.node): each for each in store.participation() if str(each.node) not in counted}
    task, run = store.task() or "", str(store.run)
    names = described.features or tuple(map(str, range(columns)))
    if len(names) != columns:
        raise TaskError(f"{folder} describes {len(names)} columns, and has counted {columns}")
    return Findings(
        folder=folder,
        run=run,
        task=task,
        nodes=tuple(sorted(counted)),
        left_out={name: why_left_out(each) for name, each in sorted(others.items())},
        statistics=Statistics.of(arrays, names),
    )


def why_left_out(part: Participation) -> str:
    """Why a node is not in the figures, in its own words or the coordinator's."""
    counts = {reason.value: count for reason, count in part.reasons.items()} | dict(part.attended.absences)
    said = ", ".join(f"{reason} ({count})" for reason, count in sorted(counts.items()))
    return said or ("not heard in the last pass" if part.attended.asked else "never asked")
