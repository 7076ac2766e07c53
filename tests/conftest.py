"""What every test may ask for: a broker of its own, real data when there is some, and proof that nothing is left."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import structlog
from hypothesis import HealthCheck, settings

from federation.runtime import local_broker
from federation.runtime.local_broker import LocalBroker
from tests.rigs.container_broker import ContainerBroker, broker_image
from tests.rigs.rewritten_modules import rewrite_share
from tests.rigs.warm_start import WarmPopen, WarmProcess

if TYPE_CHECKING:
    from tests.rigs.postgres import PostgresServer

_DATA_DEFAULT = Path(__file__).parents[2] / "shared" / "data"
_LEAVE_WAIT_S = 5.0
HELPERS: set[int] = set()
"""Process ids of children that live as long as we do."""
FAMILIES: set[int] = set()
"""Of those that outlive a test, as a browser does, with children of their own that come and go."""

if threading.current_thread() is threading.main_thread():
    # Started in the background, or by nohup, as CI may be: programs that are tested would inherit deaf ears.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)

# What these two measure is how busy the machine is: timings are benchmarks here, not tests.
EXAMPLES = int(os.environ.get("FEDMQ_EXAMPLES", "12"))
"""Of each property that names no number of its own; `make coverage` takes 100."""

settings.register_profile("fedmq", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=EXAMPLES)
settings.load_profile("fedmq")


if broker_image() is not None:
    # `make test-container`: every broker that a test starts by this name is a container. Before the tests import it.
    local_broker.LocalBroker = ContainerBroker  # type: ignore[misc]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Of several workers that are about to collect everything, each compiles its share of the modules."""
    worker = getattr(session.config, "workerinput", None)
    if worker is not None and session.config.args == session.config.getini("testpaths") and not sys.dont_write_bytecode:
        rewrite_share(session.config, int(worker["workerid"].removeprefix("gw")), worker["workercount"])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No slow test is among the last: a worker would be alone with it, and the others idle."""
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    last = dict.fromkeys(quick[len(quick) - min(len(quick), len(items) // 4) :])
    items[:] = [*(item for item in items if item not in last), *last]


def pytest_collection_finish() -> None:
    """All tests and their modules stay to the end: no later look for garbage goes over them, each third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_store_left() -> Iterator[None]:
    """Stores that a test has made in folders of their own go with it."""
    yield
    if (stores := sys.modules.get("tests.rigs.stores")) is not None:
        stores.put_away()


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A test that sends the log elsewhere, or lets less of it through, does so for itself only."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def broker() -> Iterator[LocalBroker]:
    """A Mosquitto on a free loopback port; its store survives `restart`, not the test."""
    with local_broker.LocalBroker(persistence=True) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    """A PostgreSQL that does not wait for its disk; each test takes databases of its own."""
    from tests.rigs.postgres import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with MNIST and its kin: ``FEDMQ_DATA``, or ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("FEDMQ_DATA", _DATA_DEFAULT))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set FEDMQ_DATA")
    return folder


@pytest.fixture(scope="session")
def warm_process() -> Iterator[WarmProcess]:
    """From which our programs are forked; started by the first test of this worker that starts one."""
    with WarmProcess() as warm:
        HELPERS.add(warm.process.pid)
        yield warm
    HELPERS.clear()


@pytest.fixture(scope="session")
def families() -> set[int]:
    """Where a fixture that outlives a test names the process it has started: its children are not left over."""
    return FAMILIES


@pytest.fixture
def programs_start_warm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m coordinator`` and ``python -m edge_node`` are forked, but where a person's start is the test."""
    if sys.platform == "linux" and request.node.get_closest_marker("cold") is None:
        monkeypatch.setattr(WarmPopen, "address", request.getfixturevalue("warm_process").address)
        monkeypatch.setattr(subprocess, "Popen", WarmPopen)


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
        if lists and not any(_has_family(int(pid)) for listed in lists for pid in listed.read_text().split()):
            return set()
    except OSError:
        pass  # a kernel without these lists, or a thread that has just ended
    return set(psutil.Process().children(recursive=True))


def _has_family(pid: int) -> bool:
    """Whether a child is no helper, or has a child of its own."""
    return pid not in HELPERS or any(listed.read_text() for listed in Path(f"/proc/{pid}/task").glob("*/children"))


def _is_helper(child: psutil.Process) -> bool:
    """What lives as long as we do, by design: the warm process, the resource tracker of `multiprocessing`, a family."""
    if child.pid in HELPERS or "multiprocessing.resource_tracker" in _describe(child):
        return True
    try:
        return bool(FAMILIES) and not FAMILIES.isdisjoint(one.pid for one in (child, *child.parents()))
    except psutil.Error:
        return False  # it has just ended


def _describe(child: psutil.Process) -> str:
    try:
        return " ".join(child.cmdline()) or child.name()
    except psutil.Error:
        return ""
