"""Which run a gateway stands in: it is asked above before anything is opened below, and the wait says why it waits."""

from edge_node.app import node_trust
from edge_node.setup.visit import Visit, await_coordinator, visit_as_node
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.config import broker_address
from federation.errors import TransportError
from federation.runtime.address import BrokerAddress
from federation.runtime.log import get_log
from federation.runtime.supervision import Notifier
from federation.types import RunId
from site_gateway.config import GatewaySettings

__all__ = ["run_above"]

ASKED = "the broker there is asked"


def run_above(settings: GatewaySettings, store: SqliteNodeStore) -> RunId:
    """The run above, as its coordinator says it; where it cannot be heard, the one that was heard last.

    Args:
        settings: Where it is asked, and how long.
        store: Knows which run was heard last.

    Raises:
        TransportError: Nobody has ever been heard.
    """
    config, find_s = settings.above, settings.own.gateway.find_s
    address, trust = broker_address(config.broker), node_trust(config.security)
    looking = _Looking(address, find_s)
    looking.say(ASKED)
    visit, known = visit_as_node(config, address, trust), store.recovered().run
    if visit.coordinator is None and known is None:
        looking.hear(visit)
        visit = await_coordinator(config, address, trust, find_s, looking.hear)
    run = known if visit.coordinator is None else visit.coordinator.run
    if run is None:
        raise TransportError(f"no run is known above, at {address.host}:{address.port}: {_why(visit)}")
    return run


class _Looking:
    """Says in the log, and to a service manager, why no run is known above yet, once for each reason.

    Args:
        address: Where it looks.
        find_s: So long it waits for a coordinator at most, in seconds.
    """

    def __init__(self, address: BrokerAddress, find_s: float) -> None:
        self._address, self._find_s, self._told = address, find_s, ""
        self._notifier = Notifier()

    def hear(self, visit: Visit) -> None:
        """The connection, or what is said there, is another."""
        if visit.coordinator is None:
            self.say(_why(visit))

    def say(self, why: str) -> None:
        """Say this, if it was not the last thing that was said."""
        if why == self._told:
            return
        self._told, where = why, self._address
        get_log("gateway").info("looking_above", host=where.host, port=where.port, why=why, s=self._find_s)
        self._notifier.say_waiting(why)


def _why(visit: Visit) -> str:
    return visit.forged or ("no coordinator has spoken there yet" if visit.accepted else visit.reason)
