"""The front door above both roles: demo, audit, simulation, and what a notebook imports."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from federation.errors import ConfigError, FederationError, StorageError, TaskError
    from federation.protocol.messages import TrainSettings
    from federation.tasks import TorchTask, WholeData, csv_data, image_data, numpy_data
    from fedmq.api.runs import StoredRun, load
    from fedmq.api.simulate import simulate
    from fedmq.api.study import Study

__all__ = [
    "ConfigError",
    "FederationError",
    "StorageError",
    "StoredRun",
    "Study",
    "TaskError",
    "TorchTask",
    "TrainSettings",
    "WholeData",
    "csv_data",
    "image_data",
    "load",
    "numpy_data",
    "simulate",
]

__version__: str

_WHERE = {
    "ConfigError": "federation.errors",
    "FederationError": "federation.errors",
    "StorageError": "federation.errors",
    "StoredRun": "fedmq.api.runs",
    "Study": "fedmq.api.study",
    "TaskError": "federation.errors",
    "TorchTask": "federation.tasks",
    "TrainSettings": "federation.protocol.messages",
    "WholeData": "federation.tasks",
    "__version__": "federation",
    "csv_data": "federation.tasks",
    "image_data": "federation.tasks",
    "load": "fedmq.api.runs",
    "numpy_data": "federation.tasks",
    "simulate": "fedmq.api.simulate",
}
"""What is imported when it is first asked for: ``import fedmq`` alone loads neither numpy nor torch."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562).

    Raises:
        AttributeError: There is no such name.
    """
    if name not in _WHERE:
        raise AttributeError(f"module 'fedmq' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing is loaded before somebody asks

    return getattr(import_module(_WHERE[name]), "RELEASE" if name == "__version__" else name)


def __dir__() -> list[str]:
    return sorted(__all__)
