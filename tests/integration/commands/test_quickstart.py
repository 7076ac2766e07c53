"""Every code block of the quickstart, run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.storage.sqlite_store import SqliteStore
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks.check import check_task
from federation.tasks.registry import load_task
from tests.integration.enrolment.test_fleet import on, two_hosts
from update_codec import Manifest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
BLOCKS: dict[str, str] = dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
RUN_HERE = {"install", "demo", "press.py", "make_data.py", "try", "photos.py", "predict", "signals.py"}
RUN_ON_TWO_MACHINES = {"machine-1", "machine-1-node", "machine-2", "after"}
VERSIONS = 6


def save(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(BLOCKS[name])


def shell(name: str, folder: Path) -> str:
    """Run a block of commands to its end, with this environment's programs first."""
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["/bin/bash", "-euc", BLOCKS[name]]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=230)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_is_run() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS), "a block without a test, or two of one name"
    assert set(BLOCKS) == RUN_HERE | RUN_ON_TWO_MACHINES


def test_what_is_installed_exists(tmp_path: Path) -> None:
    """The project instead of the registry, with the same extras, up to the point where it would be copied."""
    wanted = re.fullmatch(r"pip install 'fedmq(\[[\w,]+\])'\n", BLOCKS["install"])
    assert wanted
    options = ["--dry-run", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, f"{ROOT}{wanted[1]}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stderr + done.stdout


@pytest.mark.thorough
@pytest.mark.broker
@pytest.mark.cold
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_draws_its_pictures(tmp_path: Path) -> None:
    assert "final accuracy" in shell("demo", tmp_path)
    names = {file.name for file in (tmp_path / "pictures").iterdir()}
    assert names == {
        f"{name}.{kind}"
        for name in ("learning", "node-loss", "participation", "staleness", "story")
        for kind in ("png", "svg")
    }


@pytest.mark.thorough
@pytest.mark.broker
@pytest.mark.cold
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_own_table_is_learned(tmp_path: Path) -> None:
    save(tmp_path, "press.py", "make_data.py")
    said = shell("try", tmp_path)
    found = re.search(r"final accuracy\s+([\d.]+)%", said)
    assert found, said
    assert float(found[1]) > 75, said


@pytest.mark.thorough
@pytest.mark.broker
@pytest.mark.cold
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_machines_train_one_model_that_is_seen_and_exported(tmp_path: Path) -> None:
    *prepare, coordinate = BLOCKS["machine-1"].splitlines()
    *fetch, take_part = BLOCKS["machine-2"].splitlines()
    with two_hosts(tmp_path) as (server, device):
        save(server.home, "press.py", "make_data.py")
        server.run("python make_data.py 1")
        for line in prepare:
            server.run(on(server, line))
        # The pause between versions that `init` writes spares devices; it is none of what is tested here.
        coordinator = server.start(coordinate, FEDMQ_COORDINATOR__ROUND__INTERVAL_MIN_S="0")
        nodes = [server.start(BLOCKS["machine-1-node"].strip())]
        for line in fetch:
            device.run(line)
        nodes.append(device.start(take_part))
        place = 0
        for _ in range(VERSIONS):
            place = coordinator.wait_for("version_committed", since=place, limit_s=120)
        coordinator.wait_for("edge-02", limit_s=120)
        coordinator.wait_for("evaluated", since=place, limit_s=120)
        for node in nodes:
            node.stop()  # they would train on, as fast as they can, while others look
        shown = [server.run(line) for line in BLOCKS["after"].splitlines()]
        assert "edge-01" in shown[0]
        assert "to reach accuracy 85.00%" in shown[2]
        assert (server.home / "pictures" / "learning.png").exists()
        onnx.checker.check_model(onnx.load(server.home / "model.onnx"))
        assert (server.home / "model.safetensors").exists()
        table = (device.home / "data" / "readings.csv").read_text()
        assert table != (server.home / "data" / "readings.csv").read_text()


@pytest.mark.thorough
def test_a_folder_of_pictures_is_learned_and_a_new_one_recognised(tmp_path: Path) -> None:
    save(tmp_path, "photos.py")
    rng = np.random.default_rng(0)
    for number in range(40):
        name = ("good", "scratched")[number % 2]
        (tmp_path / "data" / "photos" / name).mkdir(parents=True, exist_ok=True)
        photo(rng, scratched=bool(number % 2)).save(tmp_path / "data" / "photos" / name / f"{number:04d}.jpg")
    photo(rng, scratched=True).save(tmp_path / "new.jpg")
    task = load_task(f"{tmp_path / 'photos.py'}:build")(
        TaskContext(node_index=0, node_count=2, data=tmp_path / "data", device="cpu")
    )
    check_task(task)
    settings = TrainSettings(local_epochs=30, batch_size=8, learning_rate=0.05)
    trained = task.train(task.initial_parameters(0), settings, lambda: False).parameters
    manifest = Manifest.of(dict(trained), task.roles())
    store = SqliteStore(tmp_path / "state" / "coordinator")
    store.initialise(manifest, first_commit(manifest.flatten(trained), manifest, DownlinkSettings(), seed=0))
    store.close()
    said = shell("predict", tmp_path)
    rows = [line.split()[0] for line in said.splitlines() if "%" in line]
    assert rows == ["scratched", "good"], said


def photo(rng: np.random.Generator, *, scratched: bool) -> Image.Image:
    """Grey noise of some size, with a white line across when it is scratched."""
    side = int(rng.integers(20, 60))
    pixels = rng.integers(90, 120, (side, side, 3), dtype=np.uint8)
    if scratched:
        row = side // 2
        pixels[row - side // 10 : row + side // 10] = 255
    return Image.fromarray(pixels)


def test_arrays_are_learned(tmp_path: Path) -> None:
    save(tmp_path, "signals.py")
    (tmp_path / "data").mkdir()
    y = np.arange(200) % 4
    x = np.random.default_rng(0).normal(size=(200, 32)) + 3 * np.eye(4, 32)[y]
    np.savez(tmp_path / "data" / "signals.npz", x=x, y=y)
    task = load_task(f"{tmp_path / 'signals.py'}:build")(
        TaskContext(node_index=0, node_count=2, data=tmp_path / "data", device="cpu")
    )
    check_task(task)
    settings = TrainSettings(local_epochs=10, batch_size=16, learning_rate=0.1)
    after = task.train(task.initial_parameters(0), settings, lambda: False)
    assert task.evaluate(after.parameters)["accuracy"] > 0.8


def test_every_linked_page_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
