"""Which readings are taken, and why others are not."""

from pathlib import Path

import pytest

from edge_node.config import read_config
from edge_node.readings.plausible import FUTURE, OTHER_COLUMN, OUT_OF_RANGE, Plausible
from federation.errors import ConfigError

NOW = 1_000.0


def test_a_reading_is_refused_for_one_reason_which_is_counted() -> None:
    rules = Plausible(columns=("heat", "flow"), ranges={"heat": (-40.0, 125.0)}, future_max_s=60.0)
    given = [
        (NOW, "heat", 125.0),
        (NOW, "heat", 125.1),
        (NOW, "heat", -1e38),
        (NOW, "flow", 1e9),
        (NOW + 60.0, "heat", -40.0),
        (NOW + 60.1, "heat", 1e9),
        (NOW, "other", 1.0),
    ]
    kept, refused = rules.of(given, NOW)
    assert kept == [given[0], given[3], given[4]]
    assert refused == {OUT_OF_RANGE: 2, FUTURE: 1, OTHER_COLUMN: 1}


def test_a_pattern_is_for_all_columns_that_fit_and_a_name_wins() -> None:
    rules = Plausible(ranges={"*.heat": (-40.0, 125.0), "oven.heat": (0.0, 400.0)})
    given = [(NOW, "hall.heat", 300.0), (NOW, "oven.heat", 300.0), (NOW, "hall.heats", 300.0)]
    assert rules.of(given, NOW)[0] == given[1:]


NODE = """
[federation]
id = "plant"
[node]
id = "pump-1"
[broker]
url = "mqtt://broker.example"
[task]
name = "digits"
[data]
ranges = {{ heat = {bounds} }}
"""


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        ("[125, -40]", "no range"),
        ("[0, inf]", "finite"),
        ("[1]", "ranges"),
        ("[3, 3]", "no range"),
        ('["a", 1]', "ranges"),
    ],
)
def test_what_is_no_range_is_refused(tmp_path: Path, bounds: str, why: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(NODE.format(bounds=bounds))
    with pytest.raises(ConfigError, match=why):
        read_config(file, {}, {})


def test_a_range_comes_from_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(NODE.format(bounds="[-40, 125]"))
    assert read_config(file, {}, {}).data.plausible() == Plausible(ranges={"heat": (-40.0, 125.0)})
