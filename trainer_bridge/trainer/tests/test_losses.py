"""Each loss alone, compared with float64 numbers from autograd."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from empo2_trainer.losses import SURROGATES, k3, parse, sequence_log_ratio, token_loss
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
    loss, sequence = parse(case["loss_fn"], case["config"]), None
    if loss.surrogate == "gspo":  # the case is one row
        floor = torch.ones(len(logp), dtype=torch.bool)
        sequence = sequence_log_ratio(loss, logp, logprobs, weights > 0, floor, [len(logp)])
    got = token_loss(loss, logp, weights, logprobs, advantages, None, sequence)
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


def surrogate(name: str, **config: float) -> Any:
    return parse("empo2", {"surrogate": SURROGATES.index(name), "logprob_floor": -1e30, **config})


@pytest.mark.parametrize("name", SURROGATES)
def test_the_slope_of_each_surrogate_is_that_of_its_objective(name: str) -> None:
    g = torch.Generator().manual_seed(6)
    logp = (-torch.rand(400, generator=g, dtype=torch.float64) * 3).requires_grad_()
    q = logp.detach() + torch.randn(400, generator=g, dtype=torch.float64) * 0.3
    a, w = torch.randn(400, generator=g, dtype=torch.float64), torch.rand(400, generator=g).double()
    got = token_loss(surrogate(name), logp.detach(), w, q, a)
    ratio = torch.exp(logp - q)
    if name == "cispo":
        gain = ratio.detach().clamp(0.8, 1.3) * a * logp
    elif name == "sapo":
        tau = torch.where(a > 0, 1.0, torch.tensor(1.05, dtype=torch.float64))
        gain = 4 / tau * torch.sigmoid(tau * (ratio - 1)) * a
    elif name == "dppo":
        moved = logp.exp() - q.exp()
        keep = torch.where(a > 0, moved <= 0.3, moved >= -0.2).detach()
        gain = ratio * a * keep
    else:
        return  # test_empo2_is_its_definition
    want = -(w * gain).sum()
    want.backward()
    torch.testing.assert_close(got.value.sum(), want.detach())
    torch.testing.assert_close(got.grad, logp.grad)
    assert name != "dppo" or 0 < int(got.clipped.sum()) < 400


def gspo(
    log_ratios: list[list[float]], advantages: list[float], logp: float = -1.0, **config: float
) -> tuple[Any, torch.Tensor]:
    """The loss of rows with these log-ratios, and the ratio of each token's row."""
    loss = surrogate("gspo", **config)
    p = torch.full((sum(map(len, log_ratios)),), logp, dtype=torch.float64)
    q = p - torch.tensor([r for row in log_ratios for r in row], dtype=torch.float64)
    pairs = zip(log_ratios, advantages, strict=True)
    a = torch.tensor([a for row, a in pairs for _ in row], dtype=torch.float64)
    everything = torch.ones(len(p), dtype=torch.bool)
    lengths = [len(row) for row in log_ratios]
    sequence = sequence_log_ratio(loss, p, q, everything, everything, lengths)
    return token_loss(loss, p, everything.double(), q, a, None, sequence), sequence.exp()


def test_gspo_has_one_ratio_for_all_tokens_of_a_row() -> None:
    rows = [[0.2, -0.1, 0.05, 0.4], [0.1]]
    got, ratio = gspo(rows, [1.0, 1.0])
    torch.testing.assert_close(ratio[:4], torch.full((4,), 1.1474).double(), rtol=0, atol=5e-5)
    assert got.value[:4].tolist() == pytest.approx([-1.1474] * 4, abs=5e-5)
    assert got.grad[:4].tolist() == pytest.approx([-1.1474] * 4, abs=5e-5)
    assert not bool(got.clipped.any())
    # Clipped at 1.1 the whole row has no gradient, although two of its tokens are below.
    got, _ = gspo(rows, [1.0, 1.0], clip_high_threshold=1.1)
    assert got.clipped.tolist() == [True] * 4 + [True]
    assert got.grad.tolist() == [0.0] * 5
    got, _ = gspo(rows, [1.0, 1.0], clip_high_threshold=1.12)
    assert got.clipped.tolist() == [True] * 4 + [False]
    _, ratio = gspo([[50.0]], [1.0])  # the ratio is bounded
    assert float(ratio[0]) == pytest.approx(22026.4658)


def test_gspo_equals_the_clipped_surrogate_for_rows_of_one_token() -> None:
    g = torch.Generator().manual_seed(8)
    gaps = (torch.randn(200, generator=g, dtype=torch.float64) * 0.4).tolist()
    advantages = torch.randn(200, generator=g, dtype=torch.float64)
    got, _ = gspo([[gap] for gap in gaps], advantages.tolist())
    p = torch.full((200,), -1.0, dtype=torch.float64)
    q = p - torch.tensor(gaps, dtype=torch.float64)
    want = token_loss(surrogate("clip"), p, torch.ones(200).double(), q, advantages)
    torch.testing.assert_close(got.value, want.value)
    torch.testing.assert_close(got.grad, want.grad)
    assert 0 < int(got.clipped.sum()) < 200


def test_gspo_is_the_gradient_of_its_objective() -> None:
    """The mean over the tokens of min(sA, clip(s)A), where all tokens of a row have one A."""
    g = torch.Generator().manual_seed(9)
    lengths, a = [3, 5, 1], torch.tensor([1.0, -0.5, 2.0]).double()
    logp = (-torch.rand(9, generator=g, dtype=torch.float64)).requires_grad_()
    q = logp.detach() + torch.randn(9, generator=g, dtype=torch.float64) * 0.2
    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate((logp - q).split(lengths)):
        s = row.mean().exp()
        total = total - torch.minimum(s * a[i], s.clamp(0.8, 1.3) * a[i])
    total.backward()
    weights = torch.cat([torch.full((n,), 1 / n).double() for n in lengths])
    each = torch.cat([torch.full((n,), float(v)).double() for n, v in zip(lengths, a, strict=True)])
    loss, trained = surrogate("gspo"), torch.ones(9, dtype=torch.bool)
    sequence = sequence_log_ratio(loss, logp.detach(), q, trained, trained, lengths)
    got = token_loss(loss, logp.detach(), weights, q, each, None, sequence)
    torch.testing.assert_close(got.value.sum(), total.detach())
    torch.testing.assert_close(got.grad, logp.grad)


def test_gspo_counts_trained_tokens_above_the_floor() -> None:
    loss = parse("empo2", {"surrogate": SURROGATES.index("gspo"), "logprob_floor": -5.0})
    logp = torch.tensor([-1.0, -9.0, -1.0, -2.0]).double()
    q = torch.tensor([-1.2, -0.1, -1.0, -2.4]).double()
    trained = torch.tensor([True, True, False, True])
    floor = torch.ones(4, dtype=torch.bool)
    got = sequence_log_ratio(loss, logp, q, trained, floor, [4])
    torch.testing.assert_close(got, torch.full((4,), 0.3).double())
    exempt = sequence_log_ratio(loss, logp, q, trained, ~floor, [4])
    torch.testing.assert_close(exempt, torch.full((4,), (0.2 - 8.9 + 0.4) / 3).double())


def test_surrogates_by_hand() -> None:
    def values(name: str, p: float, q: float, a: float, **config: float) -> tuple[float, float]:
        logp, logprobs = torch.tensor([p]).double().log(), torch.tensor([q]).double().log()
        one = torch.ones(1).double()
        got = token_loss(surrogate(name, **config), logp, one, logprobs, one * a)
        return float(got.value[0]), float(got.grad[0])

    # cispo: a ratio of 6 keeps the gradient of the bound, 1.2 and 5.
    assert values("cispo", 0.6, 0.1, 1.0, clip_high_threshold=1.2)[1] == pytest.approx(-1.2)
    assert values("cispo", 0.6, 0.1, 1.0, clip_high_threshold=5)[1] == pytest.approx(-5)
    # sapo: the slope at ρ = 1 is that of the plain gradient.
    for advantage in (1.0, -2.0):
        assert values("sapo", 0.3, 0.3, advantage)[1] == pytest.approx(-advantage)
    # dppo: probabilities may move by 0.2 in the direction of the advantage.
    bounds = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    assert values("dppo", 0.6, 0.3, 1.0, **bounds) == (0, 0)
    assert values("dppo", 0.1, 0.35, -1.0, **bounds) == (0, 0)
    assert values("dppo", 0.6, 0.3, -1.0, **bounds) == pytest.approx((2, 2))
    assert values("dppo", 0.1, 0.35, 1.0, **bounds) == pytest.approx((-2 / 7, -2 / 7))


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
        ("empo2", {"surrogate": 5}, "of 0 (clip), 1 (cispo), 2 (sapo), 3 (dppo), 4 (gspo)"),
        ("empo2", {"surrogate": 0.5}, "surrogate = 0.5"),
        ("empo2", {"logprob_floor": float("nan")}, "must be finite"),
    ],
)
def test_bad_configurations_are_named(name: str, config: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as e:
        parse(name, config)
    assert message in str(e.value)
