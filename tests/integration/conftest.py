"""How the tests of this folder start our programs."""

import pytest


@pytest.fixture(autouse=True)
def all_programs_start_warm(programs_start_warm: None) -> None:
    """Each as `programs_start_warm` says."""
