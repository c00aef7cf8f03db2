"""Manifests and launcher files: rendered, valid, and true to the code that they start."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from referencing import Registry, Resource

from orchestrator.config.command_line import parse, parse_with
from orchestrator.scoring.options import CheckpointOptions

CLUSTER = Path(__file__).resolve().parents[3] / "cluster"
OVERLAYS = sorted(folder.name for folder in (CLUSTER / "kuberay" / "overlays").iterdir())
LAUNCHERS = sorted((CLUSTER / "launcher").glob("*.yaml"))
KUBERNETES = "1.31"
KUBERAY = yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text())
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def rendered(overlay: str) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(CLUSTER / "kuberay" / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True).stdout))


def cluster_of(overlay: str) -> dict[str, Any]:
    (found,) = [one for one in rendered(overlay) if one["kind"] == "RayCluster"]
    return dict(found["spec"])


def groups_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def validate(resource: dict[str, Any]) -> None:
    """Validate against KubeRay's schema or Kubernetes' own; unknown fields are errors."""
    if resource["kind"] not in KUBERAY:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        return
    schemas = (
        Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    )
    own = Resource.from_contents(json.loads((schemas / "_definitions.json").read_text()))
    schema = {"$schema": KUBERAY["$schema"], "$defs": KUBERAY["$defs"], **KUBERAY[resource["kind"]]}
    jsonschema.Draft202012Validator(schema, registry=own @ Registry()).validate(resource)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_rendered_is_valid(overlay: str) -> None:
    found = rendered(overlay)
    for one in found:
        validate(one)
    assert {one["kind"] for one in found} == {
        "Namespace", "ServiceAccount", "NetworkPolicy", "Deployment", "Service", "RayCluster",
    }  # fmt: skip


@needs_kubectl
@pytest.mark.parametrize(
    "where, wrong",
    [
        ((), {"workerGroupSpec": []}),
        (("workerGroupSpecs", 0), {"maxReplicas": "8"}),
        (("headGroupSpec", "rayStartParams"), {"num-cpus": 0}),
        (("authOptions",), {"mode": "password"}),
        (("workerGroupSpecs", 0, "template", "spec"), {"toleration": []}),
    ],
)
def test_what_kuberay_would_refuse_is_not_valid(where: tuple[str | int, ...], wrong: dict[str, Any]) -> None:
    (cluster,) = [one for one in rendered("gpus-8") if one["kind"] == "RayCluster"]
    part = cluster["spec"]
    for step in where:
        part = part[step]
    part.update(wrong)
    with pytest.raises(jsonschema.ValidationError):
        validate(cluster)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_node_has_the_same_ray_and_shared_memory_and_none_a_secret(overlay: str) -> None:
    spec = cluster_of(overlay)
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    pods = [group["template"]["spec"] for group in groups_of(spec)]
    (container_images,) = {tuple(c["image"] for c in pod["containers"]) for pod in pods}
    assert container_images == ("dimr-ray:0.1.0",)
    for pod in pods:
        (container,) = pod["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
        assert volume["emptyDir"]["medium"] == "Memory"
        assert not [v["name"] for v in container["env"] if re.search("PASSWORD|SECRET|TOKEN|KEY", v["name"])]


@needs_kubectl
def test_training_alone_gets_the_fast_network() -> None:
    _, train, evaluate = groups_of(cluster_of("gpus-64-rdma"))
    assert train["maxReplicas"] == 8
    (container,) = train["template"]["spec"]["containers"]
    for kind in ("limits", "requests"):
        assert container["resources"][kind]["rdma/rdma_shared_device_a"] == "1"
        assert container["resources"][kind]["nvidia.com/gpu"] == "8"
    assert container["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}
    assert "rdma" not in str(evaluate)
    (namespace,) = [one for one in rendered("gpus-64-rdma") if one["kind"] == "Namespace"]
    # Pods that may lock memory are refused under "baseline".
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


@needs_kubectl
def test_five_hundred_gpus_have_a_head_that_holds_them() -> None:
    head, train, _ = groups_of(cluster_of("gpus-512"))
    (container,) = train["template"]["spec"]["containers"]
    assert train["maxReplicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"]) == 512
    assert "rdma/rdma_shared_device_a" in container["resources"]["limits"]
    small, *_ = groups_of(cluster_of("gpus-64"))
    cpus = [
        int(one["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) for one in (small, head)
    ]
    assert cpus[0] < cpus[1]
    written = (CLUSTER / "kuberay" / "overlays" / "gpus-512" / "kustomization.yaml").read_text()
    (words,) = re.findall(r"^# +(--train.workers .+)$", written, re.MULTILINE)
    config = parse("Test.", "imagenet256_g2r", shlex.split(words))
    assert config.train.workers == 512 and config.train.sharding == "hybrid"


@needs_kubectl
def test_workers_may_be_preempted_and_the_head_may_not() -> None:
    spec = cluster_of("gpus-64")
    train, evaluate = spec["workerGroupSpecs"]
    assert (train["minReplicas"], train["maxReplicas"]) == (0, 8)
    assert train["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    for group in (train, evaluate):
        assert any(one["key"] == "preemptible" for one in group["template"]["spec"]["tolerations"])
    assert "tolerations" not in spec["headGroupSpec"]["template"]["spec"]


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_jobs_give_settings_that_exist(name: str) -> None:
    job = yaml.safe_load((CLUSTER / "kuberay" / "jobs" / f"{name}.yaml").read_text())
    validate(job)
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "dimr"}
    python, script, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, script.rpartition("/")[0]) == ("python", "/opt/dimr-ray/jobs")
    assert (CLUSTER.parent / "jobs" / Path(script).name).is_file()
    if name == "train":
        config = parse("Test.", "quickstart", arguments)
        assert config.train.workers == 8
    else:
        config, options = parse_with(CheckpointOptions, "Test.", None, arguments)
        assert config.evaluation.images == 50_000 and options.checkpoint.startswith("s3://")
    # No node has a path of the machine on which the job was written.
    for path in (config.run.root, config.data.path, config.evaluation.reference):
        assert path is not None and path.startswith("s3://")


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: file.stem)
def test_ray_takes_the_launchers_files(file: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(file.read_text())
    validate_config(prepare_config(config))
    assert config["docker"]["image"] == "dimr-ray:0.1.0"
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


def test_the_image_holds_what_the_jobs_need_and_nothing_else() -> None:
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text()
    kept = re.findall(r"^!(.+)$", ignored, re.MULTILINE)
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
    assert sorted(kept) == sorted(name for line in copied for name in line.split())
    assert "USER 1000" in dockerfile
    # What git does not keep because it is secret stays out, too.
    for secret in (".env", "auth.ini"):
        assert secret in (CLUSTER.parent / ".gitignore").read_text().split()
        assert f"**/{secret}" in ignored.split()


def test_the_image_has_what_mlflows_server_needs() -> None:
    (needed,) = re.findall(
        r"^#   pip install (.+)$", (CLUSTER / "mlflow" / "serve.sh").read_text(), re.MULTILINE
    )
    (installed,) = re.findall(
        r"uv pip install .*-r pyproject.toml (.+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE
    )
    assert set(shlex.split(needed)) <= set(shlex.split(installed))
