"""Each loss alone, compared with float64 numbers from autograd."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from empo2_trainer.losses import k3, parse, token_loss
from empo2_trainer.protocol import UserError

CASES = Path(__file__).parent.parent / "testdata" / "loss_cases.json"


def f64(values: list[float] | None, like: list[float], default: float) -> torch.Tensor:
    return torch.tensor(values or [default] * len(like), dtype=torch.float64)


def oracle_cases() -> list[Any]:
    cases = json.loads(CASES.read_text())
    shared = Path(os.environ.get("EMPO2_FIXTURES", Path(__file__).parents[4] / "shared/fixtures"))
    oracle = shared / "tinker" / "loss_oracle.json"
    if not oracle.exists():
        return cases
    for case in json.loads(oracle.read_text())["cases"]:
        if case["loss_fn"] in ("cross_entropy", "importance_sampling", "ppo"):
            case = {
                **case,
                "config": case.get("loss_fn_config", {}),
                "logp": case["target_logprobs"],
                "loss_sum": case["loss:sum"],
                "d_logp": case["dL_dlogp"],
            }
            cases.append(case)
    return cases


@pytest.mark.parametrize("case", oracle_cases(), ids=lambda c: c["loss_fn"])
def test_value_and_gradient_equal_the_oracle(case: Any) -> None:
    logp = torch.tensor(case["logp"], dtype=torch.float64)
    weights = f64(case.get("weights"), case["logp"], 1.0)
    logprobs = f64(case.get("logprobs"), case["logp"], 0.0)
    advantages = f64(case.get("advantages"), case["logp"], 1.0)
    got = token_loss(parse(case["loss_fn"], case["config"]), logp, weights, logprobs, advantages)
    torch.testing.assert_close(float(got.value.sum()), case["loss_sum"], rtol=1e-12, atol=0)
    torch.testing.assert_close(got.grad.tolist(), case["d_logp"], rtol=1e-12, atol=0)


def slow_empo2(
    logp: torch.Tensor,
    w: torch.Tensor,
    q: torch.Tensor,
    a: torch.Tensor,
    config: dict[str, float],
) -> torch.Tensor:
    """The definition, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    low, high = config["clip_low_threshold"], config["clip_high_threshold"]
    for k in range(len(logp)):
        if float(logp[k].detach()) < config["logprob_floor"]:
            continue
        ratio = torch.exp(logp[k] - q[k])
        s = torch.minimum(ratio * a[k], torch.clamp(ratio, low, high) * a[k])
        if float(a[k]) < 0 and config["dual_clip"] > 0:
            s = torch.maximum(s, config["dual_clip"] * a[k])
        total = total - w[k] * s
    return total


@pytest.mark.parametrize("dual_clip", [0.0, 1.5, 10.0])
@pytest.mark.parametrize("floor", [-5.0, -1e30])
def test_empo2_is_its_definition(dual_clip: float, floor: float) -> None:
    g = torch.Generator().manual_seed(5)

    def normal() -> torch.Tensor:
        return torch.randn(500, generator=g, dtype=torch.float64)

    logp = (-normal().abs() * 4).requires_grad_()
    w, q, a = (normal() > -0.5).double(), -normal().abs() * 4, normal()
    config = {"dual_clip": dual_clip, "logprob_floor": floor}
    loss = parse("empo2", config)
    want = slow_empo2(logp, w, q, a, dict(loss.config))
    want.backward()
    got = token_loss(loss, logp.detach(), w, q, a)
    torch.testing.assert_close(got.value.sum(), want.detach())
    torch.testing.assert_close(got.grad, logp.grad)


def test_the_floor_masks_single_tokens() -> None:
    logp = torch.tensor([-0.5, -9.0, -1.0], dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    got = token_loss(parse("empo2", None), logp, one, logp, one)
    assert got.grad.tolist() == [-1.0, 0.0, -1.0]


def test_an_overflowing_ratio_stays_finite_where_it_is_clipped() -> None:
    logp, q = torch.tensor([-1.0] * 3).double(), torch.tensor([-5e4] * 3).double()
    advantages = torch.tensor([1.0, -1.0, 0.0]).double()
    got = token_loss(parse("empo2", None), logp, torch.ones(3).double(), q, advantages)
    assert got.value.tolist() == [-1.3, 10.0, 0.0]
    assert got.grad.tolist() == [0.0, 0.0, 0.0]


def test_k3_equals_autograd() -> None:
    logp = torch.tensor([-0.3, -4.0, -1.0], dtype=torch.float64, requires_grad=True)
    base = torch.tensor([-1.0, -0.5, -1.0], dtype=torch.float64)
    value, slope = k3(logp.detach(), base)
    want = torch.exp(base - logp) - (base - logp) - 1
    want.sum().backward()
    torch.testing.assert_close(value, want.detach())
    torch.testing.assert_close(slope, logp.grad)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("reinforce", {}, "unknown loss_fn 'reinforce': valid are cross_entropy, importance"),
        ("ppo", {"clip": 0.2}, "has no key 'clip': valid keys are clip_low_threshold, clip_high"),
        ("cross_entropy", {"beta": 1.0}, "valid keys are none"),
        ("ppo", {"clip_low_threshold": 2.0}, "need 0 <= low <= high"),
        ("empo2", {"dual_clip": 0.5}, "must be 0 (off) or at least 1"),
        ("empo2", {"kl_estimator": 2.0}, "must be 0 (exact) or 1 (k3)"),
        ("empo2", {"logprob_floor": float("nan")}, "must be finite"),
    ],
)
def test_bad_configurations_are_named(name: str, config: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as e:
        parse(name, config)
    assert message in str(e.value)
