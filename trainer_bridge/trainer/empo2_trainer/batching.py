"""Rows of unlike length → padded micro-batches of bounded size.

Padding stands on the right: under a causal mask no real position sees it, so the model needs no
attention mask and the fast attention kernels stay usable.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from empo2_trainer.datums import Sequence


@dataclass(frozen=True)
class MicroBatch:
    """B sequences padded to T. Positions are flat indices into B·T; per-token arrays are float64
    of length N = number of real positions, sequence after sequence."""

    rows: list[int]  # index of each sequence in the request
    lengths: list[int]
    ids: Tensor  # (B, T)
    positions: Tensor  # (N,)
    targets: Tensor  # (N,)
    loss_mask: Tensor  # (N,) bool
    importance_weights: Tensor  # (N,)
    logprobs: Tensor  # (N,)
    advantages: Tensor  # (N,)
    kl: Tensor  # (N,)
    entropy: Tensor  # (N,)
    floor_mask: Tensor  # (N,) bool
    needs_gradient: Tensor  # (N,) bool


def micro_batches(
    sequences: list[Sequence], max_tokens: int, device: torch.device
) -> Iterator[MicroBatch]:
    """Group sequences of similar length so that B·T stays within max_tokens (or B is 1)."""
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i].tokens), i))
    start = 0
    while start < len(order):
        longest = len(sequences[order[start]].tokens)
        count = max(1, max_tokens // longest)
        rows = order[start : start + count]
        yield _collate(rows, [sequences[i] for i in rows], longest, device)
        start += count


def _collate(
    rows: list[int], sequences: list[Sequence], longest: int, device: torch.device
) -> MicroBatch:
    ids = np.zeros((len(rows), longest), np.int64)
    for row, s in enumerate(sequences):
        ids[row, : len(s.tokens)] = s.tokens
    positions = [row * longest + np.arange(len(s.tokens)) for row, s in enumerate(sequences)]

    def flat(name: str, dtype: torch.dtype) -> Tensor:
        values = np.concatenate([getattr(s, name) for s in sequences])
        return torch.from_numpy(values).to(device=device, dtype=dtype)

    return MicroBatch(
        rows=rows,
        lengths=[len(s.tokens) for s in sequences],
        ids=torch.from_numpy(ids).to(device),
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        targets=flat("targets", torch.int64),
        loss_mask=flat("loss_mask", torch.bool),
        importance_weights=flat("importance_weights", torch.float64),
        logprobs=flat("logprobs", torch.float64),
        advantages=flat("advantages", torch.float64),
        kl=flat("kl", torch.float64),
        entropy=flat("entropy", torch.float64),
        floor_mask=flat("floor_mask", torch.bool),
        needs_gradient=flat("needs_gradient", torch.bool),
    )
