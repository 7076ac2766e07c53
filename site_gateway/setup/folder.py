"""A gateway's folder: its own settings, those of both its roles, and where the site is enrolled the keys of both."""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.config.sections import CONFIG_FILE as COORDINATOR_FILE
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from edge_node.config import CONFIG_FILE as NODE_FILE
from edge_node.config import read_config as read_node
from edge_node.setup.join import check_own_file, install
from federation.errors import ConfigError
from federation.types import FederationId
from site_gateway.config import ABOVE, ABOVE_FOLDER, BELOW, BELOW_FOLDER, CONFIG_FILE

__all__ = ["Site", "Wanted", "enrol_folder", "make_folder"]


TRAIN_S_MAX = 86_400
"""`bounds.train_s_max` of a gateway above, in seconds: its training is what the whole site does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a new gateway is told.

    Attributes:
        name: Its name as a node of the federation above.
        federation: The federation's name, above and below.
        above: URL of the broker above.
        below: URL of the site's own broker.
        task: What is trained.
        form: ``exact`` or ``mean``.
        nodes: How many nodes of the site train at once, at most.
        seed: ``task.seed`` of the federation above.
        enrolled: Whether the folder has certificates and keys of both roles, in a folder of each.
    """

    name: str
    federation: str
    above: str
    below: str
    task: str
    form: str = "exact"
    nodes: int = 100
    seed: int = 0
    enrolled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """How a site with an authority of its own is made.

    Attributes:
        file: The gateway's enrolment file of the federation above.
        hosts: Names and addresses of the site's broker; its nodes use the first.
        port: The site's broker's, for TLS.
        task: What is trained; None is what the enrolment file says.
    """

    file: Path
    hosts: tuple[str, ...]
    port: int
    task: str | None


def make_folder(folder: Path, wanted: Wanted) -> tuple[Path, ...]:
    """Write the three files of a gateway.

    Returns:
        The files.

    Raises:
        ConfigError: There is one already.
    """
    _check_new(folder)
    return _written(folder, {ABOVE: _above(wanted), BELOW: _below(wanted)}, wanted)


def _written(folder: Path, files: Mapping[str, str], wanted: Wanted) -> tuple[Path, ...]:
    """Write files, the gateway's own last, and name all three."""
    texts = {**files, CONFIG_FILE: f'[gateway]\nform = "{wanted.form}"\nmembers_max = {wanted.nodes}\n'}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    roles = (f"{ABOVE_FOLDER}/{NODE_FILE}", f"{BELOW_FOLDER}/{COORDINATOR_FILE}") if wanted.enrolled else (ABOVE, BELOW)
    return tuple(folder / name for name in (CONFIG_FILE, *roles))


def enrol_folder(folder: Path, site: Site, *, form: str, nodes: int, seed: int) -> tuple[Wanted, tuple[Path, ...]]:
    """Join the federation above, make an authority and a broker's settings for the site, and write the three files.

    Args:
        folder: The gateway's.
        site: How the site is made.
        form: As in `Wanted`; so are the next two. All else is the enrolment file's, or the site's.
        nodes: How many nodes.
        seed: ``task.seed`` above.

    Returns:
        What the gateway was told, and the files.

    Raises:
        ConfigError: There is a gateway already, or the enrolment file is not valid.
        StorageError: Something cannot be written.
    """
    _check_new(folder)
    check_own_file(site.file)
    joined = install(site.file, folder / ABOVE_FOLDER, task=site.task, train_s_max=TRAIN_S_MAX)
    node = read_node(joined, {}, environ={})
    plan = FleetPlan(
        federation=FederationId(node.federation.id),
        hosts=site.hosts,
        port=site.port,
        task=node.task.name,
        evaluate=False,
    )
    told = Wanted(
        name=node.node.id,
        federation=node.federation.id,
        above=node.broker.url,
        below=f"mqtts://localhost:{site.port}",
        task=node.task.name,
        form=form,
        nodes=nodes,
        seed=seed,
        enrolled=True,
    )
    site_folder = FleetFolder(folder / BELOW_FOLDER)
    Fleet(folder=site_folder, now=dt.datetime.now(dt.UTC)).create(plan, settings=_below(told))
    site_folder.compose.unlink()  # it starts a coordinator, and the gateway is the site's
    return told, _written(folder, {}, told)


def _check_new(folder: Path) -> None:
    for name in (CONFIG_FILE, ABOVE, BELOW):
        if (folder / name).exists():
            raise ConfigError(str(folder), f"has a {name} already: take another folder, or edit that file")


def _above(wanted: Wanted) -> str:
    return f"""# As a node of the federation above; every key of an edge node's settings may stand here.
[federation]
id = "{wanted.federation}"

[node]
id = "{wanted.name}"

[broker]
url = "{wanted.above}"

[task]
name = {json.dumps(wanted.task, ensure_ascii=False)}

[bounds]
train_s_max = {TRAIN_S_MAX}.0

[store]
folder = "{{here}}/state/above"
"""


def _below(wanted: Wanted) -> str:
    return f"""# As the coordinator of the site; every key of a coordinator's settings may stand here.
# What is trained, and how, comes from above. lease_s and max_wait_s must leave time for the way up.
[federation]
id = "{wanted.federation}"

[broker]
url = "{wanted.below}"
{_SITE_KEYS if wanted.enrolled else ""}
[task]
name = {json.dumps(wanted.task, ensure_ascii=False)}
seed = {wanted.seed}

[round]
concurrency = {wanted.nodes}
fraction = 1.0
quorum = 1
lease_s = 60.0
max_wait_s = 30.0
exit_when_finished = false

[store]
folder = "{{here}}/{"state" if wanted.enrolled else "state/below"}"
"""


_SITE_KEYS = """tls_authority = "{here}/coordinator/ca.crt"
tls_certificate = "{here}/coordinator/control.crt"
tls_key = "{here}/coordinator/control.key"
tls_data_certificate = "{here}/coordinator/data.crt"
tls_data_key = "{here}/coordinator/data.key"

[security]
require_signatures = true
signing_key = "{here}/coordinator/signing.key"
# Kept by coordinator enroll, renew and revoke.
node_keys = "{here}/coordinator/nodes.json"
broker_log = true

[privacy]
# The site's broker carries updates, metrics and the model, and cannot read them.
sealed = true
"""
