"""Selective activation checkpointing: what a layer saves for its second computation.

A checkpointed layer is computed again for its backward. Where memory is left, the first computation
saves the values that cost most for their size: the attention's output, then the outputs of the
MLP's wide products. The second computation uses them again. They are the same bits that it would
have computed, so the gradient does not change.

Attention is saved on a CPU only: its kernel there is one operation with a backward of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FLASH = 1  # torch._fused_sdp_choice: the kernel without T² scores


class SavedValues:
    """Values of one layer's first computation, allowance bytes at most. Each caller has a queue."""

    def __init__(self, allowance: int) -> None:
        self.room = allowance
        self._queues: dict[Any, list[tuple[Tensor, ...] | None]] = {}
        self._read: dict[Any, int] = {}

    def rewind(self) -> None:
        """The next computation begins."""
        self._read = {}

    def save(self, caller: Any, *values: Tensor) -> None:
        """Save what a caller computed if there is room."""
        size = sum(v.untyped_storage().nbytes() for v in values)
        fits = size <= self.room
        self.room -= size if fits else 0
        saved = tuple(v.detach() for v in values) if fits else None
        self._queues.setdefault(caller, []).append(saved)

    def reuse(self, caller: Any) -> tuple[Tensor, ...] | None:
        """What the caller's call of the same number computed, or None if it was not saved."""
        queue, n = self._queues.get(caller, []), self._read.get(caller, 0)
        self._read[caller] = n + 1
        return queue[n] if n < len(queue) else None


class Recompute:
    """What checkpointing tells the layers inside it."""

    inside = False  # a checkpointed layer computes
    active = False  # it computes for the second time, for its backward alone
    poison = False  # skipped products are NaN rather than left as they are
    saved: SavedValues | None = None  # of the layer

    @classmethod
    @contextmanager
    def scope(cls, active: bool, saved: SavedValues | None = None) -> Iterator[None]:
        """The first or the second computation of a checkpointed layer."""
        before = cls.inside, cls.active, cls.saved
        cls.inside, cls.active, cls.saved = True, active, saved
        if saved is not None:
            saved.rewind()
        try:
            with nullcontext() if saved is None else _SavedAttention():
                yield
        finally:
            cls.inside, cls.active, cls.saved = before

    @classmethod
    @contextmanager
    def poisoned(cls) -> Iterator[None]:
        """Skipped products become visible."""
        cls.poison = True
        try:
            yield
        finally:
            cls.poison = False

    @classmethod
    def reuse(cls, caller: Any) -> tuple[Tensor, ...] | None:
        """What the first computation saved for a caller; None in the first computation itself."""
        return cls.saved.reuse(caller) if cls.active and cls.saved is not None else None

    @classmethod
    def save(cls, caller: Any, *values: Tensor) -> None:
        """Save a caller's values if this is the first computation and there is room."""
        if cls.inside and not cls.active and cls.saved is not None:
            cls.saved.save(caller, *values)


def skipped(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The output of a product that is left out: any values."""
    return like.new_full(shape, torch.nan) if Recompute.poison else like.new_empty(shape)


class _SavedAttention(TorchFunctionMode):
    """Calls of scaled_dot_product_attention save their output."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor,  # (B, H, T, D)
    key: Tensor,  # (B, K, S, D)
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    inputs = query, key, value, attn_mask, dropout_p, is_causal
    if not query.is_cpu or torch._fused_sdp_choice(*inputs, **options) != FLASH:
        return F.scaled_dot_product_attention(*inputs, **options)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zero = torch.zeros((), dtype=query.dtype)
        attn_mask = zero.masked_fill(~attn_mask, -torch.inf)
    out: Tensor = _FlashAttention.apply(query, key, value, attn_mask, is_causal, scale)
    return out


class _FlashAttention(torch.autograd.Function):
    """The CPU's flash attention. The second computation has the output of the first."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float | None,
    ) -> Tensor:
        found = Recompute.reuse("attention")
        if found is None:
            out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, causal, attn_mask=mask, scale=scale
            )
            Recompute.save("attention", out, sums)
        else:
            out, sums = found
            out = out.detach()
        ctx.save_for_backward(query, key, value, mask, out, sums)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        query, key, value, mask, out, sums = ctx.saved_tensors
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            d_out, query, key, value, out, sums, 0.0, ctx.causal, attn_mask=mask, scale=ctx.scale
        )
        return *gradients, None, None, None
