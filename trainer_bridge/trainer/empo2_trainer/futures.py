"""The queue of requests: client's order, one execution each, results kept for polling.

Each request of a model has a seq_id. Requests may arrive in another order (as chunks of a batch
do), and a request may arrive twice (a retry after a lost answer). All of this module runs on the
event loop. Only the work runs on the one thread of the executor.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from empo2_trainer.protocol import Conflict, UserError, encode

log = logging.getLogger(__name__)

Work = Callable[[], dict[str, Any]]
KEEP_BYTES = 256 << 20  # limit of the finished results; the oldest are dropped first


@dataclass
class Future:
    """The result of a request: the body of the answer, valid once done is set."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytes = b""


@dataclass
class Lane:
    """The order of one model's requests."""

    next_seq: int | None = None  # None: nothing was started yet
    waiting: dict[int, tuple[str, Work]] = field(default_factory=dict)
    known: dict[int, tuple[bytes, str]] = field(default_factory=dict)  # digest, request_id
    timer: asyncio.TimerHandle | None = None


class Futures:
    """Orders, deduplicates and runs work. A request waits gap_wait seconds for a missing lower
    seq_id, since the SDK never repeats a number that was refused."""

    def __init__(self, executor: Executor, gap_wait: float) -> None:
        self.executor = executor
        self.gap_wait = gap_wait
        self.lanes: dict[str, Lane] = {}
        self.futures: OrderedDict[str, Future] = OrderedDict()
        self.created: dict[str, tuple[bytes, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self._kept = 0

    def once(self, key: str, digest: bytes, work: Work) -> str:
        """Run work without order. The same key and digest get the same request_id again."""
        known = self.created.get(key)
        if known is not None:
            return _same(known, digest, key)
        request_id = self._open(key)
        self.created[key] = (digest, request_id)
        self._start(request_id, work)
        return request_id

    def ordered(
        self, model_id: str, seq_id: int, kind: str, digest: bytes, work: Work, first: bool
    ) -> str:
        """Run work after all lower seq_ids of the model. A model's first seq_id is 1. If first is
        set, the model's first request may have any number: a client that loads a checkpoint after
        a restart continues its count. kind is the operation's name in the log."""
        lane = self.lanes.setdefault(model_id, Lane())
        known = lane.known.get(seq_id)
        if known is not None:
            return _same(known, digest, f"seq_id {seq_id}")
        if lane.next_seq is None and first:
            lane.next_seq = seq_id
        if seq_id < (lane.next_seq or 1):
            raise Conflict(f"seq_id {seq_id} is too late: the next is {lane.next_seq or 1}")
        request_id = self._open(f"{model_id}:{kind}:{seq_id}")
        lane.known[seq_id] = (digest, request_id)
        lane.waiting[seq_id] = (request_id, work)
        self._drain(lane)
        return request_id

    def after_all(self, model_id: str, work: Work) -> str:
        """Run work after all queued work, and remove the model's queue."""
        lane = self.lanes.pop(model_id, Lane())
        if lane.timer is not None:
            lane.timer.cancel()
        for _, (request_id, waiting) in sorted(lane.waiting.items()):
            self._start(request_id, waiting)
        request_id = self._open(f"{model_id}:unload")
        self._start(request_id, work)
        return request_id

    def forget(self, model_id: str, work: Work) -> None:
        """As after_all, for a model that no client asks for any more."""
        self.created.pop(model_id, None)
        self.after_all(model_id, work)

    async def wait(self, request_id: str, seconds: float) -> bytes | None:
        """The body of a result, or None if it takes longer. Raises KeyError if unknown."""
        future = self.futures[request_id]
        try:
            await asyncio.wait_for(future.done.wait(), seconds)
        except asyncio.TimeoutError:
            return None
        return future.body

    def _open(self, label: str) -> str:
        self._count += 1
        request_id = f"{label}:{self._count}"
        self.futures[request_id] = Future()
        return request_id

    def _drain(self, lane: Lane) -> None:
        """Start the requests whose predecessors have started. If others wait, set a timer."""
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        expected = lane.next_seq or 1
        while expected in lane.waiting:
            self._start(*lane.waiting.pop(expected))
            expected += 1
            lane.next_seq = expected
        if lane.waiting:
            loop = asyncio.get_running_loop()
            lane.timer = loop.call_later(self.gap_wait, self._skip, lane)

    def _skip(self, lane: Lane) -> None:
        lane.timer = None
        first = min(lane.waiting)
        log.warning("seq_id %s is missing, continuing with %s", lane.next_seq or 1, first)
        lane.next_seq = first
        self._drain(lane)

    def _start(self, request_id: str, work: Work) -> None:
        # Submitted at once, so that the executor's order is the order of the calls.
        running = asyncio.get_running_loop().run_in_executor(
            self.executor, outcome, request_id, work
        )
        task = asyncio.ensure_future(self._finish(request_id, running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, request_id: str, running: "asyncio.Future[bytes]") -> None:
        future = self.futures[request_id]
        future.body = await running
        future.done.set()
        self._kept += len(future.body)
        while self._kept > KEEP_BYTES:
            oldest = next((k for k, f in self.futures.items() if f.done.is_set()), request_id)
            if oldest == request_id:
                break
            self._kept -= len(self.futures.pop(oldest).body)


def outcome(request_id: str, work: Work) -> bytes:
    """Run work and return the body: its result, or the failure with its category."""
    started = time.monotonic()
    try:
        body = encode(work())
        log.info("%s took %.3f s", request_id, time.monotonic() - started)
        return body
    except UserError as e:
        log.warning("%s refused: %s", request_id, e)
        return encode({"error": str(e), "category": "user", **e.details()})
    except Exception as e:
        log.exception("%s failed", request_id)
        return encode({"error": f"{type(e).__name__}: {e}", "category": "server"})


def _same(known: tuple[bytes, str], digest: bytes, what: str) -> str:
    if known[0] != digest:
        raise Conflict(f"{what} was used before for another request")
    return known[1]
