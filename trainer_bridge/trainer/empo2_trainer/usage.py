"""What a pass cost: tokens, seconds, peak memory and, on a known GPU, model FLOP utilisation."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from empo2_trainer import memory
from empo2_trainer.batching import MicroBatch

# Dense bfloat16 FLOP/s by the vendor's data sheets; the first name found in the device's counts.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that a GPU is sold with; None for a CPU and an unknown GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((v for k, v in PEAK_FLOPS.items() if k in name), None)


@dataclass
class Usage:
    """Counts of one pass."""

    row_tokens: int = 0
    padding_tokens: int = 0
    shared_tokens: int = 0  # of rows, computed once for several
    squared_tokens: int = 0  # Σ T² over rows
    base_tokens: int = 0  # of the second forward without the adapter
    micro_batches: int = 0
    checkpointed: int = 0
    oom_retries: int = 0
    limit: int = 0  # tokens of a micro-batch after the pass
    seconds: float = 0.0
    peak_memory: int = 0
    mfu: float | None = None

    def count(self, batch: MicroBatch, checkpoint: bool) -> None:
        """Add a micro-batch that is done."""
        tokens = sum(batch.lengths)
        self.row_tokens += tokens
        if batch.pack is None:
            self.padding_tokens += batch.ids.numel() - tokens
        else:
            self.shared_tokens += tokens - batch.ids.numel()
        self.squared_tokens += sum(n * n for n in batch.lengths)
        self.micro_batches += 1
        self.checkpointed += checkpoint
        if bool((batch.kl != 0).any()):
            self.base_tokens += tokens

    def finish(self, policy: Any, seconds: float, backward: bool) -> None:
        """Take the time and the peak of the whole pass."""
        self.seconds = seconds
        self.peak_memory = memory.peak(policy.device)
        peak = peak_flops(policy.device)
        if peak is not None:
            self.mfu = self.flops(policy, backward) / seconds / peak

    @staticmethod
    def together(parts: list["Usage"]) -> "Usage":
        """The usage of a pass of several ranks, which work at the same time."""
        if len(parts) == 1:
            return parts[0]
        whole = Usage()
        for field in fields(Usage):
            values = [getattr(part, field.name) for part in parts]
            known = [value for value in values if value is not None]
            merge = _MERGED.get(field.name, sum)
            setattr(whole, field.name, merge(known) if known else None)
        if whole.mfu is not None and whole.seconds:  # every device counts for the whole time
            shares = (part.mfu * part.seconds for part in parts if part.mfu is not None)
            whole.mfu = sum(shares) / (whole.seconds * len(parts))
        return whole

    def flops(self, policy: Any, backward: bool) -> float:
        """Operations that the mathematics needs. Recomputation and padding do not count.

        A frozen matrix costs 2 operations a weight and token in the forward, and 2 in the backward.
        """
        matrices = policy.matrix_weights
        attention = policy.attention_width
        passes, squares = (4, 6) if backward else (2, 2)
        dense = matrices * (passes * self.row_tokens + 2 * self.base_tokens)
        return float(dense + attention * squares * self.squared_tokens)

    def wire(self) -> dict[str, float]:
        """Keys with the reduction by which the chunks of a request are merged."""
        values = {
            "row_tokens:sum": self.row_tokens,
            "padding_tokens:sum": self.padding_tokens,
            "shared_tokens:sum": self.shared_tokens,
            "micro_batches:sum": self.micro_batches,
            "checkpointed_micro_batches:sum": self.checkpointed,
            "oom_retries:sum": self.oom_retries,
            "micro_batch_tokens:min": self.limit,
            "seconds:sum": self.seconds,
            "tokens_per_second:mean": self.row_tokens / max(self.seconds, 1e-9),
            "peak_memory_bytes:max": self.peak_memory,
        }
        if self.mfu is not None:
            values["mfu:mean"] = self.mfu
        return {key: float(value) for key, value in values.items()}


# How the counts of several ranks become one; the others are added.
_MERGED: dict[str, Callable[..., Any]] = {"limit": min, "seconds": max, "peak_memory": max}
