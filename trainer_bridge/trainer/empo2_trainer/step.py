"""One pass over a batch: log-probs of every position and, if asked for, the adapter's gradient."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from empo2_trainer.batching import MicroBatch, micro_batches
from empo2_trainer.datums import Sequence
from empo2_trainer.head import Metrics, Positions, score, taken_logprobs
from empo2_trainer.losses import Loss
from empo2_trainer.model import Policy
from empo2_trainer.protocol import UserError

MICRO_BATCH_TOKENS = {"cpu": 4096, "gpu": 16384}  # the CPU's caches like them small
HEAD_ELEMENTS = {"cpu": 1 << 22, "gpu": 1 << 27}  # logits held at a time


@dataclass
class Pass:
    """What a pass yields: log-probs in the order of the request, and sums."""

    logprobs: list[list[float]]
    metrics: Metrics = field(default_factory=Metrics)


def run(policy: Policy, sequences: list[Sequence], loss: Loss, backward: bool) -> Pass:
    """Score the sequences under the active adapter; with backward, p.grad holds the gradient of
    the summed loss afterwards. On an error p.grad is undefined and the caller's to clear."""
    result = Pass([[] for _ in sequences])
    limit = MICRO_BATCH_TOKENS[_kind(policy)]
    for batch in micro_batches(sequences, limit, policy.device):
        logp = _micro_batch(policy, batch, loss, result.metrics, backward)
        for row, values in zip(batch.rows, logp.float().split(batch.lengths), strict=True):
            result.logprobs[row] = values.tolist()
    finite = torch.isfinite(torch.tensor([result.metrics.loss, result.metrics.ratio_max]))
    if not bool(finite.all()):
        raise UserError("the loss is not finite: are the log-probs or advantages extreme?")
    return result


def _micro_batch(
    policy: Policy, batch: MicroBatch, loss: Loss, metrics: Metrics, backward: bool
) -> Tensor:
    """Log-probs (N,), float64; adds to the metrics and, with backward, to p.grad."""
    base_features = None
    if bool((batch.kl != 0).any()):
        with policy.base():
            base_features = policy.features(batch.ids).flatten(0, 1)
    with torch.set_grad_enabled(backward):
        features = policy.features(batch.ids)
    flat = features.detach().flatten(0, 1)  # (B·T, F)
    logp = torch.empty(len(batch.positions), dtype=torch.float64, device=flat.device)
    d_flat = torch.zeros_like(flat) if backward else None
    with torch.no_grad():
        for n in _chunks(policy, ~batch.needs_gradient):
            logits = policy.head(flat[batch.positions[n]])
            logp[n] = taken_logprobs(logits, batch.targets[n])
        for n in _chunks(policy, batch.needs_gradient):
            at, where = _at(batch, n), batch.positions[n]
            base = None if base_features is None else policy.head(base_features[where])
            logp[n], d_logits = score(policy.head(flat[where]), at, loss, base, metrics)
            if d_flat is not None:
                d_flat[where] = policy.head_backward(d_logits, flat.dtype)
    if d_flat is not None:
        features.backward(d_flat.view_as(features))
    return logp


def _kind(policy: Policy) -> str:
    return "cpu" if policy.device.type == "cpu" else "gpu"


def _at(batch: MicroBatch, n: Tensor) -> Positions:
    return Positions(
        targets=batch.targets[n],
        loss_mask=batch.loss_mask[n],
        importance_weights=batch.importance_weights[n],
        logprobs=batch.logprobs[n],
        advantages=batch.advantages[n],
        kl=batch.kl[n],
        entropy=batch.entropy[n],
        floor_mask=batch.floor_mask[n],
    )


def _chunks(policy: Policy, mask: Tensor) -> list[Tensor]:
    """Indices where mask holds, in chunks whose logits fit the limit."""
    where = mask.nonzero()[:, 0]
    size = max(1, HEAD_ELEMENTS[_kind(policy)] // policy.vocab_size)
    bounds = [*range(0, len(where), size), len(where)]
    return [where[a:b] for a, b in pairwise(bounds)]
