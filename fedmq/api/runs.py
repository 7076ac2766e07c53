"""``fedmq.load``: a run that a coordinator has stored, or a study that was saved, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from coordinator.artifacts.export import NEWEST, read_model
from coordinator.artifacts.plots.run import Run, load_run
from coordinator.config.sections import read_config
from coordinator.storage.database import DATABASE
from federation.errors import ConfigError
from federation.task import Parameters
from fedmq.api.curve import as_table, curve_points, main_metric
from fedmq.api.pictures import draw_bands
from fedmq.api.study import STUDY, Study, load_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StoredRun", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A coordinator's run; it may be going on.

    Attributes:
        folder: Its state folder; None where only a report is there.
        rows: Versions, nodes and updates as they were when it was loaded.
    """

    folder: Path | None
    rows: Run

    @property
    def versions(self) -> Sequence[Any]:
        """Each version with its metrics, time and bytes."""
        return self.rows.versions

    @property
    def parameters(self) -> Parameters:
        """The newest model's tensors by name; errors as for `parameters_of`."""
        return self.parameters_of(NEWEST)

    def parameters_of(self, version: str) -> Parameters:
        """A model's tensors by name.

        Args:
            version: ``newest``, ``best``, or a number: the newest two versions are kept, and the best.

        Raises:
            ConfigError: There is no such version, or this is a report, which holds no model.
            StorageError: There is no model yet, or it cannot be read.
        """
        if self.folder is None:
            raise ConfigError("version", "a report holds no model: load the state folder", source=self.rows.name)
        return read_model(self.folder, version)[1]

    def curve(self, metric: str | None = None) -> Any:
        """The metric at each version, as `Study.curve`; errors as there."""
        return as_table(curve_points([self.rows], main_metric([self.rows], metric)))

    def plot(self, *, metric: str | None = None, to: Path | str | None = None) -> "Figure":
        """Draw the metric over versions, as `Study.plot`; errors as there."""
        wanted = main_metric([self.rows], metric)
        return draw_bands({self.rows.name: curve_points([self.rows], wanted)}, wanted, None if to is None else Path(to))


def load(where: Path | str) -> StoredRun | Study:
    """Read a run or a study.

    Args:
        where: A coordinator's state folder, its configuration or its report, or a folder of `Study.save`; a path, or
            a ``file://`` URL.

    Raises:
        ConfigError: It is none of these, or another kind of URL.
        StorageError: It cannot be read.
    """
    path = _path(where)
    if (path / STUDY).is_file():
        return load_study(path)
    return StoredRun(folder=_state_folder(path), rows=load_run(path))


def _path(where: Path | str) -> Path:
    url = urlsplit(str(where))
    if url.scheme == "file":
        return Path(unquote(url.path))
    if len(url.scheme) > 1:
        problem = f"{url.scheme}:// is not read; give a state folder, a report, or a folder of Study.save"
        raise ConfigError("load", problem, source="fedmq.load")
    return Path(where).expanduser()


def _state_folder(path: Path) -> Path | None:
    if (path / DATABASE).is_file():
        return path
    return read_config(path, {}).store.folder if path.is_dir() or path.suffix == ".toml" else None
