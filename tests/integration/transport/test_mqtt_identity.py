"""Certificates, the ACL example and the production settings, against a real broker."""

import datetime as dt
import ipaddress
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import BrokerAddress, MqttTransport, SessionSettings, TlsFiles, parse_broker_url
from federation.runtime.transport import Inbox, MessageReceived, TransportBlocked, TransportConnected

pytestmark = pytest.mark.broker

_ROOT = Path(__file__).parents[3]
_WAIT_S = 20.0
_QUIET_S = 0.3
_DAY = dt.timedelta(days=1)
_ENDED = dt.datetime(2024, 5, 6, 7, 8, tzinfo=dt.UTC)


@dataclass(frozen=True)
class _Authority:
    """Signs certificates into a folder."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(self, name: str, *, ended: bool = False) -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.certificate.subject, key, ends=_ENDED if ended else None)
        certificate = builder.sign(self.key, hashes.SHA256())
        return TlsFiles(
            authority=_write(self.folder / "ca.crt", self.certificate),
            certificate=_write(self.folder / f"{name}.crt", certificate),
            key=_write(self.folder / f"{name}.key", key),
        )


def _builder(
    name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, ends: dt.datetime | None = None
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before((now if ends is None else ends) - _DAY)
        .not_valid_after(now + _DAY if ends is None else ends)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
    )


def _write(path: Path, thing: x509.Certificate | ec.EllipticCurvePrivateKey) -> str:
    if isinstance(thing, x509.Certificate):
        path.write_bytes(thing.public_bytes(serialization.Encoding.PEM))
    else:
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path.write_bytes(thing.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return str(path)


@pytest.fixture
def authority(tmp_path: Path) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return _Authority(tmp_path, key, _builder("our authority", None, key).sign(key, hashes.SHA256()))


@pytest.fixture
def secure_broker(authority: _Authority) -> Iterator[LocalBroker]:
    """The production listener and the ACL example, on loopback."""
    files = authority.issue("broker")
    lines = (
        f"cafile {files.authority}",
        f"certfile {files.certificate}",
        f"keyfile {files.key}",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        f"acl_file {_ROOT / 'mosquitto' / 'acl.example'}",
    )
    with LocalBroker(lines=lines) as broker:
        yield broker


class _Client:
    def __init__(
        self, broker: LocalBroker, tls: TlsFiles, client_id: str, address: BrokerAddress | None = None
    ) -> None:
        self.inbox: Inbox = queue.Queue(100)
        address = address or parse_broker_url(broker.url.replace("mqtt://", "mqtts://"), tls=tls)
        session = SessionSettings(client_id=client_id, first_connect_spread_s=0.0)
        self.transport = MqttTransport(address, session, self.inbox)

    def open(self, *filters: str) -> "_Client":
        for topic_filter in filters:
            self.transport.subscribe(topic_filter)
        self.transport.open()
        assert isinstance(self.inbox.get(timeout=_WAIT_S).event, TransportConnected)
        return self

    def blocked(self) -> TransportBlocked:
        """Why it is not connected."""
        event = self.inbox.get(timeout=_WAIT_S).event
        assert isinstance(event, TransportBlocked)
        return event

    def topic(self) -> str:
        event = self.inbox.get(timeout=_WAIT_S).event
        assert isinstance(event, MessageReceived)
        return event.topic

    def is_quiet(self) -> bool:
        """Whether nothing comes but that there is no connection."""
        until_s = time.monotonic() + _QUIET_S
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                if not isinstance(self.inbox.get(timeout=left_s).event, TransportBlocked):
                    return False
            except queue.Empty:
                break
        return True


def test_a_node_writes_as_itself_only_and_the_broker_says_so(authority: _Authority, secure_broker: LocalBroker) -> None:
    coordinator = _Client(secure_broker, authority.issue("coordinator-demo-control"), "any").open("fl/demo/#")
    node = _Client(secure_broker, authority.issue("edge-01"), "any").open("fl/demo/n/edge-01/cmd", "fl/demo/n/+/evt")
    for name in ("edge-02", "edge-01"):
        node.transport.publish(f"fl/demo/n/{name}/evt", b"offer")
    assert coordinator.topic() == "fl/demo/n/edge-01/evt"
    coordinator.transport.publish("fl/demo/n/edge-01/cmd", bytes(60_000))
    assert node.topic() == "fl/demo/n/edge-01/cmd"
    assert node.is_quiet()
    assert node.transport.refused == 1
    for client in (node, coordinator):
        client.transport.close()


# The client library leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
def test_a_stranger_s_certificate_or_none_does_not_connect(
    authority: _Authority, secure_broker: LocalBroker, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    other = _Authority(tmp_path / "other", key, _builder("other", None, key).sign(key, hashes.SHA256()))
    stranger = other.issue("edge-01")
    ours = authority.issue("edge-02").authority
    for tls in (
        TlsFiles(authority=ours, certificate=stranger.certificate, key=stranger.key),
        TlsFiles(authority=ours),
        stranger,
    ):
        client = _Client(secure_broker, tls, "c")
        client.transport.open()
        assert client.is_quiet()
        client.transport.close()
        assert not client.transport.connected


# The client library leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
def test_a_certificate_that_was_renewed_on_disk_is_shown_at_the_next_attempt(
    authority: _Authority, secure_broker: LocalBroker
) -> None:
    client = _Client(secure_broker, authority.issue("edge-01", ended=True), "any")
    client.transport.open()
    said = client.blocked()
    authority.issue("edge-01")
    while isinstance(event := client.inbox.get(timeout=_WAIT_S).event, TransportBlocked):
        pass
    client.transport.close()
    assert isinstance(event, TransportConnected)
    assert said.reason.startswith("our certificate broker.tls_certificate, of edge-01, ended on 2024-05-06 07:08 UTC")
    assert "coordinator renew" in said.remedy


@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
def test_half_of_a_renewed_pair_costs_no_connection(authority: _Authority, secure_broker: LocalBroker) -> None:
    files = authority.issue("edge-01")
    client = _Client(secure_broker, files, "any").open()
    assert files.key is not None
    Path(files.key).write_bytes(b"")
    secure_broker.restart()
    met = [client.inbox.get(timeout=_WAIT_S).event]
    while not isinstance(met[-1], TransportConnected):
        met.append(client.inbox.get(timeout=_WAIT_S).event)
    client.transport.close()


@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
def test_what_is_wrong_with_a_broker_s_certificate_is_said(
    authority: _Authority, secure_broker: LocalBroker, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    other = _Authority(tmp_path / "other", key, _builder("other", None, key).sign(key, hashes.SHA256())).issue(
        "edge-01"
    )
    ours = authority.issue("edge-01")
    authority.issue("broker", ended=True)

    def said(tls: TlsFiles, host: str = "127.0.0.1") -> str:
        address = parse_broker_url(f"mqtts://{host}:{secure_broker.port}", tls=tls)
        client = _Client(secure_broker, tls, "any", address)
        client.transport.open()
        found = client.blocked()
        client.transport.close()
        return f"{found.reason}; {found.remedy}"

    foreign, misnamed = said(TlsFiles(authority=other.authority)), said(ours, "localhost")
    unproven, stranger = said(TlsFiles(authority=ours.authority)), said(replace(other, authority=ours.authority))
    secure_broker.restart()
    ended = said(ours)
    assert "authority (CN=our authority) that is not in broker.tls_authority" in foreign
    assert "is not for localhost, but for 127.0.0.1; call it so in broker.url" in misnamed
    assert "certificate required; it wants a certificate of ours" in unproven
    assert "does not trust the authority of broker.tls_certificate" in stranger
    assert ended.startswith(
        "the broker's certificate, of broker, ended on 2024-05-06 07:08 UTC; see this machine's clock"
    )
    assert "coordinator renew" in ended
