"""A device trains when its owner's conditions hold, and says which one does not."""

from pathlib import Path

import pytest

from edge_node.app import eligibility
from edge_node.config import read_config
from edge_node.engine.effects import PublishEvent
from edge_node.engine.machine import NodeMachine
from edge_node.records import RecoveredNode
from edge_node.runtime.eligibility import Conditions, Sensors, columns_said, parse_hours, why_not
from federation.errors import ConfigError
from federation.protocol.messages import Decline
from federation.types import COLUMNS, Incarnation
from tests.rigs.node_rig import Script, announcement

ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
wwan0\t00000000\t0102A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


class Fake(Sensors):
    """A device that was taken apart."""

    def __init__(self, root: Path, minute: int = 0) -> None:
        super().__init__(root)
        self._at = minute

    def minute(self) -> int:
        return self._at


def device(root: Path, **files: str) -> Sensors:
    paths = {
        "load": "proc/loadavg",
        "route": "proc/net/route",
        "mains": "sys/class/power_supply/AC/online",
        "mains_type": "sys/class/power_supply/AC/type",
        "battery": "sys/class/power_supply/BAT0/capacity",
        "battery_type": "sys/class/power_supply/BAT0/type",
        "heat": "sys/class/thermal/thermal_zone0/temp",
        "heat2": "sys/class/thermal/thermal_zone1/temp",
    }
    for name, text in files.items():
        path = root / paths[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Fake(root)


def test_a_device_without_conditions_may_always_train(tmp_path: Path) -> None:
    assert why_not(Conditions(), device(tmp_path)) is None


@pytest.mark.parametrize(
    ("files", "conditions", "reason"),
    [
        ({"load": "0.00 1.0 2.0 1/99 7"}, Conditions(load_max=0.5), None),
        ({"load": "9999.0 1.0 2.0 1/99 7"}, Conditions(load_max=0.5), "load: "),
        ({}, Conditions(load_max=0.5), "load: no sensor"),
        ({"load": "what"}, Conditions(load_max=0.5), "load: no sensor"),
        ({}, Conditions(mains=True), None),
        (
            {"mains": "1", "mains_type": "Mains", "battery": "9", "battery_type": "Battery"},
            Conditions(mains=True),
            None,
        ),
        (
            {"mains": "0", "mains_type": "Mains", "battery": "99", "battery_type": "Battery"},
            Conditions(mains=True),
            "power: on",
        ),
        ({"battery": "80", "battery_type": "Battery"}, Conditions(battery_min=0.5), None),
        ({"battery": "30", "battery_type": "Battery"}, Conditions(battery_min=0.5), "power: battery 30% < 50%"),
        ({"battery_type": "Battery"}, Conditions(battery_min=0.5), "power: battery unknown"),
        ({"route": ROUTES}, Conditions(interfaces=("eth0", "wlan0")), None),
        ({"route": ROUTES}, Conditions(interfaces=("wlan0",)), "network: eth0 may be metered"),
        ({}, Conditions(interfaces=("eth0",)), "network: no default route may be metered"),
        ({"heat": "41000", "heat2": "69500"}, Conditions(temperature_max_c=70.0), None),
        ({"heat": "41000", "heat2": "70500"}, Conditions(temperature_max_c=70.0), "temperature: 70.5 > 70"),
        ({"heat": "hot"}, Conditions(temperature_max_c=70.0), "temperature: no sensor"),
    ],
)
def test_a_condition_that_does_not_hold_is_the_reason(
    tmp_path: Path, files: dict[str, str], conditions: Conditions, reason: str | None
) -> None:
    said = why_not(conditions, device(tmp_path, **files))
    assert said is None if reason is None else said is not None and said.startswith(reason)


@pytest.mark.parametrize(
    ("window", "minute", "inside"),
    [
        ("22:00-06:00", 23 * 60, True),
        ("22:00-06:00", 5 * 60 + 59, True),
        ("22:00-06:00", 6 * 60, False),
        ("08:30-17:00", 8 * 60 + 30, True),
        ("08:30-17:00", 17 * 60, False),
    ],
)
def test_hours_may_go_over_midnight(tmp_path: Path, window: str, minute: int, inside: bool) -> None:
    said = why_not(Conditions(hours=parse_hours(window)), Fake(tmp_path, minute))
    assert (said is None) is inside
    assert inside or said == f"hours: {minute // 60:02}:{minute % 60:02} is outside the window"


@pytest.mark.parametrize("text", ["", "22-06", "24:00-06:00", "22:00-06:60", "22:00 - 06:00"])
def test_hours_that_are_no_window_name_their_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"eligibility\.hours"):
        parse_hours(text)


def test_this_machine_has_a_clock() -> None:
    assert 0 <= Sensors().minute() < 24 * 60


def test_a_node_declines_while_a_condition_does_not_hold_and_joins_when_it_does() -> None:
    script, reasons = Script(online=False), ["power: on battery", None]
    script.machine = NodeMachine(
        script.settings, Incarnation(7), RecoveredNode(), rng=lambda: 0.0, gate=lambda: reasons.pop(0)
    )
    script.connect()
    script.announce(announcement(1))
    (decline,) = (effect.message for effect in script.effects if isinstance(effect, PublishEvent))
    assert isinstance(decline, Decline)
    assert (decline.reason, decline.retry_after_s) == ("power: on battery", script.settings.ineligible_retry_s)
    script.announce(announcement(2))
    assert not [effect for effect in script.effects if isinstance(effect, PublishEvent)]
    assert "round_joined" in script.notes()


def flags(**more: object) -> dict[str, object]:
    return {"federation.id": "f", "node.id": "n", "broker.url": "mqtt://h:1"} | more


def test_the_configuration_gives_the_conditions() -> None:
    hours = {"eligibility.hours": "22:00-06:00", "eligibility.mains": True, "eligibility.interfaces": ["eth0"]}
    found = eligibility(read_config(None, flags(**hours), environ={}))
    assert found == Conditions(hours=(1320, 360), mains=True, interfaces=("eth0",))
    assert eligibility(read_config(None, flags(), environ={})) == Conditions()


def test_hours_that_are_no_window_are_refused_when_the_configuration_is_read() -> None:
    with pytest.raises(ConfigError, match=r"eligibility\.hours"):
        read_config(None, flags(**{"eligibility.hours": "22-6"}), environ={})


def test_a_device_says_what_it_has_and_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    """FED-74."""
    bare = device(tmp_path / "bare").capabilities()
    assert set(bare) == {"cores", "mains"}
    assert bare["mains"] == 1.0
    phone = device(tmp_path / "phone", battery="42", battery_type="Battery", mains="0", mains_type="Mains")
    (tmp_path / "phone/proc").mkdir()
    (tmp_path / "phone/proc/meminfo").write_text("MemTotal:  4000000 kB\nMemAvailable:    1000 kB\n")
    found = phone.capabilities()
    assert (found["battery"], found["mains"], found["memory_bytes"]) == (0.42, 0.0, 1_024_000.0)


class Reads:
    """What a task says of its frame's columns."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def columns_unsaid(self) -> tuple[str, ...]:
        return self._names


def test_a_frames_columns_are_said_as_one_number_where_nobody_has_said_an_order() -> None:
    """FED-304."""
    said = [columns_said(Reads(*names)) for names in (("x", "yz"), ("yz", "x"), ("xy", "z"), ("x", "yz"))]  # type: ignore[arg-type]
    assert said[0] == said[3]
    assert len({each[COLUMNS] for each in said}) == 3
    assert all(each[COLUMNS] == int(each[COLUMNS]) < 2**48 for each in said)
    assert columns_said(Reads()) == columns_said(object()) == {}  # type: ignore[arg-type]
