"""What a run needs beside a trainer on another machine: the tokenizer, the chat template, and the
run directory's files. It loads no model.

Trainers that speak Tinker's protocol give PEFT adapters. `import_adapter` writes one as a
checkpoint of the run, `export_checkpoint` writes a checkpoint's adapter for inference servers.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from safetensors.torch import load_file
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from torch import Tensor

from empo2_trainer import export, gguf_export
from empo2_trainer.model_dir import check_directory
from empo2_trainer.protocol import UserError
from empo2_trainer.server import answer, authorized, http_error, without_model
from empo2_trainer.store import Store
from empo2_trainer.text import Codec


class ImportAdapter(Struct):
    """POST import_adapter: a folder with PEFT's files becomes the checkpoint `name`. Its alpha is
    changed to `alpha`; B is rescaled so that the adapter stays the same function."""

    source: str
    name: str
    rank: int
    alpha: float
    remote: dict[str, str] = {}  # where the trainer keeps its own checkpoint; stored as it is


class ExportCheckpoint(Struct):
    """POST export_checkpoint: the adapter of the checkpoint `name` becomes the export `export`."""

    name: str
    export: str


class Companion:
    """The operations on a run directory."""

    def __init__(self, model: str, root: Path, formats: tuple[str, ...]) -> None:
        self.model, self.formats = model, formats
        self.adapters = Store(root / "adapters")
        self.checkpoints = Store(root / "checkpoints", manifest="meta.json")

    def import_adapter(self, r: ImportAdapter) -> dict[str, Any]:
        """Write a checkpoint without an optimizer's state."""
        folder = Path(r.source)
        weights = read_adapter(folder)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config.get("r") != r.rank:
            raise UserError(f"the adapter has rank {config.get('r')}, the run {r.rank}")
        weights = rescale(weights, config, r.alpha)
        about: dict[str, Any] = {"rank": r.rank, "alpha": r.alpha, "version_name": r.name}
        about |= {"base_model": self.model, "optimizer_steps": 0, "remote": r.remote}

        def fill(directory: Path) -> None:
            export.write_tensors(directory / export.CHECKPOINT, weights)

        path = self.checkpoints.write(r.name, about, fill, overwrite=True)
        return {"dir": str(path)}

    def export_checkpoint(self, r: ExportCheckpoint) -> dict[str, Any]:
        """Write an export in every format of the run."""
        about = self.checkpoints.verify(r.name)
        weights = load_file(self.checkpoints.root / r.name / export.CHECKPOINT)
        rank, alpha = about["rank"], about["alpha"]
        modules = export.module_names(weights)
        # target_modules must have names: with null, PEFT adapts only some of the modules.
        config = export.peft_config(self.model, rank, alpha, export.last_names(modules), [])

        def fill(directory: Path) -> None:
            if "peft" in self.formats:
                export.write_peft(directory, config, weights)
            if "gguf" in self.formats:
                gguf_export.write_adapter(directory / "adapter.gguf", self.model, config, weights)

        described = {"rank": rank, "alpha": alpha, "version_name": r.export}
        described |= {"base_model": self.model}
        path = self.adapters.write(r.export, described, fill, overwrite=True)
        return {"dir": str(path)}


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The float32 weights of a PEFT adapter by PEFT's names, sorted."""
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        raise UserError(f"the archive has no {file.name}")
    found = {name: t.float() for name, t in sorted(load_file(file).items())}
    odd = [name for name in found if ".lora_A." not in name and ".lora_B." not in name]
    if odd or not found:
        raise UserError(f"the adapter has {odd[0] if odd else 'no weights'}: only LoRA is known")
    return found


def rescale(weights: dict[str, Tensor], config: dict[str, Any], alpha: float) -> dict[str, Tensor]:
    """The same adapter with another alpha: LoRA adds alpha/rank · B·A."""
    given = float(config.get("lora_alpha", 0))
    for key in ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save"):
        if config.get(key):
            raise UserError(f"the adapter uses {key}, which is not supported")
    if not given > 0:
        raise UserError(f"the adapter has lora_alpha = {given}")
    factor = given / alpha
    return {n: t * factor if ".lora_B." in n else t for n, t in weights.items()}


def load(model: str, root: Path, formats: tuple[str, ...]) -> Companion:
    """Checks the model's folder and creates the run directory's folders."""
    check_directory(model)
    return Companion(model, root, formats)


def app(companion: Companion, token: str) -> Starlette:
    """The ASGI application: the tokenizer's operations and the companion's."""
    decode = msgspec.json.decode
    operations = Codec(companion.model).operations()
    operations |= {
        "import_adapter": lambda b: companion.import_adapter(decode(b, type=ImportAdapter)),
        "export_checkpoint": lambda b: companion.export_checkpoint(
            decode(b, type=ExportCheckpoint)
        ),
    }
    routes = [
        Route(
            f"/api/v1/{path}",
            authorized(token.encode(), without_model(operation)),
            methods=["POST"],
        )
        for path, operation in operations.items()
    ]

    async def healthz(request: Request) -> Any:
        return answer({"status": "ok"})

    routes.append(Route("/api/v1/healthz", healthz))
    return Starlette(routes=routes, exception_handlers={HTTPException: http_error})
