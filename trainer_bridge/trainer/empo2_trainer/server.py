"""The HTTP server: Tinker's REST protocol, JSON only, under /api/v1.

A request that names a model and a seq_id always gets a request_id. If the request is invalid, the
error is the result of its future, so that the client's numbers have no gaps. The endpoints of the
tokenizer (text.py) are not part of the protocol; they are answered at once.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from empo2_trainer import datums, protocol
from empo2_trainer.archives import Archives, read_body, remove_leftovers
from empo2_trainer.futures import Futures, Work
from empo2_trainer.protocol import Conflict, LossInput, UserError
from empo2_trainer.sessions import TICK_SECONDS, Sessions, session_of
from empo2_trainer.text import Codec
from empo2_trainer.trainer import Trainer

log = logging.getLogger(__name__)
T = TypeVar("T")
POLL_SECONDS = 3.0  # the SDK gives up on a call after 45; each answer tells the progress
MAX_BODY = 512 << 20
CLIENT_CONFIG = {
    "pjwt_auth_enabled": False,
    "parallel_fwdbwd_chunks": True,
    "proto_write_fwdbwd": False,
    "use_pyqwest_transport": False,
    "create_model_via_load_weights": False,
}
SESSION_NOTES = {"info_message": None, "warning_message": None, "error_message": None}


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response. Bytes are already encoded."""
    body = value if isinstance(value, bytes) else protocol.encode(value)
    return Response(body, status, headers, "application/json")


class Api:
    """Handlers over one trainer. token is the bearer token; empty means no authentication."""

    def __init__(
        self, trainer: Trainer, futures: Futures, token: str, poll: float = POLL_SECONDS
    ) -> None:
        self.trainer = trainer
        self.futures = futures
        self.token = token.encode()
        self.poll = poll
        self.sessions = Sessions()
        self.codec = Codec(trainer.policy.directory)

    def app(self) -> Starlette:
        """The ASGI application."""
        posts: dict[str, Callable[[bytes], Awaitable[Response]]] = {
            "client/config": _constant(CLIENT_CONFIG),
            "create_session": self.create_session,
            "session_heartbeat": self.heartbeat,
            "create_model": self.create_model,
            "get_info": self.get_info,
            "forward": self.forward,
            "forward_backward": self.forward_backward,
            "optim_step": self.optim_step,
            "save_weights": self.save_weights,
            "load_weights": self.load_weights,
            "save_weights_for_sampler": self.export,
            "retrieve_future": self.retrieve_future,
            "unload_model": self.unload_model,
            "telemetry": _constant({"status": "accepted"}),  # the SDK repeats it until then
        }
        posts |= {path: without_model(do) for path, do in self.codec.operations().items()}
        routes = [
            Route(f"/api/v1/{path}", authorized(self.token, handler), methods=["POST"])
            for path, handler in posts.items()
        ]
        routes += [
            Route("/api/v1/healthz", self.healthz),
            Route("/api/v1/get_server_capabilities", self.capabilities),
        ]
        routes += Archives(self.trainer, self._authorize, self._inside).routes()
        return Starlette(routes=routes, exception_handlers={HTTPException: http_error})

    def _authorize(self, request: Request) -> None:
        authorize(request, self.token)

    async def _inside(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.futures.executor, work)

    # Handlers without a future

    async def healthz(self, request: Request) -> Response:
        """Report that the server runs. No token is needed."""
        return answer({"status": "ok"})

    async def watch(self) -> None:
        """Until cancelled, free what killed clients left: models without heartbeats, and files."""
        while True:
            for store in (self.trainer.checkpoints, self.trainer.adapters):
                try:
                    await self._inside(partial(remove_leftovers, store))
                except OSError as e:
                    log.warning("look for old checkpoints in %s: %s", store.root, e)
            await asyncio.sleep(TICK_SECONDS)
            self.free_silent()

    def free_silent(self) -> None:
        """Count a tick. Unload the models of sessions that were silent for too many."""
        for session in self.sessions.tick():
            log.info("%s sends no heartbeats: its models are unloaded", session)
            for model_id in [m for m in self.futures.created if session_of(m) == session]:
                self.futures.forget(model_id, partial(self._free, model_id))

    def _free(self, model_id: str) -> dict[str, Any]:
        known = model_id in self.trainer.models  # else its client unloaded it
        return self.trainer.unload(model_id) if known else {"model_id": model_id}

    async def capabilities(self, request: Request) -> Response:
        """The one model that can be trained."""
        self._authorize(request)
        policy = self.trainer.policy
        model = {"model_name": policy.directory, "max_context_length": policy.context}
        # server extends the protocol: a client may use what only this trainer can do.
        return answer({"supported_models": [model], "server": "empo2"})

    async def create_session(self, body: bytes) -> Response:
        """Open a session, which is only a prefix of its models' names."""
        session = f"session-{secrets.token_hex(6)}"
        self.sessions.heard(session)
        return answer({"type": "create_session", "session_id": session, **SESSION_NOTES})

    async def heartbeat(self, body: bytes) -> Response:
        """Keep a session. Answer 410 if it has ended, or is of an earlier process."""
        self._session(_decode(body, protocol.SessionRef).session_id, 410)
        return answer({"type": "session_heartbeat"})

    async def get_info(self, body: bytes) -> Response:
        """Facts about a model."""
        ref = _decode(body, protocol.ModelRef)
        model = self.trainer.models.get(ref.model_id)
        if model is None:
            raise HTTPException(404, f"unknown model_id {ref.model_id!r}")
        name = self.trainer.policy.directory
        arch = self.trainer.policy.architecture
        data = {"arch": arch, "model_name": name, "tokenizer_id": name}
        info = {"type": "get_info", "model_id": model.model_id, "is_lora": True}
        more = {"lora_rank": model.rank, "model_name": name, "model_data": data}
        return answer({**info, **more})

    async def retrieve_future(self, body: bytes) -> Response:
        """Wait for a result (long poll)."""
        ref = _decode(body, protocol.RetrieveFuture)
        self.sessions.heard_if_known(session_of(ref.request_id))
        try:
            result = await self.futures.wait(ref.request_id, self.poll)
        except KeyError:
            raise HTTPException(404, f"unknown request_id {ref.request_id!r}") from None
        if result is None:
            again = {"type": "try_again", "request_id": ref.request_id, "queue_state": "active"}
            done, total = self.trainer.policy.progress
            return answer(again | {"rows": [done, total]} if total else again)
        return answer(result)

    # Handlers with a future

    async def create_model(self, body: bytes) -> Response:
        """Start a new adapter."""
        r = _decode(body, protocol.CreateModel)
        self._session(r.session_id, 404)
        model_id = f"{r.session_id}:train:{r.model_seq_id}"

        def work() -> dict[str, Any]:
            self._check_base(r.base_model)
            return self.trainer.create(model_id, r.lora_config)

        return _ack(self.futures.once(model_id, _digest("create_model", body), work), model_id)

    async def unload_model(self, body: bytes) -> Response:
        """Remove an adapter after all its earlier requests."""
        model_id = _decode(body, protocol.ModelRef).model_id
        request_id = self.futures.after_all(model_id, lambda: self.trainer.unload(model_id))
        return _ack(request_id, model_id)

    async def forward(self, body: bytes) -> Response:
        """Log-probs and loss."""

        def prepare(r: protocol.Forward) -> Work:
            return self._pass(r.model_id, r.forward_input, backward=False)

        return await self._ordered("forward", body, protocol.Forward, prepare)

    async def forward_backward(self, body: bytes) -> Response:
        """Log-probs, loss and gradient."""

        def prepare(r: protocol.ForwardBackward) -> Work:
            return self._pass(r.model_id, r.forward_backward_input, backward=True)

        return await self._ordered("forward_backward", body, protocol.ForwardBackward, prepare)

    async def optim_step(self, body: bytes) -> Response:
        """Apply the gradient."""

        def prepare(r: protocol.OptimStep) -> Work:
            return lambda: self.trainer.optim_step(r.model_id, r.adam_params)

        return await self._ordered("optim_step", body, protocol.OptimStep, prepare)

    async def save_weights(self, body: bytes) -> Response:
        """Write a checkpoint."""

        def prepare(r: protocol.SaveWeights) -> Work:
            return lambda: self.trainer.save(r.model_id, r.path, r.overwrite)

        return await self._ordered("save_weights", body, protocol.SaveWeights, prepare)

    async def load_weights(self, body: bytes) -> Response:
        """Restore a checkpoint."""

        def prepare(r: protocol.LoadWeights) -> Work:
            return lambda: self.trainer.load(r.model_id, r.path, r.optimizer)

        return await self._ordered("load_weights", body, protocol.LoadWeights, prepare)

    async def export(self, body: bytes) -> Response:
        """Export for inference servers."""

        def prepare(r: protocol.SaveForSampler) -> Work:
            if r.path is None:
                raise UserError("path is missing: this trainer exports adapters, it cannot sample")
            name = r.path
            return lambda: self.trainer.export(r.model_id, name, r.overwrite)

        return await self._ordered(
            "save_weights_for_sampler", body, protocol.SaveForSampler, prepare
        )

    async def _ordered(
        self, kind: str, body: bytes, shape: type[T], prepare: Callable[[T], Work]
    ) -> Response:
        """Queue a request by its seq_id, even if the rest of it is invalid."""
        order = _decode(body, protocol.Ordered)
        self.sessions.heard_if_known(session_of(order.model_id))
        try:
            work = prepare(_decode(body, shape))
        except (UserError, msgspec.ValidationError) as e:
            work = self._refuse(str(e), kind, order.model_id)
        key = (order.model_id, order.seq_id, kind, _digest(kind, body))
        return _ack(self.futures.ordered(*key, work, kind == "load_weights"), order.model_id)

    def _refuse(self, message: str, kind: str, model_id: str) -> Work:
        if kind == "forward_backward":
            return lambda: self.trainer.refuse(model_id, message)
        return _refuse(message)

    def _pass(self, model_id: str, batch: LossInput, backward: bool) -> Work:
        policy = self.trainer.policy
        sequences, loss = datums.check(batch, policy.vocab_size, policy.context)
        return lambda: self.trainer.run(model_id, sequences, loss, backward)

    def _session(self, session_id: str, status: int) -> None:
        if session_id not in self.sessions.quiet:
            raise HTTPException(status, f"unknown session_id {session_id!r}: create_session first")
        self.sessions.heard(session_id)

    def _check_base(self, name: str) -> None:
        directory = self.trainer.policy.directory
        short = directory.rstrip("/").rsplit("/", 1)[-1]
        if name not in ("", directory, short):
            raise UserError(f"base_model {name!r} is not served: this trainer has {directory!r}")


def authorize(request: Request, token: bytes) -> None:
    """Raises for a request without the token. No token is asked for if there is none."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    keys = (given, request.headers.get("x-api-key", "").encode())
    if token and not any(hmac.compare_digest(key, token) for key in keys):
        raise HTTPException(401, "wrong or missing token (Authorization: Bearer or X-API-Key)")


def authorized(token: bytes, handler: Callable[[bytes], Awaitable[Response]]) -> Any:
    """An endpoint that checks the token and answers invalid requests."""

    async def endpoint(request: Request) -> Response:
        authorize(request, token)
        _check_encoding(request)
        try:
            return await handler(await read_body(request, MAX_BODY))
        except Conflict as e:
            return answer({"detail": str(e), "category": "user"}, 409, _NO_RETRY)
        except (UserError, msgspec.DecodeError) as e:
            return answer({"detail": str(e), "category": "user"}, 400)
        except RecursionError:
            detail = "the request's JSON is nested too deeply"
            return answer({"detail": detail, "category": "user"}, 400)

    return endpoint


def _constant(value: dict[str, Any]) -> Callable[[bytes], Awaitable[Response]]:
    async def handler(body: bytes) -> Response:
        return answer(value)

    return handler


def without_model(do: Callable[[bytes], dict[str, Any]]) -> Callable[[bytes], Awaitable[Response]]:
    """Run an operation that needs no model outside of the thread that owns torch."""

    async def handler(body: bytes) -> Response:
        return answer(await asyncio.to_thread(do, body))

    return handler


_NO_RETRY = {"x-should-retry": "false"}


def _decode(body: bytes, shape: type[T]) -> T:
    return msgspec.json.decode(body, type=shape)


def _digest(kind: str, body: bytes) -> bytes:
    return hashlib.blake2b(kind.encode() + b"\0" + body, digest_size=16).digest()


def _ack(request_id: str, model_id: str) -> Response:
    return answer({"request_id": request_id, "model_id": model_id})


def _refuse(message: str) -> Work:
    def work() -> dict[str, Any]:
        raise UserError(message)

    return work


def _check_encoding(request: Request) -> None:
    kind = request.headers.get("content-type", "application/json")
    if "protobuf" in kind:
        raise HTTPException(415, "protobuf is not supported: use JSON (tinker SDK up to 0.24.1)")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"content-encoding {encoding} is not supported: send it plain")


async def http_error(request: Request, e: Exception) -> Response:
    """An error with a status as JSON."""
    assert isinstance(e, HTTPException)
    detail = e.detail
    if detail == "Not Found":
        detail = f"no endpoint {request.url.path}: this trainer cannot sample"
    return answer({"detail": detail, "category": "user"}, e.status_code, _NO_RETRY)
