"""What the command lines share: options that mean the same everywhere, one line for an error, and exit codes."""

import errno
import faulthandler
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

import federation
from federation.errors import ConfigError, FederationError, LeadershipLost, StorageError, TaskError, TransportError
from federation.runtime.standard_output import flush
from federation.storage.remedies import remedy_for

__all__ = [
    "BrokerOption",
    "DataOption",
    "FederationOption",
    "JsonOption",
    "LazyCommands",
    "LogJsonOption",
    "TaskOption",
    "VersionOption",
    "add_commands",
    "arrange",
    "as_service",
    "bounded_end",
    "call",
    "elsewhere",
    "ending_in_time",
    "errors_told",
]

END_S = 10.0
"""So long a program that has done its work waits for what a task has left running, in seconds."""

INTERRUPTED = 130
WRONG = 2
"""Exit code of what only a person can change: a service manager does not start it again."""

_USAGE: Any = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "UsageError")
"""The library's error for what was typed wrongly, under whatever name it keeps it."""

_OF_THE_DISK = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
    | {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}  # no such place can be there
)

BrokerOption = Annotated[str | None, typer.Option(help="Broker URL, such as mqtt://host:1883 or mqtts://host.")]
FederationOption = Annotated[str | None, typer.Option(help="Name of the federation.")]
TaskOption = Annotated[
    str | None, typer.Option(help="digits, mnist-mlp, ... or your own: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.")
]
DataOption = Annotated[Path | None, typer.Option(help="Folder with the data.")]
LogJsonOption = Annotated[bool | None, typer.Option("--log-json", help="JSON lines on standard output.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


LazyCommands = Mapping[str, tuple[str, str, str]]
"""Commands that are imported only when they are called: module, function, summary."""


def add_commands(app: typer.Typer, commands: LazyCommands, arguments: Sequence[str]) -> None:
    """Add commands to a command line, of which only the one that ``arguments`` call is imported."""
    for name, (module, function, summary) in commands.items():
        if name in arguments[:1]:
            found = getattr(import_module(module), function)
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=name, help=summary)
            else:
                app.command(name)(found)
        else:
            app.command(name, help=summary)(elsewhere)


def arrange(app: typer.Typer, panels: Mapping[str, Sequence[str]]) -> None:
    """Show the commands of a help in panels, in the order in which people need them.

    Args:
        app: All its commands are added.
        panels: From a panel's title to its commands. Groups of commands come last in their panel.

    Raises:
        KeyError: A command is in no panel.
    """
    places = {name: (panel, place) for panel, names in panels.items() for place, name in enumerate(names)}
    titles = list(panels)

    def place_of(info: Any) -> tuple[int, int]:
        panel, place = places[info.name or info.callback.__name__]
        info.rich_help_panel = panel
        return titles.index(panel), place

    for infos in (app.registered_commands, app.registered_groups):
        infos.sort(key=place_of)
    _reflow(app)


class _Command(TyperCommand):
    """One that says what to do with values that belong to an option: those after its first, and a place without it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except _USAGE as error:
            hints = (
                list(self._hints(typed)) if "unexpected extra" in error.message else list(self._unnamed(typed, error))
            )
            error.message = ". ".join([str(error.message).rstrip("."), *hints]) if hints else error.message
            raise

    def _unnamed(self, typed: Sequence[str], error: Any) -> Iterator[str]:
        """The other way round: a folder that is an argument here, typed with the option of other commands."""
        wanted = next((one.metavar for one in self.params if one.param_type_name == "argument" and one.metavar), "")
        option = getattr(error, "option_name", "")
        if option == "--config" and wanted == "DIR" and (place := _run_of(typed, option)):
            yield f"Here the folder is named without an option: {self.name} {place[0]}"

    def _hints(self, typed: Sequence[str]) -> Iterator[str]:
        known = {name for parameter in self.params for name in parameter.opts}
        place = Path(typed[0]) if typed and not typed[0].startswith("-") else None
        if place is not None and place.exists():
            option = "--config" if place.is_file() or any(place.glob("*.toml")) else "--state"
            if option in known:
                yield f"A place is named with its option: {option} {place}"
        again = (name for one in self.params if getattr(one, "multiple", False) for name in one.opts)
        for name in again:
            values = _run_of(typed, name)
            if len(values) > 1:
                yield f"{name} takes one at a time: {' '.join(f'{name} {value}' for value in values)}"


def _run_of(typed: Sequence[str], name: str) -> list[str]:
    """What follows an option, up to the next one."""
    after = typed[typed.index(name) + 1 :] if name in typed else ()
    return list(takewhile(lambda one: not one.startswith("-"), after))


def _reflow(app: typer.Typer) -> None:
    """Leave the breaks between lines to the screen: below the first paragraph the library keeps a docstring's."""
    for info in app.registered_commands:
        info.cls = _Command
        if info.callback is not None and (text := info.help or inspect.getdoc(info.callback)):
            info.help = "\n\n".join(map(_joined, text.split("\n\n")))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _reflow(group.typer_instance)


def _joined(paragraph: str) -> str:
    """A paragraph as one line; a list and what is marked to be kept are left as they are."""
    lines = paragraph.split("\n")
    kept = paragraph.startswith("\b") or any(line.startswith((" ", "-", "*")) for line in lines)
    return paragraph if kept else " ".join(lines)


def elsewhere() -> None:
    """Stand in for a command in the help; the real one is in its place before it is called."""
    raise NotImplementedError


def call(app: typer.Typer, program: str) -> None:
    """Run a command line; with ``--json`` what was typed wrongly is told as JSON too, as every other error is."""
    if "--json" not in sys.argv[1:]:
        app(prog_name=program)
        return
    try:
        code = app(prog_name=program, standalone_mode=False)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except _USAGE as error:
        told: str = error.format_message()
        typer.echo(json.dumps({"error": told, "exit_code": WRONG}))
        error.show()
        sys.exit(WRONG)
    sys.exit(code if isinstance(code, int) else 0)


def _tell_version(value: bool) -> None:  # noqa: FBT001 - the library calls it so
    if value:
        sys.stdout.write(f"fedmq {federation.RELEASE}\n")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the release.", is_eager=True, callback=_tell_version)
]
"""For a command's callback: the release of all three commands is one."""


@contextmanager
def ending_in_time(program: str, *, within_s: float = END_S) -> Iterator[None]:
    """Around a whole program: a thread or process that a user's task has left running does not keep it from its end.

    Python waits for both without a bound, and a service that is asked to stop would be killed.
    """
    code: object = 1
    _tell_crashes()
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code or 0
        reason = flush()
        if code == 0 and reason:
            code = 1
            with suppress(OSError):
                os.write(2, f"{program}: the output cannot be written: {reason}\n".encode())
            sys.exit(code)
        raise
    finally:
        number = code if isinstance(code, int) else 1
        threading.Thread(target=_bound_the_end, args=(program, number, within_s), name="end", daemon=True).start()


def _tell_crashes() -> None:
    """A crash in a library of a user's task says the lines of Python that led there, on standard error."""
    if not faulthandler.is_enabled():
        with suppress(OSError, ValueError, AttributeError, RuntimeError):  # nowhere to say it
            faulthandler.enable()


def _bound_the_end(program: str, code: int, within_s: float) -> None:
    threading.main_thread().join()  # it is over when the interpreter begins to wait for the others
    bounded_end(program, code, within_s)


def bounded_end(program: str, code: int, within_s: float = END_S) -> None:
    """End this process with ``code`` after so many seconds, if it has not ended by itself; to be called on a daemon."""
    time.sleep(within_s)
    threads = [each for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    # Asked of the library only where a task has loaded it.
    library = sys.modules.get("multiprocessing")
    processes = library.active_children() if library is not None else []
    for process in processes:
        process.terminate()
    left = [*(f"the thread {each.name}" for each in threads), *(f"the process {each.name}" for each in processes)]
    os.write(2, f"{program}: {', '.join(left) or 'what runs at the end'} goes on: ended without it\n".encode())
    os._exit(code)


@contextmanager
def errors_told(program: str) -> Iterator[None]:
    """Inside, what went wrong is one line on standard error and an exit code: for a command, or around all of them.

    Under a service manager an end that may pass by itself is held back for a minute: see `hold_back`.

    Raises:
        FederationError: It has no exit code: our own bug.
        OSError: It is not about a disk.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        _leave(program, StorageError(f"{error}{remedy_for(error)}"))
    except FederationError as error:
        _leave(program, error)


@contextmanager
def as_service() -> Iterator[None]:
    """Inside runs a role until it is told to stop: it ends in order also while it still starts, with exit code 0."""
    from federation.runtime.signals import stopped_while_starting  # noqa: PLC0415 - `--help` needs no threads

    with stopped_while_starting():
        yield


def _leave(program: str, error: FederationError) -> NoReturn:
    code = _exit_code(error)
    with suppress(OSError):  # nobody reads it, or its disk is full: the exit code says it still
        if "--json" in sys.argv[1:]:
            # A program reads standard output; the line for people goes to standard error as ever.
            typer.echo(json.dumps({"error": str(error), "exit_code": code}))
    with suppress(OSError):
        typer.echo(f"{program}: {error}", err=True)
    if code != WRONG:
        from federation.runtime.supervision import hold_back  # noqa: PLC0415 - threads and sockets, for services

        hold_back(str(error))
    sys.exit(code)


def _exit_code(error: FederationError) -> int:
    match error:
        case ConfigError() | TaskError():
            return WRONG
        case StorageError() | LeadershipLost():
            return 3
        case TransportError():
            return 4
        case _:
            raise error
