"""The errors of the contract.

FederationError
├── ConfigError               a setting is wrong: names the key and where it came from
├── LocalProtocolError        our own bug: crashes loudly
├── RemoteProtocolError       their bytes: counted, logged once, dropped
│   ├── MalformedMessage      not a message of this protocol
│   ├── IncompatibleVersion   a peer of another major protocol version
│   ├── MalformedTopic        a topic outside this federation's tree
│   ├── BadSignature          not signed by the one who may speak there
│   └── BadSeal               sealed for another key or another place, or changed
├── TransportError            the network shell cannot do what was asked
│   └── PayloadTooLarge       larger than the broker's Maximum Packet Size
├── StorageError              a store cannot persist: nothing may be acknowledged
│   ├── StoreLocked           another process owns this state folder
│   ├── StoreGone             the state folder was moved or deleted while it was in use
│   └── DamagedStore          what was stored is gone, or is not what was stored
├── LeadershipLost            another coordinator leads the run, or may: nothing is written any more
└── TaskError                 the user's task broke its contract

A user's code may raise anything: `user_code` makes a `TaskError` of it, which has the place and the first cause.
"""

import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class FederationError(Exception):
    """Root of every error that this project raises on purpose."""


class ConfigError(FederationError):
    """A setting is wrong.

    Attributes:
        key: Dotted name of the setting, such as ``round.buffer``.
        source: Where the value came from: a file, an environment variable or a flag.
    """

    def __init__(self, key: str, problem: str, *, source: str = "configuration") -> None:
        super().__init__(f"{key}: {problem} (from {source})")
        self.key = key
        self.source = source


class LocalProtocolError(FederationError):
    """Our own code asked for something that the protocol forbids."""


class RemoteProtocolError(FederationError):
    """A peer sent something that the protocol forbids."""


class MalformedMessage(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The bytes are not a message of this protocol."""


class IncompatibleVersion(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The peer speaks another major version of the protocol."""


class MalformedTopic(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The topic is outside this federation's tree."""


class BadSignature(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The message is not signed by the one who may speak on its topic."""


class BadSeal(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """What is sealed does not open: it is for another key or another place, or it was changed."""


class TransportError(FederationError):
    """The network shell cannot do what was asked."""


class PayloadTooLarge(TransportError):  # noqa: N818 - the name says what it is
    """The packet would be larger than the broker's Maximum Packet Size."""


class StorageError(FederationError):
    """The store cannot persist: nothing that depends on it may be acknowledged."""


class StoreLocked(StorageError):  # noqa: N818 - the name says what it is
    """Another process owns this state folder."""


class DamagedStore(StorageError):  # noqa: N818 - the name says what it is
    """What was stored is not there any more, or is not what was stored: trying again does not help."""


class StoreGone(StorageError):  # noqa: N818 - the name says what it is
    """The state folder was moved or deleted while it was in use: what is written now, no start will find."""


class LeadershipLost(FederationError):  # noqa: N818 - the name says what it is
    """Another coordinator leads the run, or may: only a new start can write again. Trying again does not help."""


class TaskError(FederationError):
    """The user's task broke its contract."""


@contextmanager
def user_code(doing: str) -> Iterator[None]:
    """Make a `TaskError` of whatever a user's code raises inside, `SystemExit` too; not of Ctrl-C and our own errors.

    Args:
        doing: What failed then, as the begin of the message.

    Raises:
        TaskError: With the kind, the words, the place in the user's file, and the first cause where there is another.
    """
    try:
        yield
    except (FederationError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise TaskError(f"{doing}: {described(error)}") from error


def unexplained(error: BaseException) -> BaseException | None:
    """What the log shows with a traceback: nothing where the error is ours, and its words say all of it.

    That a device has no readings yet is no fault of a program; what a user's code has raised has a place there.
    """
    own = isinstance(error, FederationError) and error.__cause__ is None and error.__context__ is None
    return None if own else error


def described(error: BaseException) -> str:
    """What a user's code has raised: ``ValueError: no (task.py, line 3, in forward); first cause: KeyError: 'x'``."""
    first = _first_cause(error)
    return _told(error) + (f"; first cause: {_told(first)}" if first is not error else "")


def _first_cause(error: BaseException) -> BaseException:
    seen = {id(error)}
    while True:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None and isinstance(error, BaseExceptionGroup):
            before = error.exceptions[0]
        if before is None or id(before) in seen:
            return error
        error = before
        seen.add(id(error))


def _told(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        words = str(error).strip()
    except Exception:  # noqa: BLE001 - what it says of itself is the user's code, too
        words = ""
    place, notes = _place(error), getattr(error, "__notes__", ())
    said = kind + (f": {words}" if words else "") + (f" ({place})" if place else "")
    return "; ".join((said, *map(str, notes)))


_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_OURS = frozenset({"coordinator", "edge_node", "federation", "fedmq", "update_codec"})


def is_of_library(kind: type) -> bool:
    """Whether a class is a library's or this project's, and not of a user's file."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        return kind.__module__ not in {"__main__", "__mp_main__"}
    return str(file).startswith(_LIBRARIES) or "site-packages" in file or kind.__module__.partition(".")[0] in _OURS


def _place(error: BaseException) -> str:
    """The innermost place that is neither in a library nor in this project; empty where there is none."""
    return place_in(reversed(list(traceback.walk_tb(error.__traceback__))))


def place_in(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The first place that is neither in a library nor in this project; empty where there is none.

    Args:
        frames: With their lines, the innermost first.
    """
    for frame, line in frames:
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
        is_library = file.startswith(_LIBRARIES) or file.startswith("<") or "site-packages" in file
        if not is_library and module.partition(".")[0] not in _OURS:
            return f"{Path(file).name}, line {line}, in {frame.f_code.co_name}"
    return ""
