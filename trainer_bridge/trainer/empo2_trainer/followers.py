"""Rank 0's side of the other ranks: start, orders, output, and the end.

A follower is a child of rank 0 and ends when its stdin ends, so none outlives rank 0, whatever ends
it. Rank 0 ends when a follower does: the program that started it starts all of them again.
"""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import IO, Any, NoReturn

HEADER = struct.Struct("<Q")  # an order's length in bytes
EXPLAINS = 2.0  # seconds in which a follower whose connection broke may end and say why
GRACE = 2.0  # seconds for followers to end by themselves


class Followers:
    """The processes of the ranks from 1 on."""

    def __init__(self, args: Namespace) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="empo2-ranks-"))
        self.store = str(self.folder / "store")
        self._ending = threading.Event()  # the ranks end because they should
        self._broken = threading.Event()  # one has ended by itself
        self._once = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []
        for rank in range(1, args.gpus):
            self._children.append(self._start(rank))
        for child in self._children:
            threading.Thread(target=self._watch, args=(child,), daemon=True).start()

    @property
    def pids(self) -> list[int]:
        """Process ids, of rank 1 first."""
        return [child.pid for child in self._children]

    def send(self, rank: int, order: bytes) -> None:
        """Give a follower an order; it carries orders out one after the other."""
        stdin = self._children[rank - 1].stdin
        assert stdin is not None
        try:
            stdin.write(HEADER.pack(len(order)) + order)
            stdin.flush()
        except OSError as e:
            self.lost(f"rank {rank} takes no orders: {e.strerror or e}")

    def lost(self, reason: str) -> NoReturn:
        """End all ranks, because they cannot work together any more."""
        if self._broken.wait(EXPLAINS):
            time.sleep(10 * EXPLAINS)  # the thread that waited for the child ends the process
        self._end(reason, 0)

    def stop(self) -> None:
        """End the followers in order."""
        self._ending.set()
        for child in self._children:
            if child.stdin is not None:
                child.stdin.close()
        deadline = time.monotonic() + GRACE
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, rank: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "empo2_trainer", "follow", str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def _watch(self, child: "subprocess.Popen[bytes]") -> None:
        rank = self._children.index(child) + 1
        assert child.stderr is not None
        said_why = relay(child.stderr, rank)
        code = child.wait()
        if self._ending.is_set():
            return
        self._broken.set()
        if code < 0:
            why = f"was killed by {signal.Signals(-code).name}"
        else:
            why = f"ended with exit code {code}"
        self._end("" if said_why else f"rank {rank} (process {child.pid}) {why}", code)

    def _end(self, reason: str, code: int) -> NoReturn:
        """End the process as a follower ended, with code: a signal, below 0, or an exit code."""
        self._once.acquire()  # for good: a second thread waits until the process ends
        for child in self._children:
            child.kill()  # one that hangs would ignore the end of its stdin
        shutil.rmtree(self.folder, ignore_errors=True)
        if reason:
            hint = "the trainer's log shows the output of each rank"
            sys.stderr.write(fatal(reason, hint))
        sys.stderr.flush()
        if code == -signal.SIGKILL:  # the system may have done it, for lack of memory
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)


def fatal(reason: str, hint: str) -> str:
    """The last event of a process."""
    from empo2_trainer.memory import OUT_OF_MEMORY

    line: dict[str, Any] = {"event": "fatal", "error": reason, "hint": hint}
    if any(text in reason.lower() for text in OUT_OF_MEMORY):
        line["out_of_memory"] = True
    return json.dumps(line) + "\n"


def relay(stream: IO[bytes], rank: int) -> bool:
    """Pass a follower's output on, each line with its rank. Returns whether it told why it ends."""
    said_why = False
    for line in stream:
        text = line.decode(errors="replace").rstrip("\n")
        try:
            event = json.loads(text)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            sys.stderr.write(f"rank {rank}: {text}\n")
            continue
        event["rank"] = rank
        if event.get("event") == "fatal":
            said_why = True
            event["error"] = f"rank {rank}: {event.get('error')}"
        sys.stderr.write(json.dumps(event) + "\n")
        sys.stderr.flush()
    return said_why
