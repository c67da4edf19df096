"""Muon: momentum whose matrix updates are orthogonalised by Newton-Schulz iterations.

Coefficients and the quintic iteration are those of Keller Jordan's Muon (2024).
"""

import torch

STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(update: torch.Tensor) -> torch.Tensor:
    """Push the singular values of matrices (..., R, C) towards 1; batched over leading axes."""
    tall = update.shape[-2] > update.shape[-1]
    x: torch.Tensor = update.mT if tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Muon with Nesterov momentum on tensors whose last two axes are matrices."""

    def __init__(self, params: list[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        self.params, self.lr, self.momentum = params, lr, momentum
        self.buffers = [torch.zeros_like(param) for param in params]

    @torch.no_grad()
    def step(self, scale: float, decay: float = 0.0) -> None:
        """Apply the parameters' gradients with learning rate lr · scale and decoupled decay."""
        for param, buffer in zip(self.params, self.buffers, strict=True):
            if param.grad is None:
                continue
            buffer.lerp_(param.grad, 1 - self.momentum)
            update = orthogonalise(param.grad.lerp(buffer, self.momentum))
            rate = self.lr * scale
            param.mul_(1 - rate * decay)
            param.add_(update, alpha=-rate * _aspect(param))


def _aspect(param: torch.Tensor) -> float:
    """Larger steps for matrices that widen, so that outputs move alike."""
    rows, columns = param.shape[-2:]
    return float(max(1.0, rows / columns) ** 0.5)
