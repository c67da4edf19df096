"""Rows of unlike length → micro-batches of bounded size, packed or padded.

Padding stands on the right: under a causal mask no real position sees it, so the model needs no
attention mask and the fast attention kernels stay usable.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from empo2_trainer.datums import Ints, Sequence
from empo2_trainer.packing import Pack, pack

WASTE = 1 / 8  # share of padding that is worth avoiding


@dataclass(frozen=True)
class MicroBatch:
    """B sequences padded to T, or a pack (B = 1). Positions are flat indices into B·T; per-token
    arrays are float64 of length N = number of real positions, sequence after sequence."""

    rows: list[int]  # index of each sequence in the request
    lengths: list[int]
    ids: Tensor  # (B, T)
    pack: Pack | None
    positions: Tensor  # (N,); those of tokens that rows share stand there several times
    targets: Tensor  # (N,)
    loss_mask: Tensor  # (N,) bool
    importance_weights: Tensor  # (N,)
    logprobs: Tensor  # (N,)
    advantages: Tensor  # (N,)
    kl: Tensor  # (N,)
    entropy: Tensor  # (N,)
    floor_mask: Tensor  # (N,) bool
    needs_gradient: Tensor  # (N,) bool


def by_length(sequences: list[Sequence]) -> list[int]:
    """Indices of the sequences, the longest first."""
    return sorted(range(len(sequences)), key=lambda i: (-len(sequences[i].tokens), i))


def take(lengths: list[int], most: int, enough: float) -> int:
    """How many of the first rows share a micro-batch; lengths fall, and most is the limit.

    A batch that has enough tokens ends where more than an eighth of it would be padding.
    """
    tokens = 0
    for count, length in enumerate(lengths[:most]):
        padded = lengths[0] * (count + 1)
        if count and tokens >= enough and padded - tokens - length > WASTE * padded:
            return count
        tokens += length
    return min(most, len(lengths))


def collate(all_sequences: list[Sequence], rows: list[int], device: torch.device) -> MicroBatch:
    """The micro-batch of some rows, padded to the longest."""
    sequences = [all_sequences[i] for i in rows]
    longest = max(len(s.tokens) for s in sequences)
    ids = np.zeros((len(rows), longest), np.int64)
    for row, s in enumerate(sequences):
        ids[row, : len(s.tokens)] = s.tokens
    positions = [row * longest + np.arange(len(s.tokens)) for row, s in enumerate(sequences)]
    return _micro_batch(sequences, rows, torch.from_numpy(ids).to(device), None, positions)


def collate_packed(
    all_sequences: list[Sequence], rows: list[int], device: torch.device, dtype: torch.dtype
) -> MicroBatch:
    """The micro-batch of some rows as a pack. The rows are sorted as by packing.in_order."""
    sequences = [all_sequences[i] for i in rows]
    packed = pack([s.tokens for s in sequences], device, dtype)
    return _micro_batch(sequences, rows, packed.ids, packed, packed.where)


def _micro_batch(
    sequences: list[Sequence],
    rows: list[int],
    ids: Tensor,
    packed: Pack | None,
    positions: list[Ints],
) -> MicroBatch:
    def flat(name: str, dtype: torch.dtype) -> Tensor:
        values = np.concatenate([getattr(s, name) for s in sequences])
        return torch.from_numpy(values).to(device=ids.device, dtype=dtype)

    return MicroBatch(
        rows=rows,
        lengths=[len(s.tokens) for s in sequences],
        ids=ids,
        pack=packed,
        positions=torch.from_numpy(np.concatenate(positions)).to(ids.device),
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
