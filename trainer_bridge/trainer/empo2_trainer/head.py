"""From logits to log-probs, metrics and the loss's derivative by the logits, written out.

The chain rule by hand saves autograd's copies of the (N, V) log-softmax, which are the largest
arrays of a step, and lets the head run in chunks of positions whatever the vocabulary's size.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from empo2_trainer.losses import Loss, TokenLoss, k3, token_loss


@dataclass
class Metrics:
    """Sums over a request's tokens, added up in float64; ratio_max is a maximum."""

    loss: float = 0.0
    tokens: float = 0.0
    masked: float = 0.0
    clipped: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0
    kl_base: float = 0.0
    kl_tokens: float = 0.0
    approx_kl: float = 0.0
    entropy: float = 0.0

    def add(self, other: "Metrics") -> None:
        """Count another part of the request."""
        for name, value in asdict(other).items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name == "ratio_max" else mine + value)

    def wire(self) -> dict[str, float]:
        """Keys with the reduction by which the SDK merges the chunks of a request."""
        suffix = {"ratio_max": "max"}
        return {f"{k}:{suffix.get(k, 'sum')}": float(v) for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Positions:
    """Arrays (N,) of a chunk of positions; floats are float64, masks are bool."""

    targets: Tensor
    loss_mask: Tensor
    importance_weights: Tensor
    logprobs: Tensor
    advantages: Tensor
    kl: Tensor
    entropy: Tensor
    floor_mask: Tensor
    sequence: Tensor | None = None  # replaces log ρ of each token


def taken_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log-softmax of (N, V) at the targets (N,), in float64."""
    taken = logits.gather(-1, targets[:, None])[:, 0]
    return taken.double() - logits.logsumexp(-1).double()


def score(
    logits: Tensor, at: Positions, loss: Loss, base_logits: Tensor | None, metrics: Metrics
) -> tuple[Tensor, Tensor]:
    """Log-probs (N,) of the targets and dL/dlogits (N, V), float32; adds to the metrics.

    base_logits are the adapter-free model's, given if at.kl is not 0 everywhere.
    """
    all_logp = logits.log_softmax(-1)  # (N, V)
    p = all_logp.exp()
    logp = all_logp.gather(-1, at.targets[:, None])[:, 0].double()
    weights = at.loss_mask * at.importance_weights
    policy = token_loss(loss, logp, weights, at.logprobs, at.advantages, at.floor_mask, at.sequence)
    _count(metrics, loss, policy, at, logp)
    entropy = -torch.linalg.vecdot(p, all_logp)  # (N,)
    metrics.entropy += float(entropy.double()[at.loss_mask].sum())
    d_entropy = None
    if bool((at.entropy != 0).any()):
        metrics.loss -= float((at.entropy * entropy.double()).sum())
        d_entropy = entropy_gradient(all_logp, p, entropy, at.entropy)
    grad = policy.grad
    d_kl = None
    if base_logits is not None:
        base = base_logits.log_softmax(-1)
        if loss.exact_kl:
            value, d_kl = _exact_kl(all_logp, p, base, at.kl)
        else:
            value, slope = k3(logp, base.gather(-1, at.targets[:, None])[:, 0].double())
            grad = grad + at.kl * slope
        wanted = at.kl != 0
        metrics.loss += float((at.kl * value)[wanted].sum())
        metrics.kl_base += float(value[wanted].sum())
        metrics.kl_tokens += float(wanted.sum())
    g = grad.to(p.dtype)[:, None]  # dlogp/dlogits = onehot − p
    d_logits = p.mul_(-g).scatter_add_(-1, at.targets[:, None], g)
    for more in (d_kl, d_entropy):
        if more is not None:
            d_logits.add_(more)
    return logp, d_logits


def _exact_kl(all_logp: Tensor, p: Tensor, base: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
    """KL(π‖π_base) (N,), float64, and coef times its derivative by the logits (N, V).

    Overwrites all_logp.
    """
    gap = all_logp.sub_(base)  # (N, V)
    kl = (p * gap).sum(-1)  # (N,)
    d_logits = gap.sub_(kl[:, None]).mul_(p).mul_(coef[:, None].to(p.dtype))
    return kl.double(), d_logits


def entropy_gradient(all_logp: Tensor, p: Tensor, entropy: Tensor, coef: Tensor) -> Tensor:
    """d(−coef·H)/dlogits = coef·p·(log p + H), (N, V)."""
    return (all_logp + entropy[:, None]).mul_(p).mul_(coef[:, None].to(p.dtype))


def _count(metrics: Metrics, loss: Loss, policy: TokenLoss, at: Positions, logp: Tensor) -> None:
    trained = at.loss_mask
    metrics.loss += float(policy.value.sum())
    metrics.tokens += float(trained.sum())
    if loss.name == "cross_entropy":
        return
    kept = policy.ratio[trained & policy.kept]
    metrics.masked += float((trained & ~policy.kept).sum())
    metrics.clipped += float((trained & policy.clipped).sum())
    metrics.ratio += float(kept.sum())
    if len(kept):
        metrics.ratio_max = max(metrics.ratio_max, float(kept.max()))
    metrics.approx_kl += float((at.logprobs - logp)[trained].sum())
