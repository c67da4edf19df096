"""What every rank holds, the base and its adapters, and what all ranks do together.

`Replica.together` is called on rank 0. It sends an operation to the other ranks, which run the same
method of their replica, and compares the outcomes. All ranks hold the same adapter and the same
optimizer state at all times: a rank that knows something else ends the group.
"""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from empo2_trainer import export, memory, step
from empo2_trainer.datums import Sequence
from empo2_trainer.head import Metrics
from empo2_trainer.losses import Loss
from empo2_trainer.model import Policy
from empo2_trainer.optimizer import Optimizer
from empo2_trainer.protocol import AdamParams, LoraSpec, OutOfMemory, UserError
from empo2_trainer.shares import balanced
from empo2_trainer.step import Pass
from empo2_trainer.targets import Targets
from empo2_trainer.usage import Usage


@dataclass
class Model:
    """One adapter in training."""

    model_id: str
    adapter: str  # its name inside PEFT
    rank: int
    alpha: float
    optimizer: Optimizer

    @property
    def about(self) -> dict[str, Any]:
        """The description of the adapter in a manifest."""
        return {"rank": self.rank, "alpha": self.alpha}


@dataclass
class _Outcome:
    """What a rank reports of its part: its sums, or why it has none."""

    metrics: Metrics
    usage: Usage
    logprobs: list[list[float]]
    refused: UserError | None = None


class Replica:
    """A base model and its adapters in training, on one rank."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.ranks = policy.ranks
        self.models: dict[str, Model] = {}

    def get(self, model_id: str) -> Model:
        """A model by its id."""
        if model_id not in self.models:
            raise UserError(f"unknown model_id {model_id!r}: create_model comes first")
        return self.models[model_id]

    # Rank 0

    def together(self, operation: str, *args: Any) -> Any:
        """Run an operation on all ranks and return what it returns here."""
        return self._on_all(operation, [args] * self.ranks.size)

    def run_shares(
        self, model_id: str, sequences: list[Sequence], loss: Loss, backward: bool
    ) -> Pass:
        """forward or forward_backward, with the rows distributed over the ranks."""
        shares = balanced(sequences, self.ranks.size)
        parts = [[sequences[i] for i in share] for share in shares]
        self.policy.request_rows = len(sequences)
        try:
            found: list[_Outcome] = self._on_all(
                "run",
                [(model_id, s, p, loss, backward) for s, p in zip(shares, parts, strict=True)],
            )
        finally:
            self.policy.request_rows = 0
        result = Pass([[] for _ in sequences])
        for share, outcome in zip(shares, found, strict=True):
            result.metrics.add(outcome.metrics)
            for i, values in zip(share, outcome.logprobs, strict=True):
                result.logprobs[i] = values
        result.usage = Usage.together([outcome.usage for outcome in found])
        return result

    def _on_all(self, operation: str, args: list[Any]) -> Any:
        for rank in range(1, self.ranks.size):
            self.ranks.send(rank, pickle.dumps((operation, args[rank])))
        return self.take_part(operation, args[0])

    # Every rank

    def take_part(self, operation: str, args: Any) -> Any:
        """Run an operation. Every rank must end it in the same way."""
        work: Callable[..., Any] = getattr(self, operation)
        value: Any = None
        refused: UserError | None = None
        try:
            value = work(*args)
        except UserError as e:
            refused = e
        except Exception as e:
            if self.ranks.size == 1:
                raise
            self.ranks.lost(f"{operation} failed: {type(e).__name__}: {e}")
        ends = self.ranks.gather(str(refused) if refused else "")
        for rank, end in enumerate(ends):
            if end != ends[0]:
                self.ranks.lost(f"rank {rank} ended {operation} with {end!r}, rank 0 {ends[0]!r}")
        if refused is not None:
            raise refused
        return value

    def add(self, model_id: str, adapter: str, spec: LoraSpec, alpha: float, seed: int) -> Targets:
        """A new adapter whose output equals the base model's."""
        targets = self.policy.add_adapter(adapter, spec, seed)
        optimizer = Optimizer(self.policy.parameters(adapter))
        self.models[model_id] = Model(model_id, adapter, spec.rank, alpha, optimizer)
        return targets

    def remove(self, model_id: str) -> None:
        """Free an adapter."""
        self.policy.remove_adapter(self.get(model_id).adapter)
        del self.models[model_id]

    def adopt(self, model_id: str, weights: export.Tensors, state: export.Tensors) -> None:
        """Take weights and optimizer state."""
        optimizer = self.get(model_id).optimizer
        export.copy_into(optimizer.parameters, weights)
        optimizer.restore(state)

    def run(
        self,
        model_id: str,
        indices: list[int],
        sequences: list[Sequence],
        loss: Loss,
        backward: bool,
    ) -> list[_Outcome]:
        """This rank's share of a pass, with the sequences' indices in the request. Rank 0 returns
        the outcomes of all. After a failure no part of the gradient remains."""
        model = self.get(model_id)
        self.policy.activate(model.adapter)
        try:
            found = self._agree(self._share(indices, sequences, loss, backward))
            if backward:
                self.ranks.sum_gradients(self.policy.trained)
                model.optimizer.accept()
            elif self.policy.device.type == "cuda":
                memory.release(self.policy.device)  # a server may share the GPU
        except Exception as e:
            if backward:
                model.optimizer.incomplete = str(e)
            raise
        finally:
            model.optimizer.clear()
        return found

    def _share(
        self, indices: list[int], sequences: list[Sequence], loss: Loss, backward: bool
    ) -> _Outcome:
        try:
            result = step.run(self.policy, sequences, loss, backward)
        except UserError as e:
            if self.ranks.size == 1:
                raise
            if isinstance(e, OutOfMemory):
                e.row = indices[e.row]
            return _Outcome(Metrics(), Usage(), [], e)
        return _Outcome(result.metrics, result.usage, result.logprobs)

    def _agree(self, mine: _Outcome) -> list[_Outcome]:
        """The outcomes of all ranks. What one rank refuses, all refuse."""
        found = self.ranks.gather(mine)
        first = next((outcome.refused for outcome in found if outcome.refused), None)
        refused = self.ranks.told(first)
        if refused is not None:
            raise refused
        return found

    def refuse(self, model_id: str, message: str) -> None:
        """Fail a forward_backward that is invalid: a gradient without it is incomplete."""
        if model_id in self.models:
            self.models[model_id].optimizer.incomplete = message
        raise UserError(message)

    def optim_step(self, model_id: str, adam: AdamParams) -> dict[str, float]:
        """Apply the pending gradient."""
        return self.get(model_id).optimizer.step(adam)

    def compare(self, model_id: str) -> None:
        """End the group if a rank has another adapter or optimizer state than rank 0."""
        if self.ranks.size == 1:
            return
        model = self.get(model_id)
        digests = self.ranks.gather(_digest(model.optimizer))
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                self.ranks.lost(f"the adapter of rank {rank} differs from that of rank 0")

    def release(self) -> None:
        """Give unused memory of a GPU back: a server may wake up there."""
        if self.policy.device.type == "cuda":
            memory.release(self.policy.device)


def _digest(optimizer: Optimizer) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted({**optimizer.parameters, **optimizer.state()}.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.digest()
