"""Who reads what was refused is told what it means, and what to do."""

import io
from pathlib import Path

from rich.console import Console

from coordinator.monitoring.refusals import refusal_lines
from coordinator.monitoring.screen import full_screen
from coordinator.storage.sqlite_store import SqliteStore
from tests.rigs.status_values import snapshot, status_file


def test_each_kind_that_can_be_mended_has_one_line_with_the_remedy(tmp_path: Path) -> None:
    """A device with a key of before was `bad_signature 2`, and nothing said why it was never asked."""
    counted = {"pi-1": {"bad_signature": 2}, "pi-2": {"bad_signature": 1, "flood": 3}, "unknown": {"no_tls": 1}}
    signature, tls = refusal_lines(counted)
    assert signature.startswith("bad_signature: not signed with the key that is enrolled here")
    assert "coordinator renew DIR NODE" in signature
    assert tls.startswith("no_tls: ")
    assert not list(refusal_lines({"pi-2": {"flood": 3}}))
    SqliteStore(tmp_path).close()
    status_file(tmp_path, lambda: snapshot("assignments"), lambda: counted).write()
    screen = io.StringIO()
    Console(file=screen, width=400, markup=False).print(full_screen(tmp_path))
    assert signature in screen.getvalue()
