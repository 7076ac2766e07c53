"""A program that says who it is, and ends as it is told: with a code, or when it is killed."""

import atexit
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

if __name__ == "__main__":
    sys.stderr.write("to standard error\n")
    print(  # noqa: T201 - what a test reads
        json.dumps(
            {
                "pid": os.getpid(),
                "session": os.getsid(0),
                "argv": sys.argv[1:],
                "word": os.environ.get("WORD"),
                "home": os.environ.get("HOME"),
                "random": random.random(),
                "files": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()),
            }
        )
    )
    if sys.argv[1] == "wait":
        signal.pause()
    if sys.argv[1] == "fail":
        raise RuntimeError("it failed")
    if sys.argv[1] == "late":
        atexit.register(print, "the exit handler has run")
        threading.Timer(0.05, print, ["the thread has run"]).start()
        sys.exit("it said why")
    sys.exit(int(sys.argv[1]))
