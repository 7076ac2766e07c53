"""The Kubernetes manifests: what the API takes, parts that fit together, hardened, at home with `coordinator init`."""

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from coordinator.enrolment.cli import init
from site_gateway.cli import app as gateway
from site_gateway.config import read_config
from tests.rigs.kubernetes_schema import KINDS, mistakes

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
FILES: dict[str, list[dict[str, Any]]] = {
    name: list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))
    for name in ("fedmq", "high-availability", "gateways")
}
DOCUMENTS = [document for documents in FILES.values() for document in documents]
RUNNING = ("Deployment", "StatefulSet")
WORKLOADS = [document for document in DOCUMENTS if document["kind"] in RUNNING]
PODS = [document["spec"]["template"]["spec"] for document in WORKLOADS]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for file, documents in FILES.items():
        for document in documents:
            pod = document["spec"]["template"]["spec"] if document["kind"] in RUNNING else {"containers": ()}
            for container in (*pod.get("initContainers", ()), *pod["containers"]):
                yield f"{file}/{document['metadata']['name']}/{container['name']}", container


CONTAINERS = dict(containers())


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: f"{document['kind']}-{document['metadata']['name']}"
)
def test_a_manifest_has_only_what_the_api_knows(document: dict[str, Any]) -> None:
    assert mistakes(document, KINDS[document["apiVersion"], document["kind"]]) == []


def test_a_mistake_is_found_with_its_place() -> None:
    wrong = copy.deepcopy(WORKLOADS[0])
    pod = wrong["spec"]["template"]["spec"]
    pod["containers"][0]["livenesProbe"] = pod["containers"][0].pop("livenessProbe")
    del pod["securityContext"]["runAsNonRoot"]
    wrong["spec"]["replicas"] = "1"
    assert mistakes(wrong, KINDS[wrong["apiVersion"], wrong["kind"]]) == [
        ".spec.replicas: '1' is not <class 'int'>",
        ".spec.template.spec.securityContext: runAsNonRoot is missing",
        ".spec.template.spec.containers[0]: livenesProbe is unknown",
    ]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda document: document["metadata"]["name"])
def test_a_workload_finds_its_own_pods_and_only_who_shares_a_database_has_a_second_one(
    workload: dict[str, Any],
) -> None:
    spec = workload["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    shared = "FEDMQ_COORDINATOR__STORE__URL" in {
        one["name"] for container in spec["template"]["spec"]["containers"] for one in container.get("env", ())
    }
    shards = workload["metadata"]["name"] == "gateway"
    assert spec["replicas"] == (2 if shared or shards else 1)


def test_two_coordinators_are_on_two_machines_and_do_not_wait_for_each_other() -> None:
    (pair,) = [one for one in WORKLOADS if "affinity" in one["spec"]["template"]["spec"]]
    assert pair["spec"]["replicas"] == 2
    labels = pair["spec"]["template"]["metadata"]["labels"]
    affinity = pair["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    (apart,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart == {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    assert pair["spec"]["podManagementPolicy"] == "Parallel"
    (budget,) = [one["spec"] for one in DOCUMENTS if one["kind"] == "PodDisruptionBudget"]
    assert (budget["minAvailable"], budget["selector"]["matchLabels"]) == (1, labels)


def test_a_policy_lets_through_what_the_pods_use_and_no_more() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in FILES["high-availability"] if one["kind"] == "NetworkPolicy"
    }
    assert policies.keys() == {"broker", "coordinator"}
    for name, policy in policies.items():
        assert policy["podSelector"]["matchLabels"] == {"app": name}
        assert policy["policyTypes"] == ["Ingress", "Egress"]

    def ports(rules: list[dict[str, Any]]) -> set[int]:
        return {port["port"] for rule in rules for port in rule["ports"]}

    assert (ports(policies["broker"]["ingress"]), policies["broker"].get("egress")) == ({8883}, None)
    assert (ports(policies["coordinator"]["egress"]), policies["coordinator"].get("ingress")) == (
        {8883, 5432, 53},
        None,
    )


def selectors(workload: dict[str, Any]) -> list[dict[str, str]]:
    """What leads to all pods of a workload, or to one of them by the name that a stateful set gives it."""
    one_by_one = [
        {"statefulset.kubernetes.io/pod-name": f"{workload['metadata']['name']}-{number}"}
        for number in range(workload["spec"]["replicas"] if workload["kind"] == "StatefulSet" else 0)
    ]
    return [workload["spec"]["template"]["metadata"]["labels"], *one_by_one]


@pytest.mark.parametrize("file", FILES)
def test_every_service_leads_to_pods_that_listen(file: str) -> None:
    workloads = [document for document in FILES[file] if document["kind"] in RUNNING]
    for service in (document for document in FILES[file] if document["kind"] == "Service"):
        (pod,) = [
            workload["spec"]["template"]["spec"]
            for workload in workloads
            if service["spec"]["selector"] in selectors(workload)
        ]
        listening = {port["containerPort"] for one in pod["containers"] for port in one.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"].get("ports", ())} <= listening
    names = {document["metadata"]["name"] for document in FILES[file] if document["kind"] == "Service"}
    assert {w["spec"]["serviceName"] for w in workloads if w["kind"] == "StatefulSet"} <= names


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_can_do_nothing_that_it_need_not(name: str) -> None:
    context = CONTAINERS[name]["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for pod in PODS:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda document: document["metadata"]["name"])
def test_what_is_mounted_is_a_volume_and_every_volume_is_mounted(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    claims = workload["spec"].get("volumeClaimTemplates", ())
    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    every = (*pod.get("initContainers", ()), *pod["containers"])
    assert {mount["name"] for one in every for mount in one.get("volumeMounts", ())} == volumes


@pytest.mark.parametrize("file", ["fedmq", "high-availability"])
def test_the_roles_find_what_coordinator_init_has_written(file: str, tmp_path: Path) -> None:
    init(tmp_path / "plant", host=["fedmq.example"], evaluate=False)
    plant = tmp_path / "plant"
    # As the head of the manifest makes the two secrets: a folder's files, without its folders.
    broker = {path.name for path in (plant / "broker").iterdir() if path.is_file()}
    coordinator = {"coordinator.toml"} | {path.name for path in (plant / "coordinator").iterdir()}
    settings = (plant / "broker/mosquitto.conf").read_text().splitlines()
    named = {line.split()[1] for line in settings if line.split()[:1] and line.split()[0] in FILES_OF_BROKER}
    assert named <= broker
    text = (plant / "coordinator.toml").read_text()
    assert {part.split('"')[0] for part in text.split("{here}/coordinator/")[1:]} <= coordinator
    mounts = {mount["mountPath"]: mount for mount in CONTAINERS[f"{file}/coordinator/coordinator"]["volumeMounts"]}
    assert mounts["/fleet/coordinator.toml"]["subPath"] == "coordinator.toml"
    assert mounts["/fleet/coordinator"]["readOnly"] is True
    port = next(document for document in FILES[file] if document["kind"] == "Service")["spec"]["ports"][0]["port"]
    assert f"listener {port}" in settings
    url = next(
        one for one in CONTAINERS[f"{file}/coordinator/coordinator"]["env"] if one["name"].endswith("BROKER__URL")
    )
    assert url["value"] == f"mqtts://broker:{port}"


def test_each_pod_unpacks_the_folder_that_gateway_init_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the head of the manifest makes an archive, and as the pod unpacks and names it."""
    init(tmp_path / "plant", host=["hub.example"], task="quadratic-50", evaluate=False, enroll_=["gateway-1"])
    made = tmp_path / "gateway-1"
    words = ["--join", str(tmp_path / "plant/enrolled/gateway-1.fedmq"), "--host", "shard-1.fedmq.example"]
    told = CliRunner().invoke(gateway, ["init", str(made), *words])
    assert told.exit_code == 0, told.output
    head = (FOLDER / "gateways.yaml").read_text().split("apiVersion", 1)[0]
    (line,) = [one.lstrip("# ") for one in head.splitlines() if "tar -czf" in one]
    (unpack,) = POD_OF_GATEWAYS["initContainers"]
    pod, archives = tmp_path / "pod", tmp_path / "archives"
    for folder in (pod, archives):
        folder.mkdir()
    command = line.replace("gateway-N", "gateway-1").replace("-czf ", f"-czf {archives}/")
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True)
    assert (archives / "gateway-1.tgz").stat().st_size < SECRET_BYTES_MAX // 3
    shell, flag, script = unpack["command"]
    script = (
        script.replace("/archives", str(archives)).replace("/gateway", str(pod)).replace("$(hostname)", "gateway-1")
    )
    subprocess.run([shell, flag, script], check=True)
    assert not (pod / "below/authority").exists()
    environ = {one["name"]: one["value"] for one in CONTAINERS["gateways/gateway/gateway"]["env"]}
    settings = read_config(pod, {}, environ=environ)
    assert (settings.above.node.id, settings.above.state_folder) == ("gateway-1", Path("/state/above"))
    assert settings.below.store.folder == Path("/state/below")
    for keys in (settings.above.security.signing_key, settings.below.security.node_keys):
        assert keys is not None
        assert keys.is_relative_to(pod)
        assert keys.is_file()
    broker = CONTAINERS["gateways/gateway/mosquitto"]
    place = pod / Path(broker["workingDir"]).relative_to("/gateway")
    assert (place / broker["command"][-1]).is_file()
    assert (place / "data").is_dir()
    monkeypatch.chdir(place)
    named = [line.split() for line in (place / "mosquitto.conf").read_text().splitlines()]
    assert all(Path(words[1]).is_file() for words in named if words[:1] and words[0] in FILES_OF_BROKER)


def test_nodes_keep_their_broker_while_the_link_above_is_down() -> None:
    """A pod that is not ready gets no connections: only what the nodes need may say so."""
    ready = {one["name"]: one.get("readinessProbe") for one in POD_OF_GATEWAYS["containers"]}
    assert ready["mosquitto"] == {"tcpSocket": {"port": 8883}, "periodSeconds": 5}
    policy = next(one["spec"] for one in FILES["gateways"] if one["kind"] == "NetworkPolicy")
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert (ports, [port["port"] for rule in policy["ingress"] for port in rule["ports"]]) == ({8883, 53}, [8883])


(POD_OF_GATEWAYS,) = [one["spec"]["template"]["spec"] for one in FILES["gateways"] if one["kind"] == "StatefulSet"]
SECRET_BYTES_MAX = 1 << 20

FILES_OF_BROKER = {"cafile", "certfile", "keyfile", "crlfile", "acl_file"}


def test_an_overlay_pins_the_images_by_digest_and_changes_nothing_else(tmp_path: Path) -> None:
    """The base renders to the objects of the manifest; needs kubectl, which asks no cluster for that."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("needs kubectl")
    digest = f"sha256:{'ab' * 32}"
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{os.path.relpath(FOLDER, tmp_path)}]\n"
        f"images: [{{ name: fedmq-coordinator, digest: '{digest}' }}]\n"
    )
    rendered = {}
    for folder in (FOLDER, tmp_path):
        line = [program, "kustomize", str(folder)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if "unknown command" in done.stderr or "must be a file" in done.stderr:
            pytest.skip("needs kubectl 1.21 or newer: the kustomize of this one takes no folder")
        assert done.returncode == 0, done.stderr
        rendered[folder] = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}
    assert rendered[FOLDER] == {(one["kind"], one["metadata"]["name"]): one for one in FILES["fedmq"]}
    pinned = rendered[tmp_path]["StatefulSet", "coordinator"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert pinned == f"fedmq-coordinator@{digest}"
