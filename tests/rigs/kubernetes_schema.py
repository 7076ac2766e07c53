"""The part of Kubernetes' API that our manifests use, strictly: a key that is not here is a mistake, or wants adding.

A schema is a type, a list with the schema of its items, or a mapping of keys to schemas; ``str`` as a key is any key.
Keys that end in ``!`` are required.
"""

from typing import Any

Schema = Any

_METADATA = {"name!": str, "namespace!": str}
_LABELS = {str: str}
_CAPABILITIES = {"drop!": [str]}
_SECURITY = {
    "allowPrivilegeEscalation!": bool,
    "readOnlyRootFilesystem!": bool,
    "capabilities!": _CAPABILITIES,
}
_PROBE = {
    "tcpSocket": {"port!": int},
    "exec": {"command!": [str]},
    "initialDelaySeconds": int,
    "periodSeconds": int,
    "failureThreshold": int,
}
_CONTAINER = {
    "name!": str,
    "image!": str,
    "command": [str],
    "args": [str],
    "workingDir": str,
    "env": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef!": {"name!": str, "key!": str}}}],
    "ports": [{"containerPort!": int}],
    "readinessProbe": _PROBE,
    "livenessProbe": _PROBE,
    "resources": {"requests": {str: (str, int)}, "limits": {str: (str, int)}},
    "securityContext!": _SECURITY,
    "volumeMounts": [{"name!": str, "mountPath!": str, "subPath": str, "readOnly": bool}],
}
_VOLUME = {
    "name!": str,
    "secret": {"secretName!": str, "defaultMode": int},
    "emptyDir": {"medium": str, "sizeLimit": str},
}
_POD = {
    "automountServiceAccountToken!": bool,
    "affinity": {
        "podAntiAffinity!": {
            "requiredDuringSchedulingIgnoredDuringExecution!": [
                {"labelSelector!": {"matchLabels!": _LABELS}, "topologyKey!": str}
            ]
        }
    },
    "securityContext!": {
        "runAsNonRoot!": bool,
        "runAsUser!": int,
        "runAsGroup!": int,
        "fsGroup!": int,
        "seccompProfile!": {"type!": str},
    },
    "initContainers": [_CONTAINER],
    "containers!": [_CONTAINER],
    "volumes": [_VOLUME],
}
_TEMPLATE = {"metadata!": {"labels!": _LABELS}, "spec!": _POD}
_HEAD = {"apiVersion!": str, "kind!": str, "metadata!": _METADATA}
_CLAIM = {
    "metadata!": {"name!": str},
    "spec!": {"accessModes!": [str], "resources!": {"requests!": {"storage!": str}}},
}

_TRAFFIC = {
    "from": [{"podSelector!": {"matchLabels!": _LABELS}}],
    "to": [{"podSelector!": {"matchLabels!": _LABELS}}],
    "ports!": [{"protocol!": str, "port!": int}],
}

KINDS: dict[tuple[str, str], Schema] = {
    ("v1", "Service"): _HEAD
    | {
        "spec!": {
            "type": str,
            "clusterIP": str,
            "selector!": _LABELS,
            "ports": [{"name": str, "port!": int, "targetPort": int}],
        }
    },
    ("apps/v1", "Deployment"): _HEAD
    | {
        "spec!": {
            "replicas!": int,
            "strategy": {"type!": str},
            "selector!": {"matchLabels!": _LABELS},
            "template!": _TEMPLATE,
        }
    },
    ("apps/v1", "StatefulSet"): _HEAD
    | {
        "spec!": {
            "serviceName!": str,
            "replicas!": int,
            "podManagementPolicy": str,
            "selector!": {"matchLabels!": _LABELS},
            "template!": _TEMPLATE,
            "volumeClaimTemplates": [_CLAIM],
        }
    },
    ("policy/v1", "PodDisruptionBudget"): _HEAD
    | {"spec!": {"minAvailable!": int, "selector!": {"matchLabels!": _LABELS}}},
    ("networking.k8s.io/v1", "NetworkPolicy"): _HEAD
    | {
        "spec!": {
            "podSelector!": {"matchLabels!": _LABELS},
            "policyTypes!": [str],
            "ingress": [_TRAFFIC],
            "egress": [_TRAFFIC],
        }
    },
}


def mistakes(value: Any, schema: Schema, place: str = "") -> list[str]:
    """What does not fit the schema, each with its place."""
    match schema:
        case dict():
            return _in_mapping(value, schema, place)
        case [item]:
            if not isinstance(value, list) or not value:
                return [f"{place}: needs a list with something in it"]
            return [said for index, one in enumerate(value) for said in mistakes(one, item, f"{place}[{index}]")]
        case _:
            wrong = not isinstance(value, schema) or (isinstance(value, bool) and schema is not bool)
            return [f"{place}: {value!r} is not {schema}"] if wrong else []


def _in_mapping(value: Any, schema: dict[Any, Schema], place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: needs a mapping"]
    if str in schema:
        return [said for key, one in value.items() for said in mistakes(one, schema[str], f"{place}.{key}")]
    known = {key.rstrip("!"): inner for key, inner in schema.items()}
    missing = [key.rstrip("!") for key in schema if key.endswith("!") and key.rstrip("!") not in value]
    found = [f"{place}: {key} is missing" for key in missing]
    found += [f"{place}: {key} is unknown" for key in value if key not in known]
    return found + [
        said for key, one in value.items() if key in known for said in mistakes(one, known[key], f"{place}.{key}")
    ]
