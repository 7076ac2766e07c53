"""``fedmq helper init`` and ``admit``: this helper's folder, its keys, and the nodes that its administrator knows."""

import datetime as dt
import json
from pathlib import Path

from federation.errors import ConfigError, LocalProtocolError
from federation.identity.bundle import BUNDLE_BYTES_MAX, Bundle, decode_bundle
from federation.identity.certificates import key_text, new_key, read_identity, read_key
from federation.identity.private_files import PRIVATE, PUBLIC, read_text, write_text
from federation.identity.request import decode_request, encode_request, new_request
from federation.identity.signing_keys import SigningKey, node_keys_text, read_node_keys, read_signing_key
from federation.protocol.topics import validate_helper_id, validate_node_id
from sum_helper.config import CONFIG_FILE

__all__ = ["admit", "ask", "install", "key_line"]

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "helper.crt", "helper.key"
COORDINATOR_KEY, SIGNING_KEY, REGISTER = "coordinator.pub", "signing.key", "register.json"


def ask(name: str, into: Path | None) -> tuple[Path, str]:
    """Make this helper's keys, unless they are there, and the file that asks for its certificate.

    Args:
        name: The helper's name.
        into: The folder for the keys; None is the helper's name, here.

    Returns:
        The request file, beside the folder, and the line that nodes and coordinator pin.

    Raises:
        ConfigError: The name cannot be a helper's, or the folder has keys that are damaged.
        StorageError: The folder cannot be written.
    """
    try:
        folder = Path(validate_helper_id(name)) if into is None else into
    except LocalProtocolError as error:
        raise ConfigError("NAME", str(error), source="command line") from error
    if not (folder / KEY).exists():
        write_text(folder / KEY, key_text(new_key()), mode=PRIVATE)
    if not (folder / SIGNING_KEY).exists():
        write_text(folder / SIGNING_KEY, SigningKey.new().pem, mode=PRIVATE)
    if not (folder / REGISTER).exists():
        write_text(folder / REGISTER, node_keys_text({}), mode=PUBLIC)
    key = read_key(read_text(folder / KEY, bytes_max=BUNDLE_BYTES_MAX), source=KEY)
    signing = read_signing_key(read_text(folder / SIGNING_KEY, bytes_max=BUNDLE_BYTES_MAX), source=SIGNING_KEY)
    file = folder.absolute().parent / f"{name}.request"
    write_text(file, encode_request(new_request(name, key, signing)), mode=PUBLIC)
    return file, key_line(name, signing)


def install(file: Path, into: Path | None) -> Path:
    """Install the file that answers a request of `ask`; a later one renews the certificate.

    Args:
        file: Of the coordinator's ``enroll --csr``.
        into: The folder with the keys; None is the helper's name, here.

    Returns:
        The folder.

    Raises:
        ConfigError: The file is not valid, or answers another request.
        StorageError: The folder cannot be written.
    """
    bundle = decode_bundle(read_text(file, bytes_max=BUNDLE_BYTES_MAX), now=dt.datetime.now(dt.UTC))
    folder = Path(bundle.node) if into is None else into
    if bundle.key is not None:
        said = (
            "it brings private keys, which whoever made it knows too: a helper makes its own (fedmq helper init NAME)"
        )
        raise ConfigError("FILE", said, source=str(file))
    read_identity(bundle.certificate, read_text(folder / KEY, bytes_max=BUNDLE_BYTES_MAX), source="enrolment file")
    write_text(folder / AUTHORITY, bundle.authority, mode=PUBLIC)
    write_text(folder / COORDINATOR_KEY, bundle.coordinator_key, mode=PUBLIC)
    write_text(folder / CERTIFICATE, bundle.certificate, mode=PUBLIC)
    if not (folder / CONFIG_FILE).exists():
        write_text(folder / CONFIG_FILE, _settings_text(bundle), mode=PUBLIC)
    return folder


def admit(register: Path, what: str) -> tuple[str, int]:
    """Write one node into the register.

    Args:
        register: The file.
        what: ``NODE=KEY`` with the node's public key in 64 hexadecimal digits, or the node's request file.

    Returns:
        The node's name, and how many are admitted now.

    Raises:
        ConfigError: It is neither, or another node has this key: one machine under two names would count twice.
        StorageError: The register cannot be written.
    """
    node, key = _node_key(what)
    known = read_node_keys(register) if register.exists() else {}
    for name, keys in known.items():
        if name != node and key in keys:
            raise ConfigError("NODE", f"{name} has this key: one machine would count twice", source="command line")
    keys = [one for one in known.get(node, []) if one != key]
    write_text(register, node_keys_text({**known, node: [*keys, key]}), mode=PUBLIC)
    return node, len(known.keys() | {node})


def key_line(name: str, key: SigningKey) -> str:
    """What is pinned of a participant: its name and its public key."""
    return f"{name}={key.public_hex}"


def _node_key(what: str) -> tuple[str, str]:
    name, given, key = what.partition("=")
    if not given and not Path(what).exists():
        raise ConfigError(
            "NODE=KEY", f"{what} is no file and has no key: edge-node doctor prints the line", source="command line"
        )
    if not given:
        request = decode_request(read_text(Path(what), bytes_max=BUNDLE_BYTES_MAX))
        return request.node, request.signing_key
    try:
        if len(bytes.fromhex(key)) == 32 and len(key) == 64:
            return validate_node_id(name), key.lower()
    except (ValueError, LocalProtocolError):
        pass
    raise ConfigError("NODE", f"{what!r} is not NODE=KEY, the key in 64 hexadecimal digits", source="command line")


def _settings_text(bundle: Bundle) -> str:
    # JSON's strings are TOML's basic strings.
    return f"""# The helper {bundle.node} of the federation {bundle.federation}: fedmq helper run --config FOLDER
# Everything else has a default: docs/reference/configuration.md lists every key. {{here}}/ is the folder of this file.

[federation]
id = "{bundle.federation}"

[helper]
# The certificate's CN, the MQTT client id and the topic level: leave it.
id = "{bundle.node}"
# Only nodes that fedmq helper admit has written there are counted.
register = "{{here}}/{REGISTER}"

[broker]
url = {json.dumps(bundle.broker_url)}
tls_authority = "{{here}}/{AUTHORITY}"
tls_certificate = "{{here}}/{CERTIFICATE}"
tls_key = "{{here}}/{KEY}"

[security]
coordinator_key = "{{here}}/{COORDINATOR_KEY}"
signing_key = "{{here}}/{SIGNING_KEY}"

[rules]
# Nobody learns a sum over fewer nodes.
members_min = 8

[store]
# Never put back a copy of it: what was used since would be forgotten, and could be revealed a second time.
folder = "{{here}}/state"
"""
