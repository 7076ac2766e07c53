"""A gateway against real brokers: it waits for the run above without asking again and again."""

from contextlib import ExitStack
from pathlib import Path

import pytest

import edge_node.config as node_config
from edge_node.setup.visit import Visit, await_coordinator
from federation.config import broker_address
from federation.identity.signing_keys import Trust
from federation.runtime.local_broker import LocalBroker
from federation.types import RunId
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
