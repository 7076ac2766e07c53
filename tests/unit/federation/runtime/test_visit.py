"""A knock at a broker: one that hangs is away, and has refused nobody."""

import socket

from federation.runtime.address import BrokerAddress, TlsFiles
from federation.runtime.visit import Answer, knock


def test_a_broker_that_takes_the_connection_and_says_nothing_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = BrokerAddress(host="127.0.0.1", port=hanging.getsockname()[1], tls=TlsFiles())
        assert knock(address, "edge-01", limit_s=0.05) is Answer.ABSENT
