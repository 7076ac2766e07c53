"""Makes releases of the task: reads a bundle, checks it, signs it with the authority's key, puts it into the shelf."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from coordinator.config.sections import CoordinatorConfig
from coordinator.enrolment.folder import FleetFolder
from coordinator.runtime.task_releases import ReleaseShelf
from federation.errors import ConfigError
from federation.identity.certificates import PEM_BYTES_MAX, Identity, read_identity
from federation.identity.private_files import read_text
from federation.identity.task_release import TaskRelease, sign_release
from federation.rollout.archive import check_archive, pack
from federation.task import task_label
from federation.units import human_share

__all__ = ["NewRelease", "publish", "restate"]

_NAMED = 5
"""Files of a bundle that an error names, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRelease:
    """What is to be published.

    Attributes:
        bundle: A folder, a Python file, or a wheel.
        task: What of it is the task; None is what the coordinator's settings say, by its name.
        share: Which share of the nodes takes it.
        number: Its number; None is the next one.
        new_model: Whether its model has other tensors than the one before.
        made_at: ISO 8601.
    """

    bundle: Path
    task: str | None
    share: float
    number: int | None
    new_model: bool
    made_at: str


def publish(folder: FleetFolder, config: CoordinatorConfig, new: NewRelease) -> TaskRelease:
    """Sign a new release and make it the current one.

    Raises:
        ConfigError: The bundle cannot travel, has no such task, or its number is not above the last one; or the
            authority's key is not here.
        StorageError: The shelf cannot be written.
    """
    shelf = ReleaseShelf(config.store.folder)
    last = max((release.number for release in shelf.releases()), default=0)
    number = last + 1 if new.number is None else new.number
    if number <= last:
        raise ConfigError("--number", f"{last} was published: nodes take a higher one only", source="command line")
    archive = pack(new.bundle)
    label = task_label(config.task.name)
    task = _task(new.task or label, check_archive(archive))
    if task_label(task) != label:
        said = f"{task_label(task)} is another name than the run's, {label}: nodes would decline every round"
        raise ConfigError("--task", said, source="command line")
    release = TaskRelease(
        federation=config.federation.id,
        number=number,
        task=task,
        sha256=hashlib.sha256(archive).hexdigest(),
        archive_bytes=len(archive),
        chunk_bytes=config.broker.body_bytes,
        share=new.share,
        new_model=new.new_model,
        made_at=new.made_at,
    )
    shelf.save(sign_release(release, _authority(folder)), release, archive)
    return release


def restate(
    folder: FleetFolder, config: CoordinatorConfig, *, share: float | None = None, withdrawn: bool = False
) -> TaskRelease:
    """Say something else of the current release: for more nodes, or for none any more.

    Raises:
        ConfigError: Nothing was published, it was withdrawn, or the share is not larger; or the authority's key is
            not here.
        StorageError: The shelf cannot be written.
    """
    shelf = ReleaseShelf(config.store.folder)
    found = shelf.current()
    if found is None:
        raise ConfigError("DIR", "nothing was published: coordinator task publish", source="command line")
    release = found[1]
    if release.withdrawn:
        raise ConfigError("DIR", f"release {release.number} was withdrawn: publish another", source="command line")
    if share is not None and share <= release.share:
        said = f"{human_share(release.share)} of the nodes take release {release.number} already"
        raise ConfigError("--share", f"{said}; to take it back, withdraw it", source="command line")
    changed = {"step": release.step + 1, "share": release.share if share is None else share, "withdrawn": withdrawn}
    release = release.model_copy(update=changed)
    shelf.save(sign_release(release, _authority(folder)), release, None)
    return release


def _authority(folder: FleetFolder) -> Identity:
    certificate, key = (read_text(file, bytes_max=PEM_BYTES_MAX) for file in folder.authority)
    return read_identity(certificate, key, source="authority")


def _task(task: str, files: frozenset[str]) -> str:
    """The task as it is called in the archive.

    Raises:
        ConfigError: There is no such file, or more than one.
    """
    place, colon, function = task.partition(":")
    if not colon:
        said = f"{task} is built in and comes with the package: name the bundle's own, FILE.py:FUNCTION"
        raise ConfigError("--task", said, source="command line")
    if not place.endswith(".py"):
        path = place.replace(".", "/")
        if not {f"{path}.py", f"{path}/__init__.py"} & files:
            raise ConfigError("--task", f"the bundle has no module {place}", source="command line")
        return task
    found = [name for name in files if name == place or name.endswith(f"/{place}")]
    if place in files:
        found = [place]
    if len(found) != 1:
        said = f"the bundle has {place} twice: name its folder"
        if not found:
            there = sorted(name for name in files if name.endswith(".py"))
            more = " …" if len(there) > _NAMED else ""
            said = f"the bundle has no file {place}; it has {', '.join(there[:_NAMED]) or 'no Python file'}{more}"
        raise ConfigError("--task", said, source="command line")
    return f"{found[0]}:{function}"
