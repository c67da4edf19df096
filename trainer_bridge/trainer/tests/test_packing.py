"""Packs: rows without padding that share their common beginning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from empo2_trainer import packing
from empo2_trainer.budget import Cost
from empo2_trainer.packing import in_order, pack, shared_tokens
from tests.conftest import make_model, make_trainer, wire_batch
from tests.test_memory import NEVER, OFF, REAL, assert_close, budget, gradient
from tests.test_training import nudge


def shared_batch(seed: int = 1) -> dict[str, Any]:
    """Thirteen rows, most with a common beginning."""
    batch = wire_batch(seed, kl=0.2, config=OFF)
    beginning = list(range(20, 50))
    for i, more in enumerate((9, 12, 30, 30)):
        row = wire_batch(seed + i, kl=0.2, config=OFF)["data"]
        batch["data"] += [extend(beginning[:more], row[1]), extend(beginning, row[3])]
    return batch


def extend(beginning: list[int], datum: dict[str, Any]) -> dict[str, Any]:
    """The datum after an untrained beginning."""
    inputs = datum["loss_fn_inputs"]
    tokens = beginning + datum["model_input"]["chunks"][0]["tokens"]
    out = {"target_tokens": {"data": tokens[1:] + inputs["target_tokens"]["data"][-1:]}}
    for name in inputs.keys() - out.keys():
        out[name] = {"data": [0.0] * len(beginning) + inputs[name]["data"]}
    return {"model_input": {"chunks": [{"tokens": tokens}]}, "loss_fn_inputs": out}


@pytest.mark.parametrize("arch", ["qwen2", "llama", "granite"])
def test_packs_have_the_gradient_of_padded_rows(arch: str, tmp_path: Path) -> None:
    """Kept or checkpointed, in one pack or in several: 5e-5 of the largest value."""
    trainer = make_trainer(make_model(tmp_path / "m", arch, **REAL), tmp_path, formats=("peft",))
    nudge(trainer)
    batch = shared_batch()
    limits = trainer.policy.budget(True)
    assert not limits.packs  # the model is small
    want, padded = gradient(trainer, batch)
    limits.enough = 1.0
    for kept, tokens in ((limits.kept, 4096), (NEVER, 4096), (limits.kept, 60), (NEVER, 1)):
        limits.kept, limits.tokens = kept, tokens
        got, metrics = gradient(trainer, batch)
        assert_close(got, want, 5e-5)
        assert metrics["loss:sum"] == pytest.approx(padded["loss:sum"], rel=1e-6)
        assert metrics["padding_tokens:sum"] == 0
        assert (metrics["shared_tokens:sum"] > 100) == (tokens == 4096)
        assert (metrics["micro_batches:sum"] == 1) == (tokens == 4096)
        checkpointed = metrics["checkpointed_micro_batches:sum"]
        assert checkpointed == (metrics["micro_batches:sum"] if kept is NEVER else 0)


def test_packs_have_the_log_probs_of_padded_rows(tmp_path: Path) -> None:
    trainer = make_trainer(make_model(tmp_path / "m", "llama", **REAL), tmp_path, formats=("peft",))
    nudge(trainer)
    sequences, loss = _checked(shared_batch())
    outs = []
    for enough in (1e9, 1.0):
        trainer.policy.budget(False).enough = enough
        outs.append(trainer.run("m", sequences, loss, backward=False)["loss_fn_outputs"])
    for got, want in zip(*outs, strict=True):
        np.testing.assert_allclose(got["logprobs"]["data"], want["logprobs"]["data"], atol=2e-5)


def _checked(batch: dict[str, Any]) -> Any:
    from tests.conftest import checked

    return checked(batch)


def test_attention_that_packs_cannot_compute_is_padded(tmp_path: Path) -> None:
    """Gemma 2 caps its scores; a window is narrower than some rows."""
    gemma = make_trainer(make_model(tmp_path / "g", "gemma2", **REAL), tmp_path / "a", formats=())
    assert gemma.policy.packing.longest == 0
    window = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0}
    directory = make_model(tmp_path / "q", "qwen2", **REAL, **window)
    qwen = make_trainer(directory, tmp_path / "b", formats=("peft",))
    assert qwen.policy.packing.longest == 24
    nudge(qwen)
    want, _ = gradient(qwen, wire_batch(1, config=OFF))
    qwen.policy.budget(True).enough = 1.0
    got, metrics = gradient(qwen, wire_batch(1, config=OFF))
    assert metrics["shared_tokens:sum"] == 0
    assert metrics["micro_batches:sum"] == 5
    assert_close(got, want, 2e-5)


def rows(*texts: str) -> list[Any]:
    return [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in texts]


def test_a_pack_holds_each_shared_token_once() -> None:
    cpu = torch.device("cpu")
    packed = pack(rows("abcdefghij12", "abcdefghij34", "abcdefghz", "xyz"), cpu, torch.float32)
    text = bytes(packed.ids[0].tolist()).decode()
    assert text == "abcdefghij1234zxyz"
    assert packed.position_ids[0].tolist() == [*range(12), 10, 11, 8, 0, 1, 2]
    assert packed.pieces == [8, 2, 2, 2, 1, 3]
    assert [p.pieces for p in packed.parts] == [[0, 1, 2], [0, 1, 3], [0, 4], [5]]
    read = ["".join(text[i] for i in where) for where in packed.where]
    assert read == ["abcdefghij12", "abcdefghij34", "abcdefghz", "xyz"]
    assert packed.parts[1].mask is not None
    assert (packed.parts[1].mask[0] == 0).tolist() == [True] * 11 + [False]


def test_equal_rows_are_computed_once() -> None:
    packed = pack(rows("abcdefghij", "abcdefghij"), torch.device("cpu"), torch.float32)
    assert packed.ids.shape == (1, 10)
    assert len(packed.parts) == 1


def test_short_beginnings_and_large_masks_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared_tokens(rows("abcdefg1", "abcdefg2")) == [0, 0]
    assert shared_tokens(rows("abcdefgh1", "abcdefgh23")) == [0, 8]
    monkeypatch.setattr(packing, "LARGEST_MASK", 19)
    assert shared_tokens(rows("abcdefgh1", "abcdefgh23")) == [0, 0]


def test_rows_with_a_common_beginning_are_neighbours() -> None:
    sequences, _ = _checked(shared_batch())
    order = in_order(sequences)
    tokens = [sequences[i].tokens.tolist() for i in order]
    assert sorted(order) == list(range(len(sequences)))
    assert tokens == sorted(tokens)


def test_a_pack_fits_the_budget_and_weighs_sharing_against_recomputation() -> None:
    b = budget(size=1000.0, kept=Cost(100.0, 0.0), dropped=Cost(10.0, 0.0), tokens=50)
    assert b.packed_rows([6, 6, 6, 6], [0, 0, 0, 0], True) == 1  # 10 tokens are kept
    assert b.packed_rows([6, 6, 6, 6], [3, 3, 3, 3], True) == 2
    assert b.packed_rows([6, 6, 6, 6], [0, 0, 0, 0], False) == 4
    assert b.packed_rows([9] * 40, [0] + [8] * 39, True) == 40  # sharing nearly everything
    assert b.packed_rows([30] * 4, [0] * 4, True) == 1  # 30 are checkpointed, and 50 are the limit
    assert b.packed_rows([300], [0], True) == 1
