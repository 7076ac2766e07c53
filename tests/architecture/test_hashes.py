"""What ``make setup`` installs is named by its bytes, for every pin but those that differ by device."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

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


def installed_for(extras: set[str], *others: str) -> set[str]:
    """Names of all that a package needs here with these extras, and what else is named."""
    found: dict[str, set[str]] = {}
    left = [("fedmq", frozenset(extras)), *((name, frozenset[str]()) for name in others)]
    while left:
        name, wanted = left.pop()
        known = found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set())
        if known and wanted <= known:
            continue
        known |= wanted | {""}
        needs = (Requirement(text) for text in metadata.requires(name) or ())
        asked = (one for one in needs if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in known))
        left += [(one.name, frozenset(one.extras)) for one in asked]
    return set(found)


def test_the_demo_installs_by_hash_all_that_it_needs() -> None:
    listed = (ROOT / "deploy" / "demo.txt").read_text(encoding="utf-8").split()
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in listed}
    needed = installed_for({"torch", "demo"}, "hatchling", "editables") & pinned.keys() - BY_DEVICE
    assert names >= needed
    hashed = (ROOT / "deploy" / "hashes.txt").read_text(encoding="utf-8")
    assert all(re.search(rf"^{re.escape(name)}==", hashed, re.MULTILINE) for name in listed), "as hashes.txt spells it"
    assert not names & {"ruff", "mypy", "matplotlib", "onnx", "pytest", "hypothesis"}


def test_setup_installs_by_hash_before_anything_else() -> None:
    script = (ROOT / "deploy" / "setup.sh").read_text(encoding="utf-8")
    calls = [line for line in script.splitlines() if re.match(r"\s*(if ! )?install(_quickly)? ", line)]
    uv, beside, first, *_ = calls
    assert "--require-hashes" in uv
    assert beside.startswith("install --no-deps -c constraints.txt torch torchvision "), "the two that have no hashes"
    quickly, by_pip = first.split(" && ! ")
    assert quickly.strip() == 'if ! install_quickly "$list"'
    assert by_pip == 'install --require-hashes --no-deps -r "$list"; then'
    assert all("--require-hashes" in line or "-c constraints.txt" in line for line in calls)
    # Nobody installs beside those two functions, and the quick one by hash only.
    found = [line for line in script.splitlines() if "pip install" in line]
    assert len(found) == 2
    assert "--require-hashes" in found[1]


IMPORTED_AS = {
    "paho-mqtt": "paho",
    "prometheus-client": "prometheus_client",
    "tensorboardx": "tensorboardX",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "mlflow-skinny": "mlflow",
}
IMPORTED_BY_NAME = {"mlflow", "wandb"}
"""By the trackers of `fedmq.api`, which take the module of a name."""

TOOLS = {"dev", "docs"}
"""Extras of programs that look at the sources: nothing of ours imports them."""

PACKAGES = ("federation", "coordinator", "edge_node", "sum_helper", "site_gateway", "fedmq", "compression")


def test_what_an_installation_brings_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    others = (one for extra, names in project["optional-dependencies"].items() if extra not in TOOLS for one in names)
    declared = {Requirement(text).name.lower() for text in (*project["dependencies"], *others)}
    sources = "\n".join(path.read_text(encoding="utf-8") for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    modules = {IMPORTED_AS.get(name, name) for name in declared} - IMPORTED_BY_NAME
    pattern = r"^\s*(?:import|from) {}\b"
    assert [one for one in sorted(modules) if not re.search(pattern.format(one), sources, re.MULTILINE)] == []
