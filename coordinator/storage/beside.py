"""Files beside the store that only explain: what another process may read while the coordinator runs."""

import contextlib
import json
import threading
from pathlib import Path

__all__ = ["write_beside"]


def write_beside(folder: Path, name: str, content: object) -> None:
    """Replace a JSON file at once, or not at all: a full disk is no reason to stop."""
    temporary = folder / f".{name}.{threading.get_ident()}.tmp"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(folder / name)
