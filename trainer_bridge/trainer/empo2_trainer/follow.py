"""A rank from 1 on: it loads the model as rank 0 does and carries out rank 0's orders.

Orders come through stdin, each with its length in front. The first one is the settings. The end of
stdin means that rank 0 has ended.
"""

import os
import pickle
import queue
import signal
import sys
import threading
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, NoReturn

from empo2_trainer import allocator
from empo2_trainer.followers import HEADER, fatal
from empo2_trainer.process import configure_logging, explained, load_policy


def follow(rank: int) -> NoReturn:
    """Carry out orders until rank 0 ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # sent to rank 0 too, which ends this process
    configure_logging()
    allocator.tune()
    settings: tuple[Namespace, str] = pickle.loads(_read_order())
    args, store = settings
    orders: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(orders, store), daemon=True).start()
    with explained():
        policy = load_policy(args, rank, store, _lost)
    from empo2_trainer.replica import Replica

    replica = Replica(policy)
    replica.ranks.gather("loaded")
    while True:
        operation, arguments = pickle.loads(orders.get())
        _carry_out(replica, operation, arguments)


def _carry_out(replica: Any, operation: str, arguments: Any) -> None:
    from empo2_trainer.protocol import UserError

    with suppress(UserError):  # refused on every rank; rank 0 answers
        replica.take_part(operation, arguments)


def _lost(reason: str) -> NoReturn:
    sys.stderr.write(fatal(reason, "the trainer's log shows the output of each rank"))
    sys.stderr.flush()
    os._exit(1)


def _listen(orders: "queue.Queue[bytes]", store: str) -> None:
    while True:
        orders.put(_read_order(store))


def _read_order(store: str = "") -> bytes:
    """The next order. If there is none any more, the process ends."""
    (length,) = HEADER.unpack(_read(HEADER.size, store))
    return _read(length, store)


def _read(size: int, store: str) -> bytes:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            if store:
                rmtree(Path(store).parent, ignore_errors=True)
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
