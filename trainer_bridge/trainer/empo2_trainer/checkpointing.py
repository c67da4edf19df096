"""Activation checkpointing: a decoder layer keeps its input and is computed again for its backward.

Only layers of a class that transformers itself checkpoints are patched. The model stays in eval
mode, and the switch can differ from one micro-batch to the next. The second computation of a layer
stops at its last saved value. The product of its last linear layer is left out where no later
operation needs it; `skip_last_products` tries that out.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from empo2_trainer.recompute import Recompute, SavedValues


class Checkpointing:
    """The decoder layers of a model and whether their activations are dropped."""

    def __init__(self, model: nn.Module) -> None:
        self.enabled = False
        self.allowance = 0  # bytes that a layer may save for its second computation
        self.layers = decoder_layers(model)
        for layer in self.layers:
            _patch(layer, self)

    @contextmanager
    def scope(self, enabled: bool, spare: float = 0) -> Iterator[None]:
        """Forwards inside checkpoint their layers, or do not. Together the layers may save so many
        spare bytes for their second computation.
        """
        before = self.enabled, self.allowance
        self.enabled, self.allowance = enabled, int(spare / max(1, len(self.layers)))
        try:
            yield
        finally:
            self.enabled, self.allowance = before

    def contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Scopes of a layer's two computations."""
        saved = SavedValues(self.allowance) if self.allowance else None
        return Recompute.scope(False, saved), Recompute.scope(True, saved)

    def skip_last_products(self, gradients: Callable[[], list[Tensor]]) -> None:
        """Find out whether the second computation can leave out each layer's last product.

        gradients runs one small backward. The product is not needed if NaN in its place changes
        nothing; a norm after the MLP, for example, needs it.
        """
        lasts = [getattr(getattr(layer, "mlp", None), "down_proj", None) for layer in self.layers]
        found: list[Any] = [m for m in lasts if hasattr(m, "lora_A")]
        for module in found:
            module.skipped_in_recompute = True
        with self.scope(True), Recompute.poisoned():
            unused = all(bool(torch.isfinite(g).all()) for g in gradients())
        for module in found:
            module.skipped_in_recompute = unused


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The longest list of layers that transformers can checkpoint."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    lists = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and all(isinstance(child, GradientCheckpointingLayer) for child in module)
    ]
    return max(lists, key=len, default=[])


def _patch(layer: Any, owner: Checkpointing) -> None:
    inner = layer.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (owner.enabled and torch.is_grad_enabled()):
            return inner(*args, **kwargs)
        return checkpoint(
            inner,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            determinism_check="none",
            context_fn=owner.contexts,
            **kwargs,
        )

    layer.forward = types.MethodType(forward, layer)
