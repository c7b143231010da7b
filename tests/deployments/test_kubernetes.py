"""The Kubernetes job template, rendered as the worker renders it. Needs `corrigenda[kubernetes]`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

KUBERNETES = Path(__file__).parents[2] / "deployments" / "kubernetes"
CLAIM = {"name": "cache", "persistentVolumeClaim": {"claimName": "corrigenda-cache"}}
GPU_NODES = {
    "node_selector": {"accelerator": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "annotations": {"team": "facts"},
    "service_account_name": "corrigenda",
    "image_pull_policy": "Never",
    "cache_volume": CLAIM,
}


def rendered(values: dict[str, Any]) -> dict[str, Any]:
    worker = pytest.importorskip("prefect_kubernetes.worker")
    template = json.loads((KUBERNETES / "base-job-template.json").read_text(encoding="utf-8"))
    kind = worker.KubernetesWorkerJobConfiguration
    values = {"command": "true", "env": {"A": "b"}} | values
    # No client is asked: the template refers to no block. Without one, a server would be started.
    made = asyncio.run(kind.from_template_and_values(template, values, client=object()))
    made.prepare_for_flow_run(_flow_run())
    manifest: dict[str, Any] = made.job_manifest
    return manifest


def _flow_run() -> Any:
    from uuid import uuid4

    from prefect.client.schemas.objects import FlowRun

    return FlowRun(id=uuid4(), name="night", flow_id=uuid4())


@pytest.mark.parametrize("values", [{}, GPU_NODES], ids=["defaults", "gpu nodes"])
def test_the_job_is_valid_to_the_letter(values: dict[str, Any]) -> None:
    job = rendered(values)
    validate = pytest.importorskip("kubernetes_validate").validate
    validate(job, "1.31", strict=True)
    assert (job["spec"]["parallelism"], job["spec"]["completions"]) == (1, 1)


def test_what_a_cluster_asks_for_arrives_in_the_pod() -> None:
    pod = rendered(GPU_NODES)["spec"]["template"]
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["nodeSelector"] == GPU_NODES["node_selector"]
    assert spec["tolerations"] == GPU_NODES["tolerations"]
    assert spec["serviceAccountName"] == "corrigenda"
    assert pod["metadata"]["annotations"]["team"] == "facts"
    assert container["imagePullPolicy"] == "Never"
    assert CLAIM in spec["volumes"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_pod_has_a_cache_of_its_own_unless_one_is_shared() -> None:
    spec = rendered({})["spec"]["template"]["spec"]
    assert {"name": "cache", "emptyDir": {"sizeLimit": "200Gi"}} in spec["volumes"]
