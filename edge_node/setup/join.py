"""``edge-node request`` and ``edge-node join``: make this device's keys, and install the file that enrols it."""

import base64
import binascii
import datetime as dt
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from edge_node.config import CONFIG_FILE
from federation.documents import read_toml
from federation.errors import ConfigError, LocalProtocolError, StorageError
from federation.identity.bundle import (
    BUNDLE_BYTES_MAX,
    RELEASED_BYTES_MAX,
    Bundle,
    decode_bundle,
    proposed_helpers,
)
from federation.identity.certificates import key_text, new_key, read_identity, read_key
from federation.identity.helper_keys import PinnedHelper, in_key_order
from federation.identity.private_files import PRIVATE, PUBLIC, read_text, write_text
from federation.identity.request import encode_request, new_request
from federation.identity.signing_keys import SigningKey, read_signing_key
from federation.identity.task_release import TaskRelease, read_release
from federation.protocol.topics import validate_node_id
from federation.rollout.archive import check_archive, unpack

__all__ = ["ask", "check_own_file", "install", "kept_settings", "own_key_line", "proposal"]

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "node.crt", "node.key"
COORDINATOR_KEY, SIGNING_KEY = "coordinator.pub", "signing.key"
TRAIN_S_MAX = 3600
"""`bounds.train_s_max` of new settings, in seconds."""

TASK_FOLDER = "task"


def ask(node: str, into: Path | None) -> Path:
    """Make this device's keys, unless they are there, and the file that asks for its certificate.

    Args:
        node: Its name.
        into: The folder for the keys; None is the node's name, here.

    Returns:
        The request file, beside the folder.

    Raises:
        ConfigError: The name cannot be a node's, or the folder has keys that are damaged.
        StorageError: The folder cannot be written.
    """
    try:
        folder = Path(validate_node_id(node)) if into is None else into
    except LocalProtocolError as error:
        raise ConfigError("NODE", str(error), source="command line") from error
    if not (folder / KEY).exists():
        write_text(folder / KEY, key_text(new_key()), mode=PRIVATE)
    if not (folder / SIGNING_KEY).exists():
        write_text(folder / SIGNING_KEY, SigningKey.new().pem, mode=PRIVATE)
    key = read_key(read_text(folder / KEY, bytes_max=BUNDLE_BYTES_MAX), source=KEY)
    signing = read_signing_key(read_text(folder / SIGNING_KEY, bytes_max=BUNDLE_BYTES_MAX), source=SIGNING_KEY)
    file = folder.absolute().parent / f"{node}.request"
    write_text(file, encode_request(new_request(node, key, signing)), mode=PUBLIC)
    return file


def proposal(file: Path) -> tuple[PinnedHelper, ...]:
    """The helpers of masked sums that an enrolment file names: a person compares them before they are pinned.

    Raises:
        ConfigError: The file is not valid.
    """
    return proposed_helpers(_read(file))


def check_own_file(file: Path) -> None:
    """See to it that nobody else could have read or changed an enrolment file with keys.

    Raises:
        ConfigError: It is no file, belongs to another user, or is open to others.
    """
    try:
        found, folder = file.stat(), file.absolute().parent.stat()
    except OSError as error:
        raise ConfigError("FILE", f"cannot be read: {error.strerror}", source=str(file)) from error
    trusted = {0, os.geteuid(), *({int(os.environ["SUDO_UID"])} if os.environ.get("SUDO_UID", "").isdigit() else ())}
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError("FILE", "is no regular file", source=str(file))
    if found.st_uid not in trusted:
        said = f"belongs to the user with number {found.st_uid}, who can change it: copy it to a folder of your own"
        raise ConfigError("FILE", said, source=str(file))
    others = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
    if found.st_mode & 0o077 or others:
        if _read(file).key is None and not found.st_mode & 0o022 and not others:
            return
        said = "others on this machine can read or change it, and it is to become this node's identity"
        raise ConfigError("FILE", f"{said}: install -m 600 {file} ~/{file.name}, and join that", source=str(file))


def _read(file: Path) -> Bundle:
    return decode_bundle(read_text(file, bytes_max=RELEASED_BYTES_MAX), now=dt.datetime.now(dt.UTC))


def kept_settings(file: Path, into: Path | None) -> Path | None:
    """The settings that `install` would keep as they are; None where it writes new ones.

    Raises:
        ConfigError: The file is not valid.
    """
    settings = (Path(_read(file).node) if into is None else into) / CONFIG_FILE
    return settings if settings.exists() else None


def own_key_line(folder: Path) -> str:
    """``NODE=KEY``, by which a helper's administrator admits this node.

    Raises:
        ConfigError: The folder's settings or its key cannot be read.
    """
    place = folder / CONFIG_FILE
    try:
        node = read_toml(read_text(place, bytes_max=BUNDLE_BYTES_MAX))["node"]["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("node.id", f"cannot be read: {error}", source=str(place)) from error
    key = read_signing_key(read_text(folder / SIGNING_KEY, bytes_max=BUNDLE_BYTES_MAX), source=SIGNING_KEY)
    return f"{node}={key.public_hex}"


def install(  # noqa: PLR0913 - what the owner of the device decides
    file: Path,
    into: Path | None,
    *,
    task: str | None = None,
    data: Path | None = None,
    helpers: Sequence[str] = (),
    with_task: bool = False,
    signed_updates: bool = False,
    train_s_max: int = TRAIN_S_MAX,
) -> Path:
    """Install an enrolment file; settings that are there are kept when they are the same node's.

    Args:
        file: The enrolment file.
        into: The folder to make; None is the node's name, here.
        task: What this device trains; None is what the file says.
        data: Folder with this device's data; None is the task's own.
        helpers: Helpers of masked sums to pin, as ``NAME=KEY`` each; settings that name others keep theirs.
        with_task: Whether this device may run the sources that the file brings.
        signed_updates: Whether it may run releases of the task that the federation's authority has signed.
        train_s_max: `bounds.train_s_max` of new settings, in seconds.

    Returns:
        The folder.

    Raises:
        ConfigError: The file is not valid, names no task, or is another node's than the folder; or the settings that
            are there pin other helpers.
        StorageError: The folder cannot be written.
    """
    bundle = _read(file)
    released = _released(bundle)
    folder = Path(bundle.node) if into is None else into
    settings = folder / CONFIG_FILE
    if settings.exists():
        _check_same_node(settings, bundle)
        _check_own_keys(folder, bundle)
        _pin(settings, helpers)
        # The certificate last: a crash before it leaves the old pair's certificate beside the new key, which the next
        # start refuses by name; the enrolment file is still there to be joined again.
        _write_identity(folder, bundle)
        return folder
    chosen = _chosen_task(bundle, task, folder, with_task=with_task)
    _check_own_keys(folder, bundle)
    _write_identity(folder, bundle)
    if with_task and released is not None:
        _unpack(released[1], folder / TASK_FOLDER / released[0].name)
    if with_task:
        for name, source in bundle.files.items():
            write_text(folder / TASK_FOLDER / name, source, mode=PUBLIC)
    text = _settings_text(bundle, chosen, data, signed_updates=signed_updates, train_s_max=train_s_max)
    text += _privacy_text(helpers)
    write_text(settings, text, mode=PUBLIC)
    return folder


def _chosen_task(bundle: Bundle, task: str | None, folder: Path, *, with_task: bool) -> str:
    """What the device trains; sources that came with the file only by its owner's word.

    Raises:
        ConfigError: Nothing is named, or nobody has allowed what the file brings.
    """
    if task is not None:
        return task
    if bundle.task is None:
        raise ConfigError("--task", "this federation has a task of its own: name where it is on this device")
    released = _released(bundle)
    if not bundle.files and released is None:
        return bundle.task
    if not with_task:
        brought = ", ".join(f"{name} (SHA-256 {_sha256(source)})" for name, source in bundle.files.items())
        if released is not None:
            brought = f"release {released[0].number} of {bundle.task} (SHA-256 {released[0].sha256[:16]})"
        said = f"this file brings code: {brought}. Allow this device to run it, or name a task of its own by --task"
        raise ConfigError("--with-task", said, source="command line")
    place = folder.absolute() / TASK_FOLDER
    return str((place if released is None else place / released[0].name) / bundle.task)


def _released(bundle: Bundle) -> tuple[TaskRelease, bytes] | None:
    """The signed release that a file brings, and its archive; nothing of it is written before all of it is checked.

    Raises:
        ConfigError: The authority has not signed it, or the archive is another one, or breaks a rule.
    """
    if bundle.release is None or bundle.archive is None:
        return None
    release = read_release(bundle.release, bundle.authority, federation=bundle.federation)
    try:
        body = base64.b64decode(bundle.archive, validate=True)
    except binascii.Error as error:
        raise ConfigError("enrolment file", "archive: is no base64") from error
    if hashlib.sha256(body).hexdigest() != release.sha256 or release.task != bundle.task or release.withdrawn:
        raise ConfigError("enrolment file", "archive: is not the one that was signed")
    check_archive(body)
    return release, body


def _unpack(body: bytes, place: Path) -> None:
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        unpack(body, place)
    except OSError as error:
        raise StorageError(f"{place} cannot be written: {error.strerror}") from error


def _sha256(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _write_identity(folder: Path, bundle: Bundle) -> None:
    write_text(folder / AUTHORITY, bundle.authority, mode=PUBLIC)
    write_text(folder / COORDINATOR_KEY, bundle.coordinator_key, mode=PUBLIC)
    if bundle.key is not None and bundle.signing_key is not None:
        write_text(folder / SIGNING_KEY, bundle.signing_key, mode=PRIVATE)
        write_text(folder / KEY, bundle.key, mode=PRIVATE)
    write_text(folder / CERTIFICATE, bundle.certificate, mode=PUBLIC)


def _check_own_keys(folder: Path, bundle: Bundle) -> None:
    """A file without keys is for a device that has made them: its certificate is for the key that is here."""
    if bundle.key is not None:
        return
    try:
        key, signing = (read_text(folder / name, bytes_max=BUNDLE_BYTES_MAX) for name in (KEY, SIGNING_KEY))
    except ConfigError as error:
        said = f"{folder} has no keys, and this file brings none: it answers edge-node request, in that folder"
        raise ConfigError("--into", said, source="command line") from error
    read_identity(bundle.certificate, key, source="enrolment file")
    read_signing_key(signing, source=SIGNING_KEY)


def _check_same_node(settings: Path, bundle: Bundle) -> None:
    try:
        found = read_toml(read_text(settings, bytes_max=BUNDLE_BYTES_MAX))
        owner = (found["federation"]["id"], found["node"]["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("--into", f"{settings} cannot be read: take another folder", source="command line") from error
    if owner != (bundle.federation, bundle.node):
        said = f"{settings.parent} belongs to {owner[1]} of {owner[0]}: take another folder"
        raise ConfigError("--into", said, source="command line")


def _settings_text(bundle: Bundle, task: str, data: Path | None, *, signed_updates: bool, train_s_max: int) -> str:
    # JSON's strings are TOML's basic strings.
    place = "" if data is None else f"data = {json.dumps(str(data.absolute()))}\n"
    name = str(Path(task).absolute()) if _is_file(task) else task
    return f"""# The node {bundle.node} of the federation {bundle.federation}: edge-node run --config FOLDER
# Everything else has a default: docs/reference/configuration.md lists every key. {{here}}/ is the folder of this file.

[federation]
id = "{bundle.federation}"

[node]
# The certificate's CN, the MQTT client id and the topic level: leave it.
id = "{bundle.node}"

[broker]
url = {json.dumps(bundle.broker_url)}
tls_authority = "{{here}}/{AUTHORITY}"
tls_certificate = "{{here}}/{CERTIFICATE}"
tls_key = "{{here}}/{KEY}"

[security]
# Whatever the broker does: only what the coordinator has signed is obeyed.
require_signatures = true
coordinator_key = "{{here}}/{COORDINATOR_KEY}"
signing_key = "{{here}}/{SIGNING_KEY}"

[task]
# Installed on this device.
name = {json.dumps(name, ensure_ascii=False)}
# manual: no code comes over the network. signed: releases that the federation's authority has signed are run.
updates = "{"signed" if signed_updates else "manual"}"
{place}
[bounds]
# An announcement that asks for more is declined.
local_epochs_max = 100
model_bytes_max = 1073741824
# Seconds of one training.
train_s_max = {train_s_max}

[store]
# Outbox, residual, model; one process at a time.
folder = "{{here}}/state"
"""


def _pin(settings: Path, helpers: Sequence[str]) -> None:
    """Pin helpers in settings that have none: whoever was shown them when joining pins them by joining again."""
    wanted = _privacy_text(helpers)
    if not wanted:
        return
    text = read_text(settings, bytes_max=BUNDLE_BYTES_MAX)
    found = read_toml(text).get("privacy")
    if found is None:
        write_text(settings, text.rstrip("\n") + f"\n{wanted}", mode=PUBLIC)
    elif found != read_toml(wanted)["privacy"]:
        said = f"{settings} has a [privacy] of its own: change privacy.helpers there"
        raise ConfigError("--helper", said, source="command line")


def _privacy_text(helpers: Sequence[str]) -> str:
    """What pins helpers; nothing where there are none.

    Raises:
        ConfigError: One of them is none.
    """
    try:
        pinned = [str(one) for one in in_key_order(map(PinnedHelper.from_text, helpers))]
    except LocalProtocolError as error:
        raise ConfigError("--helper", str(error), source="command line") from error
    if not pinned:
        return ""
    return f"\n[privacy]\n# Nothing is sent that is not masked for these.\nhelpers = {json.dumps(pinned)}\n"


def _is_file(task: str) -> bool:
    """Whether a task is ``FILE.py:FUNCTION``: its place must not depend on where the node is started."""
    return task.partition(":")[0].endswith(".py")
