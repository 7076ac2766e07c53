"""A gateway that has left its site to another one says so, and does not end as if all were well."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.engine.effects import Leave
from federation.errors import ConfigError
from site_gateway import app
from site_gateway.engine.site import LIFTED


def left(reason: str) -> None:
    executor: Any = SimpleNamespace(stop_reason=reason, other_run="bb")
    store: Any = SimpleNamespace(run="aa", epoch=4, folder=Path("site/below/state/aa"))
    app._check_left(executor, store, "plant-site")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Leave.FENCED, "a newer gateway leads this site in run aa: this folder (epoch 4) is a copy"),
        (Leave.OTHER_RUN, "the coordinator of another run, bb, leads federation plant-site"),
        (Leave.REPLACED, "the coordinator of another run, bb, leads federation plant-site"),
    ],
)
def test_whoever_leads_instead_is_named(reason: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        left(reason)
    assert words in str(told.value)


def test_a_gateway_that_has_lost_its_folder_is_told_to_wait() -> None:
    """It was told to start the newer state again, which there was not any more."""
    with pytest.raises(ConfigError, match=r"state is lost, wait until the broker has noticed \(two minutes\)"):
        left(Leave.FENCED)


@pytest.mark.parametrize("reason", ["requested", "finished", LIFTED, ""])
def test_an_end_in_order_is_none(reason: str) -> None:
    left(reason)
