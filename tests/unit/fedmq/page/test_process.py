"""Connections of the page: those that say nothing do not keep others out, and each is shown the newest certificate."""

import asyncio
import datetime as dt
import json
import ssl
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from federation.identity.certificates import Identity, Purpose, new_authority, new_identity
from fedmq.page import process
from fedmq.page.process import BoundedProtocol, OwnCertificate

LOOKS = 4


class Watched(BoundedProtocol):
    """Tells how often it has looked."""

    looked: asyncio.Semaphore

    def _look(self) -> None:
        super()._look()
        self.looked.release()


async def stream(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer that goes on until the connection has been looked at some times."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"o", "more_body": True})
    for _ in range(LOOKS):
        await Watched.looked.acquire()
    await send({"type": "http.response.body", "body": b"k"})


async def said(request: bytes) -> bytes:
    """All that a server says on one connection, which the client does not close."""
    config = uvicorn.Config(stream, http=Watched, lifespan="off", log_level="critical")
    config.load()
    Watched.looked = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    made = await loop.create_server(
        lambda: Watched(config=config, server_state=ServerState(), app_state={}), "127.0.0.1", 0
    )
    async with made:
        reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
        writer.write(request)
        whole = await reader.read()
        writer.close()
    return whole


@pytest.mark.parametrize("request_", [b"", b"GET / HTTP/1.1\r\nHost: loc"])
def test_a_connection_without_a_whole_request_is_closed(request_: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "REQUEST_S", 0.01)
    assert asyncio.run(said(request_)) == b""


def test_a_stream_goes_on_and_the_silence_after_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "REQUEST_S", 0.01)
    answer = asyncio.run(said(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"G"))
    assert answer.endswith(b"\r\n\r\nok")


def test_certificates_are_looked_at_again_where_one_was_issued_and_what_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an hour after a renewal the page said that it ends soon; of a register that is damaged it said nothing."""
    register = tmp_path / "issued.json"
    monkeypatch.setattr(process, "certificates_command", lambda fleet: ["cat", str(fleet / "issued.json")])
    found = process.Certificates(tmp_path, register)

    def looked_at(content: str | None, now_s: float) -> tuple[dict[str, str], str]:
        if content is not None:
            register.write_text(content)
        found.look(now_s)
        return dict(found.now().ends), found.now().unknown

    soon, later = {"broker": "2027-01-01"}, {"broker": "2028-11-11T00"}
    assert looked_at(json.dumps(soon), 1.0) == (soon, "")
    assert looked_at(json.dumps(later), 2.0) == (later, "")
    ends, unknown = looked_at("damaged", 3.0)
    assert (ends, bool(unknown)) == (later, True)
    register.unlink()
    ends, unknown = looked_at(None, 4.0)
    assert (ends, "No such file" in unknown) == (later, True)
    register.write_text(json.dumps(soon))
    monkeypatch.setattr(process, "certificates_command", lambda fleet: [str(fleet / "no program")])
    assert looked_at(None, 5.0)[0] == later
    monkeypatch.setattr(process, "certificates_command", lambda fleet: ["cat", str(fleet / "issued.json")])
    assert looked_at(None, 6.0)[0] == later, "nothing has changed"
    assert looked_at(None, 6.0 + process.AGAIN_S) == (soon, "")


NOW = dt.datetime.now(dt.UTC)
AUTHORITY = new_authority("a browser trusts it", now=NOW)


def made(days: int) -> Identity:
    return new_identity(AUTHORITY, "page", purpose=Purpose.BROKER, now=NOW, days=days, hosts=["page.example"])


def presented(context: ssl.SSLContext) -> bytes:
    """The certificate that a new connection is shown, in memory."""
    browser = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    browser.load_verify_locations(cadata=AUTHORITY.certificate_pem)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = browser.wrap_bio(back, there, server_hostname="page.example")
    server = context.wrap_bio(there, back, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_a_renewed_certificate_is_shown_without_a_restart_and_half_a_pair_never(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever renews it each 60 days had to end the page for it, or browsers refused the old one after 90."""
    certificate, key = tmp_path / "page.crt", tmp_path / "page.key"
    old, new = made(90), made(91)
    certificate.write_text(old.certificate_pem)
    key.write_text(old.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    own = OwnCertificate(context, certificate, key)
    before = presented(context)

    certificate.write_text(new.certificate_pem)
    own.look()
    assert "goes on with what it had" in capsys.readouterr().err
    assert presented(context) == before
    own.look()
    assert capsys.readouterr().err == "", "it is said once"

    key.write_text(new.key_pem)
    own.look()
    assert presented(context) != before

    key.unlink()
    own.look()
    assert "No such file" in capsys.readouterr().err
    assert presented(context) != before
