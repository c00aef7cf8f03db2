"""Writing checkpoints beside training.

A copy of the state is taken at once. All ranks write it, each in a thread of its own. The marker comes last.
"""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from orchestrator import storage
from orchestrator.checkpoints.files import CheckpointFiles, failures_as_errors, writer
from orchestrator.checkpoints.retention import discard_unfinished, prune, warn_of_unknown_metric
from orchestrator.checkpoints.selection import (
    Checkpoint,
    FileDescription,
    Marker,
    checkpoints_folder,
    discard,
)
from orchestrator.config.plain import to_yaml
from orchestrator.config.saved import CONFIG_FILE
from orchestrator.config.schema import ExperimentConfig

Result = TypeVar("Result")
PATIENCE_SECONDS = 30.0
"""How long training waits for a checkpoint that is still being written when the next one is due."""
logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes one checkpoint at a time.

    It is collective: every rank has one, and calls its methods in the same order.

    A checkpoint that cannot be written (a full disk, a store that is gone) is warned about and given up.
    Training goes on, and the next one is tried. What the failed one leaves behind has no marker, so it never
    counts, and is deleted.
    """

    def __init__(self, config: ExperimentConfig, device: torch.device) -> None:
        self._config, on_gpu = config, device.type == "cuda"
        # The writer has groups of its own: a thread's collectives must not mix with those of training.
        self._group: Any = dist.new_group(backend="gloo")
        self._agreement: Any = dist.new_group(backend="gloo")
        self._is_first_rank = dist.get_rank() == 0
        self._stager = DefaultStager(
            StagingOptions(on_gpu, False, use_async_staging=False, use_non_blocking_copy=on_gpu)
        )
        # A thread begins on the first GPU, and would open a context there beside that of its own process.
        begin = partial(torch.cuda.set_device, device) if on_gpu else None
        self._pool = ThreadPoolExecutor(1, "checkpoint", initializer=begin)
        self._pending: Future[Checkpoint] | None = None
        self._is_first_checkpoint = True

    def start(self, images_seen: int, state: dict[str, Any], metrics: dict[str, float]) -> None:
        """Copy the state and begin to write it, after :meth:`finish` of an earlier one."""
        assert self._pending is None
        if self._is_first_checkpoint and self._is_first_rank:
            warn_of_unknown_metric(self._config.train, metrics)
        self._is_first_checkpoint = False
        checkpoint = Checkpoint(
            storage.join(checkpoints_folder(self._config.directory), str(images_seen)), images_seen
        )
        staged: Any = self._stager.stage(state)
        self._pending = self._pool.submit(self._write, checkpoint, staged, metrics)

    def is_free(self, images_seen: int) -> bool:
        """Whether the checkpoint at ``images_seen`` can be started, after a while; the same on all ranks.

        It cannot while an earlier one is still being written, because the store is slow or gone. Training
        goes on then.
        """
        if self._pending is not None:
            wait([self._pending], PATIENCE_SECONDS)
        is_free = torch.tensor(self._pending is None or self._pending.done())
        dist.all_reduce(is_free, dist.ReduceOp.MIN, group=self._agreement)
        if not is_free and self._is_first_rank:
            logger.warning(
                "The checkpoint at %d images is left out, because the one before it is still being written; "
                "training goes on.",
                images_seen,
            )
        return bool(is_free)

    def completed(self) -> Checkpoint | None:
        """The checkpoint that was being written: once, when it is complete; never waits."""
        return self.finish() if self._pending is not None and self._pending.done() else None

    def finish(self) -> Checkpoint | None:
        """Wait for the checkpoint that is being written; None if there is none or it failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        try:
            return pending.result()
        except Exception as error:  # Whatever a disk or a store raises, training is worth more.
            if self._is_first_rank:
                logger.warning(
                    "A checkpoint could not be written and was given up; training goes on. %s", error
                )
            return None

    def close(self) -> None:
        """End the thread; what is still being written is waited for."""
        self._pool.shutdown()
        self._stager.close()

    def _write(self, checkpoint: Checkpoint, state: dict[str, Any], metrics: dict[str, float]) -> Checkpoint:
        files = CheckpointFiles()
        try:
            self._on_first_rank(lambda: self._begin(checkpoint, files))
            with failures_as_errors():
                dcp.save(state, storage_writer=writer(checkpoint.path, files), process_group=self._group)
            described: dict[str, FileDescription] = {}
            for part in self._gather(lambda: files.written):
                described |= part
            self._on_first_rank(lambda: Marker(dict(sorted(described.items())), metrics).write(checkpoint))
        except Exception:
            # A disk may be full, so make room at once; a store that is gone would only take its time again.
            if self._is_first_rank and storage.is_local(checkpoint.path):
                with contextlib.suppress(OSError):
                    # Only what was written here: a file that is in the way is someone else's.
                    if storage.sizes(checkpoint.path):
                        discard(checkpoint)
            raise
        if self._is_first_rank:
            prune(self._config)
        return checkpoint

    def _begin(self, checkpoint: Checkpoint, files: CheckpointFiles) -> None:
        """Make a folder that holds nothing but the config; delete what interrupted saves left."""
        discard_unfinished(self._config.directory)
        if storage.sizes(checkpoint.path):
            discard(checkpoint)
        files.mkdir(checkpoint.path)
        with files.create_stream(storage.join(checkpoint.path, CONFIG_FILE), "wb") as stream:
            stream.write(to_yaml(self._config).encode())

    def _on_first_rank(self, work: Callable[[], None]) -> None:
        """Have the first rank do something; where it failed, all ranks raise OSError with what it said."""
        self._raise_everywhere(_outcome_of(work)[1] if self._is_first_rank else "")

    def _gather(self, work: Callable[[], Result]) -> list[Result]:
        """The results of all ranks, on the first one; where one failed, all raise OSError with what it said.

        Other ranks get nothing: what each of many got of all would grow with their square.
        """
        gathered: list[Any] | None = (
            [None] * dist.get_world_size(self._group) if self._is_first_rank else None
        )
        dist.gather_object(_outcome_of(work), gathered, group=self._group)
        self._raise_everywhere("; ".join(problem for _, problem in gathered or () if problem))
        return [result for result, _ in gathered or ()]

    def _raise_everywhere(self, problem: str) -> None:
        """Raise OSError on all ranks where the first one has a problem."""
        told = [problem]
        dist.broadcast_object_list(told, group=self._group)
        if told[0]:
            raise OSError(told[0])


def _outcome_of(work: Callable[[], Result]) -> tuple[Result | None, str]:
    """What ``work`` returns, or in words why it failed."""
    try:
        return work(), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
