"""How rows are distributed over ranks, and which device each has."""

from argparse import Namespace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from empo2_trainer import memory, placement
from empo2_trainer.model_dir import LoadError
from empo2_trainer.ranks import Ranks
from empo2_trainer.shares import balanced


def sequences(lengths: list[int]) -> Any:
    return [Namespace(tokens=np.zeros(n)) for n in lengths]


def test_every_row_has_one_rank_and_tokens_are_balanced() -> None:
    rng = Random(1)
    for _ in range(50):
        lengths = [rng.randrange(1, 400) for _ in range(rng.randrange(1, 40))]
        ranks = rng.randrange(1, 9)
        shares = balanced(sequences(lengths), ranks)
        assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
        tokens = [sum(lengths[i] for i in share) for share in shares]
        best = max(max(lengths), sum(lengths) / ranks)
        assert max(tokens) <= (4 / 3) * best + max(lengths) / 3
        assert max(tokens) - min(tokens) <= max(lengths)


def test_long_rows_are_not_together() -> None:
    assert balanced(sequences([9, 1, 1, 9, 1, 1]), 2) == [[0, 1, 4], [2, 3, 5]]


def test_fewer_rows_than_ranks_leave_some_idle() -> None:
    assert balanced(sequences([3, 5]), 4) == [[1], [0], [], []]


def test_more_gpus_than_torch_finds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.torch.cuda, "device_count", lambda: 2)
    placement.check_devices("auto", 2)
    placement.check_devices("cpu", 4)
    with pytest.raises(LoadError, match="gpus is 4, and torch finds 2 GPUs") as refused:
        placement.check_devices("auto", 4)
    assert "--gpus 2" in refused.value.hint
    with pytest.raises(LoadError, match="names one GPU"):
        placement.check_devices("cuda:1", 2)


def test_each_rank_has_its_own_gpu() -> None:
    assert [placement.device_of("auto", 3, rank) for rank in range(3)] == [
        "cuda:0",
        "cuda:1",
        "cuda:2",
    ]
    assert placement.device_of("auto", 1, 0) == "auto"
    assert placement.device_of("cpu", 2, 1) == "cpu"


def test_a_model_that_fills_a_device_is_sharded(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(free: int, **more: Any) -> bool:
        monkeypatch.setattr(memory, "free", lambda device: free)
        args = {"model": str(model_dir), "dtype": "float32", "quantize": "none"}
        args |= {"parallel": "auto"}
        arguments = Namespace(**args | more)
        return placement.is_sharded(arguments, Ranks(), torch.device("cpu"))

    assert not chosen(1 << 40)
    assert chosen(100_000)
    assert chosen(1 << 40, parallel="fsdp2")
    assert not chosen(100_000, parallel="data")
    assert not chosen(100_000, quantize="nf4")
    with pytest.raises(LoadError, match="4-bit weights cannot be sharded"):
        chosen(1 << 40, quantize="nf4", parallel="fsdp2")
