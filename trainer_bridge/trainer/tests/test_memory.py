"""Micro-batches within a memory budget: equal gradients, and what happens when memory runs out."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from empo2_trainer import allocator, fused, memory, recompute, step
from empo2_trainer.batching import take
from empo2_trainer.budget import Budget, Cost
from empo2_trainer.futures import outcome
from empo2_trainer.model import Policy
from empo2_trainer.model_dir import LoadError
from empo2_trainer.protocol import OutOfMemory, UserError
from tests.conftest import SPEC, checked, computed, make_model, make_trainer, wire_batch
from tests.test_training import nudge, plain_gradient

OFF = {"logprob_floor": -1e30}
# Large enough that its LoRA layers and MLPs take the path of real models.
REAL = {"hidden_size": 288, "intermediate_size": 320, "num_hidden_layers": 3}
NEVER = Cost(1e18, 0.0)  # activations that fit no budget


@pytest.fixture(scope="module", params=["qwen2", "llama", "gemma2", "granite"])
def real_dir(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("real") / request.param, request.param, **REAL)


def gradient(trainer: Any, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    sequences, loss = checked(batch)
    metrics = trainer.run("m", sequences, loss, backward=True)["metrics"]
    pending = trainer.models["m"].optimizer.pending
    trainer.models["m"].optimizer.pending = None
    return pending, metrics


def assert_close(got: dict[str, Any], want: dict[str, Any], tolerance: float) -> None:
    """Every tensor within tolerance times its own largest value."""
    for name, w in want.items():
        scale = max(float(w.abs().max()), 1e-9)
        torch.testing.assert_close(got[name] / scale, w / scale, rtol=0, atol=tolerance, msg=name)


def test_gradients_do_not_depend_on_the_budget(real_dir: Path, tmp_path: Path) -> None:
    """One padded batch, single rows, checkpointing and autograd agree to 2e-4 of the largest."""
    trainer = make_trainer(real_dir, tmp_path, formats=("peft",))
    nudge(trainer)
    batch = wire_batch(1, kl=0.2, config=OFF)
    budget = trainer.policy.budget(True)
    whole, metrics = gradient(trainer, batch)
    assert metrics["micro_batches:sum"] == 1
    assert metrics["padding_tokens:sum"] > 0
    assert metrics["checkpointed_micro_batches:sum"] == 0
    budget.kept = NEVER
    checkpointed, metrics = gradient(trainer, batch)
    assert metrics["checkpointed_micro_batches:sum"] == metrics["micro_batches:sum"] == 1
    budget.tokens = 1
    rows, metrics = gradient(trainer, batch)
    assert metrics["micro_batches:sum"] == 5
    assert metrics["padding_tokens:sum"] == 0
    sequences, loss = checked(batch)
    _, _, plain = plain_gradient(trainer, sequences, loss)
    names = trainer.models["m"].optimizer.parameters
    assert_close(checkpointed, whole, 1e-5)
    assert_close(rows, whole, 1e-4)
    assert_close(whole, dict(zip(names, plain, strict=True)), 2e-4)


def test_long_rows_split_their_mlps(
    real_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(real_dir, tmp_path, formats=("peft",))
    nudge(trainer)
    batch = wire_batch(1, kl=0.2, config=OFF)
    trainer.policy.budget(True).kept = NEVER
    whole, _ = gradient(trainer, batch)
    monkeypatch.setitem(fused.TILE, "cpu", 32)
    calls = []
    inner = fused._Tiles.backward
    monkeypatch.setattr(fused._Tiles, "backward", lambda *a: calls.append(1) or inner(*a))
    tiled, _ = gradient(trainer, batch)
    assert_close(tiled, whole, 1e-5)
    assert len(calls) == (0 if real_dir.name == "gemma2" else 3)  # it has GELU


@pytest.mark.parametrize("tile", [32, 1024])
@pytest.mark.parametrize("spare", [1e9, 650e3])
def test_layers_reuse_what_they_saved(
    real_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile: int, spare: float
) -> None:
    """The gradient is the same bit for bit, however much of a layer is saved."""
    monkeypatch.setitem(fused.TILE, "cpu", tile)
    trainer = make_trainer(real_dir, tmp_path, formats=("peft",))
    nudge(trainer)
    batch = wire_batch(1, kl=0.2, config=OFF)
    budget = trainer.policy.budget(True)
    budget.kept, budget.full = NEVER, 0
    want, _ = gradient(trainer, batch)
    reused: list[Any] = []
    inner = recompute.SavedValues.reuse

    def reuse(self: Any, caller: Any) -> Any:
        found = inner(self, caller)
        reused.append(("attention" if caller == "attention" else "product", found is not None))
        return found

    monkeypatch.setattr(recompute.SavedValues, "reuse", reuse)
    monkeypatch.setattr(type(budget), "spare", lambda *a: spare)
    got, _ = gradient(trainer, batch)
    assert all(torch.equal(got[name], w) for name, w in want.items())
    if real_dir.name == "gemma2":  # its attention caps the scores, its MLP has GELU
        assert not reused
        return
    assert {caller for caller, _ in reused} == {"attention", "product"}
    assert ("attention", True) in reused
    assert all(found for _, found in reused) == (spare == 1e9)


def test_a_shortage_first_gives_up_what_can_be_computed_again(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = trainer.policy.budget(True)
    budget.kept = NEVER
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "RESERVE", 0)
    batch = wire_batch(3)
    room = int(budget.dropped.of(1, 30)) + 1
    budget.full, budget.tokens = room + 1, 30
    monkeypatch.setattr(memory, "free", lambda device: room)
    _, metrics = gradient(trainer, batch)
    assert budget.full == 0
    assert metrics["oom_retries:sum"] == 1


def test_heads_that_scale_or_cap_run_in_chunks(real_dir: Path, tmp_path: Path) -> None:
    policy = make_trainer(real_dir, tmp_path, formats=("peft",)).policy
    assert policy.plain_head
    want = {"gemma2": (1.0, 30.0), "granite": (0.25, 0.0)}
    assert (policy.scale, policy.cap) == want.get(real_dir.name, (1.0, 0.0))


def test_only_layers_that_allow_it_skip_a_product(real_dir: Path, tmp_path: Path) -> None:
    """Gemma 2 normalises the MLP's output, so its second computation needs the product."""
    layers = make_trainer(real_dir, tmp_path, formats=("peft",)).policy.checkpointing.layers
    assert len(layers) == 3
    skipped = {layer.mlp.down_proj.skipped_in_recompute for layer in layers}
    assert skipped == {real_dir.name != "gemma2"}


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.15), ("float16", 0.03)])
def test_half_precision_bases_train(tmp_path: Path, dtype: str, tolerance: float) -> None:
    directory = make_model(tmp_path / "m", "qwen2", **REAL, initializer_range=0.05)
    results = []
    for kind in ("float32", dtype):
        trainer = make_trainer(directory, tmp_path / kind, dtype=kind)
        nudge(trainer)
        results.append(gradient(trainer, wire_batch(2, "cross_entropy"))[0])
    assert_close(results[1], results[0], tolerance)
    assert all(g.dtype == torch.float32 for g in results[1].values())


def test_a_gradient_that_overflows_float16_is_scaled_down(tmp_path: Path) -> None:
    trainer = make_trainer(make_model(tmp_path / "m", "llama", **REAL), tmp_path, dtype="float16")
    trainer.policy.loss_scale = 2.0**40
    grads, metrics = gradient(trainer, wire_batch(2, "cross_entropy"))
    assert trainer.policy.loss_scale < 2.0**40
    assert all(bool(torch.isfinite(g).all()) for g in grads.values())
    assert metrics["oom_retries:sum"] == 0


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


def fail_above(monkeypatch: pytest.MonkeyPatch, tokens: int, error: Exception) -> list[int]:
    """Micro-batches above so many tokens run out of memory after half of their work."""
    tried: list[int] = []
    inner = step._micro_batch

    def limited(policy: Any, batch: Any, *args: Any) -> Any:
        tried.append(batch.ids.numel())
        logp = inner(policy, batch, *args)
        if batch.ids.numel() > tokens:
            raise error
        return logp

    monkeypatch.setattr(step, "_micro_batch", limited)
    return tried


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "allocator", "python"])
def test_out_of_memory_halves_the_budget_and_is_remembered(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    batch = wire_batch(3, kl=0.1)
    want, plain = gradient(trainer, batch)
    tried = fail_above(monkeypatch, 40, error)
    got, metrics = gradient(trainer, batch)
    assert_close(got, want, 1e-4)
    assert metrics["oom_retries:sum"] == sum(n > 40 for n in tried) > 0
    drop = ("oom_retries", "micro_batch_tokens")
    assert {k: v for k, v in computed(metrics).items() if not k.startswith(drop)} == pytest.approx(
        {k: v for k, v in computed(plain).items() if not k.startswith(drop)}, rel=1e-4
    )
    tried.clear()
    _, metrics = gradient(trainer, batch)
    assert metrics["oom_retries:sum"] == 0
    assert max(tried) <= 40


def raise_(error: Exception) -> Any:
    raise error


def test_one_row_that_does_not_fit_is_refused_with_figures(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, 10, torch.OutOfMemoryError("out of memory"))
    optimizer = trainer.models["m"].optimizer
    batch = wire_batch(3)
    lengths = [len(s.tokens) for s in checked(batch)[0]]
    with pytest.raises(
        OutOfMemory, match=r"a row of 30 tokens needs about .* GB, .* GB are free"
    ) as e:
        gradient(trainer, batch)
    figures = e.value.details()["out_of_memory"]
    assert (figures["row"], figures["row_tokens"]) == (lengths.index(30), 30)
    assert 0 <= figures["possible_tokens"] < 30
    assert figures["needed_bytes"] == int(trainer.policy.budget(True).dropped.of(1, 30))
    answer = msgspec.json.decode(outcome("r", lambda: raise_(e.value)))
    assert answer == {"error": str(e.value), "category": "user", "out_of_memory": figures}
    assert optimizer.pending is None
    assert all(p.grad is None for p in optimizer.parameters.values())


def test_a_pass_asks_before_it_takes_more_than_the_machine_has(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "RESERVE", 0)
    want, _ = gradient(trainer, wire_batch(4))
    budget = trainer.policy.budget(True)
    room = budget.needs(2, 30)
    monkeypatch.setattr(memory, "free", lambda device: room)
    got, metrics = gradient(trainer, wire_batch(4))
    assert metrics["oom_retries:sum"] > 0
    assert_close(got, want, 1e-4)


def test_a_model_that_leaves_no_room_is_refused(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ids: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(trainer.policy, "features", fail)
    with pytest.raises(UserError, match=r"GB are free on cpu, too little for a row of 128 tokens"):
        gradient(trainer, wire_batch(3))


def test_errors_that_are_no_shortage_are_not_retried() -> None:
    assert not memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as e:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.is_out_of_memory(e.value)


def budget(**changes: Any) -> Budget:
    values: dict[str, Any] = {
        "kept": Cost(100.0, 0.0),
        "dropped": Cost(10.0, 0.0),
        "size": 10_000.0,
        "tokens": 1000,
        "logits": 1,
        "enough": 1e9,
    }
    return Budget(**values | changes)


def test_a_budget_keeps_activations_where_they_fit() -> None:
    b = budget()
    assert (b.rows(20, True), b.checkpoints(5, 20)) == (5, False)
    assert (b.rows(150, True), b.checkpoints(6, 150)) == (6, True)
    assert b.rows(5000, True) == 1  # longer than any limit: it trains alone
    assert b.rows(20, False) == 50
    assert budget(tokens=64).rows(20, True) == 3
    b.halve(5, 20)
    assert (b.size, b.tokens) == (5000.0, 50)
    assert b.checkpoints(1, 51)


def test_costs_grow_with_the_square_where_attention_is_kept() -> None:
    cost = Cost(100.0, 2.0)
    assert cost.of(3, 10) == 3 * (1000 + 200)
    assert cost.longest(cost.of(1, 37)) == 37
    assert Cost(100.0, 0.0).longest(5050) == 50


def test_the_budget_is_measured_once(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trainer.policy.budget(True)
    assert first.kept.linear > first.dropped.linear > 0
    assert first.kept.square == 0  # SDPA keeps no weights
    monkeypatch.setattr(memory, "free", lambda device: 1)
    assert trainer.policy.budget(True) is first


def test_an_operators_limit_holds(model_dir: Path, tmp_path: Path) -> None:
    policy = Policy(str(model_dir), device="cpu", micro_batch_tokens=40)
    assert policy.micro_batch_tokens == 40
    from empo2_trainer.trainer import Trainer

    trainer = Trainer(policy, tmp_path, 0, ("peft",))
    trainer.create("m", SPEC)
    _, metrics = gradient(trainer, wire_batch(5))
    assert metrics["micro_batches:sum"] == 3  # 30 | 17, 9 padded to 34 | 5, 2


def test_a_share_of_the_memory(model_dir: Path, tmp_path: Path) -> None:
    whole = make_trainer(model_dir, tmp_path / "a", formats=("peft",)).policy.budget(True)
    half = Policy(str(model_dir), device="cpu", micro_batch_tokens=40, memory_share=0.5)
    half.add_adapter("m", SPEC, 1)
    assert half.budget(True).tokens == 20
    assert half.budget(True).size <= whole.size * 0.75  # half of what is free then


def test_padding_ends_a_batch_that_has_enough() -> None:
    lengths = [100, 99, 98, 50, 50, 49]
    assert take(lengths, 6, enough=150) == 3
    assert take(lengths, 6, enough=1e9) == 6
    assert take(lengths, 2, enough=150) == 2
    assert take([100, 10], 2, enough=0) == 1


def test_control_groups_bound_the_free_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    group = (tmp_path, "memory.max", "memory.current")
    assert memory._group_free(*group) == [450]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._group_free(*group) == []


def test_the_allocator_is_tuned_unless_the_operator_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "5")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    calls: list[Any] = []
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda *a: calls.append(a))
    allocator.tune()
    assert calls == []
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


def test_four_bits_need_a_gpu(model_dir: Path) -> None:
    with pytest.raises(LoadError, match="CUDA") as e:
        Policy(str(model_dir), device="cpu", quantize="nf4")
    assert "--quantize none" in e.value.hint
