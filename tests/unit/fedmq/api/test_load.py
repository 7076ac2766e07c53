"""``fedmq.load``: a state folder, a configuration or a report as values."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedmq
from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.storage.sqlite_store import SqliteStore
from fedmq.api.study import Seed
from update_codec import Manifest

WEIGHT = np.arange(4, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A coordinator's state folder with version 0."""
    manifest = Manifest.of({"weight": WEIGHT})
    store = SqliteStore(tmp_path / "state of a run")
    store.initialise(manifest, first_commit(manifest.flatten({"weight": WEIGHT}), manifest, DownlinkSettings(), seed=0))
    store.close()
    return tmp_path / "state of a run"


def test_a_state_folder_gives_its_model(folder: Path) -> None:
    for where in (folder, str(folder), folder.as_uri()):
        run = fedmq.load(where)
        assert isinstance(run, fedmq.StoredRun)
        assert np.array_equal(run.parameters["weight"], WEIGHT)
    assert isinstance(run, fedmq.StoredRun)
    with pytest.raises(fedmq.ConfigError, match="7 is not kept"):
        run.parameters_of("7")
    with pytest.raises(fedmq.ConfigError, match="no version was evaluated"):
        run.curve()


def test_a_report_gives_curves_and_no_model(tmp_path: Path) -> None:
    study = fedmq.simulate("digits", nodes=2, rounds=2, progress=False)
    (tmp_path / "report.json").write_text(json.dumps(study.seeds[0].report))
    run = fedmq.load(tmp_path / "report.json")
    assert isinstance(run, fedmq.StoredRun)
    assert [point.version for point in run.versions] == [1, 2]
    assert run.plot(metric="loss", to=tmp_path / "loss.svg").axes[0].get_ylabel() == "loss (mean per example)"
    assert (tmp_path / "loss.svg").stat().st_size > 1000
    with pytest.raises(fedmq.ConfigError, match="a report holds no model"):
        _ = run.parameters


def test_another_kind_of_address_is_refused() -> None:
    with pytest.raises(fedmq.ConfigError, match="mqtt:// is not read"):
        fedmq.load("mqtt://broker.example/plant")


@pytest.fixture
def study() -> fedmq.Study:
    """Two seeds without a run."""
    report: dict[str, list[object]] = {"rounds": [], "nodes_detail": []}
    seeds = tuple(Seed(seed=seed, digest="ab", report=report, parameters={"weight": WEIGHT + seed}) for seed in (0, 1))
    return fedmq.Study(name="plain", task="digits", nodes=2, seeds=seeds)


def sha256(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def test_a_study_is_what_was_saved_or_it_is_refused(tmp_path: Path, study: fedmq.Study) -> None:
    saved = study.save(tmp_path / "study")
    pinned = sha256(saved / "study.json")
    for digest in (None, pinned, pinned.upper().replace("SHA", "sha")):
        again = fedmq.load(saved, digest=digest)
        assert isinstance(again, fedmq.Study)
        assert [seed.parameters["weight"].tolist() for seed in again.seeds] == [[0, 1, 2, 3], [1, 2, 3, 4]]
    whole = (saved / "seed-1.safetensors").read_bytes()
    (saved / "seed-1.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(fedmq.StorageError, match=r"seed-1\.safetensors has another content: sha256:"):
        fedmq.load(saved)
    (saved / "seed-1.safetensors").write_bytes(whole)
    (saved / "seed-0.json").write_text("{}")
    with pytest.raises(fedmq.StorageError, match=r"seed-0\.json has another content"):
        fedmq.load(saved)


def test_a_study_that_was_replaced_as_a_whole_has_another_digest(tmp_path: Path, study: fedmq.Study) -> None:
    pinned = sha256(study.save(tmp_path / "study") / "study.json")
    other = replace(study, seeds=study.seeds[:1]).save(tmp_path / "other")
    with pytest.raises(fedmq.StorageError, match=r"study\.json has another content"):
        fedmq.load(other, digest=pinned)


def test_a_study_of_an_earlier_release_says_no_digests_and_is_read(tmp_path: Path, study: fedmq.Study) -> None:
    saved = study.save(tmp_path / "study")
    described = json.loads((saved / "study.json").read_text())
    for seed in described["seeds"]:
        del seed["files"]
    (saved / "study.json").write_text(json.dumps(described))
    again = fedmq.load(saved)
    assert isinstance(again, fedmq.Study)
    assert again.parameters["weight"].tolist() == WEIGHT.tolist()
    (saved / "seed-0.safetensors").write_bytes(b"")
    with pytest.raises(fedmq.StorageError, match="cannot be read as a study"):
        fedmq.load(saved)


def test_a_report_on_disk_may_be_pinned_and_a_run_that_goes_on_may_not(tmp_path: Path, folder: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"rounds": [], "nodes_detail": []}))
    assert isinstance(fedmq.load(report, digest=sha256(report)), fedmq.StoredRun)
    with pytest.raises(fedmq.StorageError, match=r"report\.json has another content"):
        fedmq.load(report, digest="sha256:" + "0" * 64)
    with pytest.raises(fedmq.StorageError, match="cannot be read"):
        fedmq.load(tmp_path / "none.json", digest="sha256:" + "0" * 64)
    with pytest.raises(fedmq.ConfigError, match="digest: a run goes on"):
        fedmq.load(folder, digest="sha256:" + "0" * 64)
    with pytest.raises(fedmq.ConfigError, match="token and certificate are for http"):
        fedmq.load(folder, token="x")  # noqa: S106 - no secret
