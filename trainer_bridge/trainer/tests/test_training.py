"""Gradients of the adapter against a plain autograd pass; optimizer steps; determinism."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from empo2_trainer import head, step
from empo2_trainer.losses import parse
from empo2_trainer.protocol import AdamParams, LoraSpec, UserError
from tests.conftest import checked, computed, make_trainer, wire_batch
from tests.test_losses import slow_empo2

ADAM = AdamParams(learning_rate=1e-2, beta2=0.99, eps=1e-8)
OFF = {"logprob_floor": -1e30}


def nudge(trainer: Any, model_id: str = "m") -> None:
    """Move the adapter off zero, so that A has gradients and KL is not 0."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in trainer.models[model_id].optimizer.parameters.values():
            p += 0.05 * torch.randn(p.shape, generator=g)


def plain_gradient(trainer: Any, sequences: Any, loss: Any) -> tuple[float, list[Any], list[Any]]:
    """Loss, log-probs and gradients, one unpadded row at a time through the whole model."""
    hf, total, rows = trainer.policy.hf, torch.zeros((), dtype=torch.float64), []
    trainer.policy.activate("m1")
    for s in sequences:
        ids, targets = torch.from_numpy(s.tokens)[None], torch.from_numpy(s.targets)
        logp_all = F.log_softmax(hf(input_ids=ids).logits[0].double(), -1)
        with trainer.policy.base():
            base = F.log_softmax(hf(input_ids=ids).logits[0].double(), -1)
        logp = logp_all.gather(-1, targets[:, None])[:, 0]
        mask, w, q, a, kl, c = (
            torch.from_numpy(x).double()
            for x in (
                s.loss_mask,
                s.importance_weights,
                s.logprobs,
                s.advantages,
                s.kl,
                s.entropy,
            )
        )
        if loss.surrogate == "gspo":
            total = total + slow_gspo(logp, mask, mask * w, q, a, dict(loss.config))
        else:
            total = total + slow_empo2(logp, mask * w, q, a, dict(loss.config))
        total = total + (c * (logp_all.exp() * logp_all).sum(-1)).sum()
        if loss.exact_kl:
            total = total + (kl * (logp_all.exp() * (logp_all - base)).sum(-1)).sum()
        else:
            gap = base.gather(-1, targets[:, None])[:, 0] - logp
            total = total + (kl * (gap.exp() - gap - 1)).sum()
        rows.append(logp.detach().float().tolist())
    parameters = list(trainer.models["m"].optimizer.parameters.values())
    return float(total.detach()), rows, list(torch.autograd.grad(total, parameters))


def slow_gspo(
    logp: torch.Tensor,
    mask: torch.Tensor,
    w: torch.Tensor,
    q: torch.Tensor,
    a: torch.Tensor,
    config: dict[str, float],
) -> torch.Tensor:
    """GSPO-token by its definition: sg(s)·π/sg(π) for each token of one row."""
    counted = (mask > 0) & (logp.detach() >= config["logprob_floor"])
    if not bool(counted.any()):
        return torch.zeros((), dtype=torch.float64)
    s = (logp - q)[counted].mean().exp().detach()
    ratio = s * (logp - logp.detach()).exp()
    low, high = config["clip_low_threshold"], config["clip_high_threshold"]
    gain = torch.minimum(ratio * a, ratio.clamp(low, high) * a)
    gain = torch.where(a < 0, torch.maximum(gain, config["dual_clip"] * a), gain)
    return -(w * gain)[counted].sum()


@pytest.mark.parametrize("floor", [-5.0, -1e30])
def test_gspo_equals_plain_autograd(trainer: Any, floor: float) -> None:
    nudge(trainer)
    config = {"surrogate": 4.0, "logprob_floor": floor, "clip_low_threshold": 0.5}
    config["clip_high_threshold"] = 4.0
    sequences, loss = checked(wire_batch(1, config=config))
    want_loss, _, want_grad = plain_gradient(trainer, sequences, loss)
    got = trainer.run("m", sequences, loss, backward=True)
    assert got["metrics"]["loss:sum"] == pytest.approx(want_loss, rel=1e-5)
    scale = max(float(w.abs().max()) for w in want_grad)
    assert scale > 0
    pending = trainer.models["m"].optimizer.pending
    for (name, g), w in zip(pending.items(), want_grad, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("entropy", [0.0, 0.2])
@pytest.mark.parametrize("estimator", [0.0, 1.0])
@pytest.mark.parametrize("floor", [-5.0, -1e30])
def test_empo2_equals_plain_autograd(
    trainer: Any, estimator: float, floor: float, entropy: float
) -> None:
    nudge(trainer)
    config = {"kl_estimator": estimator, "logprob_floor": floor}
    batch = wire_batch(1, kl=0.3, config=config, entropy=entropy)
    inputs = batch["data"][3]["loss_fn_inputs"]
    inputs["importance_weights"] = {"data": [0.1 * i for i in range(30)]}
    sequences, loss = checked(batch)
    want_loss, want_logp, want_grad = plain_gradient(trainer, sequences, loss)
    got = trainer.run("m", sequences, loss, backward=True)
    assert got["metrics"]["loss:sum"] == pytest.approx(want_loss, rel=1e-5)
    for s, out, want in zip(sequences, got["loss_fn_outputs"], want_logp, strict=True):
        trained = np.where(s.needs_gradient, want, 0.0)  # others are not computed
        np.testing.assert_allclose(out["logprobs"]["data"], trained, atol=2e-5)
    pending = trainer.models["m"].optimizer.pending
    for (name, g), w in zip(pending.items(), want_grad, strict=True):
        scale = float(w.abs().max())
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_entropy_gradient_is_autograds(kl: float) -> None:
    """Without a policy term: advantages are 0. The gradient is by every logit."""
    g = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    logits, base = (3 * normal(7, 50)).requires_grad_(), normal(7, 50)
    coef = torch.tensor([0.5, 0.0, 1.0, 2.0, 0.0, 0.1, 0.3], dtype=torch.float64)
    one, zero = torch.ones(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    on, targets = torch.ones(7, dtype=torch.bool), torch.arange(7)
    at = head.Positions(targets, on, one, zero, zero, kl * one, coef, on)
    metrics = head.Metrics()
    _, got = head.score(
        logits.detach().clone(), at, parse("empo2", None), base if kl else None, metrics
    )
    logp = logits.log_softmax(-1)
    want = (coef[:, None] * logp.exp() * logp).sum()
    want = want + kl * (logp.exp() * (logp - base.log_softmax(-1))).sum()
    want.backward()
    assert metrics.loss == pytest.approx(float(want.detach()), rel=1e-6)
    torch.testing.assert_close(got, logits.grad, rtol=1e-5, atol=1e-6)


def test_a_loss_mask_keeps_tokens_whose_weight_or_advantage_is_0(trainer: Any) -> None:
    batch = wire_batch(4, config=OFF)
    datum = batch["data"][1]["loss_fn_inputs"]
    trained = int(sum(datum["loss_mask"]["data"]))
    batch["data"] = [batch["data"][1]]
    datum["importance_weights"] = {"data": [0.0] * 17}
    m = trainer.run("m", *checked(batch), backward=True)["metrics"]
    assert (m["tokens:sum"], m["loss:sum"]) == (trained, 0.0)
    del datum["importance_weights"]
    datum["advantages"]["data"] = [0.0] * 17
    m = trainer.run("m", *checked(batch), backward=True)["metrics"]
    assert (m["tokens:sum"], m["loss:sum"]) == (trained, 0.0)
    del datum["loss_mask"]  # the default: advantages that are not 0
    m = trainer.run("m", *checked(batch), backward=True)["metrics"]
    assert m["tokens:sum"] == 0


def test_the_floor_applies_where_the_floor_mask_is_set(trainer: Any) -> None:
    batch = wire_batch(4, config={"logprob_floor": -5.0})
    masked = trainer.run("m", *checked(batch), backward=False)["metrics"]["masked:sum"]
    assert masked > 0
    for datum in batch["data"]:
        length = len(datum["loss_fn_inputs"]["advantages"]["data"])
        datum["loss_fn_inputs"]["floor_mask"] = {"data": [0] * length, "dtype": "int64"}
    assert trainer.run("m", *checked(batch), backward=False)["metrics"]["masked:sum"] == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss_mask", 0.5, "datum 0: loss_mask of position 1 is 0.5: must be 0 or 1"),
        ("floor_mask", 2.0, "floor_mask of position 1 is 2.0: must be 0 or 1"),
        ("importance_weights", -1.0, "importance_weights of position 1 is -1.0: must not be"),
    ],
)
def test_masks_and_importance_weights_are_checked(name: str, value: float, message: str) -> None:
    batch = wire_batch(4)
    batch["data"][0]["loss_fn_inputs"][name] = {"data": [1.0, value, 1.0, 1.0, 1.0]}
    with pytest.raises(UserError) as e:
        checked(batch)
    assert message in str(e.value)


def test_weights_of_the_tinker_protocol_set_mask_and_importance_weights() -> None:
    batch = wire_batch(4, "ppo")
    inputs = batch["data"][0]["loss_fn_inputs"]
    inputs["weights"] = {"data": [0.0, 0.5, -2.0, 1.0, 0.0]}
    sequences, _ = checked(batch)
    assert sequences[0].loss_mask.tolist() == [False, True, True, True, False]
    assert sequences[0].importance_weights.tolist() == [0.0, 0.5, -2.0, 1.0, 0.0]
    assert (sequences[1].loss_mask == (sequences[1].advantages != 0)).all()
    assert (sequences[1].importance_weights == 1).all()


def test_large_heads_run_in_chunks(trainer: Any) -> None:
    nudge(trainer)
    sequences, loss = checked(wire_batch(2, kl=0.1))
    whole = trainer.run("m", sequences, loss, backward=True)
    first = trainer.models["m"].optimizer.pending
    trainer.models["m"].optimizer.pending = None
    budget = trainer.policy.budget(True)
    budget.logits, budget.tokens = 7 * 300, 35
    parts = trainer.run("m", sequences, loss, backward=True)
    assert computed(parts["metrics"]) == pytest.approx(
        computed(whole["metrics"]), rel=1e-4, abs=1e-4
    )
    for name, g in trainer.models["m"].optimizer.pending.items():
        torch.testing.assert_close(g, first[name], rtol=1e-4, atol=1e-4)


def test_models_without_a_plain_head_use_their_logits(trainer: Any) -> None:
    nudge(trainer)
    assert trainer.policy.plain_head
    sequences, loss = checked(wire_batch(3, kl=0.1))
    want = trainer.run("m", sequences, loss, backward=True)
    first = trainer.models["m"].optimizer.pending
    trainer.models["m"].optimizer.pending = None
    trainer.policy.plain_head = False
    got = trainer.run("m", sequences, loss, backward=True)
    assert computed(got["metrics"]) == pytest.approx(computed(want["metrics"]), rel=1e-5)
    for name, g in trainer.models["m"].optimizer.pending.items():
        torch.testing.assert_close(g, first[name], rtol=1e-4, atol=1e-4)


def test_metrics_count_what_they_say(trainer: Any) -> None:
    sequences, loss = checked(wire_batch(4, config={"logprob_floor": -5.0}))
    m = trainer.run("m", sequences, loss, backward=False)["metrics"]
    trained = sum(int(s.loss_mask.sum()) for s in sequences)
    assert m["tokens:sum"] == trained
    assert 0 < m["masked:sum"] < trained
    assert 0 < m["clipped:sum"] <= trained
    assert m["ratio_max:max"] >= m["ratio:sum"] / trained
    assert m["kl_tokens:sum"] == 0
    assert 0 < m["entropy:sum"] < trained * np.log(300)
    assert all(key.count(":") == 1 for key in m)


def test_gradients_accumulate_and_a_failure_leaves_none(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences, loss = checked(wire_batch(5, config=OFF))
    optimizer = trainer.models["m"].optimizer
    trainer.run("m", sequences, loss, backward=True)
    once = {name: g.clone() for name, g in optimizer.pending.items()}
    trainer.policy.budget(True).tokens = 30
    with monkeypatch.context() as m:
        calls = []

        def fail(*args: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("a kernel is missing")
            return inner(*args)

        inner = step._micro_batch
        m.setattr(step, "_micro_batch", fail)
        with pytest.raises(RuntimeError, match="kernel"):
            trainer.run("m", sequences, loss, backward=True)
    assert all(p.grad is None for p in optimizer.parameters.values())
    for name, g in optimizer.pending.items():
        assert torch.equal(g, once[name])
    trainer.run("m", sequences, loss, backward=True)
    for name, g in optimizer.pending.items():
        torch.testing.assert_close(g, 2 * once[name], rtol=1e-4, atol=1e-5)


def test_a_loss_that_overflows_is_refused(trainer: Any) -> None:
    batch = wire_batch(6, "importance_sampling")
    batch["data"][0]["loss_fn_inputs"]["logprobs"]["data"] = [-3000.0] * 5
    batch["data"][0]["loss_fn_inputs"]["advantages"]["data"] = [1e30] * 5
    with pytest.raises(UserError, match="not finite"):
        trainer.run("m", *checked(batch), backward=True)
    with pytest.raises(UserError, match="after a forward_backward that failed"):
        trainer.optim_step("m", ADAM)
    with pytest.raises(UserError, match="without gradients"):
        trainer.optim_step("m", ADAM)


def test_a_step_that_destroys_the_weights_is_refused(trainer: Any) -> None:
    trainer.run("m", *checked(wire_batch(6)), backward=True)
    next(iter(trainer.models["m"].optimizer.parameters.values())).data.fill_(float("inf"))
    with pytest.raises(UserError, match="weights are not finite"):
        trainer.optim_step("m", ADAM)


def test_clipping_bounds_the_step(trainer: Any) -> None:
    sequences, loss = checked(wire_batch(7, "cross_entropy"))
    trainer.run("m", sequences, loss, backward=True)
    metrics = trainer.optim_step("m", AdamParams(learning_rate=1e-3, grad_clip_norm=0.5))["metrics"]
    assert metrics["grad_norm:mean"] > 0.5
    assert metrics["grad_scale:mean"] == pytest.approx(0.5 / metrics["grad_norm:mean"])


def test_training_lowers_the_loss(trainer: Any) -> None:
    sequences, loss = checked(wire_batch(8, "cross_entropy"))
    losses = []
    for _ in range(8):
        losses.append(trainer.run("m", sequences, loss, backward=True)["metrics"]["loss:sum"])
        trainer.optim_step("m", ADAM)
    assert losses[-1] < 0.8 * losses[0]


def test_equal_seeds_give_equal_runs(model_dir: Path, tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        t = make_trainer(model_dir, tmp_path / name)
        for i in range(2):
            t.run("m", *checked(wire_batch(i, kl=0.1)), backward=True)
            t.optim_step("m", ADAM)
        results.append({n: p.clone() for n, p in t.models["m"].optimizer.parameters.items()})
    assert all(torch.equal(p, results[1][n]) for n, p in results[0].items())


def test_adapters_do_not_disturb_each_other(trainer: Any) -> None:
    sequences, loss = checked(wire_batch(9, "cross_entropy"))

    def forward(name: str) -> tuple[Any, Any]:
        result = trainer.run(name, sequences, loss, backward=False)
        return result["loss_fn_outputs"], computed(result["metrics"])

    base = forward("m")
    trainer.create("n", LoraSpec(rank=2, seed=8))
    trainer.run("n", sequences, loss, backward=True)
    trainer.optim_step("n", ADAM)
    assert forward("m") == base
    assert forward("n") != base
    trainer.unload("n")
    assert forward("m") == base


@pytest.mark.parametrize("rank", [0, -1, 5000])
def test_bad_ranks_are_refused(trainer: Any, rank: int) -> None:
    with pytest.raises(UserError, match="rank"):
        trainer.create("x", LoraSpec(rank=rank))
