"""What ``make setup`` installs is named by its bytes, for every pin but those that differ by device."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BY_DEVICE = {"torch", "torchvision"}
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\n]+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PIN.findall(text)}


def test_every_pinned_release_has_its_hashes() -> None:
    hashed = (ROOT / "deploy" / "hashes.txt").read_text(encoding="utf-8")
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert pinned.keys() >= BY_DEVICE
    assert pins(hashed) == {name: version for name, version in pinned.items() if name not in BY_DEVICE}
    for block in re.split(PIN, hashed)[3::3]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block)
    assert "://" not in hashed


def test_setup_installs_by_hash_before_anything_else() -> None:
    script = (ROOT / "deploy" / "setup.sh").read_text(encoding="utf-8")
    calls = [line for line in script.splitlines() if '/bin/pip" install' in line]
    assert "--require-hashes" in calls[0]
    assert all("--require-hashes" in line or "-c constraints.txt" in line for line in calls)
