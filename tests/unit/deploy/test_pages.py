"""The pages that people install by: their links lead somewhere, each says how to leave, and the examples are valid."""

import re
from pathlib import Path

import pytest
import yaml

from coordinator.config.sections import read_config
from coordinator.config.settings import engine_settings
from coordinator.engine.early_stopping import missing_metric
from coordinator.enrolment.cli import init
from edge_node.config import read_config as read_node_config
from edge_node.setup.join import install

ROOT = Path(__file__).parents[3]
INSTALL = ("raspberry-pi", "jetson", "x86-gateway", "systemd", "containers")
OPERATE = ("enrol-a-fleet", "back-up-and-restore", "upgrade", "page", "alerts", "home-assistant")
PAGES = (
    *(f"docs/how-to/{name}.md" for name in (*INSTALL, *OPERATE)),
    "docs/reference/brokers.md",
    "deploy/README.md",
    "mosquitto/README.md",
)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_to_a_file(name: str) -> None:
    page = ROOT / name
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("name", INSTALL)
def test_a_page_that_installs_also_says_how_to_remove_everything(name: str) -> None:
    text = (ROOT / f"docs/how-to/{name}.md").read_text()
    _, found, leaving = text.partition("## Uninstall")
    assert found
    assert "rm " in leaving
    assert f"how-to/{name}.md" in (ROOT / "deploy/README.md").read_text()


def test_the_example_of_each_role_is_valid() -> None:
    coordinator = read_config(ROOT / "deploy/examples/coordinator.toml", {}, {})
    node = read_node_config(ROOT / "deploy/examples/edge-node.toml", {}, {})
    assert coordinator.federation.id == node.federation.id
    assert coordinator.task.name == node.task.name


def test_the_compose_file_hardens_every_service_and_keeps_each_to_its_own(tmp_path: Path) -> None:
    init(tmp_path / "plant", host=["broker.example"], evaluate=False)
    services = yaml.safe_load((tmp_path / "plant/compose.yaml").read_text())["services"]
    assert services.keys() == {"broker", "coordinator", "node"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "network_mode", "pid"} & service.keys()
        assert not [mount for mount in service["volumes"] if "authority" in mount]
    assert services["node"]["profiles"] == ["nodes"]


def test_one_site_alone_begins_with_the_pages_settings(tmp_path: Path) -> None:
    """A gateway is one node above: the defaults wait for two."""
    page = (ROOT / "docs/how-to/site-gateway.md").read_text()
    block = re.search(r"```toml\n(\[gateways\]\n.*?\[limits\].*?)```", page, re.DOTALL)
    assert block
    (tmp_path / "coordinator.toml").write_text(block[1])
    given = {"federation.id": "plant", "broker.url": "mqtt://hub", "task.name": "digits"}
    config = read_config(tmp_path / "coordinator.toml", given, {})
    engine = engine_settings(config)
    assert (engine.nodes_min, engine.quorum) == (1, 1)
    assert config.gateways.members_max == {"press-shop": 100}


def test_the_sensor_tutorial_goes_with_the_files_that_init_and_join_write(tmp_path: Path) -> None:
    """It had a second `[task]`, and a coordinator that cannot evaluate waited for accuracy: neither started."""
    page = (ROOT / "docs/tutorial-sensors.md").read_text()
    device, server = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    task = re.search(r"\[task\]\n(name = .*?\narguments = .*?)\n", device)
    assert task
    assert task[1] in server
    (wanted,) = re.findall(r"coordinator init plant (.*)", page)
    assert "--no-evaluate" in wanted
    init(tmp_path / "plant", host=["broker.example"], evaluate=False, enroll_=["pump-1"])
    settings = tmp_path / "plant/coordinator.toml"
    text = settings.read_text().replace('name = "digits"', task[1])
    train = re.search(r"\[train\].*?(?=\[round\])", server, re.DOTALL)
    assert train
    settings.write_text(text + train[0])
    config = read_config(tmp_path / "plant", {}, {})
    assert missing_metric(engine_settings(config).stopping, {}) is None
    assert config.train.optimizer == "adam"
    for key in re.findall(r"^(\w+) = ", server.partition("[round]")[2], re.MULTILINE):
        assert re.search(rf"^{key} = ", text.partition("[round]")[2], re.MULTILINE), f"init writes no {key} to change"
    folder = install(tmp_path / "plant/enrolled/pump-1.fedmq", tmp_path / "pump-1")
    written = folder / "edge-node.toml"
    rest = device.partition(task[1])[2]
    written.write_text(written.read_text().replace('name = "digits"', task[1]) + rest)
    assert read_node_config(folder, {}, {}).score.with_agent
