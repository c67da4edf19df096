"""A LoRA adapter merged into its base: a new model directory.

The weights pass through memory one tensor at a time. W + alpha/rank · B·A is computed in float32
and stored as `dtype`. Everything else of the directory is copied. An adapter has the names of the
model's modules; in files a weight may have another name, which transformers knows.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from empo2_trainer.model_dir import FLOATS, INDEX, stored_tensors, weight_files
from empo2_trainer.protocol import UserError
from empo2_trainer.store import new_directory
from empo2_trainer.weights import skeleton, stored_names

DTYPES = {
    "float32": (torch.float32, "F32"),
    "bfloat16": (torch.bfloat16, "BF16"),
    "float16": (torch.float16, "F16"),
}
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}
NOT_COPIED = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.msgpack")


def check_modules(directory: str, modules: list[str]) -> None:
    """Refuse modules whose adapters cannot be merged."""
    model = skeleton(directory)
    names = stored_names(model, stored_tensors(directory))
    for module in modules:
        if not isinstance(model.get_submodule(module), nn.Linear):
            kind = type(model.get_submodule(module)).__name__
            raise UserError(
                f"an adapter of {module} ({kind}) cannot be merged: "
                "name other modules in trainer.target_modules, or do without a warm start"
            )
        _stored_name(names, module)


def _stored_name(names: dict[str, str], module: str) -> str:
    """The name of a module's weight in the files."""
    name = f"{module}.weight"
    if name not in names:
        raise UserError(f"the adapter changes {name}, which is not among the base's weights")
    return names[name]


class Deltas:
    """What an adapter adds to the weights of a base, by their names in its files."""

    def __init__(self, adapter: Path, names: dict[str, str]) -> None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        self.scale = config["lora_alpha"] / config["r"]
        self.sides: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
            module, _, side = name.removeprefix("base_model.model.").partition(".lora_")
            self.sides.setdefault(_stored_name(names, module), {})[side[0]] = tensor.float()

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The merged weight, float32; the weight itself if the adapter does not change it."""
        if name not in self.sides:
            return weight
        sides = self.sides[name]
        return weight.float().addmm_(sides["B"], sides["A"], alpha=self.scale)


def merge(model: Path, adapter: Path, out: Path, dtype: str, about: dict[str, Any]) -> None:
    """Write the merged model to the new directory out, whole or not at all."""
    names = stored_names(skeleton(str(model)), stored_tensors(str(model)))
    deltas = Deltas(adapter, names)
    files = weight_files(str(model))

    def fill(directory: Path) -> None:
        total = 0
        for file in files:
            total += _merge_file(file, directory / file.name, deltas, dtype)
        _copy_rest(model, directory)
        _write_config(model, directory, dtype)
        if (model / INDEX).is_file():
            index = json.loads((model / INDEX).read_text())
            index["metadata"] = {**index.get("metadata", {}), "total_size": total}
            (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    new_directory(out, "warmstart.json", about, fill)


def _merge_file(source: Path, target: Path, deltas: Deltas, dtype: str) -> int:
    """Write one file of weights and return its bytes of data."""
    with safe_open(source, framework="pt") as tensors, target.open("wb") as out:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        names = sorted(tensors.keys())
        for name in names:
            view = tensors.get_slice(name)
            kind = DTYPES[dtype][1] if view.get_dtype() in FLOATS else view.get_dtype()
            if kind not in WIDTHS:
                raise UserError(f"{source.name}: {name} is {kind}; quantised weights do not merge")
            size = WIDTHS[kind] * int(torch.Size(view.get_shape()).numel())
            spot = {"dtype": kind, "shape": view.get_shape(), "data_offsets": [at, at + size]}
            header[name] = spot
            at += size
        _write_header(out, header)
        for name in names:
            tensor = deltas.apply(name, tensors.get_tensor(name))
            if tensor.is_floating_point():
                tensor = tensor.to(DTYPES[dtype][0])
            out.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return at


def _write_header(out: BinaryIO, header: dict[str, Any]) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)


def _rest(model: Path) -> Iterator[Path]:
    for path in sorted(model.iterdir()):
        skipped = any(path.match(pattern) for pattern in NOT_COPIED) or path.name.startswith(".")
        if path.is_file() and not skipped:
            yield path


def _copy_rest(model: Path, directory: Path) -> None:
    """Copy tokenizer, chat template and other small files; links are followed."""
    for path in _rest(model):
        if path.name not in ("config.json", "warmstart.json"):
            shutil.copyfile(path, directory / path.name)


def _write_config(model: Path, directory: Path, dtype: str) -> None:
    config = json.loads((model / "config.json").read_text())
    for part in (config, *(v for v in config.values() if isinstance(v, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = dtype
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
