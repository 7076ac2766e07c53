"""`[score] with_agent`: the scores of `edge-node run`, made by a process of its own that ends with it.

The settings go down the process's standard input, and that stays open: when it ends, the agent has ended, however, and
so does the process. One that dies is started again; who has set something wrong is told once.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Final

from edge_node.config import NodeConfig
from edge_node.model.service import check_score, run_score
from federation.command_line import ending_in_time, errors_told
from federation.runtime.log import get_log
from federation.runtime.standard_output import reserve

__all__ = ["ScoreProcess", "main", "pause_s", "score_beside"]

PROGRAM: Final = "edge-node score"
COMMAND: Final = (sys.executable, "-m", __name__)

AGAIN_S: Final = (1.0, 60.0)
"""Before it is started again: the first time, and at most, in seconds."""

GOOD_S: Final = 60.0
"""Who ran so long has not failed at its start, in seconds."""

END_S: Final = 5.0
"""How long it may take to end before it is killed, in seconds."""

WRONG: Final = 2
"""Exit code for a setting that is wrong: started again, it would say the same."""

MANAGERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FEDMQ_HEALTH_FILE")
"""Variables by which a role speaks to its service manager: the agent does so for both."""


def pause_s(before_s: float, ran_s: float) -> float:
    """How long to wait before another start, in seconds: twice as long each time, until one has run well.

    Args:
        before_s: The wait before, 0 where there was none.
        ran_s: How long it has run.
    """
    first, most = AGAIN_S
    return first if ran_s >= GOOD_S or before_s <= 0 else min(most, 2 * before_s)


class ScoreProcess:
    """Keeps a scoring process beside the agent.

    Args:
        config: The node's settings, with its task as it runs.
        command: What is run; it reads the settings as JSON, one line of its standard input.

    Raises:
        ConfigError: The settings have nothing to score, or no model to score with.
    """

    def __init__(self, config: NodeConfig, command: Sequence[str] = COMMAND) -> None:
        check_score(config)
        self._settings = config.model_dump_json(by_alias=True).encode() + b"\n"
        self._command, self._log = command, get_log("score")
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="score-process", daemon=True)

    def start(self) -> None:
        """Begin: this returns at once."""
        self._thread.start()

    def close(self) -> None:
        """End it in order; one that takes longer than `END_S` is killed."""
        with self._lock:
            self._ended.set()
            process = self._process
        if process is not None:
            _hang_up(process)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def _keep(self) -> None:
        wait_s = 0.0
        while (process := self._begin()) is not None:
            began = time.monotonic()
            with suppress(OSError):  # it is gone already, and says itself why
                if process.stdin is not None:
                    process.stdin.write(self._settings)
                    process.stdin.flush()
            code = process.wait()
            _hang_up(process)
            if self._ended.is_set():
                return
            if code == WRONG:
                self._log.error("score_process_given_up", exit_code=code, why="a setting is wrong: see the line above")
                return
            wait_s = pause_s(wait_s, time.monotonic() - began)
            self._log.warning("score_process_ended", exit_code=code, again_in_s=wait_s)
            self._ended.wait(wait_s)

    def _begin(self) -> subprocess.Popen[bytes] | None:
        """Start one; None where the agent ends."""
        with self._lock:
            if self._ended.is_set():
                return None
            # Ctrl-C reaches the agent alone: that tells when this one ends.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=_output(), env=_environment(), start_new_session=True
            )
            return self._process


def score_beside(config: NodeConfig) -> ScoreProcess | None:
    """Begin to score, where the agent is to see to it.

    Raises:
        ConfigError: The settings have nothing to score, or no model to score with.
    """
    if not config.score.with_agent:
        return None
    made = ScoreProcess(config)
    made.start()
    return made


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def _output() -> int | None:
    """This program's own standard output: the descriptor of that name is lent to tasks."""
    try:
        return sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _environment() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if name not in MANAGERS}


def _at_normal_priority() -> None:
    """As no training is: where the system does not allow it, this process stays at its agent's priority."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(0, os.getpriority(os.PRIO_PROCESS, 0)))


def _when_over(stream: IO[bytes], then: Callable[[], None]) -> None:
    """Call ``then`` once nothing can come any more."""

    def wait() -> None:
        with suppress(OSError, ValueError):
            while stream.read(4_096):
                pass
        then()

    threading.Thread(target=wait, name="agent", daemon=True).start()


def main() -> None:
    """Score for the agent at the other end of standard input, until it is gone."""
    reserve()
    with ending_in_time(PROGRAM), errors_told(PROGRAM):
        _at_normal_priority()
        told = sys.stdin.buffer.readline()
        if not told.endswith(b"\n"):
            return  # the agent is gone already
        sys.exit(run_score(NodeConfig.model_validate_json(told), lambda end: _when_over(sys.stdin.buffer, end)))


if __name__ == "__main__":
    main()
