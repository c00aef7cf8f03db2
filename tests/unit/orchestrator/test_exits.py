"""What goes wrong ends a job with a paragraph that says what to do, or with our own fault's traceback."""

import errno
import os

import pytest
from ray.exceptions import RayTaskError

from orchestrator.exits import mistakes_explained


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EISDIR])
@pytest.mark.parametrize("is_a_task_s", [False, True])
def test_a_disk_that_cannot_be_written_is_explained(
    number: int, is_a_task_s: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    error: Exception = OSError(number, os.strerror(number), "/there/file")
    if is_a_task_s:
        error = RayTaskError("sample", "traceback", error)
    with pytest.raises(SystemExit) as ended, mistakes_explained():
        raise error
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{os.strerror(number)}: /there/file." in said and "the same command" in said


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError), mistakes_explained():
        raise FileNotFoundError(errno.ENOENT, "gone", "/there/file")
