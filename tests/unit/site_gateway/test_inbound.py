"""What the two sides' threads say becomes the gateway's events, and says how the gateway is."""

from pathlib import Path

from federation.runtime.supervision import Supervision
from federation.runtime.transport import Inbox, TransportConnected, TransportDisconnected
from site_gateway.runtime.inbound import Side, Translator, from_side


def connected(name: str) -> TransportConnected:
    return TransportConnected(connection=name, session_present=False, packet_bytes_max=1000)


def test_a_site_without_its_link_is_well_and_one_without_its_own_broker_is_not(tmp_path: Path) -> None:
    """Whoever restarts or bypasses what is not well would stop a site that trains on."""
    inbox, health = Inbox(), tmp_path / "healthy"
    supervision = Supervision(inbox, lambda: True, {"FEDMQ_HEALTH_FILE": str(health)})
    heard = list[tuple[str, object]]()
    translate = Translator(
        supervision.watching(lambda event: event),
        lambda event: heard.append(("above", event)),
        lambda event: heard.append(("below", event)),
    )
    translate(from_side(Side.ABOVE, connected("node")))
    assert not health.exists()
    translate(from_side(Side.BELOW, connected("control")))
    assert health.exists()
    translate(from_side(Side.ABOVE, TransportDisconnected(connection="node", reason="lost")))
    health.unlink()
    supervision._fed()
    assert health.exists()
    translate(from_side(Side.BELOW, TransportDisconnected(connection="control", reason="lost")))
    health.unlink()
    supervision._fed()
    assert not health.exists()
    # Both machines hear of all of it.
    assert [side for side, _ in heard] == ["above", "below", "above", "below"]
