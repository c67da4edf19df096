"""How many rows fit into one micro-batch, and whether its layers are checkpointed.

The bytes that a row needs are measured once per model: autograd's saved tensors are counted for two
short rows and give a polynomial in the row's length (its square counts where attention keeps its
weights). The allowance is a share of the memory that is free at the first pass. Running out of
memory halves it.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from empo2_trainer import memory

MAX_TOKENS = {"cpu": 4096, "cuda": 65536}  # a CPU's caches like them small
MAX_LOGITS = {"cpu": 6 << 20, "cuda": 1 << 27}  # elements held at a time
MIN_LOGITS = 1 << 21
LOGIT_BYTES = 64  # of the allowance that one element of them may take
ALLOWANCE = {"cpu": 0.5, "cuda": 0.75}  # share of the free memory
CPU_ALLOWANCE = 600 << 20  # bytes; more makes a CPU no faster
SPARE = 1.15  # a checkpointed micro-batch on a CPU may fill so many times the allowance
SHORT, LONG = 64, 128  # tokens of the measured rows
SMALL_PACK = 512  # a model whose micro-batches need more tokens than this is small
RECOMPUTE = 1.35  # time of a pass that checkpoints its layers, over one that does not
WORK = {"cpu": 2e9, "cuda": 5e12}  # multiply-adds from which one more micro-batch costs nothing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """Bytes for a row of n tokens: linear·n + square·n²."""

    linear: float
    square: float

    def of(self, rows: int, length: int) -> float:
        """Bytes for rows of a length."""
        return rows * length * (self.linear + self.square * length)

    def longest(self, size: float) -> int:
        """The longest row that fits."""
        if self.square <= 0:
            return int(size / self.linear)
        return int(
            (((self.linear / 2) ** 2 + size * self.square) ** 0.5 - self.linear / 2) / self.square
        )


@dataclass
class Budget:
    """Limits of a micro-batch. tokens is a hard limit for batches of two rows or more."""

    kept: Cost  # all activations are kept
    dropped: Cost  # layers are checkpointed
    size: float  # bytes
    tokens: int
    logits: int  # elements of the head's output held at a time
    enough: float  # tokens from which a micro-batch needs no further row
    full: float = 0.0  # bytes that a checkpointed micro-batch may fill with saved values

    @property
    def packs(self) -> bool:
        """Whether packing pays: not for a small model, whose operations are mostly overhead."""
        return self.kept.square == 0 and self.enough < SMALL_PACK

    def packed_rows(self, lengths: list[int], shared: list[int], backward: bool) -> int:
        """How many of the first rows make a pack: at least one. lengths and shared count tokens.

        Without checkpointing fewer rows fit, which share less.
        """
        own = [n - s for n, s in zip(lengths, [0, *shared[1:]], strict=True)]
        totals, tokens = list(accumulate(own)), list(accumulate(lengths))

        def fit(cost: Cost) -> int:
            return max(1, bisect_right(totals, min(int(self.size / cost.linear), self.tokens)))

        count = fit(self.dropped)
        if not backward:
            return count
        kept = fit(self.kept)
        if self.checkpoints(1, totals[kept - 1]):
            return count
        gain = totals[kept - 1] / tokens[kept - 1] * tokens[count - 1] / totals[count - 1]
        return count if gain > RECOMPUTE else kept

    def rows(self, longest: int, backward: bool) -> int:
        """How many rows of a length make a micro-batch: at least one."""
        kept = int(self.size / self.kept.of(1, longest)) if backward else 0
        fit = kept if kept > 0 else int(self.size / self.dropped.of(1, longest))
        return max(1, min(fit, self.tokens // longest))

    def checkpoints(self, rows: int, longest: int) -> bool:
        """Whether a micro-batch checkpoints its layers."""
        return self.kept.of(rows, longest) > self.size

    def spare(self, rows: int, longest: int) -> float:
        """Bytes that the layers of a checkpointed micro-batch may save together."""
        return max(0.0, self.full - self.dropped.of(rows, longest))

    def needs(self, rows: int, longest: int) -> int:
        """Bytes that a micro-batch takes."""
        if not self.checkpoints(rows, longest):
            return int(self.kept.of(rows, longest))
        return int(max(self.full, self.dropped.of(rows, longest)))

    def halve(self, rows: int, longest: int) -> None:
        """Make room after a micro-batch that did not fit."""
        self.size = min(self.size, self.kept.of(rows, longest)) / 2
        self.tokens = max(1, min(self.tokens, rows * longest) // 2)
        log.info("out of memory: micro-batches of %d tokens from now on", self.tokens)


def measure(
    features: Callable[[Tensor], Tensor],
    scope: Callable[[bool], AbstractContextManager[Any]],
    shape: "Shape",
    tokens: int = 0,
    share: float = 1.0,
) -> Budget:
    """The budget of a model. tokens is the operator's limit of a micro-batch; 0 chooses one.

    share is the part of the usual limits that may be used.
    """
    with scope(False):
        short, long = (_saved_bytes(features, n, shape) for n in (SHORT, LONG))
    square = max(0.0, (long / LONG - short / SHORT) / (LONG - SHORT))
    if square < 1:  # rounding of small allocations
        square = 0.0
    linear = long / LONG - square * LONG
    layer = 2.0 / shape.layers  # a layer's activations and their gradients
    ends = shape.end_bytes
    kept = Cost(linear * (1 + layer) + ends, square * (1 + layer))
    inputs = shape.layers * shape.hidden_bytes
    dropped = Cost(inputs + linear * layer + ends, square * layer)
    if not shape.can_checkpoint:
        dropped = kept
    kind = "cuda" if shape.device.type == "cuda" else "cpu"
    size = ALLOWANCE[kind] * memory.free(shape.device) / shape.sharers
    if kind == "cpu":
        size = min(size, CPU_ALLOWANCE)
    enough = WORK[kind] / max(1, shape.parameters)
    logits = MAX_LOGITS[kind]
    if kind == "cuda":
        logits = max(MIN_LOGITS, min(logits, int(size / LOGIT_BYTES)))
    limit = max(1, int(share * (tokens or MAX_TOKENS[kind])))
    full = share * size * SPARE if kind == "cpu" else 0.0
    return Budget(kept, dropped, share * size, limit, logits, enough, full)


@dataclass(frozen=True)
class Shape:
    """The properties of a model that its budget depends on."""

    device: torch.device
    layers: int
    hidden_bytes: int  # of one token's hidden state
    end_bytes: int  # of one token before the first and after the last layer
    parameters: int
    can_checkpoint: bool
    own: Callable[[int], bool]  # whether a parameter or buffer lies at an address
    sharers: int = 1  # trainers that share the device's memory


def _saved_bytes(features: Callable[[Tensor], Tensor], length: int, shape: Shape) -> int:
    """Bytes that autograd keeps for the backward of one row."""
    seen: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if not shape.own(storage.data_ptr()):
            seen[storage.data_ptr()] = storage.nbytes()
        return t.detach()  # the tensor itself would hold its own graph

    ids = torch.zeros((1, length), dtype=torch.int64, device=shape.device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = features(ids)  # alive until counted, so that no address is used twice
    del kept
    return sum(seen.values())
