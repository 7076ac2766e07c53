"""A gateway against real brokers: it waits for the run above on one connection, and trains on without a link."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coordinator.enrolment.cli as enrolment
import edge_node.config as node_config
from coordinator.enrolment.broker import FleetBroker
from coordinator.enrolment.folder import FleetFolder
from edge_node.setup.join import install
from edge_node.setup.visit import Visit, await_coordinator
from federation.config import broker_address
from federation.identity.signing_keys import Trust
from federation.runtime.local_broker import LocalBroker, free_port
from federation.types import RunId
from site_gateway.cli import app as gateway_command
from tests.rigs.scripted_coordinator import LIMIT_S, ScriptedCoordinator

pytestmark = pytest.mark.broker


def test_a_coordinator_that_comes_later_is_heard_on_the_connection_that_stands(
    broker: LocalBroker, tmp_path: Path
) -> None:
    file = tmp_path / "above.toml"
    file.write_text(f'broker.url = "{broker.url}"\nfederation.id = "it"\nnode.id = "g"\ntask.name = "digits"\n')
    config = node_config.read_config(file, {}, environ={})
    heard = list[Visit]()
    with ExitStack() as stack:

        def told(visit: Visit) -> None:
            if not heard:
                stack.enter_context(ScriptedCoordinator(broker.url))
            heard.append(visit)

        found = await_coordinator(config, broker_address(config.broker), Trust(), LIMIT_S, told)
    assert found.coordinator is not None
    assert found.coordinator.run == RunId("00000000000000aa")
    # Once when the broker has accepted it, once when somebody has spoken: nothing is asked in between.
    assert [one.coordinator is not None for one in heard] == [False, True]


def test_nobody_who_speaks_ends_the_wait_at_its_end(broker: LocalBroker, tmp_path: Path) -> None:
    file = tmp_path / "above.toml"
    file.write_text(f'broker.url = "{broker.url}"\nfederation.id = "it"\nnode.id = "g"\ntask.name = "digits"\n')
    config = node_config.read_config(file, {}, environ={})
    found = await_coordinator(config, broker_address(config.broker), Trust(), 0.01, lambda _: None)
    assert found.coordinator is None


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts programs whose log is read, and ends what is still alive."""
    processes: list[subprocess.Popen[str]] = []

    def start_one(*words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", *words, "--log-json"]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        # Shown by pytest when the test has failed.
        print(*process.communicate(timeout=LIMIT_S))  # noqa: T201


def until(process: "subprocess.Popen[str]", event: str, **fields: object) -> Mapping[str, object]:
    """The first line of its log that says so."""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="")  # noqa: T201 - shown with the rest of its log
        found: Mapping[str, object] = json.loads(line)
        if found["event"] == event and fields.items() <= found.items():
            return found
    raise AssertionError(f"it has ended without {event}")


def test_a_site_whose_link_is_down_trains_on_and_all_of_it_counts(
    broker: LocalBroker, start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """FED-284: the broker above stops when the site has its order and nobody has trained."""
    common = 'federation.id = "it"\ntask.name = "quadratic-50"\n'
    (tmp_path / "root.toml").write_text(
        f'{common}broker.url = "{broker.url}"\nstore.folder = "{tmp_path / "root"}"\n'
        "gateways.members_max = { g = 8 }\n"
        'strategy.name = "fedbuff"\nevaluation.every = 0\n'
        "[round]\nconcurrency = 1\nbuffer = 1\nquorum = 1\nnodes_min = 1\nmax_staleness = 5\nversions = 1\n"
    )
    with LocalBroker() as below:
        folder = tmp_path / "g"
        folder.mkdir()
        (folder / "gateway.toml").write_text("gateway.members_max = 8\n")
        (folder / "above.toml").write_text(
            f'{common}node.id = "g"\nbroker.url = "{broker.url}"\nstore.folder = "{folder / "above"}"\n'
        )
        (folder / "below.toml").write_text(
            f'{common}broker.url = "{below.url}"\nstore.folder = "{folder / "below"}"\n'
            "[round]\nconcurrency = 2\nfraction = 1.0\nquorum = 1\nnodes_min = 2\nexit_when_finished = false\n"
        )
        start("coordinator", "run", "--config", str(tmp_path / "root.toml"))
        gateway = start("fedmq", "gateway", "run", "--config", str(folder))
        until(gateway, "round_joined")
        broker.kill()
        until(gateway, "disconnected")
        for node in ("a", "b"):
            words = ("--broker", below.url, "--federation", "it", "--task", "quadratic-50", "--id", node)
            start("edge_node", "run", *words, "--state", str(tmp_path / node))
        frozen = until(gateway, "site_sum_frozen")
        broker.restart()
        settled = until(gateway, "site_sum_settled")
    assert (frozen["members"], frozen["version"]) == (8, 0)
    assert (settled["status"], settled["version"]) == ("applied", 1)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_site_with_an_authority_of_its_own_hands_up_sealed_and_signed_sums(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the guide says: enrolled above, an authority and a broker below, and a node that only the site knows."""
    hub, hall = tmp_path / "plant", tmp_path / "press-shop"
    port, task = free_port(), "quadratic-50"
    enrolment.init(hub, host=["localhost"], port=port, task=task, evaluate=False, enroll_=["press-shop"])
    words = ["--join", str(hub / "enrolled/press-shop.fedmq"), "--host", "localhost", "--port", str(free_port())]
    told = CliRunner().invoke(gateway_command, ["init", str(hall), *words, "--nodes", "8"])
    assert told.exit_code == 0, told.output
    enrolment.enroll(hall / "below", ["press-1"])
    text = (hub / "coordinator.toml").read_text().replace("interval_min_s = 5", "interval_min_s = 0")
    (hub / "coordinator.toml").write_text(f"{text}\n[gateways]\nmembers_max = {{ press-shop = 8 }}\n")
    node = install(hall / "below/enrolled/press-1.fedmq", tmp_path / "press-1")
    with FleetBroker(FleetFolder(hub).broker):
        start("coordinator", "run", "--config", str(hub))
        gateway = start("fedmq", "gateway", "run", "--config", str(hall), "--with-broker")
        start("edge_node", "run", "--config", str(node))
        settled = until(gateway, "site_sum_settled")
        assert settled["status"] == "applied"
        enrolment.revoke(hall / "below", ["press-1"])  # ends by itself only where it is proved
        assert "no coordinator runs" not in capsys.readouterr().out  # the gateway is the site's, and has taken note
        assert until(gateway, "node_revoked")["node"] == "press-1"
