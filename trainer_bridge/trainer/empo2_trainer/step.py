"""One pass over a batch: log-probs of every position and, if asked for, the adapter's gradient.

The gradient of a micro-batch joins the others when the micro-batch is done. So one that runs out of
memory, or overflows float16, has no effect and is tried again in smaller parts.
"""

import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from empo2_trainer import memory
from empo2_trainer.batching import MicroBatch, by_length, collate, collate_packed, take
from empo2_trainer.budget import LONG, Budget
from empo2_trainer.datums import IDLE, Sequence
from empo2_trainer.head import Metrics, Positions, score, taken_logprobs
from empo2_trainer.losses import Loss, sequence_log_ratio
from empo2_trainer.model import Policy
from empo2_trainer.packing import in_order, shared_tokens
from empo2_trainer.protocol import OutOfMemory, UserError
from empo2_trainer.usage import Usage

SMALLEST_LOSS_SCALE = 2.0**-8


@dataclass
class Pass:
    """What a pass yields: log-probs in the order of the request, sums, and what it cost."""

    logprobs: list[list[float]]
    metrics: Metrics = field(default_factory=Metrics)
    usage: Usage = field(default_factory=Usage)


def run(policy: Policy, sequences: list[Sequence], loss: Loss, backward: bool) -> Pass:
    """Score the sequences under the active adapter; with backward, p.grad holds the gradient of
    the summed loss afterwards. On an error p.grad is undefined and the caller's to clear.

    A backward of a loss with a mask computes only the log-probs that it needs; the others are 0.
    With sharded layers all ranks call this together, each with its own sequences or none.
    """
    result = Pass([[] for _ in sequences])
    gradient = Gradient(policy.trained if backward else [])
    budget = _budget(policy, backward)
    memory.reset_peak(policy.device)
    started = time.perf_counter()
    rows = _Rows(policy, sequences, budget.packs)
    if policy.threads is not None:
        policy.threads.choose(policy.matrix_weights * sum(rows.lengths))
    work = _Work(policy, loss, backward, budget, gradient, result)
    if policy.sharding is None:
        while rows.remaining:
            work.micro_batch(rows)
    else:
        _in_step(policy, rows, work)
    policy.passed = (0, 0)
    gradient.finish()
    result.usage.limit = budget.tokens
    result.usage.finish(policy, time.perf_counter() - started, backward)
    finite = torch.isfinite(torch.tensor([result.metrics.loss, result.metrics.ratio_max]))
    if not bool(finite.all()):
        raise UserError("the loss is not finite: are the log-probs or advantages extreme?")
    return result


@dataclass
class _Work:
    """A pass that is under way."""

    policy: Policy
    loss: Loss
    backward: bool
    budget: Budget
    gradient: "Gradient"
    result: Pass
    base: bool = False  # the base is computed for micro-batches that do not need it too

    def micro_batch(self, rows: "_Rows") -> None:
        """Compute the next micro-batch. If memory runs out, or float16 overflows, it stays."""
        policy, budget, result = self.policy, self.budget, self.result
        policy.passed = (len(result.logprobs) - len(rows.remaining), len(result.logprobs))
        batch = rows.next(budget, self.backward)
        checkpoint = self.backward and budget.checkpoints(*batch.ids.shape)
        spare = budget.spare(*batch.ids.shape) if checkpoint else 0
        metrics = Metrics()
        with policy.checkpointing.scope(checkpoint, spare), policy.packing.scope(batch.pack):
            logp = self._attempt(batch, metrics)
        if logp is None:
            self.gradient.drop()
            memory.collect(policy.device)
            result.usage.oom_retries += 1
            smallest = not self.backward or (checkpoint and not spare)
            _shrink(policy, budget, batch, smallest)
            return
        if not self.gradient.join(policy.loss_scale):
            _scale_down(policy)
            return
        result.metrics.add(metrics)
        result.usage.count(batch, checkpoint)
        for row, values in zip(batch.rows, logp.float().split(batch.lengths), strict=True):
            result.logprobs[row] = values.tolist()
        rows.drop(len(batch.rows))

    def idle(self) -> None:
        """Compute a row that trains nothing, because other ranks compute."""
        self._compute(collate([IDLE], [0], self.policy.device), Metrics())
        self.gradient.drop()

    def _attempt(self, batch: MicroBatch, metrics: Metrics) -> Tensor | None:
        """Log-probs of a micro-batch, or None if memory ran out."""
        sharded = self.policy.sharding is not None
        try:
            if self.backward:
                memory.require(self.policy.device, self.budget.needs(*batch.ids.shape))
            return self._compute(batch, metrics)
        except memory.Shortage:
            if sharded:
                self.idle()  # the other ranks have begun
            return None
        except (MemoryError, RuntimeError) as e:
            if sharded or not memory.is_out_of_memory(e):
                raise
            return None

    def _compute(self, batch: MicroBatch, metrics: Metrics) -> Tensor:
        return _micro_batch(self.policy, batch, self.loss, metrics, self.backward, self.base)


def _in_step(policy: Policy, rows: "_Rows", work: _Work) -> None:
    """All ranks compute as many micro-batches as the one with the most. The weights of a layer are
    gathered from all of them, so one that has no rows, or must refuse one, computes along."""
    work.base = policy.ranks.any(any(bool((s.kl != 0).any()) for s in rows.sequences))[0]
    refused: UserError | None = None
    while policy.ranks.any(bool(rows.remaining))[0]:
        if not rows.remaining:
            work.idle()
            continue
        try:
            work.micro_batch(rows)
        except UserError as e:
            refused = e
            rows.drop(len(rows.remaining))
    if refused is not None:
        raise refused


def _budget(policy: Policy, backward: bool) -> Budget:
    try:
        return policy.budget(backward)
    except (MemoryError, RuntimeError) as e:
        if policy.sharding is not None or not memory.is_out_of_memory(e):
            raise
        free = memory.gigabytes(memory.free(policy.device))
        raise UserError(
            f"out of memory: {free} are free on {policy.device}, too little for a row of "
            f"{LONG} tokens. Use a smaller base or bfloat16, or free memory"
        ) from e


class Gradient:
    """The sum of the gradients of the micro-batches that are done."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.sums: list[Tensor | None] = [None] * len(parameters)

    def join(self, scale: float) -> bool:
        """Add what a micro-batch left in p.grad, divided by scale; False if scaling overflowed."""
        if scale != 1 and not self._finite():
            self.drop()
            return False
        for i, p in enumerate(self.parameters):
            fresh, p.grad = p.grad, None
            if fresh is None:
                continue
            if scale != 1:
                fresh.div_(scale)
            total = self.sums[i]
            self.sums[i] = fresh if total is None else total.add_(fresh)
        return True

    def drop(self) -> None:
        """Forget what a failed micro-batch left in p.grad."""
        for p in self.parameters:
            p.grad = None

    def finish(self) -> None:
        """Leave the sums in p.grad."""
        for p, total in zip(self.parameters, self.sums, strict=True):
            p.grad = total

    def _finite(self) -> bool:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return not grads or bool(torch.stack([g.isfinite().all() for g in grads]).all())


class _Rows:
    """The rows that a pass has still to do, in the order in which micro-batches take them."""

    def __init__(self, policy: Policy, sequences: list[Sequence], pack: bool) -> None:
        self.policy, self.sequences = policy, sequences
        self.packed = pack and bool(sequences) and policy.packing.takes(sequences)
        self.remaining = in_order(sequences) if self.packed else by_length(sequences)
        tokens = [sequences[i].tokens for i in self.remaining]
        self.lengths = [len(t) for t in tokens]
        self.shared = shared_tokens(tokens) if self.packed else []

    def next(self, budget: Budget, backward: bool) -> MicroBatch:
        """The next micro-batch; it remains until drop."""
        device, dtype = self.policy.device, self.policy.hf.dtype
        if self.packed:
            count = budget.packed_rows(self.lengths, self.shared, backward)
            return collate_packed(self.sequences, self.remaining[:count], device, dtype)
        most = budget.rows(self.lengths[0], backward)
        count = take(self.lengths, most, budget.enough)
        return collate(self.sequences, self.remaining[:count], device)

    def drop(self, count: int) -> None:
        """The first rows are done."""
        self.remaining, self.lengths = self.remaining[count:], self.lengths[count:]
        self.shared = self.shared[count:]


def _shrink(policy: Policy, budget: Budget, batch: MicroBatch, smallest: bool) -> None:
    """Halve the budget after a failure; one row that needs the least already is refused."""
    rows, longest = batch.ids.shape
    budget.full = 0
    if len(batch.rows) > 1 or not smallest:
        budget.halve(rows, longest)
        return
    free, needed = memory.free(policy.device), int(budget.dropped.of(1, longest))
    possible = min(budget.dropped.longest(free), longest - 1)
    message = (
        f"out of memory: a row of {longest} tokens needs about {memory.gigabytes(needed)}, "
        f"{memory.gigabytes(free)} are free on {policy.device}, enough for about {possible} "
        f"tokens; the micro-batch limit is down to {budget.tokens} tokens. "
        "Shorten the episodes, use a smaller base or bfloat16, or free memory"
    )
    raise OutOfMemory(message, batch.rows[0], longest, possible, (needed, free))


def _scale_down(policy: Policy) -> None:
    policy.loss_scale /= 16
    if policy.loss_scale < SMALLEST_LOSS_SCALE:
        policy.loss_scale = SMALLEST_LOSS_SCALE
        raise UserError("the gradient overflows float16: use --dtype bfloat16 or float32")


def _micro_batch(
    policy: Policy, batch: MicroBatch, loss: Loss, metrics: Metrics, backward: bool, always: bool
) -> Tensor:
    """Log-probs (N,), float64; adds to the metrics and, with backward, to p.grad. The base is
    computed if the batch needs it, or always."""
    most = max(1, policy.budget(backward).logits // policy.vocab_size)
    position_ids = None if batch.pack is None else batch.pack.position_ids
    base_features = None
    if always or bool((batch.kl != 0).any()):
        with policy.base():
            base_features = policy.features(batch.ids, position_ids).flatten(0, 1)
    with torch.set_grad_enabled(backward):
        features = policy.features(batch.ids, position_ids)
    flat = features.detach().flatten(0, 1)  # (B·T, F)
    logp = torch.zeros(len(batch.positions), dtype=torch.float64, device=flat.device)
    d_flat = torch.zeros_like(flat) if backward else None
    with torch.no_grad():
        others = ~batch.needs_gradient
        if backward and loss.has_mask:
            others[:] = False
        for n in _chunks(most, others):
            logits = policy.head(flat[batch.positions[n]])
            logp[n] = taken_logprobs(logits, batch.targets[n])
        sequence = _sequence(policy, batch, loss, flat, most)
        for n in _chunks(most, batch.needs_gradient):
            at, where = _at(batch, n, sequence), batch.positions[n]
            base = None if base_features is None else policy.head(base_features[where])
            logits = policy.head(flat[where])
            logp[n], d_logits = score(logits, at, loss, base, metrics)
            if d_flat is not None:
                d_features = policy.head_backward(d_logits, logits, flat.dtype)
                if batch.pack is None:
                    d_flat[where] = d_features
                else:
                    d_flat.index_add_(0, where, d_features)
    del base_features
    if d_flat is not None:
        features.backward(d_flat.view_as(features))
    return logp


def _sequence(
    policy: Policy, batch: MicroBatch, loss: Loss, flat: Tensor, most: int
) -> Tensor | None:
    """The log-ratio of each token's row (N,), if the loss needs it before the first gradient.

    A micro-batch holds whole rows, so only the head is computed twice.
    """
    if loss.surrogate != "gspo":
        return None
    logp = torch.zeros(len(batch.positions), dtype=torch.float64, device=flat.device)
    for n in _chunks(most, batch.loss_mask):
        logp[n] = taken_logprobs(policy.head(flat[batch.positions[n]]), batch.targets[n])
    return sequence_log_ratio(
        loss, logp, batch.logprobs, batch.loss_mask, batch.floor_mask, batch.lengths
    )


def _at(batch: MicroBatch, n: Tensor, sequence: Tensor | None) -> Positions:
    return Positions(
        targets=batch.targets[n],
        loss_mask=batch.loss_mask[n],
        importance_weights=batch.importance_weights[n],
        logprobs=batch.logprobs[n],
        advantages=batch.advantages[n],
        kl=batch.kl[n],
        entropy=batch.entropy[n],
        floor_mask=batch.floor_mask[n],
        sequence=None if sequence is None else sequence[n],
    )


def _chunks(most: int, mask: Tensor) -> list[Tensor]:
    """Indices where mask holds, in chunks of at most so many."""
    where = mask.nonzero()[:, 0]
    bounds = [*range(0, len(where), most), len(where)]
    return [where[a:b] for a, b in pairwise(bounds)]
