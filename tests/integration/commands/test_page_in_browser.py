"""The page in headless Chromium: what a person sees and presses, on a wide screen, in the dark and on a phone."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import CHROMIUM, Browser, browser
from coordinator.engine.events import NodeStateReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.storage.files import STATUS
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.protocol.messages import NodeState, Presence
from federation.types import Incarnation, ModelVersion, NodeId
from tests.integration.commands.test_page import served
from tests.rigs.model_values import arrived, committer, initialised, update

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]

HTML = "<img src=x onerror=alert(1)>"
RTL = "\u202egnp.exe \u05de\u05e9\u05d0\u05d1\u05d4"
LONG = "pump-" + "9" * 59
NONE = "\u2013"
NAMES = ("pump-1", "pump-2", HTML, RTL, LONG)

CONTRASTS = """
(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = channels(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const said = [...element.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
    if (!said || !element.checkVisibility() || element.closest("option, :disabled, noscript")) continue;
    const pair = [light(channels(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), element.tagName, element.textContent.slice(0, 40)]);
  }
  return JSON.stringify(found);
})()
"""
"""WCAG 2.2's contrast of each text with what lies behind it, from the styles as they are rendered."""


RIGHTS = "[...document.querySelectorAll('body *:not(bdi)')].map((one) => one.getBoundingClientRect().right)"
"""Where each part of the page ends; a name in its own box may be longer, and is cut."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nodes with hostile names, one of which was lost and came back."""
    folder = tmp_path_factory.mktemp("run") / "state"
    store = SqliteStore(folder)
    initialised(store)
    for version in range(1, 13):
        one = arrived(NAMES[version % len(NAMES)], update(float(version)), round_id=version - 1)
        store.save_update(one.record, one.payload)
        committer(store).commit([one.member], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
        store.save_evaluation(ModelVersion(version), {"accuracy": version / 13, "loss": 1 / version, HTML: 1.0})
    presence = PresenceFile(folder, store.run)
    for said in (Presence.ONLINE, Presence.LOST, Presence.ONLINE):
        for name in NAMES:
            if said is not Presence.LOST or name == HTML:
                _seen(presence, name, said)
    presence.write(lambda: 5)
    incidents = {HTML: {"bad_signature": 3}, LONG: {"not_enrolled": 1}}
    (folder / STATUS).write_text(
        json.dumps({"incidents": incidents, "waiting": {"at": 0, "fields": {"reason": "assignments", "nodes": [HTML]}}})
    )
    store.close()
    return folder


def _seen(presence: PresenceFile, name: str, said: Presence) -> None:
    charge = {"battery": 0.5} if name == LONG else None
    told = NodeState(
        presence=said,
        incarnation=Incarnation(1),
        protocol_min=1,
        protocol_max=1,
        device=HTML,
        release="<b>9.8.7" if name == HTML else None,
        capabilities=charge,
    )
    presence.see(NodeStateReceived(node=NodeId(name), state=told))


@pytest.fixture(scope="module")
def address(state: Path) -> Iterator[str]:
    with served(state) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory, families: set[int]) -> Iterator[Browser]:
    """Started once: that takes longer than all that is looked at."""
    with browser(tmp_path_factory.mktemp("profile")) as made:
        families.add(made.pid)
        yield made
        families.remove(made.pid)


@pytest.fixture
def tab(chromium: Browser) -> Browser:
    """A tab of its own for each test, with an empty profile."""
    chromium.renew()
    chromium.screen(1280, 900)
    return chromium


def test_it_asks_nobody_else_and_nothing_is_complained_of(tab: Browser, address: str) -> None:
    tab.open(address)
    asked = [one for one in tab.requests if not one.startswith(("data:", "about:"))]
    assert len(asked) >= 9
    assert all(one.startswith(address) for one in asked)
    assert tab.complaints == []


def test_it_says_what_there_is(tab: Browser, address: str) -> None:
    tab.open(address)
    assert tab.value("document.querySelectorAll('canvas').length") == 3
    assert said(tab, "#version") == "12"
    assert said(tab, "#metric") == "92.31 %"
    assert "no coordinator is running" in said(tab, "#headline").lower()
    assert "▼ was lost" in said(tab, "#marks")
    assert "came back" in said(tab, "#news")
    assert "bad signature 3" in said(tab, "#incidents")
    assert "bad_signature: not signed with the key that is enrolled here" in said(tab, "#remedies")
    assert "battery 50 %" in said(tab, "#nodes")
    assert "fedmq <b>9.8.7" in said(tab, "#nodes")
    assert "fewer bytes up than fp32" in said(tab, "#saved-name")
    # Nothing under the pointer is one sign, whichever chart; a list's entry stays in one column.
    assert set(tab.value("[...document.querySelectorAll('.u-value')].map((one) => one.textContent)")) == {NONE}
    assert tab.value(
        "[...document.querySelectorAll('#incidents li')].every((one) => one.getClientRects().length === 1)"
    )


def test_numbers_are_as_short_as_the_terminals(tab: Browser, address: str) -> None:
    """`0.000009643` filled two lines of its tile."""
    tab.open(address)
    numbers = [9.643e-6, -1e-9, 0.0001, 0.12345678, 0, 1234.567, 93]
    found = tab.value(f"JSON.stringify({numbers}.map(short))")
    assert json.loads(found) == ["9.643e-6", "-1e-9", "0.0001", "0.1235", "0", "1235", "93"]
    assert tab.value("short(null)") == NONE
    ticks = tab.value("JSON.stringify([0.6705, 0.671, 0.6715, 2e-5, 0].map(exact))")
    assert json.loads(ticks) == ["0.6705", "0.671", "0.6715", "2e-5", "0"]
    assert tab.value("counted({too_late: 1, 'from 0 to 1': 2})") == "too late 1, 2 x from 0 to 1"


def test_what_nodes_say_stays_text(tab: Browser, address: str) -> None:
    tab.open(address)
    assert tab.value("document.querySelectorAll('img').length") == 0
    names = tab.value("[...document.querySelectorAll('#nodes h3')].map((one) => one.textContent)")
    assert sorted(names) == sorted(NAMES)
    # A name that turns the writing around does so in its own box alone.
    assert tab.value(
        "[...document.querySelectorAll('#nodes h3')].every((one) => one.firstElementChild.tagName === 'BDI')"
    )


@pytest.mark.thorough
@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (360, True)])
def test_nothing_is_wider_than_the_screen(tab: Browser, address: str, width: int, mobile: bool) -> None:
    tab.screen(width, 780, mobile=mobile)
    tab.open(address)
    assert tab.value("document.documentElement.scrollWidth") == width
    assert tab.value(f"Math.max(...{RIGHTS})") <= width


@pytest.mark.thorough
def test_a_sentence_of_long_names_leaves_the_figures_on_a_phones_screen(tab: Browser, address: str) -> None:
    """What was waited for, and what came to nothing, filled the screen and two more."""
    tab.screen(360, 780, mobile=True)
    tab.open(f"{address}#still")
    tab.value(f"document.getElementById('headline').textContent = {json.dumps(', '.join([LONG] * 20))}")
    assert tab.value("document.getElementById('version').getBoundingClientRect().bottom") < 400
    assert tab.value("document.getElementById('headline').scrollHeight") > 500


@pytest.mark.thorough
@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read(tab: Browser, address: str, *, dark: bool) -> None:
    tab.screen(1280, 900, dark=dark)
    tab.open(address)
    found: Sequence[tuple[float, str, str]] = json.loads(tab.value(CONTRASTS))
    assert len(found) > 60
    assert [one for one in found if one[0] < 4.5] == []
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(250, 250, 248)") is not dark


@pytest.mark.thorough
def test_nodes_are_sought_and_sorted_by_keyboard_alone(tab: Browser, address: str) -> None:
    tab.open(address)
    tab.value("document.body.focus()")
    for _ in range(3):
        if tab.value("document.activeElement.id") == "query":
            break
        tab.type("\t")
    assert tab.value("document.activeElement.id") == "query"
    assert tab.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.type("pump-1")
    tab.wait("document.querySelectorAll('#nodes li').length === 1")
    tab.value("document.activeElement.select()")
    tab.type("pump")
    tab.wait("document.querySelectorAll('#nodes li').length === 3")
    tab.type("\tmost work")
    tab.wait("document.getElementById('sort').value === '-updates_applied'")
    tab.wait("document.querySelector('#nodes h3').textContent === 'pump-2'")


def test_a_run_that_goes_on_is_followed(tab: Browser, state: Path) -> None:
    folder = state.with_name("followed")
    store = SqliteStore(folder)
    initialised(store)
    with served(folder) as address:
        tab.open(address)
        assert said(tab, "#version") == "0"
        assert (tab.value("document.querySelectorAll('canvas').length"), said(tab, "#staleness")) == (0, NONE)
        assert tab.value("document.getElementById('no-charts').checkVisibility()")
        one = arrived("pump-1", update(1.0), round_id=0)
        store.save_update(one.record, one.payload)
        committer(store).commit([one.member], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
        tab.wait("document.getElementById('version').textContent === '1'")
        tab.wait("document.querySelectorAll('#nodes li').length === 1")
        tab.wait("document.querySelectorAll('canvas').length === 3")
        assert not tab.value("document.getElementById('no-charts').checkVisibility()")
    tab.wait("document.getElementById('state').textContent === 'no connection'")
    store.close()


@pytest.mark.thorough
def test_a_folder_without_a_run_is_a_sentence(tab: Browser, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with served(tmp_path / "empty") as address:
        tab.open(address, "document.getElementById('headline').textContent.includes('cannot be read')")
        assert said(tab, "#state") == "cannot be read"


def said(tab: Browser, selector: str) -> Any:
    """What a part of the page says."""
    return tab.value(f"document.querySelector({json.dumps(selector)}).textContent")
