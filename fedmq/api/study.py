"""What ``fedmq.simulate`` gives back: one run for each seed, as curves, pictures, files and a model."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from rich.console import Console, Group

from coordinator.artifacts.plots.compare import compare_runs, comparison_row, comparison_tables
from coordinator.artifacts.plots.run import Run, run_of_report
from federation.documents import read_json
from federation.errors import ConfigError, StorageError
from federation.storage.folder import write_file
from federation.task import Parameters
from federation.tasks.pool.node_pool import NodePool
from fedmq.api.curve import as_table, curve_points, main_metric
from fedmq.api.pictures import draw_bands
from fedmq.api.remote import check_digest, content_digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Seed", "Study", "load_study"]

NOTEBOOK_COLUMNS = 100
"""Characters of a line that a notebook shows without breaking it."""

STUDY = "study.json"
"""The file of a saved study that names its parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """The run of one seed.

    Attributes:
        seed: It.
        digest: Names the bits of its last version.
        report: As ``coordinator run --report`` writes it; times are virtual.
        parameters: The last version's tensors by name.
        pool: Its task, for the model; None where it was read from files.
    """

    seed: int
    digest: str
    report: Mapping[str, Any]
    parameters: Parameters
    pool: NodePool | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Studies side by side: rows as plain data; shown as a table.

    Attributes:
        rows: One dictionary for each run: its final and best value, versions, bytes, and what the target took.
        table: The same for a terminal or a notebook.
    """

    rows: Sequence[Mapping[str, object]]
    table: Group = field(repr=False)

    def __rich__(self) -> Group:
        return self.table

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001 - IPython calls it so
        """What a notebook shows at the end of a cell."""
        del cycle
        out = io.StringIO()
        Console(file=out, width=NOTEBOOK_COLUMNS, force_jupyter=False).print(self.table)
        printer.text(out.getvalue())


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """An experiment, repeated with several seeds.

    Attributes:
        name: In legends and tables.
        task: The task's name.
        nodes: How many nodes there were.
        seeds: One run each.
    """

    name: str
    task: str
    nodes: int
    seeds: Sequence[Seed]

    @property
    def runs(self) -> list[Run]:
        """Each seed's run as rows, as ``coordinator plot`` reads it."""
        several = len(self.seeds) > 1
        names = [f"{self.name}, seed {one.seed}" if several else self.name for one in self.seeds]
        return [run_of_report(one.report, Path(name)) for one, name in zip(self.seeds, names, strict=True)]

    @property
    def parameters(self) -> Parameters:
        """The first seed's last version: tensors by name."""
        return self.seeds[0].parameters

    @property
    def model(self) -> Any:
        """The first seed's last version as a model of its own: a torch module in evaluation mode for a torch task.

        Raises:
            ConfigError: The task is no torch task, or the study was read from files: take `parameters`.
        """
        return self.model_of(0)

    def model_of(self, index: int) -> Any:
        """The last version of the seed at this place, as `model`; errors as there."""
        from federation.tasks.training.torch_task import TorchTask  # noqa: PLC0415 - only where a model is asked for

        one = self.seeds[index]
        server = None if one.pool is None else one.pool.server
        if not isinstance(server, TorchTask):
            missing = "only a torch task that was simulated here has a module: take .parameters"
            raise ConfigError("model", missing, source=self.name)
        return server.module_with(one.parameters)

    def curve(self, metric: str | None = None) -> Any:
        """Mean and spread over the seeds at each version.

        Args:
            metric: Such as ``loss``; left out, ``accuracy`` where there is one.

        Returns:
            A DataFrame where pandas is installed, else a list of dictionaries: version, mean, std, low, high, runs.

        Raises:
            ConfigError: Nobody measured this metric.
        """
        return as_table(curve_points(self.runs, main_metric(self.runs, metric)))

    def final(self, metric: str | None = None) -> float:
        """The mean over the seeds at the last version that was evaluated; errors as for `curve`."""
        return curve_points(self.runs, main_metric(self.runs, metric))[-1].mean

    def plot(self, *others: "Study", metric: str | None = None, to: Path | str | None = None) -> "Figure":
        """Draw the mean of this study (and others) over versions, with a band from the lowest to the highest seed.

        Args:
            others: Drawn beside it.
            metric: As for `curve`.
            to: A ``.png``, ``.svg`` or ``.pdf`` file to write it to as well.

        Raises:
            ConfigError: matplotlib is not installed, or a study did not measure this metric.
            StorageError: The file cannot be written.
        """
        wanted = main_metric(self.runs, metric)
        bands = {one.name: curve_points(one.runs, main_metric(one.runs, wanted)) for one in (self, *others)}
        return draw_bands(bands, wanted, None if to is None else Path(to))

    def compare(self, *others: "Study", metric: str | None = None, target: float | None = None) -> Comparison:
        """Lay every seed of this study and of others side by side, as ``coordinator compare`` does.

        Args:
            others: Compared with it.
            metric: As for `curve`.
            target: Say what each took to reach this value.
        """
        runs = [run for one in (self, *others) for run in one.runs]
        rows = compare_runs(runs, metric=main_metric(runs, metric), target=target)
        return Comparison(rows=[comparison_row(row) for row in rows], table=comparison_tables(rows, target=target))

    def save(self, folder: Path | str) -> Path:
        """Write everything to a new or empty folder: reports for ``coordinator plot``, models as safetensors.

        Returns:
            The folder; `fedmq.load` reads it.

        Raises:
            StorageError: It holds something already, or cannot be written.
        """
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            if any(target.iterdir()):
                raise StorageError(f"{target} is not empty: a study is saved into a folder of its own")
            seeds = [_saved_seed(target, one) for one in self.seeds]
            described = {"study": 1, "name": self.name, "task": self.task, "nodes": self.nodes, "seeds": seeds}
            write_file(target / STUDY, json.dumps(described).encode(), durable=False)
        except OSError as error:
            raise StorageError(f"{target} cannot be written: {error}") from error
        return target


def _saved_seed(folder: Path, one: Seed) -> Mapping[str, object]:
    """Write a seed's files; returns what ``study.json`` says of it, with the files' digests."""
    tensors = {name: np.asarray(array) for name, array in one.parameters.items()}
    contents = {
        f"seed-{one.seed}.json": json.dumps(one.report).encode(),
        f"seed-{one.seed}.safetensors": safetensors.numpy.save(tensors),
    }
    for name, content in contents.items():
        write_file(folder / name, content, durable=False)
    files = {name: content_digest(content) for name, content in contents.items()}
    return {"seed": one.seed, "digest": one.digest, "files": files}


def load_study(folder: Path, digest: str | None = None) -> Study:
    """Read what `Study.save` wrote.

    Args:
        folder: Where.
        digest: ``sha256:…`` of its ``study.json``, which names the digests of all other files; None takes any.

    Raises:
        StorageError: A file is missing or damaged, or is another one than was written.
    """
    try:
        content = (folder / STUDY).read_bytes()
        check_digest(folder / STUDY, content, digest)
        described = read_json(content.decode())
        seeds = tuple(_load_seed(folder, one) for one in described["seeds"])
        return Study(
            name=str(described["name"]), task=str(described["task"]), nodes=int(described["nodes"]), seeds=seeds
        )
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise StorageError(f"{folder} cannot be read as a study: {error}") from error


def _load_seed(folder: Path, said: Mapping[str, Any]) -> Seed:
    seed, files = int(said["seed"]), said.get("files", {})  # releases up to 0.2 said no digests of files
    report, model = (_content(folder, f"seed-{seed}.{kind}", files) for kind in ("json", "safetensors"))
    return Seed(
        seed=seed,
        digest=str(said["digest"]),
        report=read_json(report.decode()),
        parameters=safetensors.numpy.load(model),
    )


def _content(folder: Path, name: str, files: Mapping[str, str]) -> bytes:
    content = (folder / name).read_bytes()
    check_digest(folder / name, content, files.get(name))
    return content
