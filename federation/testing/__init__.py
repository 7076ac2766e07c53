"""What tests need, ours and yours: a clock that waits for nobody, a broker in memory, a network that misbehaves."""

from federation.testing.broker import BrokerSettings, ConnectSettings, Delivery, MemoryBroker, WillMessage
from federation.testing.faults import FaultSettings, FaultyNetwork, Partition
from federation.testing.proxy import LinkSettings, TcpProxy
from federation.testing.transport import FakeClock, MemoryNetwork, MemoryTransport

__all__ = [
    "BrokerSettings",
    "ConnectSettings",
    "Delivery",
    "FakeClock",
    "FaultSettings",
    "FaultyNetwork",
    "LinkSettings",
    "MemoryBroker",
    "MemoryNetwork",
    "MemoryTransport",
    "Partition",
    "TcpProxy",
    "WillMessage",
]
