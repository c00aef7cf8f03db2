"""cluster/mlflow/serve.sh as it is: PostgreSQL, artifacts in S3, passwords; a run is tracked through it."""

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import mlflow
import pytest
import yaml
from PIL import Image

from orchestrator.tracking.tracker import Tracker
from tests.servers import free_port
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "a-long-password-of-tests"
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not POSTGRES, reason="needs PostgreSQL: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of its own on loopback; yields the URI of its database."""
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    is_root = os.geteuid() == 0
    user = "postgres" if is_root else None  # PostgreSQL refuses to run as root.
    if is_root:
        shutil.chown(folder, "postgres")
        for parent in (folder.parent, folder.parent.parent):
            parent.chmod(0o755)
    programs = POSTGRES[-1]
    data, secret = folder / "data", folder / "password"
    secret.write_text("database-password")
    secret.chmod(0o644)
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "mlflow", f"--pwfile={secret}", "--auth=scram-sha-256"],
        user=user, check=True, stdout=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    command = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    process = subprocess.Popen(command, user=user, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL answers")
        yield f"postgresql://mlflow:database-password@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: str, s3_server: str) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    example = (ROOT / "cluster/mlflow/auth.ini.example").read_text()
    written = example.replace("postgresql://USER:PASSWORD@HOST/NAME", database)
    (folder / "auth.ini").write_text(written.replace("AT_LEAST_TWELVE_CHARACTERS", PASSWORD))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_DATABASE": database,
        "MLFLOW_ARTIFACTS": f"{s3_server}/mlflow",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-secret-of-tests",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        # As Kubernetes sets it for a service of that name.
        "MLFLOW_PORT": "tcp://10.96.12.7:5000",
        "MLFLOW_LISTEN_PORT": str(port),
        "MLFLOW_SERVER_ALLOWED_HOSTS": allowed_hosts(),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [ROOT / "cluster/mlflow/serve.sh"], env=environment, stderr=log, stdout=log
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), f"MLflow answers ({folder}/log)")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def allowed_hosts() -> str:
    """What Kubernetes' server answers to."""
    documents = yaml.safe_load_all((ROOT / "cluster/kuberay/base/mlflow.yaml").read_text())
    container = next(documents)["spec"]["template"]["spec"]["containers"][0]
    return next(str(one["value"]) for one in container["env"] if one["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS")


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def log(folder: Path, server: str) -> str | None:
    """Track a small run; returns why it could not be written, or None."""
    tracker = Tracker(str(folder / "run"), "team", "shared", server)
    Image.new("L", (8, 8)).save(folder / "run" / "samples.png")
    tracker.log_metrics({"loss/total": 0.5}, 100)
    tracker.log_image("samples", "samples.png", 100)
    return tracker.close(120)


def test_a_run_is_tracked_with_a_password(
    tmp_path: Path, server: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert log(tmp_path, server) is None
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name("shared")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss/total")] == [100]
    listed = boto3.client("s3").list_objects_v2(Bucket=s3_server.removeprefix("s3://"), Prefix="mlflow/")
    assert any("samples" in found["Key"] for found in listed["Contents"])


@pytest.mark.parametrize(
    ("host", "code"), [("mlflow:5000", 401), ("mlflow.dimr:5000", 401), ("elsewhere.example:5000", 403)]
)
def test_it_answers_to_the_names_that_kubernetes_gives_it(server: str, host: str, code: int) -> None:
    asked = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(asked, headers={"Host": host}), timeout=PATIENCE)
    assert refused.value.code == code


def test_without_one_the_journal_keeps_everything(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-password")
    problem = log(tmp_path, server)
    assert problem is not None
    assert "not-the-password" not in problem
    assert "loss/total" in (tmp_path / "run" / "journal.jsonl").read_text()
