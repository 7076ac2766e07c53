"""``fedmq.load``: a state folder, a configuration or a report as values."""

import json
from pathlib import Path

import numpy as np
import pytest

import fedmq
from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.storage.sqlite_store import SqliteStore
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
