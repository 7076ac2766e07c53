"""Broker URLs are read strictly, and a password is never repeated."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import ConfigError
from federation.runtime.address import BrokerAddress, TlsFiles, exposures, parse_broker_url, printable_url


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


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws", "wss"])
@pytest.mark.parametrize(
    "password",
    [
        "Tr0ub4/dor",
        "Tr0ub4#dor",
        "Tr0ub4?dor",
        "Tr0ub4[dor",
        "Tr0ub4]dor",
        "443/Tr0ub4",
        "443?Tr0ub4",
        "/Tr0ub4",
        "#Tr0ub4",
    ],
)
def test_a_password_that_breaks_the_url_is_explained_and_never_repeated(scheme: str, password: str) -> None:
    with pytest.raises(ConfigError, match=r"%2F.*%23.*%3F.*password_file") as caught:
        parse_broker_url(f"{scheme}://u:{password}@127.0.0.1")
    assert "Tr0ub4" not in str(caught.value)
    assert "Tr0ub4" not in repr(caught.value.__cause__)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12))
def test_any_password_is_understood_as_it_is_escaped_and_never_shown(password: str) -> None:
    secret = f"S3cr3t{password}"
    url = f"mqtt://u:{quote(secret, safe='')}@broker:7"
    assert parse_broker_url(url).password == secret
    assert printable_url(url) == "mqtt://broker:7"
    for raw in (f"mqtt://u:{secret}@broker:7", f"wss://{secret}@broker", f"{secret}://u@broker"):
        assert "S3cr3t" not in printable_url(raw)
        assert "S3cr3t" not in _refusal(raw)


def _refusal(url: str) -> str:
    try:
        parse_broker_url(url)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mqtts://[::1]", "mqtts://[::1]:8883"),
        ("ws://u:p@h:80/hub", "ws://h:80/hub"),
        ("nonsense u:p@h", "(no broker URL)"),
    ],
)
def test_a_url_is_shown_without_its_user_part(url: str, shown: str) -> None:
    assert printable_url(url) == shown


@pytest.mark.parametrize(
    ("url", "event"),
    [
        ("mqtt://broker.example", ["plain_text"]),
        ("ws://10.0.0.2", ["plain_text"]),
        ("mqtt://[fe80::1]", ["plain_text"]),
        ("mqtt://127.0.0.2", []),
        ("mqtt://[::1]", []),
        ("mqtt://localhost", []),
        ("mqtts://broker.example", []),
    ],
)
def test_plain_text_to_another_host_is_warned_of(url: str, event: list[str]) -> None:
    assert [found for found, _ in exposures(parse_broker_url(url), ["edge-node", "run", "--broker", url])] == event


def test_a_password_in_the_process_list_is_warned_of_and_not_repeated() -> None:
    url = "mqtt://u:p%2Fssw0rd@localhost"
    (found,) = exposures(parse_broker_url(url), ["edge-node", "run", "--broker", url])
    assert found[0] == "password_shown"
    assert "ssw0rd" not in found[1]
    assert not list(exposures(parse_broker_url(url), ["edge-node", "run", "--config", "file.toml"]))


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
