"""A federation's folder: made once, enrolls, renews and revokes, and never loses a certificate that it handed out."""

import datetime as dt
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509

from coordinator.app import coordinator_trust
from coordinator.config.sections import read_config
from coordinator.config.settings import engine_settings
from coordinator.enrolment import federation
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.register import load_register, locked
from coordinator.enrolment.texts import PATIENCE, FleetPlan
from coordinator.runtime.connections import data_address
from federation.config import broker_address
from federation.errors import ConfigError, StorageError
from federation.identity.bundle import Bundle, decode_bundle
from federation.identity.certificates import check_identity, new_key, read_certificate
from federation.identity.private_files import write_text
from federation.identity.request import new_request
from federation.identity.signing_keys import SigningKey, enrolled_nodes, read_signing_key
from federation.runtime.local_broker import BROKER_LIMITS
from federation.types import FederationId, NodeId

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
PLAN = FleetPlan(
    federation=FederationId("plant"), hosts=("broker.example", "10.0.0.2"), port=8883, task="digits", evaluate=False
)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(folder=FleetFolder(tmp_path / "plant"), now=NOW)
    made.create(PLAN)
    return made


def bundle(fleet: Fleet, node: str) -> Bundle:
    return decode_bundle(fleet.folder.bundle(NodeId(node)).read_text(), now=fleet.now)


def revoked_serials(fleet: Fleet) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(fleet.folder.revoked.read_bytes())}


def denied(fleet: Fleet) -> list[str]:
    lines = (fleet.folder.broker / "acl").read_text().splitlines()
    return [user.removeprefix("user ") for user, rule in pairwise(lines) if rule.startswith("topic deny")]


def test_its_settings_are_accepted_wherever_the_folder_is_moved(fleet: Fleet, tmp_path: Path) -> None:
    moved = fleet.folder.root.rename(tmp_path / "moved")
    config = read_config(moved, {}, environ={})
    assert (config.federation.id, config.broker.url) == ("plant", "mqtts://localhost:8883")
    assert (config.store.folder, config.evaluation.every) == (moved / "state", 0)
    assert engine_settings(config).quorum == 1
    control = broker_address(config.broker)
    data = data_address(config.broker, control)
    for address, name in ((control, "coordinator-plant-control"), (data, "coordinator-plant-data")):
        assert address.tls is not None
        address.tls.context()
        certificate = read_certificate(Path(str(address.tls.certificate)).read_text())
        authority = read_certificate(Path(str(address.tls.authority)).read_text())
        check_identity(certificate, authority, name=name, now=NOW)


@pytest.mark.parametrize("evaluate", [True, False])
def test_the_run_of_a_new_federation_comes_to_an_end(tmp_path: Path, evaluate: bool) -> None:
    fleet = Fleet(folder=FleetFolder(tmp_path / "plant"), now=NOW)
    fleet.create(replace(PLAN, evaluate=evaluate))
    settings = engine_settings(read_config(fleet.folder.root, {}, environ={}))
    assert (settings.versions, settings.stopping.patience) == (1000, PATIENCE if evaluate else 0)


def test_a_second_certificate_needs_its_key(fleet: Fleet) -> None:
    section = read_config(fleet.folder.root, {}, environ={}).broker
    control = broker_address(section)
    with pytest.raises(ConfigError, match="tls_data_key"):
        data_address(section.model_copy(update={"tls_data_key": None}), control)
    alone = section.model_copy(update={"tls_data_key": None, "tls_data_certificate": None})
    assert data_address(alone, control) is control


def test_the_brokers_limits_are_those_of_the_tests(fleet: Fleet) -> None:
    lines = (fleet.folder.broker / "mosquitto.conf").read_text().splitlines()
    settings = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert {key: settings.get(key) for key in BROKER_LIMITS} == dict(BROKER_LIMITS)
    assert settings["listener"] == "8883"


def test_keys_are_their_owners_alone(fleet: Fleet) -> None:
    fleet.enroll(["edge-01"])
    secret = [path for path in fleet.folder.root.rglob("*") if path.suffix in {".key", ".fedmq"}]
    assert len(secret) == 6
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


def test_the_brokers_certificate_has_every_name_by_which_it_is_reached(fleet: Fleet) -> None:
    certificate = read_certificate(fleet.folder.broker_pair[0].read_text())
    names = [
        str(name.value) for name in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ]
    assert names == ["broker.example", "10.0.0.2", "localhost", "127.0.0.1", "::1", "broker"]


def test_an_enrolment_file_is_complete(fleet: Fleet) -> None:
    fleet.enroll(["edge-01", "edge-02"])
    made = bundle(fleet, "edge-02")
    assert (made.federation, made.broker_url, made.task) == ("plant", "mqtts://broker.example:8883", "digits")


def test_a_task_of_ones_own_is_not_named_to_devices(tmp_path: Path) -> None:
    fleet = Fleet(folder=FleetFolder(tmp_path), now=NOW)
    fleet.create(replace(PLAN, task='my "task".py:build', hosts=("::1",)))
    fleet.enroll(["edge-01"])
    assert (bundle(fleet, "edge-01").task, bundle(fleet, "edge-01").broker_url) == (None, "mqtts://[::1]:8883")
    assert read_config(tmp_path, {}, environ={}).task.name == 'my "task".py:build'


@pytest.mark.parametrize("name", ["", "a/b", "+", "edge 1", "coordinator-plant-control", "broker", "x" * 65])
def test_a_name_that_cannot_be_a_nodes_enrolls_nobody(fleet: Fleet, name: str) -> None:
    with pytest.raises(ConfigError):
        fleet.enroll(["edge-01", name])
    assert not list((fleet.folder.root / "enrolled").iterdir())
    assert load_register(fleet.folder.register).of("edge-01") == []


def test_a_node_is_enrolled_once(fleet: Fleet) -> None:
    fleet.enroll(["edge-01"])
    with pytest.raises(ConfigError, match="renew it, or revoke it first"):
        fleet.enroll(["edge-01"])


def test_a_federation_is_made_once(fleet: Fleet) -> None:
    before = fleet.folder.authority[1].read_text()
    with pytest.raises(ConfigError, match="take another folder"):
        fleet.create(PLAN)
    assert fleet.folder.authority[1].read_text() == before


def test_a_federations_name_must_fit_into_a_certificate(tmp_path: Path) -> None:
    fleet = Fleet(folder=FleetFolder(tmp_path), now=NOW)
    with pytest.raises(ConfigError, match="more than 40 characters"):
        fleet.create(replace(PLAN, federation=FederationId("x" * 41)))
    fleet.create(replace(PLAN, federation=FederationId("x" * 40)))


def test_revoking_names_every_certificate_of_the_node_and_silences_it(fleet: Fleet) -> None:
    fleet.enroll(["edge-01", "edge-02"])
    fleet.renew(["edge-01"])
    serials = {int(one.serial) for one in load_register(fleet.folder.register).of("edge-01")}
    fleet.revoke(["edge-01"])
    assert len(serials) == 2
    # And one that nobody uses: a broker that refuses it has read the list.
    refused = read_certificate(fleet.folder.revoked_pair[0].read_text()).serial_number
    assert revoked_serials(fleet) == {*serials, refused}
    assert denied(fleet) == ["edge-01"]
    assert not fleet.folder.bundle(NodeId("edge-01")).exists()
    assert fleet.folder.bundle(NodeId("edge-02")).exists()


def test_revoking_again_writes_nothing_so_that_a_copied_list_can_be_checked(fleet: Fleet) -> None:
    fleet.enroll(["edge-01"])
    fleet.revoke(["edge-01"])
    before = (fleet.folder.revoked.read_bytes(), fleet.folder.revoked_pair[0].read_bytes())
    assert fleet.revoke(["edge-01"]) == ["edge-01"]
    assert (fleet.folder.revoked.read_bytes(), fleet.folder.revoked_pair[0].read_bytes()) == before


@pytest.mark.parametrize("file", ["acl", "nodes.json", "revoked.crl"])
def test_a_revocation_that_was_cut_short_is_done_by_the_next_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """A full disk, or a kill, between the register and any of the files that say it to others."""
    fleet.enroll(["edge-01", "edge-02"])

    def full(path: Path, text: str, *, mode: int) -> None:
        if path.name == file:
            raise StorageError("no space left on device")
        write_text(path, text, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(federation, "write_text", full)
        with pytest.raises(StorageError):
            fleet.revoke(["edge-01"])
    fleet.revoke(["edge-01"])
    refused = read_certificate(fleet.folder.revoked_pair[0].read_text()).serial_number
    assert {refused, *(int(one.serial) for one in load_register(fleet.folder.register).of("edge-01"))} == (
        revoked_serials(fleet)
    )
    assert denied(fleet) == ["edge-01"]
    assert enrolled_nodes(fleet.folder.node_keys) == {"edge-02"}


def test_a_list_that_is_damaged_is_replaced(fleet: Fleet) -> None:
    fleet.enroll(["edge-01"])
    fleet.folder.revoked.write_text(fleet.folder.revoked.read_text()[:40])
    fleet.revoke(["edge-01"])
    assert len(revoked_serials(fleet)) == 2
    fleet.folder.revoked.write_text("")
    fleet.revoke(["edge-01"])
    assert len(revoked_serials(fleet)) == 3


def test_a_list_that_a_wrong_clock_has_dated_ahead_does_not_lock_everybody_out_for_longer(fleet: Fleet) -> None:
    fleet.enroll(["edge-01", "edge-02"])
    replace(fleet, now=NOW + dt.timedelta(days=100)).revoke(["edge-01"])
    fleet.revoke(["edge-02"])
    assert x509.load_pem_x509_crl(fleet.folder.revoked.read_bytes()).last_update_utc < NOW


def test_a_successor_of_a_revoked_node_is_in_the_next_list(fleet: Fleet) -> None:
    fleet.enroll(["edge-01", "edge-02"])
    fleet.revoke(["edge-01"])
    successor = fleet.successor(NodeId("edge-01")).certificate.serial_number
    assert successor not in revoked_serials(fleet)
    assert denied(fleet) == ["edge-01"]
    fleet.revoke(["edge-02"])
    assert successor in revoked_serials(fleet)


def test_a_revoked_node_may_be_enrolled_again(fleet: Fleet) -> None:
    fleet.enroll(["edge-01"])
    fleet.revoke(["edge-01"])
    with pytest.raises(ConfigError, match="not enrolled"):
        fleet.renew(["edge-01"])
    fleet.enroll(["edge-01"])
    serial = read_certificate(bundle(fleet, "edge-01").certificate).serial_number
    assert serial not in revoked_serials(fleet)
    assert denied(fleet) == []


def test_a_node_that_was_never_enrolled_cannot_be_revoked(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="edge-09: is not enrolled"):
        fleet.revoke(["edge-09"])


def test_each_list_begins_later_than_the_one_before(fleet: Fleet) -> None:
    begins = []
    for _ in range(3):
        fleet.enroll(["edge-01"])
        fleet.revoke(["edge-01"])
        begins.append(x509.load_pem_x509_crl(fleet.folder.revoked.read_bytes()).last_update_utc)
    assert begins == sorted(set(begins))
    assert begins[-1] < NOW


def test_what_ends_soon_is_found_and_renewed(fleet: Fleet) -> None:
    fleet.enroll(["edge-01"], days=20)
    fleet.enroll(["edge-02", "edge-03"], days=5)
    fleet.revoke(["edge-03"])
    assert [name for name, _ in fleet.expiring(within_days=30)] == ["edge-01", "edge-02"]
    later = replace(fleet, now=NOW + dt.timedelta(days=6))
    later.renew(["edge-02"])
    assert [name for name, _ in later.expiring(within_days=30)] == ["edge-01"]
    assert bundle(later, "edge-02").node == "edge-02"


def test_the_servers_certificates_are_renewed_with_the_same_names(fleet: Fleet) -> None:
    paths = [fleet.folder.broker_pair[0], *(fleet.folder.coordinator(name)[0] for name in ("control", "data"))]
    before = [read_certificate(path.read_text()) for path in paths]
    replace(fleet, now=NOW + dt.timedelta(days=360)).renew_server()
    after = [read_certificate(path.read_text()) for path in paths]
    kind = x509.SubjectAlternativeName
    assert after[0].extensions.get_extension_for_class(kind) == before[0].extensions.get_extension_for_class(kind)
    assert [one.subject for one in after] == [one.subject for one in before]
    assert all(new.not_valid_after_utc > old.not_valid_after_utc for new, old in zip(after, before, strict=True))


def test_two_commands_at_once_do_not_forget_each_others_certificates(fleet: Fleet) -> None:
    with locked(fleet.folder.register), pytest.raises(StorageError, match="another command"):
        fleet.enroll(["edge-01"])
    assert load_register(fleet.folder.register).of("edge-01") == []


def test_a_folder_without_a_federation_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coordinator init"):
        Fleet(folder=FleetFolder(tmp_path), now=NOW).enroll(["edge-01"])


def test_a_damaged_register_is_not_overwritten(fleet: Fleet) -> None:
    fleet.folder.register.write_text('{"federation": "plant"}')
    with pytest.raises(ConfigError, match="is damaged"):
        fleet.enroll(["edge-01"])
    assert fleet.folder.register.read_text() == '{"federation": "plant"}'


def test_the_compose_file_mounts_what_is_there_and_not_the_authority(fleet: Fleet) -> None:
    text = fleet.folder.compose.read_text()
    mounted = re.findall(r"- \./([\w.]+):", text)
    assert set(mounted) == {"broker", "coordinator.toml", "coordinator", "state", "nodes"}
    assert all((fleet.folder.root / name).exists() for name in mounted)
    assert text.count("read_only: true") == text.count("cap_drop: [ALL]") == text.count("    user:") == 3


def keys_of(fleet: Fleet) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(fleet.folder.node_keys.read_text())["nodes"]
    return found


def test_the_coordinator_knows_the_signing_keys_of_who_is_enrolled_and_of_nobody_else(fleet: Fleet) -> None:
    """FED-76."""
    assert keys_of(fleet) == {}
    fleet.enroll(["edge-01", "edge-02"])
    first = {
        name: read_signing_key(bundle(fleet, name).signing_key or "", source="x") for name in ("edge-01", "edge-02")
    }
    assert keys_of(fleet) == {name: [key.public_hex] for name, key in first.items()}
    fleet.renew(["edge-01"])  # until the new file is installed the device signs with the old key
    second = read_signing_key(bundle(fleet, "edge-01").signing_key or "", source="x")
    assert keys_of(fleet)["edge-01"] == [first["edge-01"].public_hex, second.public_hex]
    fleet.revoke(["edge-01"])
    assert set(keys_of(fleet)) == {"edge-02"}


def test_every_enrolment_file_pins_the_key_with_which_the_coordinator_signs(fleet: Fleet) -> None:
    """FED-76."""
    fleet.enroll(["edge-01", "edge-02"])
    pinned = {bundle(fleet, name).coordinator_key for name in ("edge-01", "edge-02")}
    assert pinned == {read_signing_key(fleet.folder.signing_key.read_text(), source="x").public_pem}
    trust = coordinator_trust(read_config(fleet.folder.root, {}, environ={}).security)
    assert trust.signer is not None
    assert trust.verifier is not None


def test_a_device_that_makes_its_own_keys_gets_no_secret_and_keeps_them_when_renewed(fleet: Fleet) -> None:
    key, signing = new_key(), SigningKey.new()
    assert fleet.enroll_request(new_request("edge-04", key, signing)) == "edge-04"
    assert "PRIVATE" not in fleet.folder.bundle(NodeId("edge-04")).read_text()
    assert keys_of(fleet) == {"edge-04": [signing.public_hex]}
    before = read_certificate(bundle(fleet, "edge-04").certificate)
    fleet.renew(["edge-04"])
    after = read_certificate(bundle(fleet, "edge-04").certificate)
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key() == key.public_key()
    assert keys_of(fleet) == {"edge-04": [signing.public_hex]}
    with pytest.raises(ConfigError, match="is enrolled"):
        fleet.enroll_request(new_request("edge-04", new_key(), SigningKey.new()))
    with pytest.raises(ConfigError, match="kept for the server"):
        fleet.enroll_request(new_request("broker", new_key(), SigningKey.new()))


def test_a_folder_of_before_gets_a_signing_key_at_the_next_enrolment(fleet: Fleet) -> None:
    fleet.folder.signing_key.unlink()
    fleet.enroll(["edge-01"])
    assert read_signing_key(fleet.folder.signing_key.read_text(), source="x").public_pem
