"""The images as they are shipped: built, weighed, hardened, and a federation with TLS in them from its compose file."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.containers import (
    BASE,
    IMAGE_MB_MAX,
    IMAGES,
    Composed,
    NoEngine,
    composed,
    engine,
    image_bytes,
    inspected,
    is_podman,
)
from federation.runtime.local_broker import free_port
from federation.runtime.mqtt import parse_broker_url
from federation.runtime.visit import visit_broker
from tests.rigs.network_hosts import Program

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
SERVICES = ("coordinator", "node")


@pytest.fixture(scope="module")
def images() -> dict[str, dict[str, Any]]:
    """What the engine knows of the images; ``make test-container`` builds them."""
    try:
        for image in IMAGES:
            if os.environ.get("FEDMQ_CONTAINER_BUILD"):
                build(image)
        found = {image: inspected(image) for image in IMAGES}
    except NoEngine as reason:
        pytest.skip(str(reason))
    # An engine may be able to say this and not to run anything.
    line = [engine(), "run", "--rm", "--network=host", "--entrypoint=/bin/true", "fedmq-broker"]
    tried = subprocess.run(line, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"the engine cannot run its images: {tried.stderr.strip()[-300:]}")
    return found


@pytest.fixture(scope="module")
def federation(images: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    folder = tmp_path_factory.mktemp("compose")
    # The containers' user reads what is mounted from here.
    for place in (folder, folder.parent):
        place.chmod(0o755)
    try:
        with composed(folder) as made:
            yield made
    except NoEngine as reason:
        pytest.skip(str(reason))


def build(image: str) -> None:
    file = ROOT / "deploy" / "containers" / f"{image.removeprefix('fedmq-')}.Dockerfile"
    more = os.environ.get("FEDMQ_CONTAINER_BUILD_FLAGS", "").split()
    # The health check is no part of the other format.
    docker_format = ["--format=docker"] if is_podman() else []
    line = [engine(), "build", *docker_format, *more, "-f", str(file), "-t", image, str(ROOT)]
    subprocess.run(line, check=True)


@pytest.mark.parametrize("image", IMAGE_MB_MAX)
def test_an_image_is_small(images: dict[str, dict[str, Any]], image: str) -> None:
    assert (image_bytes(image) - image_bytes(BASE)) / 1e6 <= IMAGE_MB_MAX[image]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_user_of_its_own(images: dict[str, dict[str, Any]], image: str) -> None:
    assert images[image]["Config"]["User"] == "10001:10001"


def test_a_federation_makes_a_version_from_its_own_compose_file(federation: Composed) -> None:
    assert "version_committed" in federation.logs("coordinator")
    assert "training_finished" in federation.logs("node")


@pytest.mark.parametrize("service", SERVICES)
def test_the_images_own_health_check_says_that_a_role_is_well(
    images: dict[str, dict[str, Any]], federation: Composed, service: str
) -> None:
    image = images[{"node": "fedmq-edge-node"}.get(service, f"fedmq-{service}")]
    check = image["Config"].get("Healthcheck") or image["Healthcheck"]  # docker's place, podman's place
    kind, *command = check["Test"]
    assert kind == "CMD"
    assert federation.run(service, *command).returncode == 0
    stale = [part.replace("find $FEDMQ_HEALTH_FILE", "find /etc/debian_version") for part in command]
    assert federation.run(service, *stale).returncode != 0  # a file that nobody touches


def test_the_brokers_health_check_says_whether_it_listens(federation: Composed) -> None:
    assert federation.run("broker", "broker-listens").returncode == 0
    assert federation.run("broker", "broker-listens", "/dev/null").returncode != 0
    services = yaml.safe_load((federation.folder / "compose.yaml").read_text())["services"]
    kind, *command = services["broker"]["healthcheck"]["test"]
    assert kind == "CMD"
    assert federation.run("broker", *command).returncode == 0
    elsewhere = [part.replace(f":{federation.port:04X} ", ":0001 ") for part in command]
    assert federation.run("broker", *elsewhere).returncode != 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_role_can_write_nothing_but_its_state_and_has_no_rights(federation: Composed, service: str) -> None:
    script = 'test "$(id -u)" != 0 && ! touch /opt/fedmq/x && ! touch /x && touch /tmp/x && grep CapEff /proc/1/status'
    done = federation.run(service, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1], 16) == 0


def test_the_coordinator_has_no_torch_and_the_node_has(federation: Composed) -> None:
    assert federation.run("node", "python", "-c", "import torch").returncode == 0
    assert federation.run("coordinator", "python", "-c", "import torch").returncode != 0
    assert federation.run("coordinator", "ls", "/fleet/authority").returncode != 0


def test_the_base_is_an_argument_of_every_image() -> None:
    for image in IMAGES:
        lines = (ROOT / "deploy/containers" / f"{image.removeprefix('fedmq-')}.Dockerfile").read_text().splitlines()
        assert f"ARG BASE={BASE}" in lines
        assert {line for line in lines if line.startswith("FROM ")} <= {"FROM ${BASE}", "FROM ${BASE} AS build"}


def test_make_broker_starts_a_container_on_the_loopback_that_ctrl_c_ends(images: dict[str, dict[str, Any]]) -> None:
    port = free_port()
    variables = {"BROKER_IMAGE": "fedmq-broker", "PORT": str(port)}
    broker = Program([str(ROOT / "deploy/containers/broker.sh")], ROOT, os.environ | variables)
    try:
        broker.wait_for("running")
        address = parse_broker_url(f"mqtt://127.0.0.1:{port}")
        seen = visit_broker(
            address, "visitor", filters=["$SYS/broker/version"], probes=[], enough=lambda seen: bool(seen.messages)
        )
        assert seen.accepted
        assert b"mosquitto" in seen.messages["$SYS/broker/version"]
        broker.send_signal(signal.SIGINT)
        broker.wait_for_end()
    finally:
        broker.stop()
    assert (
        f"fedmq-broker-{broker.pid}"
        not in subprocess.run(
            [engine(), "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
        ).stdout
    )
