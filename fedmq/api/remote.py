"""What ``fedmq.load`` reads over HTTP: the report of a run, or the page of one that goes on.

Whoever answers is not believed: an answer has a limit of size and of time, for the whole of it and not only for each
byte; its content may be compared with a digest; a redirect leads to no other scheme, and a token to no other place.
"""

import hashlib
import hmac
import queue
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from safetensors import SafetensorError
from safetensors.numpy import load

from federation.documents import read_json
from federation.errors import ConfigError, StorageError
from federation.task import Parameters

__all__ = ["ANSWER_BYTES_MAX", "Fetching", "RemotePage", "check_digest", "content_digest", "fetched_json"]

ANSWER_BYTES_MAX = 1 << 30
"""A larger answer is not taken, in bytes."""

PIECE_BYTES = 1 << 16
SCHEMES = frozenset({"http", "https"})
PAGES_MAX = 200
"""Questions to a page for one list: a page that never comes to its end is left."""

NODES_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Fetching:
    """How an address is asked.

    Attributes:
        digest: ``sha256:…`` of what must come, in hexadecimal; None takes what comes.
        token: Sent as ``Authorization: Bearer``, to this address alone.
        certificate: PEM file of the authority that the server's certificate is from; None: those of the system.
        timeout_s: For one answer as a whole, in seconds.
    """

    digest: str | None = None
    token: str | None = None
    certificate: Path | None = None
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what can hold for no answer."""
        if self.digest is not None:
            kind, _, value = self.digest.partition(":")
            if kind != "sha256" or len(value) != 64 or set(value.lower()) - set("0123456789abcdef"):
                raise ConfigError("digest", f"must be sha256: and 64 digits, not {self.digest!r}", source="fedmq.load")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError("timeout_s", f"must be above 0, not {self.timeout_s}", source="fedmq.load")

    @cached_property
    def opener(self) -> OpenerDirector:
        """What asks, once for all answers of an address: the system's authorities take long to read.

        Raises:
            ConfigError: The certificate cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.certificate)
        except (OSError, ssl.SSLError) as error:
            problem = f"{self.certificate} cannot be read: {error}"
            raise ConfigError("certificate", problem, source="fedmq.load") from error
        return build_opener(HTTPHandler, HTTPSHandler(context=context), _Redirects)


def content_digest(content: bytes) -> str:
    """What names a content: ``sha256:`` and 64 digits."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def check_digest(where: object, content: bytes, digest: str | None) -> None:
    """See that this is what was to come.

    Args:
        where: From where it is, for people.
        content: What came.
        digest: What names it, as `content_digest` does; None takes whatever comes.

    Raises:
        StorageError: It is another content.
    """
    found = content_digest(content) if digest is not None else ""
    if digest is not None and not hmac.compare_digest(found, digest.lower()):
        raise StorageError(f"{where} has another content: {found}, and not {digest.lower()}")


def fetched(url: str, how: Fetching) -> bytes:
    """The content at an address.

    Raises:
        ConfigError: The certificate cannot be read.
        StorageError: Nothing comes, it is too large, too slow, or another content than was asked for.
    """
    answers: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
    # A server that sends a byte now and then would hold whoever waits for its headers: the wait is for the whole.
    threading.Thread(target=_ask, args=(url, how, answers), name="fetch", daemon=True).start()
    try:
        content = answers.get(timeout=how.timeout_s)
    except queue.Empty:
        content = TimeoutError()
    if isinstance(content, BaseException):
        raise _told(url, how, content) from content
    check_digest(url, content, how.digest)
    return content


def _ask(url: str, how: Fetching, answers: "queue.SimpleQueue[bytes | BaseException]") -> None:
    give_up_s = time.monotonic() + how.timeout_s
    headers = {"Accept-Encoding": "identity"}
    if how.token is not None:
        headers["Authorization"] = f"Bearer {how.token}"
    try:
        with how.opener.open(Request(url, headers=headers), timeout=how.timeout_s) as answer:  # noqa: S310 - http(s)
            answers.put(_read(answer, url, give_up_s))
    except BaseException as error:  # noqa: BLE001 - whoever waits hears all of it
        answers.put(error)


def _told(url: str, how: Fetching, error: BaseException) -> BaseException:
    """What went wrong, in words; what nobody has foreseen stays what it is."""
    reason = getattr(error, "reason", error)
    if isinstance(error, HTTPError):
        return StorageError(f"{url} answers {error.code} {error.reason}{_said(error)}")
    if isinstance(error, TimeoutError) or isinstance(reason, TimeoutError):
        return StorageError(f"{url} did not answer within {how.timeout_s:g} s")
    if isinstance(error, OSError | HTTPException | ValueError):
        return StorageError(f"{url} cannot be read: {reason or type(error).__name__}")
    return error


def fetched_json(url: str, how: Fetching) -> Any:
    """The content at an address, as JSON; errors as for `fetched`.

    Raises:
        StorageError: It is no JSON.
    """
    try:
        return read_json(fetched(url, how))
    except ValueError as error:
        raise StorageError(f"{url} is no report: what came is no JSON ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePage:
    """The page of a coordinator (``coordinator serve``) at another place.

    Attributes:
        address: Its address, with a slash at the end.
        how: How it is asked.
    """

    address: str
    how: Fetching

    @classmethod
    def at(cls, url: SplitResult, how: Fetching) -> "RemotePage":
        """The page of this address; the token may be in it, as the page itself prints it.

        Raises:
            ConfigError: A digest is given, and a page changes.
        """
        if how.digest is not None:
            raise ConfigError("digest", "a page changes; a digest is for a report", source="fedmq.load")
        token = how.token or dict(parse_qsl(url.query)).get("token")
        path = url.path if url.path.endswith("/") else f"{url.path}/"
        how = Fetching(token=token, certificate=how.certificate, timeout_s=how.timeout_s)
        return cls(address=url._replace(path=path, query="", fragment="").geturl(), how=how)

    def report(self) -> Mapping[str, Any]:
        """Versions and nodes, as a report has them; errors as for `fetched_json`."""
        return {"rounds": self._versions(), "nodes_detail": self._nodes()}

    def parameters(self, version: str) -> Parameters:
        """A model's tensors by name; errors as for `fetched`.

        Raises:
            StorageError: What came is no model.
        """
        content = self._get("download/model.safetensors", version=version)
        try:
            arrays: Parameters = load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise StorageError(f"{self.address} gave no model: {error}") from error
        return arrays

    def _versions(self) -> list[Any]:
        found, last = list[Any](), -1
        for _ in range(PAGES_MAX):
            some = self._list("api/v1/versions", "versions", after=str(last))
            if not some:
                return found
            found, last = found + some, some[-1]["version"]
        raise StorageError(f"{self.address} comes to no end of versions")

    def _nodes(self) -> list[Any]:
        found = list[Any]()
        for _ in range(PAGES_MAX):
            some = self._list("api/v1/nodes", "nodes", offset=str(len(found)), limit=str(NODES_AT_ONCE))
            if not some:
                return found
            found += some
        raise StorageError(f"{self.address} comes to no end of nodes")

    def _list(self, path: str, name: str, **question: str) -> list[Any]:
        url = f"{urljoin(self.address, path)}?{urlencode(question)}"
        answer = fetched_json(url, self.how)
        some = answer.get(name) if isinstance(answer, Mapping) else None
        wanted = "version" if name == "versions" else "id"
        if not isinstance(some, list) or not all(isinstance(one, Mapping) and wanted in one for one in some):
            raise StorageError(f"{self.address} is no page of a coordinator: {path} has no {name}")
        return some

    def _get(self, path: str, **question: str) -> bytes:
        return fetched(f"{urljoin(self.address, path)}?{urlencode(question, quote_via=quote)}", self.how)


class _Redirects(HTTPRedirectHandler):
    """Follows to http and https only, never from https to http, and takes no token along."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """See `HTTPRedirectHandler`."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in SCHEMES or (before.scheme, after.scheme) == ("https", "http"):
            raise HTTPError(req.full_url, code, f"and leads to {after.scheme}://, which is not followed", headers, fp)
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            made.remove_header("Authorization")
        return made


def _read(answer: Any, url: str, give_up_s: float) -> bytes:
    """All of it, in pieces, so that neither a large nor a slow answer is taken to its end."""
    pieces, size = [], 0
    said = answer.headers.get("Content-Length")
    if said is not None and said.isdigit() and int(said) > ANSWER_BYTES_MAX:
        raise StorageError(f"{url} is {int(said)} bytes long; at most {ANSWER_BYTES_MAX} are taken")
    while piece := answer.read1(PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > ANSWER_BYTES_MAX:
            raise StorageError(f"{url} is longer than {ANSWER_BYTES_MAX} bytes")
        if time.monotonic() > give_up_s:
            raise TimeoutError
    if said is not None and said.isdigit() and size < int(said):
        raise StorageError(f"{url} broke off after {size} of {said} bytes")
    return b"".join(pieces)


def _said(error: HTTPError) -> str:
    """What the page itself says is wrong, such as an unknown version."""
    try:
        found = read_json(error.read(4096))["error"]
    except (OSError, ValueError, KeyError, TypeError, HTTPException):
        return ": give token=" if error.code in {401, 403} else ""
    return f": {found}"
