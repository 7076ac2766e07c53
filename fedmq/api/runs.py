"""``fedmq.load``: a run that a coordinator has stored or shows, or a study that was saved, as values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from coordinator.artifacts.export import NEWEST, read_model
from coordinator.artifacts.plots.run import NAME_MAX, Run, load_run, run_of_report
from coordinator.config.sections import read_config
from coordinator.storage.places import has_store
from federation.errors import ConfigError, StorageError
from federation.task import Parameters
from fedmq.api.curve import as_table, curve_points, main_metric
from fedmq.api.pictures import draw_bands
from fedmq.api.remote import SCHEMES, Fetching, RemotePage, check_digest, fetched_json
from fedmq.api.study import STUDY, Study, load_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StoredRun", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A coordinator's run; it may be going on.

    Attributes:
        folder: Its state folder; None where only a report or a page is there.
        rows: Versions, nodes and updates as they were when it was loaded.
        page: The page that shows it; None where it was not read from one.
    """

    folder: Path | None
    rows: Run
    page: RemotePage | None = None

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
        if self.page is not None:
            return self.page.parameters(version)
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


def load(
    where: Path | str,
    *,
    digest: str | None = None,
    token: str | None = None,
    certificate: Path | str | None = None,
    timeout_s: float = 60.0,
) -> StoredRun | Study:
    """Read a run or a study.

    Args:
        where: A coordinator's state folder, its configuration or its report, or a folder of `Study.save`; a path, or
            a ``file://`` URL. Or an ``http(s)://`` URL: of a report, or, with a slash at the end, of the page that
            ``coordinator serve`` shows.
        digest: Of a report, or of the ``study.json`` of a study, which names all its other files: ``sha256:…`` of what
            must come.
        token: Of a page, where it is not in the URL.
        certificate: PEM file of the authority behind the server's certificate; None: those of the system.
        timeout_s: For each answer of a URL, in seconds.

    Raises:
        ConfigError: It is none of these, or another kind of URL.
        StorageError: It cannot be read, is too large or too slow, or has another digest.
    """
    url = urlsplit(str(where))
    how = Fetching(
        digest=digest, token=token, certificate=None if certificate is None else Path(certificate), timeout_s=timeout_s
    )
    if url.scheme in SCHEMES:
        return _load_url(url, how)
    if how != Fetching(timeout_s=timeout_s, digest=digest):
        raise ConfigError("load", "token and certificate are for http:// and https://", source="fedmq.load")
    path = _path(where)
    if (path / STUDY).is_file():
        return load_study(path, digest)
    folder = _state_folder(path)
    if digest is not None:
        _check_report(path, folder, digest)
    return StoredRun(folder=folder, rows=load_run(path))


def _check_report(path: Path, folder: Path | None, digest: str) -> None:
    """See that a report is the one that was to come.

    Raises:
        ConfigError: It is a state folder, which changes.
        StorageError: It is another one, or cannot be read.
    """
    if folder is not None:
        raise ConfigError("digest", "a run goes on; a digest is for a report or a study", source="fedmq.load")
    try:
        check_digest(path, path.read_bytes(), digest)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def _load_url(url: SplitResult, how: Fetching) -> StoredRun:
    if url.path.endswith("/") or not url.path:
        page = RemotePage.at(url, how)
        rows = run_of_report(page.report(), Path(url.netloc))
        return StoredRun(folder=None, rows=replace(rows, name=url.netloc[-NAME_MAX:]), page=page)
    return StoredRun(folder=None, rows=run_of_report(fetched_json(url.geturl(), how), Path(unquote(url.path))))


def _path(where: Path | str) -> Path:
    url = urlsplit(str(where))
    if url.scheme == "file":
        return Path(unquote(url.path))
    if len(url.scheme) > 1:
        problem = f"{url.scheme}:// is not read; give a state folder, a report, a folder of Study.save, or http(s)://"
        raise ConfigError("load", problem, source="fedmq.load")
    return Path(where).expanduser()


def _state_folder(path: Path) -> Path | None:
    if has_store(path):
        return path
    return read_config(path, {}).store.folder if path.is_dir() or path.suffix == ".toml" else None
