"""The README's own text, run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
BLOCK = r"<!-- test: {} -->\n```\w+\n(.*?)```"


def block(name: str) -> str:
    found = re.search(BLOCK.format(re.escape(name)), README, re.DOTALL)
    assert found, f"README.md has no block marked <!-- test: {name} -->"
    return found.group(1)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_users_own_task_runs_with_the_readmes_very_text(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(block("my_task.py"))
    arguments = block("run").split()
    assert arguments[:2] == ["coordinator", "demo"]
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "final accuracy" in done.stdout


def test_the_users_own_task_has_at_most_ten_lines_of_its_own() -> None:
    own = [line for line in block("my_task.py").splitlines() if line.strip()]
    assert len(own) <= 10


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []
