"""The tests' broker as a container of the image that ``make broker`` and the compose file use."""

import itertools
import os
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

from federation.runtime.local_broker import LocalBroker

IMAGE_VARIABLE = "FEDMQ_TEST_BROKER_IMAGE"
# What make broker gives it: deploy/containers/broker.sh.
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host")
_numbers = itertools.count()


def broker_image() -> str | None:
    """The image that the tests shall run brokers in; None is no container."""
    return os.environ.get(IMAGE_VARIABLE) or None


@cache
def engine() -> str | None:
    """Docker or podman, whichever runs here."""
    for name in ("docker", "podman"):
        program = shutil.which(name)
        if program is not None and subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:
            return program
    return None


class ContainerBroker(LocalBroker):
    """A Mosquitto in a container on the host's loopback, with the configuration and the store in a folder of ours."""

    @property
    def pid(self) -> int:
        """Of Mosquitto itself, as the host sees it; `LocalBroker.pid` would be the engine's client."""
        assert super().pid
        done = self._engine("inspect", "--format", "{{.State.Pid}}", self._name)
        return int(done.stdout)

    def _owner(self) -> None:
        """The engine's client runs as we do: another user has no engine, and the container has no rights anyway."""
        return

    def _command(self, configuration: Path) -> list[str]:
        image, program = broker_image(), engine()
        assert image is not None, f"{IMAGE_VARIABLE} names no image"
        assert program is not None, "neither docker nor podman runs here"
        self._name = f"fedmq-test-broker-{os.getpid()}-{next(_numbers)}"
        folder = configuration.parent
        # The folder's owner: the store is written there.
        user = f"--user={os.getuid()}:{os.getgid()}"
        flags = ("--rm", f"--name={self._name}", *HARDENED, user, f"-v={folder}:{folder}", f"-w={folder}")
        # Files that the further lines name (access rules, passwords) are beside the tests' other files.
        named = {part.parent for line in self._lines for part in map(Path, line.split()) if part.is_absolute()}
        mounts = [f"-v={place}:{place}:ro" for place in sorted(named - {folder})]
        return [program, "run", *flags, *mounts, "--entrypoint=mosquitto", image, "-c", str(configuration)]

    def _signal(self, process: "subprocess.Popen[str]", number: signal.Signals) -> None:
        """To the container: the engine's client passes no SIGKILL on, and would leave the container behind."""
        del process
        self._engine("kill", f"--signal={number.name}", self._name)

    def _engine(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        program = engine()
        assert program is not None
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
