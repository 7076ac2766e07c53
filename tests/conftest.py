"""What every test may ask for: a broker of its own, real data when there is some, and proof that nothing is left."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from federation.runtime import local_broker
from federation.runtime.local_broker import LocalBroker
from tests.rigs.container_broker import ContainerBroker, broker_image

_DATA_DEFAULT = Path(__file__).parents[2] / "shared" / "data"
_LEAVE_WAIT_S = 5.0

# What these two measure is how busy the machine is: timings are benchmarks here, not tests.
settings.register_profile("fedmq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedmq")


if broker_image() is not None:
    # `make test-container`: every broker that a test starts by this name is a container. Before the tests import it.
    local_broker.LocalBroker = ContainerBroker  # type: ignore[misc]


@pytest.fixture
def broker() -> Iterator[LocalBroker]:
    """A Mosquitto on a free loopback port; its store survives `restart`, not the test."""
    with local_broker.LocalBroker(persistence=True) as running:
        yield running


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with MNIST and its kin: ``FEDMQ_DATA``, or ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("FEDMQ_DATA", _DATA_DEFAULT))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set FEDMQ_DATA")
    return folder


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Fail the test that leaves a child process behind, and end that process."""
    before = _children()
    yield
    children = _children() - before
    _, alive = psutil.wait_procs([child for child in children if not _is_helper(child)], timeout=_LEAVE_WAIT_S)
    names = [_describe(child) for child in alive]
    for child in alive:
        child.kill()
    psutil.wait_procs(alive, timeout=_LEAVE_WAIT_S)
    assert not names, f"the test left processes behind: {names}"


def _children() -> set[psutil.Process]:
    """Our descendants. Two looks for each of thousands of tests: the kernel's own list first, where it has one."""
    try:
        lists = list(Path("/proc/self/task").glob("*/children"))
        if lists and not any(listed.read_text() for listed in lists):
            return set()
    except OSError:
        pass  # a kernel without these lists, or a thread that has just ended
    return set(psutil.Process().children(recursive=True))


def _is_helper(child: psutil.Process) -> bool:
    """The resource tracker of `multiprocessing` lives as long as the interpreter, by design."""
    return "multiprocessing.resource_tracker" in _describe(child)


def _describe(child: psutil.Process) -> str:
    try:
        return " ".join(child.cmdline()) or child.name()
    except psutil.Error:
        return ""
