"""The reference for throughput: ``mosquitto_pub`` into ``mosquitto_sub``, as many bytes in such chunks at QoS 1."""

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

from federation.runtime.local_broker import LocalBroker

TOPIC = "raw/chunks"
LIMIT_S = 120.0


def missing_tools() -> str | None:
    """Why nothing can be measured here; None when it can."""
    absent = [name for name in ("mosquitto_pub", "mosquitto_sub") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed (package mosquitto-clients)" if absent else None


def write_lines(file: Path, payload_bytes: int, chunk_bytes: int) -> int:
    """Write noise as lines of one chunk each, the messages of ``mosquitto_pub -l``; returns how many."""
    chunks = -(-payload_bytes // chunk_bytes)
    noise = np.random.default_rng(0).integers(33, 127, (chunks, chunk_bytes + 1), dtype=np.uint8)
    noise[:, -1] = ord("\n")
    file.write_bytes(noise.tobytes())
    return chunks


def raw_rate(broker: LocalBroker, file: Path, chunks: int) -> float:
    """Bytes per second from the first publish to the last delivery."""
    publish, listen = str(shutil.which("mosquitto_pub")), str(shutil.which("mosquitto_sub"))
    where = ["-V", "5", "-h", broker.host, "-p", str(broker.port), "-t", TOPIC, "-q", "1"]
    subprocess.run([publish, *where, "-r", "-m", "ready"], check=True)
    with subprocess.Popen([listen, *where, "-C", str(chunks + 1), "-F", "%t"], stdout=subprocess.PIPE) as listening:
        assert listening.stdout is not None  # noqa: S101 - it is a pipe
        listening.stdout.readline()  # the retained one: it has subscribed
        began_s = time.monotonic()
        with file.open("rb") as lines:
            subprocess.run([publish, *where, "-l"], stdin=lines, check=True)
        listening.communicate(timeout=LIMIT_S)
        seconds = time.monotonic() - began_s
    subprocess.run([publish, *where, "-r", "-n"], check=True)
    return file.stat().st_size / seconds
