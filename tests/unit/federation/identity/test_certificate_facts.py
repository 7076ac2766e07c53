"""Of a certificate that is not taken, people hear which one, since when, and what to do."""

import datetime as dt
import os
import ssl
from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.identity.certificate_facts import (
    CertificateFacts,
    certificate_shown,
    certificates_in,
    rejected,
    untrusted,
)
from federation.identity.certificates import Identity, Purpose, new_authority, new_identity
from federation.runtime.address import TlsContexts, TlsFiles

NOW = dt.datetime(2026, 6, 1, 12, 0, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=90)
AUTHORITY = new_authority("plant", now=NOW, days=60)
BROKER = new_identity(AUTHORITY, "broker", purpose=Purpose.BROKER, now=NOW, days=30, hosts=("b.example", "10.0.0.2"))
NODE = new_identity(AUTHORITY, "edge-01", purpose=Purpose.CLIENT, now=NOW, days=30)
SHOWN = CertificateFacts(
    name="broker",
    issuer="CN=plant",
    begins=BROKER.certificate.not_valid_before_utc,
    ends=BROKER.certificate.not_valid_after_utc,
    hosts=("b.example", "10.0.0.2"),
)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return written(tmp_path, NODE)


def written(folder: Path, node: Identity) -> TlsFiles:
    texts = {"authority": AUTHORITY.certificate_pem, "certificate": node.certificate_pem, "key": node.key_pem}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return TlsFiles(**{name: str(folder / name) for name in texts})


def failed(code: int, said: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, said)
    error.verify_code, error.verify_message, error.reason = code, said, "CERTIFICATE_VERIFY_FAILED"
    return error


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def said(error: ssl.SSLError, files: TlsFiles, now: dt.datetime = NOW, shown: CertificateFacts | None = SHOWN) -> str:
    return str(untrusted(error, "c.example", files, lambda: shown, now))


def test_a_broker_s_certificate_that_has_ended_is_named_with_its_date(files: TlsFiles) -> None:
    found = said(failed(10, "certificate has expired"), files, NOW + dt.timedelta(days=40))
    assert found.startswith(
        "the broker's certificate, of broker, ended on 2026-07-01 12:00 UTC; see this machine's clock"
    )
    assert "coordinator renew" in found


def test_an_authority_that_has_ended_is_named_where_the_broker_shows_nothing(files: TlsFiles) -> None:
    found = said(failed(10, "certificate has expired"), files, LATER, None)
    assert found.startswith("the authority plant in broker.tls_authority ended on 2026-07-31 12:00 UTC")


def test_a_clock_that_is_behind_is_said_and_no_renewal(files: TlsFiles) -> None:
    found = said(failed(9, "certificate is not yet valid"), files, dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
    assert "begins on 2026-05-31 12:00 UTC, and this clock says 1970-01-01 00:00; see this machine's clock" in found
    assert "renew" not in found


def test_dates_that_nobody_finds_are_told_as_the_library_tells_them(files: TlsFiles) -> None:
    found = said(failed(10, "certificate has expired"), files, NOW, None)
    assert found.startswith("the broker's certificate: certificate has expired; see this machine's clock")


def test_a_wrong_name_says_the_right_ones(files: TlsFiles) -> None:
    assert "is not for c.example, but for b.example, 10.0.0.2; call it so in broker.url" in said(failed(62, "x"), files)
    assert "is not for c.example; call" in said(failed(64, "x"), files, shown=None)


def test_another_authority_is_named(files: TlsFiles) -> None:
    found = said(failed(20, "unable to get local issuer certificate"), files)
    assert "by an authority (CN=plant) that is not in broker.tls_authority: unable to get local" in found
    assert "that is not in this system's authorities" in said(failed(19, "x"), TlsFiles(), shown=None)


def test_a_port_without_tls_is_said(files: TlsFiles) -> None:
    assert said(alert("WRONG_VERSION_NUMBER"), files).startswith("this port does not speak TLS")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "it wants a certificate of ours"),
        ("TLSV1_ALERT_UNKNOWN_CA", "it does not trust the authority of broker.tls_certificate"),
        ("SSLV3_ALERT_CERTIFICATE_REVOKED", "this certificate was revoked"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "by the broker's clock it has ended"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "the broker's own log"),
    ],
)
def test_what_a_broker_says_of_our_certificate_is_told(files: TlsFiles, reason: str, words: str) -> None:
    found = rejected(alert(reason), files, NOW)
    assert found is not None
    assert words in found.remedy
    assert found.reason.endswith("(ours, of edge-01, ends on 2026-07-01)")
    assert str(untrusted(alert(reason), "c.example", files, lambda: SHOWN, NOW)) == str(found)


def test_our_own_certificate_that_has_ended_is_the_reason_whatever_the_broker_says(files: TlsFiles) -> None:
    found = rejected(None, files, LATER)
    assert found is not None
    assert found.reason.startswith("our certificate broker.tls_certificate, of edge-01, ended on 2026-07-01 12:00 UTC")
    assert "it is read at the next attempt" in found.remedy


def test_without_a_word_nothing_is_guessed(files: TlsFiles) -> None:
    assert rejected(None, files, NOW) is None
    assert rejected(alert("UNEXPECTED_EOF_WHILE_READING"), files, NOW) is None
    assert rejected(None, TlsFiles(), NOW) is None
    assert "UNEXPECTED_EOF" in said(alert("UNEXPECTED_EOF_WHILE_READING"), files)


def test_files_are_read_again_only_when_they_have_changed(tmp_path: Path, files: TlsFiles) -> None:
    contexts = TlsContexts(files)
    assert contexts.renew() is False
    written(tmp_path, new_identity(AUTHORITY, "edge-01", purpose=Purpose.CLIENT, now=NOW, days=50))
    assert contexts.renew() is True
    assert contexts.renew() is False


def test_half_of_a_pair_is_told_and_read_once_it_is_whole(tmp_path: Path, files: TlsFiles) -> None:
    contexts, renewed = TlsContexts(files), new_identity(AUTHORITY, "edge-01", purpose=Purpose.CLIENT, now=NOW, days=50)
    (tmp_path / "certificate").write_text(renewed.certificate_pem)
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot load the certificates"):
            contexts.renew()
    (tmp_path / "key").write_text(renewed.key_pem)
    assert contexts.renew() is True


def test_a_file_that_is_gone_is_told(files: TlsFiles) -> None:
    contexts = TlsContexts(files)
    assert files.key is not None
    Path(files.key).unlink()
    with pytest.raises(ConfigError):
        contexts.renew()


def test_facts_of_damaged_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    os.mkfifo(tmp_path / "pipe")
    for name in ("noise", "pipe", "nothing"):
        assert certificates_in(str(tmp_path / name)) == []
    assert certificates_in(None) == []
    assert certificate_shown(None) is None
    assert certificate_shown(b"\x30\x03") is None
