"""A faster forward for LoRA on small linear layers.

PEFT computes Wx + s·B(Ax): three products over all tokens, and five more backwards. For small
matrices it is cheaper to form W + s·BA once and to multiply once; autograd then yields the
same gradients by A and B. Measured on the 64-wide default policy it saves a fifth of a step.
"""

import types
from typing import Any

import torch.nn.functional as F
from torch import Tensor, float32, nn

SMALL = 256 * 256  # elements of W up to which the extra weight gradient pays


def fuse(model: nn.Module) -> None:
    """Patch every small LoRA layer of the model in place; repeated calls are harmless."""
    from peft.tuners.lora.layer import Linear

    for module in model.modules():
        if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
            continue
        weight = module.base_layer.weight
        if weight.numel() <= SMALL and weight.dtype == float32:
            module.forward = types.MethodType(_forward, module)


def _forward(self: Any, x: Tensor) -> Tensor:
    base = self.base_layer
    active = [name for name in self.active_adapters if name in self.lora_A]
    if self.disable_adapters or not active:
        return F.linear(x, base.weight, base.bias)
    (name,) = active
    delta = self.lora_B[name].weight @ self.lora_A[name].weight
    return F.linear(x, base.weight + self.scaling[name] * delta, base.bias)
