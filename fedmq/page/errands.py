"""What is made now and then, by a process of its own that ends with it: models, plots, a report, certificates' ends.

So the page itself holds neither torch's friends nor a model, and what goes wrong there is an answer here.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from federation.errors import ConfigError, FederationError, StorageError
from federation.storage.remedies import ROOM_BYTES, remedy_for

__all__ = ["Errands", "certificates_command", "main"]

TIMEOUT_S: Final = 300.0
WAITING_MAX: Final = 4
"""Visitors who wait for such a file at the same time."""

EXIT_CONFIG, EXIT_STORE = 2, 3


class Errands:
    """Makes files for visitors, one at a time."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def made(self, what: str, state: Path, *more: str) -> AsyncIterator[tuple[Path, str]]:
        """A file, as long as it is needed, and what its maker says of it.

        Raises:
            ConfigError: What was asked cannot be made.
            StorageError: It could not be made now.
        """
        if self._waiting >= WAITING_MAX:
            raise StorageError("too many ask for files at the same time: ask again later")
        self._waiting += 1
        try:
            async with self._one:
                with _place() as file:
                    yield file, await _told([what, str(state), str(file), *more])
        finally:
            self._waiting -= 1


@contextmanager
def _place() -> Iterator[Path]:
    """Where there is room for a file, as long as it is needed."""
    with ExitStack() as kept:
        try:
            file = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="fedmq-page-"))) / "made"
            file.write_bytes(bytes(ROOM_BYTES))
        except OSError as error:  # of a full disk Python may say that there is no such folder
            problem = f"there is no room for the file on the page's machine: {error.strerror or error}"
            raise StorageError(f"{problem}; make room there, or start the page with TMPDIR=FOLDER") from error
        yield file


async def _told(words: Sequence[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise StorageError(f"the page's machine cannot make the file now: {error}") from error
    try:
        out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError as error:
        raise StorageError(f"it took longer than {TIMEOUT_S:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == 0:
        return out.decode().strip()
    lines = err.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
    if process.returncode == EXIT_CONFIG:
        key, _, problem = lines[-1].partition(": ")
        raise ConfigError(key, problem.removesuffix(" (from command line)"), source="the request")
    raise StorageError(lines[-1])


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "fedmq.page.errands", *words]


def certificates_command(fleet: Path) -> list[str]:
    """The command that prints when each certificate of a federation's folder ends, as JSON."""
    return _command(["certificates", str(fleet)])


# --- in the process of its own --------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    """Make one thing; says on standard output what it is, and on standard error why it could not be made."""
    what, *rest = words
    try:
        sys.stdout.write(_MAKERS[what](*rest) + "\n")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except ModuleNotFoundError as error:
        sys.stderr.write(f"the page's machine lacks {error.name}: pip install 'fedmq[plot]'\n")
        return EXIT_STORE
    except OSError as error:
        sys.stderr.write(f"{error}{remedy_for(error)}\n")
        return EXIT_STORE
    except FederationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_STORE
    return 0


def _model(state: str, out: str, version: str) -> str:
    import safetensors.numpy  # noqa: PLC0415 - in this process alone

    from coordinator.artifacts.export import read_model  # noqa: PLC0415 - as above

    number, arrays = read_model(Path(state), version)
    Path(out).write_bytes(safetensors.numpy.save(dict(arrays)))
    return str(number)


def _plots(state: str, out: str) -> str:
    import zipfile  # noqa: PLC0415 - in this process alone

    from coordinator.artifacts.plots.gallery import draw_run  # noqa: PLC0415 - as above
    from coordinator.artifacts.plots.run import load_run  # noqa: PLC0415 - as above

    run = load_run(Path(state))
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in draw_run(run, Path(place)).files:
            packed.write(file, Path(file).name)
    return run.name


def _report(state: str, out: str) -> str:
    from coordinator.artifacts.run_report import write_run_report  # noqa: PLC0415 - in this process alone

    return write_run_report(Path(state), Path(out))


def _certificates(fleet: str) -> str:
    from coordinator.enrolment.cli import certificate_ends  # noqa: PLC0415 - in this process alone

    return json.dumps(certificate_ends(Path(fleet)))


_MAKERS: Mapping[str, Callable[..., str]] = {
    "model": _model,
    "plots": _plots,
    "report": _report,
    "certificates": _certificates,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
