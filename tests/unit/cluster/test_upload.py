"""What `ray job submit --working-dir .` sends: the code, and nothing that happens to lie beside it."""

import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[3]
MOST_BYTES = 2_000_000


def test_a_job_sends_code_only(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    names = zipfile.ZipFile(package).namelist()
    assert package.stat().st_size < MOST_BYTES
    assert {"jobs/train_g.py", "orchestrator/distortion/raters.html", "jobs/configs/quickstart.yaml"} <= set(
        names
    )
    folders = {name.split("/")[0] for name in names}
    assert not folders & {"tests", "cluster", ".git", ".venv", "runs", "datasets", ".readme"}, folders
