"""The trainer as a child process: ready line, logs, and the ways to end.

stdout carries exactly one line, the ready line; whatever libraries print goes to stderr. The end
of stdin means that the parent has ended.
"""

import asyncio
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from empo2_trainer import allocator

GRACE_SECONDS = 5.0  # for the current operation when the process must end


class Fatal(Exception):
    """The process cannot start; hint is the operator's next step."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class JsonLines(logging.Formatter):
    """One JSON object per event."""

    rank: int | None = None  # of rank 0 if there are others; those get theirs from rank 0

    def format(self, record: logging.LogRecord) -> str:
        """Level, logger, message and, if there is one, the traceback."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self.rank is not None:
            line["rank"] = self.rank
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging() -> None:
    """Everything on stderr as JSON lines, warnings and libraries included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("empo2_trainer").setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", FutureWarning)
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    quiet |= {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)


def take_stdout() -> int:
    """Keep stdout for the ready line alone: later prints go to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    return out


class Ending:
    """Ends the process once: at once while starting, in order when serving."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        threading.Thread(target=self._watch_stdin, daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.request())

    def attach(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """From now on ending means to set stop."""
        self._loop, self._stop = loop, stop

    def request(self) -> None:
        """End; callable from any thread and from signal handlers."""
        if self._loop is None or self._stop is None:
            os._exit(0)
        self._loop.call_soon_threadsafe(self._stop.set)

    def _watch_stdin(self) -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        self.request()


def serve(args: Namespace) -> None:
    """Load the model, answer requests until the process must end, and exit 0."""
    out = take_stdout()
    configure_logging()
    allocator.tune()
    ending = Ending()
    started = time.monotonic()
    check_token(args.host, _token())
    listener = _listen(args.host, args.port)
    executor = ThreadPoolExecutor(1, "torch")
    with explained():
        trainer, followers = executor.submit(_load, args).result()
    ready: dict[str, Any] = {
        "event": "ready",
        "port": listener.getsockname()[1],
        "pid": os.getpid(),
        "model": args.model,
        "vocab_size": trainer.policy.vocab_size,
    }
    if followers is not None:
        ready |= {"followers": followers.pids}

    def announce() -> None:
        took = round(time.monotonic() - started, 3)
        logging.getLogger(__name__).info("ready after %s s on port %s", took, ready["port"])
        os.write(out, json.dumps(ready).encode() + b"\n")
        os.close(out)

    asyncio.run(_run(args, trainer, executor, listener, ending, announce))
    if followers is not None:
        followers.stop()
    sys.stderr.flush()
    os._exit(0)  # an operation that outlives its grace must not keep the process alive


def accompany(args: Namespace) -> None:
    """Answer as the companion of a trainer on another machine, until stdin ends, and exit 0."""
    out = take_stdout()
    configure_logging()
    ending = Ending()
    listener = _listen("127.0.0.1", 0)
    with explained():
        from empo2_trainer import companion

        loaded = companion.load(args.model, Path(args.root), args.formats)
    ready = {"event": "ready", "port": listener.getsockname()[1], "pid": os.getpid()}
    ready |= {"model": args.model, "vocab_size": 0}

    def announce() -> None:
        os.write(out, json.dumps(ready).encode() + b"\n")
        os.close(out)

    executor = ThreadPoolExecutor(1)
    asyncio.run(_answer(companion.app(loaded, _token()), executor, listener, ending, announce))
    os._exit(0)


async def _run(
    args: Namespace,
    trainer: Any,
    executor: ThreadPoolExecutor,
    listener: socket.socket,
    ending: Ending,
    announce: Any,
) -> None:
    from empo2_trainer.futures import Futures
    from empo2_trainer.server import Api

    futures = Futures(executor, args.gap_wait)
    api = Api(trainer, futures, _token())
    watcher = asyncio.create_task(api.watch())
    await _answer(api.app(), executor, listener, ending, announce)
    watcher.cancel()


def check_token(host: str, token: str) -> None:
    """Refuse to give everyone in a network the right to train, to upload and to delete."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not token:
        hint = "set EMPO2_TRAINER_TOKEN to a secret, or use --host 127.0.0.1"
        raise Fatal(f"--host {host}: other machines could use the trainer without a token", hint)


def _token() -> str:
    return os.environ.get("EMPO2_TRAINER_TOKEN", "")


async def _answer(
    app: Any,
    executor: ThreadPoolExecutor,
    listener: socket.socket,
    ending: Ending,
    announce: Any,
) -> None:
    """Answer requests until the process must end."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # class Ending handles these signals

    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_keep_alive=120
    )
    config.timeout_graceful_shutdown = 1
    server = Server(config)
    stop = asyncio.Event()
    ending.attach(asyncio.get_running_loop(), stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    announce()
    await asyncio.wait(
        [serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    server.should_exit = True
    # It would report each request that is still waited for as an error.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    finished = asyncio.get_running_loop().run_in_executor(executor, lambda: None)
    executor.shutdown(wait=False, cancel_futures=False)
    await asyncio.wait([finished], timeout=GRACE_SECONDS)
    await asyncio.wait([serving], timeout=GRACE_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; connections queue from here on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delays off only for sockets that say that they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as e:
        hint = "give another --port, or 0 for any free one"
        raise Fatal(f"listen on {host}:{port}: {e.strerror or e}", hint) from e
    return listener


@contextmanager
def explained() -> Iterator[None]:
    """Turn what can go wrong at start, or in a conversion, into Fatal."""
    from empo2_trainer.store import StoreError

    try:
        yield
    except Fatal:
        raise
    except ImportError as e:
        hint = "install the trainer's pinned packages into this Python: pip install <trainer dir>"
        raise Fatal(f"import: {e}", hint) from e
    except StoreError as e:
        raise Fatal(str(e), "give a path that can be written") from e
    except Exception as e:
        if not hasattr(e, "hint"):
            raise
        raise Fatal(str(e), e.hint) from e


def _load(args: Namespace) -> tuple[Any, Any]:
    """Everything heavy, on the thread that owns torch; what is light and may fail comes first.
    Returns the trainer, and the other ranks or None."""
    from empo2_trainer.gguf_arch import check_adapter
    from empo2_trainer.model_dir import LoadError, check_directory
    from empo2_trainer.protocol import UserError
    from empo2_trainer.store import Store

    config = check_directory(args.model)
    if "gguf" in args.formats:
        try:
            check_adapter(config)
        except UserError as e:
            hint = 'use sampler.backend = "vllm" or "sglang", which load adapters in PEFT\'s format'
            raise LoadError(f"model {args.model}: {e}", hint) from e
    Store(Path(args.root) / "adapters")
    followers = _lead(args) if args.gpus > 1 else None
    if followers is None:
        policy = load_policy(args)
    else:
        policy = load_policy(args, 0, followers.store, followers.lost)
        policy.ranks.send = followers.send
        policy.ranks.gather("loaded")
    from empo2_trainer.trainer import Trainer

    return Trainer(policy, Path(args.root), args.seed, args.formats), followers


def _lead(args: Namespace) -> Any:
    """Start the other ranks."""
    import pickle

    from empo2_trainer.followers import Followers
    from empo2_trainer.placement import check_devices

    JsonLines.rank = 0
    check_devices(args.device, args.gpus)
    followers = Followers(args)
    for rank in range(1, args.gpus):
        followers.send(rank, pickle.dumps((args, followers.store)))
    return followers


def load_policy(
    args: Namespace, rank: int = 0, store: str = "", lost: Callable[[str], NoReturn] | None = None
) -> Any:
    """The base model on a rank's device. With several ranks they meet at store first, and lost is
    called if they cannot go on."""
    import torch

    from empo2_trainer.model import Policy
    from empo2_trainer.placement import device_of, is_sharded
    from empo2_trainer.ranks import Ranks
    from empo2_trainer.threads import Threads

    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
        torch.use_deterministic_algorithms(True)
    most = args.threads or max(1, torch.get_num_threads() // args.gpus)
    if args.threads or args.gpus > 1:
        torch.set_num_threads(most)
    device, ranks, sharded = device_of(args.device, args.gpus, rank), Ranks(), False
    if lost is not None:
        ranks = Ranks(rank, args.gpus, lost)
        ranks.join(store, torch.device(device), args.rank_timeout)
        sharded = is_sharded(args, ranks, torch.device(device))
    limits = (args.micro_batch_tokens, args.memory_share)
    policy = Policy(args.model, args.dtype, device, args.quantize, *limits, ranks, sharded)
    if not args.threads and policy.device.type == "cpu":
        policy.threads = Threads(most)
    return policy
