"""What a resting cluster lacks is asked for and waited for while it grows, and not a moment longer."""

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import autoscaling
from orchestrator.autoscaling import GROWTH_SECONDS, grow_to


class Cluster:
    """A cluster whose nodes of 4 CPUs and 4 GPUs come one after another, each after some seconds."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds, self.now = most, seconds, 0.0
        self.requests: list[tuple[int, int]] = []
        self.asked_at = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def request(self, cpus: int, gpus: int) -> None:
        self.requests.append((cpus, gpus))
        self.asked_at = self.now

    def nodes(self) -> int:
        return min(self.most, int((self.now - self.asked_at) / self.seconds)) if self.requests else 0

    def there(self) -> tuple[float, float]:
        return 2.0 + 4 * self.nodes(), 4.0 * self.nodes()

    def is_starting(self) -> bool:
        return self.nodes() < self.most


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(most: int, seconds: float) -> Cluster:
        made = Cluster(most, seconds)
        clock = SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep)
        monkeypatch.setattr(autoscaling, "time", clock)
        monkeypatch.setattr(autoscaling, "_request", made.request)
        monkeypatch.setattr(autoscaling, "_is_starting_nodes", made.is_starting)
        return made

    return make


def test_nodes_that_take_minutes_are_waited_for_and_then_let_go(cluster: Any) -> None:
    made = cluster(most=4, seconds=200.0)
    assert grow_to(8, 8, made.there, longest_seconds=1800)
    assert made.requests == [(8, 8), (0, 0)]
    assert 400 <= made.now < 410


def test_a_cluster_that_grows_no_further_is_given_up_soon(cluster: Any) -> None:
    made = cluster(most=1, seconds=100.0)
    assert not grow_to(8, 8, made.there, longest_seconds=1800)
    assert made.requests == [(8, 8), (0, 0)]
    assert made.now < 100 + GROWTH_SECONDS + 5


def test_a_cluster_without_an_autoscaler_takes_half_a_minute(cluster: Any) -> None:
    made = cluster(most=0, seconds=1.0)
    assert not grow_to(8, 8, made.there, longest_seconds=1800)
    assert made.now < GROWTH_SECONDS + 5


def test_nodes_that_never_come_are_not_waited_for_without_end(cluster: Any) -> None:
    made = cluster(most=2, seconds=1e9)
    assert not grow_to(8, 8, made.there, longest_seconds=1800)
    assert made.now < 1810


def test_what_is_there_is_not_asked_for(cluster: Any) -> None:
    made = cluster(most=0, seconds=1.0)
    assert grow_to(2, 0, made.there, longest_seconds=1800)
    assert made.requests == [] and made.now == 0


def test_gpus_are_asked_for_one_by_one_with_a_cpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler import sdk

    asked: list[Any] = []
    monkeypatch.setattr(sdk, "request_resources", lambda bundles: asked.append(bundles))
    autoscaling._request(4, 2)
    autoscaling._request(0, 0)
    assert asked == [[{"GPU": 1.0, "CPU": 1.0}] * 2 + [{"CPU": 1.0}] * 2, []]
