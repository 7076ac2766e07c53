"""A run as TensorBoard event files: evaluations, bytes, participation, and each node's loss."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from coordinator.artifacts.plots.run import Run
from federation.errors import ConfigError, StorageError

__all__ = ["write_events"]

NODES_MAX = 500
"""Nodes that get a curve of their own; TensorBoard shows each tag as a chart."""

SUFFIX = ".fedmq"
"""Ends the names of the files that this module writes: a second export replaces them, and no others."""


def write_events(run: Run, folder: Path) -> Path:
    """Write one run below ``folder``, in a folder of its name; files of an earlier export are replaced.

    Steps are model versions. Times are as the run took them, and it ends when its source was last written.

    Returns:
        The folder for this run.

    Raises:
        ConfigError: tensorboardX is not installed.
        StorageError: The folder cannot be written.
    """
    writer_class = _writer_class()
    target = folder / run.name.replace("/", "-")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        with closing(writer_class(str(target), filename_suffix=SUFFIX)) as writer:
            began_s = _began_s(run)
            for tag, value, version, time_s in _scalars(run):
                writer.add_scalar(tag, value, global_step=version, walltime=began_s + time_s)
    except OSError as error:
        raise StorageError(f"TensorBoard files cannot be written to {target}: {error}") from error
    return target


def _writer_class() -> Callable[..., Any]:
    try:
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        missing = f"TensorBoard files need {error.name}: pip install 'fedmq[tensorboard]'"
        raise ConfigError("--tensorboard", missing, source="this environment") from error
    writer: Callable[..., Any] = SummaryWriter
    return writer


def _began_s(run: Run) -> float:
    """When the run began, in seconds of the Unix clock: the store keeps durations only."""
    return run.source.stat().st_mtime - (run.versions[-1].time_s if run.versions else 0.0)


def _scalars(run: Run) -> Iterator[tuple[str, float, int, float]]:
    """Tag, value, version, and seconds since the start."""
    for point in run.versions:
        rows = {f"evaluation/{name}": value for name, value in point.metrics.items()}
        rows |= {"bytes/up": point.bytes_up, "bytes/down": point.bytes_down}
        rows |= {f"updates/{name}": getattr(point, name) for name in ("applied", "stale", "refused")}
        for tag, value in rows.items():
            yield tag, value, point.version, point.time_s
    yield from _node_scalars(run)


def _node_scalars(run: Run) -> Iterator[tuple[str, float, int, float]]:
    times = {point.version: point.time_s for point in run.versions}
    shown = {node.node for node in run.nodes[:NODES_MAX]}
    for update in run.updates:
        if update.loss is not None and update.node in shown:
            yield f"node-loss/{update.node}", update.loss, update.base_version, times.get(update.base_version, 0.0)
    for found in run.evaluations:
        if found.accuracy is not None and found.node in shown:
            yield f"node-accuracy/{found.node}", found.accuracy, found.version, times.get(found.version, 0.0)
