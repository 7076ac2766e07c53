"""Broker URLs are read strictly, and a password is never repeated."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import ConfigError
from federation.runtime.address import BrokerAddress, TlsFiles, parse_broker_url


@pytest.mark.parametrize(
    ("url", "port", "transport", "secure"),
    [
        ("mqtt://broker", 1883, "tcp", False),
        ("mqtts://broker", 8883, "tcp", True),
        ("ws://broker", 80, "websockets", False),
        ("wss://broker", 443, "websockets", True),
        ("mqtt://broker:1234/", 1234, "tcp", False),
    ],
)
def test_each_scheme_has_its_port_transport_and_tls(url: str, port: int, transport: str, secure: bool) -> None:
    address = parse_broker_url(url)
    assert (address.host, address.port, address.transport) == ("broker", port, transport)
    assert (address.tls is not None) is secure


def test_user_and_password_are_percent_decoded() -> None:
    address = parse_broker_url("mqtt://edge%2F1:p%40ss%3Aword@10.0.0.1:99")
    assert address == BrokerAddress(host="10.0.0.1", port=99, username="edge/1", password="p@ss:word")  # noqa: S106 - not a secret


def test_ipv6_and_websocket_path_are_read() -> None:
    assert parse_broker_url("mqtt://[::1]:5").host == "::1"
    assert parse_broker_url("ws://h/hub").path == "/hub"
    assert parse_broker_url("ws://h/").path == "/mqtt"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://h:port",
        "mqtt://h:70000",
        "mqtt://h:0",
        "mqtt://h/path",
        "mqtt://h?x=1",
        "mqtt://h#x",
        "mqtt://[::1",
    ],
)
def test_a_malformed_url_is_a_config_error_that_names_the_key_and_source(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_broker_url(url, source="--broker")
    assert (caught.value.key, caught.value.source) == ("broker.url", "--broker")


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        address = parse_broker_url(text)
    except ConfigError:
        return
    assert address.host
    assert 0 < address.port < 65_536


def test_certificates_need_a_scheme_with_tls() -> None:
    with pytest.raises(ConfigError, match="mqtts"):
        parse_broker_url("mqtt://h", tls=TlsFiles(authority="ca.crt"))
    assert parse_broker_url("mqtts://h", tls=TlsFiles(authority="ca.crt")).tls == TlsFiles(authority="ca.crt")


def test_neither_repr_nor_error_repeats_the_password() -> None:
    assert "hunter2" not in repr(parse_broker_url("mqtt://u:hunter2@h"))
    with pytest.raises(ConfigError) as caught:
        parse_broker_url("ftp://u:hunter2@h")
    assert "hunter2" not in str(caught.value)


def test_missing_or_wrong_certificates_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"broker\.tls"):
        TlsFiles(authority=str(tmp_path / "none.crt")).context()
    (tmp_path / "wrong.crt").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"broker\.tls"):
        TlsFiles(certificate=str(tmp_path / "wrong.crt")).context()


def test_the_context_checks_the_certificate_and_the_host() -> None:
    context = TlsFiles().context()
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
