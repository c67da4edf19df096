"""The number of torch's threads."""

import pytest
import torch

from empo2_trainer.threads import LONG, ROUNDS, Threads


@pytest.mark.parametrize(
    ("one", "four", "want"), [(1.0, 0.4, 4), (1.0, 0.95, 1), (1.0, 3.0, 1)], ids=str
)
def test_several_threads_are_used_where_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, one: float, four: float, want: int
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    measured: list[int] = []

    def measure(count: int) -> float:
        measured.append(count)
        return {1: one, 4: four}[count]

    threads = Threads(4, measure)
    threads.choose(LONG / 2)  # too short to measure
    assert chosen == measured == []
    threads.choose(LONG)
    assert chosen == [want]
    assert measured == [1, 4] * ROUNDS


def test_a_single_core_is_not_measured() -> None:
    Threads(1, lambda count: 1 / 0).choose(1e18)
