"""The ranks of a trainer on several devices, and what they exchange.

Each rank is a process with a device of its own. Rank 0 serves HTTP; the others follow its orders.
Orders travel through a pipe to each rank, so a rank may wait for hours. Everything else is a
collective call of torch.distributed, in which every rank takes part before a deadline. If one
fails, the ranks no longer know of each other what they did: the group ends, and starts again from
a checkpoint.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import Tensor

PATIENCE = 3.0  # seconds in which rank 0 learns from the rank that ended why it did
BUCKET = 1 << 24  # elements of gradients that are summed at a time


class Lost(RuntimeError):
    """The ranks can no longer work together."""


def _raise(message: str) -> NoReturn:
    raise Lost(message)


class Ranks:
    """The group as one rank sees it. The default is a group of one, which exchanges nothing.

    lost is called, with the reason, when the group cannot go on; it must not return.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, lost: Callable[[str], NoReturn] = _raise
    ) -> None:
        self.rank, self.size, self.lost = rank, size, lost
        self.send: Callable[[int, Any], None] = lambda rank, order: None

    def join(self, store: str, device: torch.device, timeout: float) -> None:
        """Meet the other ranks at a file that all of them know. timeout is in seconds: of this
        meeting and of every collective call."""
        import torch.distributed as dist

        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for library in ("GLOO", "NCCL"):  # all ranks are on this machine
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
        backend = "gloo"
        if device.type == "cuda":
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(device)
        with self._deadline("did not start"):
            dist.init_process_group(
                backend,
                store=dist.FileStore(store, self.size),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=timeout),
            )

    def gather(self, value: Any) -> list[Any]:
        """On rank 0 the values of all ranks, in order; on the others an empty list."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with self._deadline("did not answer"):
            dist.gather_object(value, values, dst=0)
        return values or []

    def told(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        with self._deadline("did not answer"):
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag, whether it is set on any rank."""
        if self.size == 1:
            return list(flags)
        import torch.distributed as dist

        values = torch.tensor([int(f) for f in flags])
        with self._deadline("did not answer"):
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return [bool(v) for v in values.tolist()]

    def turns(self) -> Iterator[bool]:
        """One turn for each rank, with whether it is this one's. The others wait."""
        for turn in range(self.size):
            yield turn == self.rank
            self.any(True)

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace each p.grad by the sum of all ranks'. Losses are sums, so this is the gradient
        of all rows."""
        if self.size == 1:
            return
        bucket: list[torch.nn.Parameter] = []
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            bucket.append(p)
            if sum(q.numel() for q in bucket) >= BUCKET:
                self._sum_bucket(bucket)
                bucket = []
        if bucket:
            self._sum_bucket(bucket)

    def _sum_bucket(self, parameters: list[torch.nn.Parameter]) -> None:
        import torch.distributed as dist

        grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        with self._deadline("did not send its gradient"):
            dist.all_reduce(flat)
        for g, total in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(total.view_as(g))

    @contextmanager
    def _deadline(self, what: str) -> Iterator[None]:
        """A collective call that fails ends the group."""
        try:
            yield
        except Exception as e:
            if self.rank:
                time.sleep(PATIENCE)
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            self.lost(f"another rank has ended or {what} before the deadline ({reason})")
