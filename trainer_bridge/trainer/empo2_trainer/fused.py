"""Faster forwards for LoRA layers and gated MLPs, with the same values and gradients.

PEFT computes Wx + s·B(Ax) with three temporaries of the output's size, in float32 whatever the
base's type. Two forms replace it:

- Small float32 matrices: form W + s·BA once and multiply once. On the 64-wide default policy
  this saves a fifth of a step.
- All others: one autograd function that adds s·B(Ax) in place, computes in the base's type and
  keeps x and Ax. The adapter's weights and gradients stay float32.

A gated MLP, down(silu(gate)·up), keeps gate and up and computes the product again in the backward.
In a checkpointed layer it keeps its input, works on a part of the tokens at a time, and uses gate
and up again where `recompute` saved them.
An RMSNorm keeps its input, in the base's type, and nothing else; on a GPU it is one kernel.
"""

import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, float32, nn

from empo2_trainer.recompute import Recompute, skipped

TILE = {"cpu": 1024, "cuda": 8192}  # tokens of an MLP at a time in a checkpointed layer
SMALL = 256 * 256  # elements of W up to which the extra weight gradient pays


Whole = Callable[[nn.Module], AbstractContextManager[None]]  # makes a module's weights readable


def fuse(model: nn.Module, whole: Whole) -> None:
    """Patch the layers of a model in place; repeated calls are harmless."""
    from peft.tuners.lora.layer import Linear

    gated, norms = _gated_types(model, whole), _norm_types(model, whole)
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            weight = module.base_layer.weight
            small = weight.numel() <= SMALL and weight.dtype == float32
            module.one_function = not small
            module.forward = types.MethodType(_small_forward if small else _forward, module)
        elif type(module) in gated:
            module.forward = types.MethodType(_gated_forward, module)
            module.gate_proj.saved_for_recompute = module.up_proj.saved_for_recompute = True
        elif type(module) in norms:
            module.forward = types.MethodType(_norm_forward, module)


def keep_attention_small() -> None:
    """On a GPU, float32 attention must not ask for grouped queries.

    Only the flash kernel and the plain one know them (documentation of
    scaled_dot_product_attention, enable_gqa), and flash has no float32. The plain one keeps T²
    scores. With repeated keys and values the memory-efficient kernel is chosen.
    """
    from transformers.integrations import sdpa_attention

    inner = sdpa_attention.use_gqa_in_sdpa
    if getattr(inner, "keeps_attention_small", False):
        return

    def use_gqa_in_sdpa(attention_mask: Any, key: Tensor, value: Tensor) -> bool:
        if key.is_cuda and key.dtype == float32:
            return False
        return bool(inner(attention_mask, key, value))

    use_gqa_in_sdpa.keeps_attention_small = True  # type: ignore[attr-defined]
    sdpa_attention.use_gqa_in_sdpa = use_gqa_in_sdpa


def _active(module: Any) -> str | None:
    """The adapter that applies to a layer."""
    if module.disable_adapters:
        return None
    return next((name for name in module.active_adapters if name in module.lora_A), None)


def _small_forward(self: Any, x: Tensor) -> Tensor:
    base = self.base_layer
    name = _active(self)
    if name is None:
        return F.linear(x, base.weight, base.bias)
    delta = self.lora_B[name].weight @ self.lora_A[name].weight
    return F.linear(x, base.weight + self.scaling[name] * delta, base.bias)


def _forward(self: Any, x: Tensor) -> Tensor:
    base = self.base_layer
    name = _active(self)
    if name is None:
        return F.linear(x, base.weight, base.bias)
    a, b = self.lora_A[name].weight, self.lora_B[name].weight
    known = _known_product(self, x)
    y: Tensor = _Lora.apply(x, a, b, base.weight, base.bias, self.scaling[name], known)
    if getattr(self, "saved_for_recompute", False):
        Recompute.save(self, y)
    return y


def _known_product(module: Any, x: Tensor) -> Tensor | None:
    """The module's output in a second computation, if it was saved or if nothing needs it."""
    if not Recompute.active:
        return None
    if getattr(module, "skipped_in_recompute", False):
        return skipped((*x.shape[:-1], module.base_layer.weight.shape[0]), x)
    found = Recompute.reuse(module) if getattr(module, "saved_for_recompute", False) else None
    return None if found is None else found[0].detach()


class _Lora(torch.autograd.Function):
    """y = Wx + bias + s·B(Ax), where W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (…, I)
        a: Tensor,  # (R, I)
        b: Tensor,  # (O, R)
        weight: Tensor,  # (O, I)
        bias: Tensor | None,
        scale: float,
        known: Tensor | None,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.to(x.dtype).t()  # (N, R)
        ctx.save_for_backward(x, low, a, b)
        ctx.weight, ctx.scale = weight, scale
        if known is not None:
            return known
        y = F.linear(flat, weight, bias)
        y.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, low, a, b = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1])
        dx, d_a, d_b = _lora_gradients(ctx, dy, flat, low, a, b, ctx.needs_input_grad[0])
        return None if dx is None else dx.view(x.shape), d_a, d_b, None, None, None, None


def _lora_gradients(
    ctx: Any, dy: Tensor, x: Tensor, low: Tensor, a: Tensor, b: Tensor, wanted: bool = True
) -> Any:
    """Gradients by x (N, I), which None replaces if it is not wanted, by a and by b."""
    dy = dy.reshape(-1, dy.shape[-1])
    d_low = (dy @ b.to(dy.dtype)).mul_(ctx.scale)  # (N, R)
    d_a = (d_low.t() @ x).to(a.dtype)
    d_b = (low.t() @ dy).t().to(b.dtype).mul_(ctx.scale)  # faster than dyᵀ·low
    dx = (dy @ ctx.weight).addmm_(d_low, a.to(dy.dtype)) if wanted else None
    return dx, d_a, d_b


def _gated_types(model: nn.Module, whole: Whole) -> set[type]:
    """The classes of large modules that compute down(silu(gate(x))·up(x)); each class is tried."""
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    tried: dict[type, bool] = {}
    for module in model.modules():
        if type(module) in tried or not all(hasattr(module, part) for part in parts):
            continue
        weight = getattr(module.gate_proj, "base_layer", module.gate_proj).weight
        if weight.dim() == 2 and weight.numel() > SMALL:
            with whole(module):
                tried[type(module)] = _computes_a_gate(module, weight)
    return {kind for kind, gated in tried.items() if gated}


@torch.no_grad()
def _computes_a_gate(module: Any, weight: Tensor) -> bool:
    width = getattr(module.gate_proj, "in_features", weight.shape[1])
    x = _sample(width, module_dtype(module), weight.device)
    return _close(type(module).forward(module, x), _gated_forward(module, x))


def _norm_types(model: nn.Module, whole: Whole) -> set[type]:
    """The classes of modules that _norm_forward can replace; each class is tried."""
    tried: dict[type, bool] = {}
    for module in model.modules():
        kind = type(module)
        weight = getattr(module, "weight", None)
        if kind in tried or not kind.__name__.endswith("RMSNorm") or weight is None:
            continue
        large = weight.is_cuda or (weight.dtype == float32 and weight.numel() ** 2 > SMALL)
        if large and hasattr(module, "variance_epsilon"):
            with torch.no_grad(), whole(module):
                x = _sample(weight.shape[0], weight.dtype, weight.device)
                tried[kind] = _close(kind.forward(module, x), _norm_forward(module, x))
    return {kind for kind, replaceable in tried.items() if replaceable}


def _norm_forward(self: Any, x: Tensor) -> Tensor:
    if x.is_cuda:
        return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)
    y: Tensor = _Norm.apply(x, self.weight, self.variance_epsilon)
    return y


class _Norm(torch.autograd.Function):
    """y = w·x/rms(x), where w is frozen; keeps x and 1/rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()  # (…, 1)
        ctx.save_for_backward(x, scale)
        ctx.weight = weight
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, scale = ctx.saved_tensors
        dx = dy * ctx.weight
        along = (dx * x).sum(-1, keepdim=True).mul_(scale**3).div_(x.shape[-1])
        return dx.mul_(scale).sub_(x * along), None, None


def _sample(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, width, generator=generator).to(device, dtype)


def _close(want: Tensor, got: Tensor) -> bool:
    return torch.allclose(want.float(), got.float(), rtol=2e-2, atol=2e-3)


def module_dtype(module: nn.Module) -> torch.dtype:
    """The floating-point type that a module computes in."""
    kinds = [p.dtype for n, p in module.named_parameters() if "lora_" not in n]
    return next((kind for kind in kinds if kind.is_floating_point), torch.bfloat16)


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    tokens = x.shape[:-1].numel()
    tile = TILE["cuda" if x.is_cuda else "cpu"]
    if Recompute.inside and tokens > tile and hasattr(self.down_proj, "lora_A"):
        anchor = next(p for n, p in self.named_parameters() if "lora_" in n and p.requires_grad)
        tiled: Tensor = _Tiles.apply(x, anchor, self, tile)
        return tiled
    return _gated(self, x)


def _gated(self: Any, x: Tensor) -> Tensor:
    gate, up, down = self.gate_proj(x), self.up_proj(x), self.down_proj
    name = _active(down) if getattr(down, "one_function", False) else None
    if name is None or not torch.is_grad_enabled():
        plain: Tensor = down(_Gate.apply(gate, up))
        return plain
    base, known = down.base_layer, _known_product(down, gate)
    a, b, scale = down.lora_A[name].weight, down.lora_B[name].weight, down.scaling[name]
    out: Tensor = _GatedDown.apply(gate, up, a, b, base.weight, base.bias, scale, known)
    return out


class _Tiles(torch.autograd.Function):
    """A gated MLP in parts; the backward computes each part again and adds to its p.grad.

    anchor is one of the trained weights: through it the output needs a gradient even if x does not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, module: Any, tile: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module, ctx.tile, ctx.saved = module, tile, Recompute.saved
        if Recompute.active and getattr(module.down_proj, "skipped_in_recompute", False):
            return skipped(x.shape, x)
        flat = x.reshape(-1, x.shape[-1])
        y = torch.empty_like(flat)
        for part, out in zip(flat.split(tile), y.split(tile), strict=True):
            out.copy_(_gated(module, part))
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        flat, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, x.shape[-1])
        dx = torch.empty_like(flat)
        parts = zip(flat.split(ctx.tile), dy.split(ctx.tile), dx.split(ctx.tile), strict=True)
        with Recompute.scope(True, ctx.saved):
            for part, d_part, out in parts:
                leaf = part.detach().requires_grad_()
                with torch.enable_grad():
                    y = _gated(ctx.module, leaf)
                torch.autograd.backward(y, d_part)
                assert leaf.grad is not None
                out.copy_(leaf.grad)
        return dx.view(x.shape), None, None, None


class _GatedDown(torch.autograd.Function):
    """_Lora of silu(gate)·up; it keeps gate and up, but not their product."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,  # (…, I)
        up: Tensor,
        a: Tensor,  # (R, I)
        b: Tensor,  # (O, R)
        weight: Tensor,  # (O, I)
        bias: Tensor | None,
        scale: float,
        known: Tensor | None,
    ) -> Tensor:
        product = F.silu(gate).mul_(up).reshape(-1, gate.shape[-1])
        low = product @ a.to(gate.dtype).t()  # (N, R)
        ctx.save_for_backward(gate, up, low, a, b)
        ctx.weight, ctx.scale = weight, scale
        if known is not None:
            return known
        y = F.linear(product, weight, bias)
        y.addmm_(low, b.to(gate.dtype).t(), alpha=scale)
        return y.view(*gate.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        gate, up, low, a, b = ctx.saved_tensors
        silu = F.silu(gate)
        product = (silu * up).reshape(-1, gate.shape[-1])
        d_product, d_a, d_b = _lora_gradients(ctx, dy, product, low, a, b)
        d_product = d_product.view(gate.shape)
        d_up = silu.mul_(d_product)
        d_gate = torch.ops.aten.silu_backward(d_product.mul_(up), gate)
        return d_gate, d_up, d_a, d_b, None, None, None, None


class _Gate(torch.autograd.Function):
    """silu(gate)·up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        d_up = F.silu(gate).mul_(dy)
        return torch.ops.aten.silu_backward(dy * up, gate), d_up
