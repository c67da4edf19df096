"""AdamW of one adapter, with a state that can be saved exactly."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from empo2_trainer.protocol import AdamParams, UserError

MAX_VALUE = 1e30  # float32 holds it
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def check(adam: AdamParams) -> None:
    """Refuse hyper-parameters outside of their ranges."""
    for name in AdamParams.__struct_fields__:
        value = getattr(adam, name)
        if not 0 <= value <= MAX_VALUE:
            raise UserError(f"adam_params {name} = {value}: must be from 0 to {MAX_VALUE:g}")
    for name in ("beta1", "beta2"):
        if getattr(adam, name) >= 1:
            raise UserError(f"adam_params {name} = {getattr(adam, name)}: must be below 1")


def _finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all elements are finite: the largest magnitude is, and NaN is the largest."""
    largest = [torch.linalg.vector_norm(t.detach(), torch.inf) for t in tensors]
    return bool(torch.stack(largest).isfinite().all())  # one wait for the device


class Optimizer:
    """Accumulates gradients of an adapter and applies them."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.pending: dict[str, Tensor] | None = None
        self.incomplete = ""  # why a part of the pending gradient is missing
        self.reset()

    def reset(self) -> None:
        """Clear moments and pending gradients."""
        weights = list(self.parameters.values())
        self.adamw = torch.optim.AdamW(weights, foreach=weights[0].is_cuda)
        self.pending = None
        self.incomplete = ""
        self.clear()

    def clear(self) -> None:
        """Clear the gradients that a pass left in p.grad."""
        for p in self.parameters.values():
            p.grad = None

    def accept(self) -> None:
        """Add the gradients of a successful pass, in p.grad, to the pending gradient."""
        fresh = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in self.parameters.items()
        }
        self.clear()
        if not _finite(fresh.values()):
            raise UserError("the gradient is not finite: are the log-probs or advantages extreme?")
        if self.pending is None:
            self.pending = fresh
            return
        for name, g in fresh.items():
            self.pending[name] += g

    def step(self, adam: AdamParams) -> dict[str, float]:
        """Apply and clear the pending gradient. Returns the metrics of the step."""
        check(adam)
        if self.incomplete:
            why, self.incomplete, self.pending = self.incomplete, "", None
            raise UserError(
                f"optim_step after a forward_backward that failed ({why}): the gradient was "
                "incomplete and is cleared, send all of it again"
            )
        if self.pending is None:
            raise UserError("optim_step without gradients: send forward_backward first")
        squares = torch.stack([g.double().square().sum() for g in self.pending.values()])
        norm = math.sqrt(sum(squares.tolist()))  # one wait for the device
        clip = adam.grad_clip_norm
        scale = clip / norm if 0 < clip < norm else 1.0
        for name, p in self.parameters.items():
            p.grad = self.pending[name].mul_(scale)
        for group in self.adamw.param_groups:
            group.update(
                lr=adam.learning_rate,
                betas=(adam.beta1, adam.beta2),
                eps=adam.eps,
                weight_decay=adam.weight_decay,
            )
        self.adamw.step()
        self.pending = None
        self.clear()
        if not _finite(self.parameters.values()):
            raise UserError(
                f"the weights are not finite after a step of norm {norm:.3g}: load a checkpoint "
                "and lower the learning rate"
            )
        return {
            "grad_norm:mean": norm,
            "grad_scale:mean": scale,
            "learning_rate:mean": adam.learning_rate,
        }

    @property
    def steps(self) -> int:
        """Optimizer steps taken so far."""
        states = self.adamw.state.values()
        return max((int(s["step"]) for s in states), default=0)

    def state(self) -> dict[str, Tensor]:
        """Moments by <moment>/<parameter>; empty before the first step."""
        return {
            f"{moment}/{name}": self.adamw.state[p][moment]
            for name, p in self.parameters.items()
            if p in self.adamw.state
            for moment in MOMENTS
        }

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Replace the state by a result of state()."""
        self.reset()
        if not saved:
            return
        for name, p in self.parameters.items():
            state = {}
            for moment in MOMENTS:
                value = saved.get(f"{moment}/{name}")
                if value is None or (moment != "step" and value.shape != p.shape):
                    raise UserError(f"the checkpoint's optimizer state does not fit {name}")
                state[moment] = value if moment == "step" else value.to(p.device)
            self.adamw.state[p] = state
