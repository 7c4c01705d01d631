"""A recipe as a Kubernetes Job with its ConfigMap, and for several nodes a headless Service: `kubectl apply -f FILE`.

Checked against the published schema of batch/v1 (tests/schemas/kubernetes.json).
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from dpo_recipes.errors import EXIT_DATA, EXIT_FIT, EXIT_RECIPE, EXIT_USAGE, RecipeError
from dpo_recipes.launch.manifest import RENDEZVOUS_PORT, ExportRequest, dump_documents, travelling_recipe

CONTAINER = "dpo-recipe"
WORK, RECIPE = "/work", "/recipe"
STOP_SECONDS = 300
"""The time in which an evicted pod must finish its step and write a checkpoint."""


def export(request: ExportRequest) -> str:
    """The text of the manifests. Raises `RecipeError` U423 (local files) and U424 (no image)."""
    return dump_documents(*manifests(request))


def manifests(request: ExportRequest) -> list[dict[str, Any]]:
    """ConfigMap, Job, and for several nodes a Service, as plain data."""
    if request.image is None:
        raise RecipeError.of(
            "U424",
            "a Kubernetes job needs a container image",
            why="no published image has the right CUDA version for every cluster",
            fix="build one with `pip install dpo-recipe` in it and name it: `--image NAME:TAG`",
        )
    text, files = travelling_recipe(request)
    if files:
        raise RecipeError.of(
            "U423",
            "the recipe uses files of this computer, which a pod cannot read",
            why=", ".join(map(str, files.values())),
            fix="put them on the hub or at an https, s3 or gs address, and name that in the recipe",
        )
    name = object_name(request.recipe.name)
    service = [_service(name)] if request.num_nodes > 1 else []
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name), "data": {"recipe.yaml": text}}
    return [config, *service, _job(request, name)]


def object_name(recipe_name: str) -> str:
    """A name that Kubernetes accepts. If characters are lost, a checksum keeps it distinct from other names.

    It has at most 50 characters, because pods and hosts append a number to it.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", recipe_name.lower()).strip("-")
    if plain == recipe_name and len(plain) <= 46:
        return f"dpo-{plain}"
    return f"dpo-{plain[:39].strip('-')}-{hashlib.sha256(recipe_name.encode()).hexdigest()[:6]}"


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {"app.kubernetes.io/name": CONTAINER, "app.kubernetes.io/instance": name}}


def _service(name: str) -> dict[str, Any]:
    """A headless Service: it gives every pod a host name, even before all are ready, for the rendezvous."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"app.kubernetes.io/instance": name},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def _job(request: ExportRequest, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "backoffLimit": 6,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                # A fault of the recipe, its data or its size would only fail again.
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [EXIT_USAGE, EXIT_RECIPE, EXIT_DATA, EXIT_FIT],
                    },
                },
            ]
        },
        "template": {"metadata": {"labels": _metadata(name)["labels"]}, "spec": _pod(request, name)},
    }
    if request.num_nodes > 1:
        spec = {"completionMode": "Indexed", "completions": request.num_nodes, "parallelism": request.num_nodes, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(name), "spec": spec}


def _pod(request: ExportRequest, name: str) -> dict[str, Any]:
    work = {"persistentVolumeClaim": {"claimName": request.claim}} if request.claim else {"emptyDir": {}}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "containers": [_container(request, name)],
        "volumes": [
            {"name": "recipe", "configMap": {"name": name}},
            {"name": "work", **work},
            # The default of 64 MB is too little for processes that exchange gradients.
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {"subdomain": name, **pod} if request.num_nodes > 1 else pod


def _container(request: ExportRequest, name: str) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": request.image,
        # The host name of the first pod of an indexed job is <job>-0.<service>.
        "command": ["dpo-recipe", "run", f"{RECIPE}/recipe.yaml", *request.run_flags(f"{name}-0.{name}")],
        "workingDir": WORK,
        "env": [
            {"name": "HOME", "value": WORK},
            {"name": "DPO_RECIPE_CACHE", "value": f"{WORK}/cache"},
            {"name": "HF_HOME", "value": f"{WORK}/huggingface"},
        ],
        "volumeMounts": [
            {"name": "recipe", "mountPath": RECIPE, "readOnly": True},
            {"name": "work", "mountPath": WORK},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    if request.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in request.secrets]
    if request.gpus_per_node:
        container["resources"] = {"limits": {"nvidia.com/gpu": request.gpus_per_node}}
    return container
