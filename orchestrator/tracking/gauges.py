"""The newest numbers of a run for Prometheus, through Ray's own metrics; MLflow has everything else."""

from functools import cache

from ray.util.metrics import Gauge

EXPORTED = {
    "images_seen": "Images that training has seen",
    "train/images_per_second": "Training speed over all workers, images/s",
    "train/mfu": "Share of the hardware's peak that training reaches",
    "train/data_wait_fraction": "Share of the time that workers wait for data",
    "train/checkpoint_stall_seconds": "Seconds that training stood still for the last checkpoint",
    "train/skipped_steps": "Steps without an update since the run began",
    "loss/total": "Training loss",
}
"""Metric of a run -> what it is. Prometheus sees train/mfu as ``ray_dimr_train_mfu{run="..."}``."""


class Gauges:
    """The gauges of a run. They live in the run's tracker, a Ray actor, whose node exports them."""

    def __init__(self, run_name: str) -> None:
        self._gauges = {
            key: Gauge(prometheus_name(key), description=text, tag_keys=("run",))
            for key, text in EXPORTED.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run_name})

    def set(self, values: dict[str, float]) -> None:
        """Take over the values that are exported."""
        for key in self._gauges.keys() & values.keys():
            self._gauges[key].set(values[key])


def show_progress(run_name: str, what: str, done: int, total: int) -> None:
    """Export how many of an evaluation's images are done."""
    for part, count in {"done": done, "total": total}.items():
        _evaluation_gauge(part).set(count, tags={"run": run_name, "what": what})


@cache
def _evaluation_gauge(part: str) -> Gauge:
    return Gauge(
        f"dimr_evaluation_images_{part}", f"Images of an evaluation, {part}", tag_keys=("run", "what")
    )


def prometheus_name(key: str) -> str:
    """The gauge's name for a metric, without the ``ray_`` that Ray puts before it."""
    return f"dimr_{key.replace('/', '_')}"
