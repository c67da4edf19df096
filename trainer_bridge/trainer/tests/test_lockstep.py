"""Sharded layers: every rank computes as many micro-batches as the one with the most.

One process stands for the ranks here; what the others say is written down.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from empo2_trainer import memory, step
from empo2_trainer.protocol import OutOfMemory
from tests.conftest import checked, make_trainer, wire_batch


class Others:
    """Ranks of which the others have so many micro-batches."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rank, self.size = 0, 2

    def any(self, *flags: bool) -> list[bool]:
        if len(self.asked) == 0:  # whether any row has a KL term
            self.asked.append(True)
            return list(flags)
        self.rounds -= 1
        return [flags[0] or self.rounds >= 0]

    asked: list[bool]


class Layers:
    """Sharded layers that are whole at all times."""

    storages: frozenset[int] = frozenset()


def lockstep(trainer: Any, rounds: int) -> list[int]:
    """Make the trainer one of two ranks. Returns a list with the rows of every micro-batch."""
    policy, seen = trainer.policy, []
    policy.ranks, policy.sharding = Others(rounds), Layers()
    policy.ranks.asked = []
    inner = policy.features

    def features(ids: torch.Tensor, position_ids: Any = None) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(len(ids))
        out: torch.Tensor = inner(ids, position_ids)
        return out

    policy.budget(True)  # it computes rows too
    policy.features = features
    return seen


def gradients(trainer: Any, batch: dict[str, Any]) -> tuple[float, list[torch.Tensor]]:
    result = step.run(trainer.policy, *checked(batch), True)
    return result.metrics.loss, [p.grad for p in trainer.policy.trained]


def test_a_rank_without_rows_computes_along(trainer: Any) -> None:
    seen = lockstep(trainer, 3)
    _, loss = checked(wire_batch(1))
    result = step.run(trainer.policy, [], loss, True)
    assert seen == [1, 1, 1]
    assert result.metrics.tokens == 0
    assert all(p.grad is None for p in trainer.policy.trained)


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_idle_rounds_change_nothing(model_dir: Path, tmp_path: Path, kl: float) -> None:
    batch = wire_batch(1, kl=kl)
    plain = make_trainer(model_dir, tmp_path / "a")
    want_loss, want = gradients(plain, batch)
    trainer = make_trainer(model_dir, tmp_path / "b")
    seen = lockstep(trainer, 4)
    loss, got = gradients(trainer, batch)
    assert seen == [5, 1, 1, 1]
    assert loss == want_loss
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_rank_without_memory_computes_along_and_tries_again(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = wire_batch(1)
    want_loss, _ = gradients(make_trainer(model_dir, tmp_path / "a"), batch)
    trainer = make_trainer(model_dir, tmp_path / "b")
    seen, calls = lockstep(trainer, 0), []

    def require(device: torch.device, needed: int) -> None:
        calls.append(needed)
        if len(calls) == 1:
            raise memory.Shortage(needed, 0)

    monkeypatch.setattr(memory, "require", require)
    loss, _ = gradients(trainer, batch)
    assert seen[0] == 1  # in the round of the shortage
    assert len(seen) == len(calls) > 2
    assert loss == pytest.approx(want_loss, rel=1e-6)


def test_a_row_that_never_fits_is_refused_after_the_others_are_done(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = lockstep(trainer, 30)

    def require(device: torch.device, needed: int) -> None:
        raise memory.Shortage(needed, 0)

    monkeypatch.setattr(memory, "require", require)
    with pytest.raises(OutOfMemory):
        gradients(trainer, wire_batch(1))
    assert seen == [1] * 30
