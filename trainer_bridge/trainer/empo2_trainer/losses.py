"""The losses: value and derivative by the log-prob of the taken token. All losses are sums.

With ρ = exp(logp − logprobs), A the advantages and w = loss mask · importance weight, a token adds

    cross_entropy        −w·logp
    importance_sampling  −w·ρA
    ppo                  −w·min(ρA, clip(ρ, lo, hi)·A)
    empo2                −w·1[logp ≥ floor]·s + kl·KL(π‖π_base) − entropy·H(π)

where s is, by the surrogate,

    clip   ppo's term, bounded from below by dual_clip·A if A < 0 (dual clip, arXiv 1912.09729)
    cispo  sg(clip(ρ, lo, hi))·A·logp: a clipped token keeps a gradient (arXiv 2506.13585)
    sapo   4/τ·σ(τ(ρ−1))·A with τ = 1 if A > 0, else 1.05 (arXiv 2511.20347)
    dppo   ρA, without the tokens whose probability has moved too far from the sampler's: by more
           than hi − 1 upwards if A > 0, 1 − lo downwards if not (binary TV, arXiv 2602.04879)
    gspo   clip's term with one ratio for all tokens of a row, exp of the mean of their log ρ. The
           derivative by each log-prob is that of GSPO-token (arXiv 2507.18071, equation 13)

kl and entropy are coefficients per token; head.py computes these two terms over the vocabulary.
The floor masks single tokens. EMPO² (arXiv 2602.23008) trains tokens that were sampled with tips
in a context without tips. A very unlikely token must not mask the other tokens of its row.
The derivatives are written out, since autograd would multiply 0 by an infinite ratio.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from empo2_trainer.protocol import UserError

MAX_LOG_RATIO = 700.0  # exp of more is infinite even in float64

DEFAULTS: dict[str, dict[str, float]] = {
    "cross_entropy": {},
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
    "empo2": {
        "clip_low_threshold": 0.8,
        "clip_high_threshold": 1.3,
        "dual_clip": 10.0,
        "logprob_floor": -5.0,
        "kl_estimator": 0.0,
        "surrogate": 0.0,
    },
}
SURROGATES = ("clip", "cispo", "sapo", "dppo", "gspo")
MAX_SEQUENCE_LOG_RATIO = 10.0  # gspo; verl bounds it too
SAPO_TEMPERATURES = (1.0, 1.05)  # τ of the paper, for A > 0 and for the others
REQUIRED: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("target_tokens", "weights"),
    "importance_sampling": ("target_tokens", "logprobs", "advantages"),
    "ppo": ("target_tokens", "logprobs", "advantages"),
    "empo2": ("target_tokens", "logprobs", "advantages"),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "cross_entropy": (),
    "importance_sampling": ("weights",),
    "ppo": ("weights",),
    "empo2": ("loss_mask", "importance_weights", "kl", "entropy", "floor_mask"),
}


@dataclass(frozen=True)
class Loss:
    """A loss function and its complete configuration."""

    name: str
    config: Mapping[str, float]

    @property
    def has_mask(self) -> bool:
        """Whether a token that does not train is of no interest, as opposed to advantage 0."""
        return self.name in ("cross_entropy", "empo2")

    @property
    def surrogate(self) -> str:
        """One of SURROGATES."""
        return SURROGATES[int(self.config.get("surrogate", 0.0))]

    @property
    def exact_kl(self) -> bool:
        """Whether KL sums over the whole vocabulary (else the k3 estimate on the taken token)."""
        return self.config.get("kl_estimator", 0.0) == 0.0


def parse(name: str, config: Mapping[str, float] | None) -> Loss:
    """Check the name and the configuration of a loss and add the defaults."""
    if name not in DEFAULTS:
        raise UserError(f"unknown loss_fn {name!r}: valid are {', '.join(DEFAULTS)}")
    full = dict(DEFAULTS[name])
    for key, value in (config or {}).items():
        if key not in full:
            valid = ", ".join(full) or "none"
            raise UserError(f"loss_fn_config of {name} has no key {key!r}: valid keys are {valid}")
        if not -1e300 < value < 1e300:
            raise UserError(f"loss_fn_config {key} = {value}: must be finite")
        full[key] = float(value)
    if "clip_low_threshold" in full:
        low, high = full["clip_low_threshold"], full["clip_high_threshold"]
        if not 0 <= low <= high:
            raise UserError(f"clip thresholds {low} and {high}: need 0 <= low <= high")
    if 0 != full.get("dual_clip", 0.0) < 1:
        raise UserError(f"dual_clip = {full['dual_clip']}: must be 0 (off) or at least 1")
    if full.get("kl_estimator", 0.0) not in (0.0, 1.0):
        raise UserError(f"kl_estimator = {full['kl_estimator']}: must be 0 (exact) or 1 (k3)")
    if full.get("surrogate", 0.0) not in range(len(SURROGATES)):
        names = ", ".join(f"{i} ({name})" for i, name in enumerate(SURROGATES))
        raise UserError(f"surrogate = {full['surrogate']}: must be one of {names}")
    return Loss(name, full)


@dataclass(frozen=True)
class TokenLoss:
    """The policy term per token, float64. The metrics use clipped, kept and ratio."""

    value: Tensor  # (N,)
    grad: Tensor  # (N,) d value / d logp
    ratio: Tensor  # (N,)
    kept: Tensor  # (N,) bool: the floor does not mask the token
    clipped: Tensor  # (N,) bool: the token has no gradient, because of its ratio


def token_loss(
    loss: Loss,
    logp: Tensor,
    weights: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    floor_mask: Tensor | None = None,
    sequence: Tensor | None = None,
) -> TokenLoss:
    """Value and derivative of the policy term. All arguments are (N,) float64; weights are the
    loss mask times the importance weights. The floor applies where floor_mask (bool) is set;
    None is everywhere. sequence replaces log ρ of each token (sequence_log_ratio)."""
    everything = torch.ones_like(logp, dtype=torch.bool)
    if loss.name == "cross_entropy":
        one = torch.ones_like(logp)
        return TokenLoss(-weights * logp, -weights, one, everything, ~everything)
    log_ratio = logp - logprobs if sequence is None else sequence
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    term = _SURROGATE[loss.surrogate](loss, logp, logprobs, ratio, advantages)
    kept = everything
    if loss.name == "empo2":
        kept = above_floor(loss, logp, floor_mask)
    scale = -weights * kept
    grad = torch.where(term.clipped, 0.0, scale * term.slope)
    return TokenLoss(scale * term.value, grad, ratio, kept, term.clipped)


def above_floor(loss: Loss, logp: Tensor, floor_mask: Tensor | None) -> Tensor:
    """The tokens (N,) that the floor of empo2 does not mask."""
    kept = logp >= loss.config["logprob_floor"]
    return kept if floor_mask is None else kept | ~floor_mask


def sequence_log_ratio(
    loss: Loss,
    logp: Tensor,
    logprobs: Tensor,
    trained: Tensor,
    floor_mask: Tensor,
    lengths: list[int],
) -> Tensor:
    """The mean log ρ of the trained tokens of each row, at each of its tokens: (N,) float64.

    The rows follow each other. Tokens that the floor masks do not count: a single one without tips
    would move the ratio of the whole row.
    """
    counted = (trained & above_floor(loss, logp, floor_mask)).double()
    repeats = torch.tensor(lengths, device=logp.device)
    row = torch.arange(len(lengths), device=logp.device).repeat_interleave(repeats)
    sums, counts = logp.new_zeros(len(lengths)), logp.new_zeros(len(lengths))
    sums.index_add_(0, row, torch.where(counted > 0, logp - logprobs, 0.0))
    counts.index_add_(0, row, counted)
    return (sums / counts.clamp(min=1)).clamp(max=MAX_SEQUENCE_LOG_RATIO)[row]


@dataclass(frozen=True)
class _Term:
    """The gain of each token before mask and weight, (N,)."""

    value: Tensor
    slope: Tensor  # d value / d logp where it is not clipped
    clipped: Tensor  # bool: no gradient


def _clip(loss: Loss, _p: Tensor, _q: Tensor, ratio: Tensor, advantages: Tensor) -> _Term:
    surrogate = ratio * advantages  # dρ/dlogp = ρ
    bounded, clipped = surrogate, torch.zeros_like(ratio, dtype=torch.bool)
    if loss.name in ("ppo", "empo2"):
        low, high = loss.config["clip_low_threshold"], loss.config["clip_high_threshold"]
        bounded = torch.minimum(surrogate, ratio.clamp(low, high) * advantages)
        clipped = bounded < surrogate
    if loss.config.get("dual_clip", 0.0) > 0:
        least = loss.config["dual_clip"] * advantages
        dual = (advantages < 0) & (bounded < least)
        bounded = torch.where(dual, least, bounded)
        clipped = clipped | dual
    return _Term(bounded, surrogate, clipped)


def _cispo(loss: Loss, logp: Tensor, _q: Tensor, ratio: Tensor, advantages: Tensor) -> _Term:
    low, high = loss.config["clip_low_threshold"], loss.config["clip_high_threshold"]
    slope = ratio.clamp(low, high) * advantages
    return _Term(slope * logp, slope, torch.zeros_like(ratio, dtype=torch.bool))


def _sapo(_l: Loss, _p: Tensor, _q: Tensor, ratio: Tensor, advantages: Tensor) -> _Term:
    positive, others = SAPO_TEMPERATURES
    tau = torch.full_like(ratio, others).masked_fill(advantages > 0, positive)
    gate = torch.sigmoid(tau * (ratio - 1))
    # Where the sigmoid is 1, an infinite ratio must not be multiplied by its slope of 0.
    slope = 4 * gate * (1 - gate) * advantages * ratio.clamp(max=1e3)
    return _Term(4 / tau * gate * advantages, slope, torch.zeros_like(ratio, dtype=torch.bool))


def _dppo(loss: Loss, logp: Tensor, logprobs: Tensor, ratio: Tensor, advantages: Tensor) -> _Term:
    moved = logp.exp() - logprobs.exp()
    up, down = loss.config["clip_high_threshold"] - 1, 1 - loss.config["clip_low_threshold"]
    dropped = torch.where(advantages > 0, moved > up, moved < -down)
    gain = torch.where(dropped, 0.0, ratio * advantages)
    return _Term(gain, gain, dropped)


_SURROGATE = {"clip": _clip, "cispo": _cispo, "sapo": _sapo, "dppo": _dppo, "gspo": _clip}


def k3(logp: Tensor, base_logp: Tensor) -> tuple[Tensor, Tensor]:
    """Schulman's k3 estimate of KL(π‖π_base) on the taken token and its derivative by logp."""
    gap = (base_logp - logp).clamp(max=MAX_LOG_RATIO)
    return gap.exp() - gap - 1, 1 - gap.exp()
