"""What a journal's readers read: what counts, and nothing twice."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import storage
from orchestrator.tracking import journal as journal_module
from orchestrator.tracking.journal import (
    JOURNAL_FILE,
    FollowedJournal,
    Journal,
    RunFiles,
    read_records,
    that_count,
)
from orchestrator.tracking.mlflow_sync import MLflowSync

records = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["metrics", "scores", "rewound"]), "step": st.integers(0, 9)}
    )
)


@given(records)
def test_metrics_before_a_rewind_count_up_to_its_step(found: list[dict[str, Any]]) -> None:
    def counts(place: int, record: dict[str, Any]) -> bool:
        later = [r["step"] for r in found[place + 1 :] if r["kind"] == "rewound"]
        return record["kind"] != "metrics" or record["step"] <= min(later, default=record["step"])

    assert that_count(found) == [record for place, record in enumerate(found) if counts(place, record)]


def test_a_followed_journal_reads_each_byte_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, real = [0], storage.read_from

    def counting(path: str, start: int) -> bytes:
        content = real(path, start)
        read[0] += len(content)
        return content

    monkeypatch.setattr(storage, "read_from", counting)
    written, followed = Journal(tmp_path / JOURNAL_FILE), FollowedJournal(str(tmp_path))
    followed.read()
    for step in range(50):
        written.append("metrics", step=step, values={"loss/total": 1.0, "train/epoch": 0.0})
        if step == 20:
            written.append("rewound", step=10)
        followed.read()
        assert [r.get("step") for r in followed.records] == [
            r.get("step") for r in read_records(str(tmp_path))
        ]
    monkeypatch.setattr(storage, "read_from", real)
    assert followed.records == read_records(str(tmp_path))
    read[0] = 0
    followed.read()
    written.append("metrics", step=50, values={"loss/total": 1.0})
    monkeypatch.setattr(storage, "read_from", counting)
    followed.read()
    assert 0 < read[0] < 200 < written.path.stat().st_size


def test_half_a_record_waits_for_its_other_half(tmp_path: Path) -> None:
    path, followed = tmp_path / JOURNAL_FILE, FollowedJournal(str(tmp_path))
    path.write_bytes(b'{"kind": "status", "status": "RUNNING"}\n{"kind": "sta')
    followed.read()
    assert len(followed.records) == 1
    with path.open("ab") as stream:
        stream.write(b'tus", "status": "FINISHED"}\n')
    followed.read()
    assert [record["status"] for record in followed.records] == ["RUNNING", "FINISHED"]


def test_one_metric_is_kept_without_the_others(tmp_path: Path) -> None:
    written = Journal(tmp_path / JOURNAL_FILE)
    written.append("metrics", step=1, values={"loss/total": 1.0, "train/epoch": 0.0})
    written.append("metrics", step=2, values={"train/epoch": 0.0})
    written.append("scores", step=2, values={"eval/fd": 3.0})
    kept = read_records(str(tmp_path), "loss/total")
    assert [(r["step"], r["values"]) for r in kept] == [(1, {"loss/total": 1.0}), (2, {"eval/fd": 3.0})]


def test_the_end_of_a_long_last_line_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "TAIL_BYTES", 7)
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(b'{"kind": "status", "status": "RUNNING"}\n' + b"x" * 100)
    assert [record["status"] for record in Journal(path).records()] == ["RUNNING"]
    path.write_bytes(b"x" * 100)
    assert Journal(path).is_empty


@pytest.mark.usefixtures("mlflow_store")
def test_a_copy_that_breaks_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Journal(tmp_path / JOURNAL_FILE)
    written.append("run", key="key", name="run", parent=None)
    for step in range(40):
        written.append("metrics", step=step, values={f"loss/{n}": 1.0 for n in range(100)})
    sent: list[int] = []
    real = mlflow.MlflowClient.log_batch

    def breaks_off(client: Any, run_id: str, metrics: Any = (), **more: Any) -> Any:
        if len(sent) == 2:
            raise ConnectionError("the server went away")
        sent.append(len(metrics))
        return real(client, run_id, metrics=metrics, **more)

    sync = MLflowSync(
        RunFiles(str(tmp_path), tmp_path), str(tmp_path), "test", f"sqlite:///{tmp_path}/mlflow.db"
    )
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", breaks_off)
    sync.copy()
    assert sync.problem == "the server went away" and sent == [1000, 1000]
    monkeypatch.setattr(
        mlflow.MlflowClient, "log_batch", lambda *a, **k: (sent.append(len(k["metrics"])), real(*a, **k))
    )
    sync.copy()
    assert sync.problem is None and sent == [1000] * 4
