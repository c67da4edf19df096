"""Rows side by side instead of padded, and the common beginning of rows computed once.

A pack is one sequence of tokens. Each row adds the tokens by which it differs from the rows before
it, and reads the keys and values of the rest from them. Everything but attention works on single
tokens, so only attention needs to know the rows. It is the same sum of the same terms: gradients
through a shared token are those of all rows that contain it.

The attention function replaces transformers' own while a pack is in use. A model that computes
something else across tokens (soft-capped scores, attention sinks, convolutions) fails the trial
and its rows are padded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from empo2_trainer.datums import Ints, Sequence

NAME = "empo2_packed"
SHORTEST = 8  # tokens that are worth sharing: each shared beginning costs a call of attention
LARGEST_MASK = 1 << 22  # elements of a row's mask; a row that needs more shares nothing


@dataclass(frozen=True)
class Part:
    """The own tokens of a row: they attend to themselves and to some pieces before them."""

    length: int
    pieces: list[int]  # of the keys and values, in the order of the row
    mask: Tensor | None  # added to the scores; None: causal


@dataclass(frozen=True)
class Pack:
    """Rows as one sequence of N tokens."""

    ids: Tensor  # (1, N)
    position_ids: Tensor  # (1, N): each token's position in its row
    where: list[Ints]  # of each row, the indices of its tokens
    parts: list[Part]
    pieces: list[int]  # lengths; keys and values are split at the ends of shared beginnings


def in_order(sequences: list[Sequence]) -> list[int]:
    """Indices of the sequences, sorted so that those with a common beginning are neighbours."""
    keys = [s.tokens.astype(">u4").tobytes() for s in sequences]
    return sorted(range(len(sequences)), key=lambda i: (keys[i], i))


def shared_tokens(rows: list[Ints]) -> list[int]:
    """How many tokens each row takes from the row before it. Rows are sorted."""
    shared = [0] * len(rows)
    for i in range(1, len(rows)):
        before, row = rows[i - 1], rows[i]
        most = min(len(before), len(row))
        differ = np.flatnonzero(before[:most] != row[:most])
        common = int(differ[0]) if len(differ) else most
        own = len(row) - common
        if common >= SHORTEST and own * len(row) <= LARGEST_MASK:
            shared[i] = common
    return shared


def pack(rows: list[Ints], device: torch.device, dtype: torch.dtype) -> Pack:
    """The pack of some sorted rows."""
    shared, total = shared_tokens(rows), 0
    where: list[Ints] = []
    cuts = {0}
    for i, row in enumerate(rows):
        own = np.arange(total, total + len(row) - shared[i])
        cuts.add(total)
        if shared[i]:
            last = where[i - 1][shared[i] - 1]
            cuts.add(int(last) + 1)
        where.append(np.concatenate([where[i - 1][: shared[i]], own]) if shared[i] else own)
        total += len(own)
    starts = np.array(sorted(cuts - {total}), np.int64)
    tails = [(i, n) for i, n in enumerate(shared) if n < len(rows[i])]
    parts = [
        Part(
            len(rows[i]) - n,
            np.unique(np.searchsorted(starts, where[i], side="right") - 1).tolist(),
            _mask(n, len(rows[i]), device, dtype) if n else None,
        )
        for i, n in tails
    ]

    def joined(arrays: list[Ints]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays))[None].to(device)

    return Pack(
        ids=joined([rows[i][n:] for i, n in tails]),
        position_ids=joined([np.arange(n, len(rows[i])) for i, n in tails]),
        where=where,
        parts=parts,
        pieces=np.diff([*starts, total]).tolist(),
    )


def _mask(shared: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(own, length): 0 where a token may look, else −∞."""
    mask = torch.full((length - shared, length), -torch.inf, device=device, dtype=dtype)
    return mask.triu_(shared + 1)


class Packing:
    """Whether a model can compute packs, and the switch of its attention."""

    current: Pack | None = None  # read by the attention function
    windows: set[int] = set()  # noqa: RUF012 - sliding windows that it met

    def __init__(self, config: Any) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
        self.config = config
        self.longest = 0  # tokens of a row that can be packed; 0: none can

    @contextmanager
    def scope(self, pack: Pack | None) -> Iterator[None]:
        """Forwards and backwards inside read the pack."""
        if pack is None:
            yield
            return
        before, self.config._attn_implementation = self.config._attn_implementation, NAME
        Packing.current = pack
        try:
            yield
        finally:
            Packing.current = None
            self.config._attn_implementation = before

    @torch.no_grad()
    def trial(self, features: Callable[..., Tensor], device: torch.device, dtype: Any) -> None:
        """Compare three short rows as a pack with the same rows one by one. Sets longest."""
        start = np.arange(SHORTEST + 2)
        rows = [np.append(start, end) for end in ([1, 2], [1, 3, 4], [5])]
        packed = pack(rows, device, dtype)
        Packing.windows = set()
        try:
            want = torch.cat([features(torch.from_numpy(r)[None].to(device))[0] for r in rows])
            with self.scope(packed):
                got = features(packed.ids, packed.position_ids)[0]
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError):
            return
        got = got[torch.from_numpy(np.concatenate(packed.where)).to(device)]
        tolerance = 3e-3 if dtype == torch.float32 else 3e-2  # rows that mix are further off
        scale = want.float().abs().max()
        if bool((got - want).float().abs().max() <= tolerance * scale):
            self.longest = min([1 << 62, *Packing.windows])

    def takes(self, sequences: list[Sequence]) -> bool:
        """Whether all of the sequences can be packed."""
        return max(len(s.tokens) for s in sequences) <= self.longest


def _attention(
    module: Any,
    query: Tensor,  # (1, H, N, D)
    key: Tensor,  # (1, K, N, D)
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attention of each row's own tokens to its tokens: (1, N, H, D)."""
    current = Packing.current
    odd = [name for name in ("softcap", "s_aux", "position_bias") if other.get(name) is not None]
    if current is None or odd or dropout or getattr(module, "is_causal", True) is False:
        raise ValueError(f"attention with {', '.join(odd) or 'other options'} cannot be packed")
    if sliding_window is not None:
        Packing.windows.add(int(sliding_window))
    keys, values = key.split(current.pieces, 2), value.split(current.pieces, 2)
    out = []
    parts = zip(query.split([p.length for p in current.parts], 2), current.parts, strict=True)
    for q, part in parts:
        one = len(part.pieces) == 1
        k = keys[part.pieces[0]] if one else torch.cat([keys[i] for i in part.pieces], 2)
        v = values[part.pieces[0]] if one else torch.cat([values[i] for i in part.pieces], 2)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=part.mask,
            is_causal=part.mask is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        out.append(attended.transpose(1, 2))
    return (out[0] if len(out) == 1 else torch.cat(out, 1)), None
