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

from coordinator.enrolment.cli import init
from tests.rigs.kubernetes_schema import KINDS, mistakes

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
FILES: dict[str, list[dict[str, Any]]] = {
    name: list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text())) for name in ("fedmq", "high-availability")
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
    assert spec["replicas"] == (2 if shared else 1)


def test_two_coordinators_are_on_two_machines_and_do_not_wait_for_each_other() -> None:
    (pair,) = [one for one in WORKLOADS if one["spec"]["replicas"] > 1]
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


@pytest.mark.parametrize("file", FILES)
def test_every_service_leads_to_pods_that_listen(file: str) -> None:
    workloads = [document for document in FILES[file] if document["kind"] in RUNNING]
    for service in (document for document in FILES[file] if document["kind"] == "Service"):
        (pod,) = [
            workload["spec"]["template"]["spec"]
            for workload in workloads
            if workload["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]
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


@pytest.mark.parametrize("file", FILES)
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
        line = [program, "kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if "unknown command" in done.stderr:
            pytest.skip("this kubectl has no kustomize")
        assert done.returncode == 0, done.stderr
        rendered[folder] = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}
    assert rendered[FOLDER] == {(one["kind"], one["metadata"]["name"]): one for one in FILES["fedmq"]}
    pinned = rendered[tmp_path]["StatefulSet", "coordinator"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert pinned == f"fedmq-coordinator@{digest}"
