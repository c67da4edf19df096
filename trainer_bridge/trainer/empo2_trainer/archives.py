"""Checkpoints as tar archives: download, upload and removal over HTTP.

The paths are those of Tinker's protocol, whose archive endpoint answers with a redirection. Uploads
extend it: empo2 brings a checkpoint from its run directory to a trainer on another machine.
"""

import io
import json
import logging
import re
import shutil
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from empo2_trainer.protocol import UserError
from empo2_trainer.store import Store, check_name
from empo2_trainer.trainer import Trainer

MAX_ARCHIVE = 8 << 30  # bytes, in both directions; the client has the same bound
# Names that clients give to checkpoints on their way to or from a run: version and random digits.
IN_TRANSIT = re.compile(r"v\d{6,}-[0-9a-f]{8}")
TRANSIT_SECONDS = 6 * 3600.0  # far more than a transfer takes
PLACE = "/api/v1/training_runs/{model_id:str}/checkpoints/{kind:str}/{name:str}"
log = logging.getLogger(__name__)
Inside = Callable[[Callable[[], Any]], Awaitable[Any]]  # runs a function on torch's thread


class Archives:
    """Handlers over the stores of a trainer. authorize raises for a wrong token."""

    def __init__(
        self, trainer: Trainer, authorize: Callable[[Request], None], inside: Inside
    ) -> None:
        self.trainer, self.authorize, self.inside = trainer, authorize, inside

    def routes(self) -> list[Route]:
        """The routes of all operations."""
        return [
            Route(PLACE + "/archive", self.redirect),
            Route(PLACE + "/download", self.download, name="download"),
            Route(PLACE, self.remove, methods=["DELETE"]),
            Route("/api/v1/upload_checkpoint", self.upload, methods=["POST"]),
        ]

    async def redirect(self, request: Request) -> Response:
        """302 to the download, as in the protocol. The address is relative: only a proxy in front
        knows its scheme, host and prefix."""
        self.authorize(request)
        self._find(request)
        return RedirectResponse("download", 302)

    async def download(self, request: Request) -> Response:
        """The files of a checkpoint or of an export, manifest included."""
        self.authorize(request)
        store, name = self._find(request)
        body = await self.inside(lambda: pack(store, name))
        return Response(body, media_type="application/x-tar")

    async def remove(self, request: Request) -> Response:
        """Delete a checkpoint or an export."""
        self.authorize(request)
        store, name = self._find(request)
        await self.inside(lambda: shutil.rmtree(store.root / name, ignore_errors=True))
        return Response(status_code=204)

    async def upload(self, request: Request) -> Response:
        """Store a checkpoint. The answer has the path under which load_weights finds it."""
        self.authorize(request)
        name = request.query_params.get("name", "")
        body = await read_body(request, MAX_ARCHIVE)
        try:
            await self.inside(lambda: unpack(self.trainer.checkpoints, name, body))
        except (UserError, tarfile.TarError, ValueError) as e:
            raise HTTPException(400, f"the archive of {name!r}: {e}") from e
        answer = {"path": f"tinker://uploaded/weights/{name}", "type": "upload_checkpoint"}
        return Response(json.dumps(answer), media_type="application/json")

    def _find(self, request: Request) -> tuple[Store, str]:
        kind, name = request.path_params["kind"], request.path_params["name"]
        stores = {"weights": self.trainer.checkpoints, "sampler_weights": self.trainer.adapters}
        try:
            check_name(name)
        except UserError as e:
            raise HTTPException(400, str(e)) from e
        if kind not in stores or not (stores[kind].root / name).is_dir():
            raise HTTPException(404, f"no checkpoint {kind}/{name}")
        return stores[kind], name


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request, of at most limit bytes, whether or not it states its length."""
    stated = request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"the body is larger than {limit} bytes")
    if not stated.isdigit() or int(stated) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise too_large
        body += chunk
    return bytes(body)


def remove_leftovers(store: Store) -> None:
    """Remove checkpoints that were on their way when their run was killed."""
    for path in store.root.iterdir():
        try:
            old = time.time() - path.stat().st_mtime > TRANSIT_SECONDS
        except OSError:  # removed meanwhile
            continue
        if old and IN_TRANSIT.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
            log.info("removed %s, which no run has fetched", path.name)


def pack(store: Store, name: str) -> bytes:
    """A tar of a directory of a store, after a check of its files. It may be as large as an upload:
    what cannot come back is of no use."""
    files = store.verify(name)["files"]
    if sum(facts["bytes"] for facts in files.values()) > MAX_ARCHIVE:
        raise HTTPException(413, f"checkpoint {name} is larger than {MAX_ARCHIVE} bytes")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted((store.root / name).iterdir()):
            tar.add(path, path.name)
    return out.getvalue()


def unpack(store: Store, name: str, archive: bytes) -> None:
    """Write a directory of a store from a tar of its files. Its manifest must describe them."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files: dict[str, bytes] = {}
        for member in tar.getmembers():
            content = tar.extractfile(member)
            if content is None or "/" in member.name or member.name.startswith("."):
                raise UserError(f"{member.name!r} is not a plain file")
            files[member.name] = content.read()
    about = json.loads(files.pop(store.manifest, b"null"))
    if not isinstance(about, dict):
        raise UserError(f"{store.manifest} is missing")
    sums = about.pop("files", None)

    def fill(directory: Path) -> None:
        for file, content in files.items():
            (directory / file).write_bytes(content)

    store.write(name, about, fill, overwrite=True)
    if (store.read(name) or {}).get("files") != sums:
        shutil.rmtree(store.root / name, ignore_errors=True)
        raise UserError("its files differ from its manifest")
