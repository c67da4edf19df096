"""A LoRA adapter merged into its base: a new model directory.

The weights pass through memory one tensor at a time. W + alpha/rank · B·A is computed in float32
and stored as `dtype`. Everything else of the directory is copied.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from empo2_trainer.protocol import UserError
from empo2_trainer.store import new_directory

DTYPES = {
    "float32": (torch.float32, "F32"),
    "bfloat16": (torch.bfloat16, "BF16"),
    "float16": (torch.float16, "F16"),
}
FLOATS = ("F64", "F32", "F16", "BF16")
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}
INDEX = "model.safetensors.index.json"
NOT_COPIED = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.msgpack")


class Deltas:
    """What an adapter adds to the weights of a base, by their names there."""

    def __init__(self, adapter: Path) -> None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        self.scale = config["lora_alpha"] / config["r"]
        self.sides: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
            module, _, side = name.removeprefix("base_model.model.").partition(".lora_")
            self.sides.setdefault(f"{module}.weight", {})[side[0]] = tensor.float()
        self.missing = set(self.sides)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The merged weight, float32; the weight itself if the adapter does not change it."""
        if name not in self.sides:
            return weight
        sides = self.sides[name]
        self.missing.discard(name)
        return weight.float().addmm_(sides["B"], sides["A"], alpha=self.scale)


def merge(model: Path, adapter: Path, out: Path, dtype: str, about: dict[str, Any]) -> None:
    """Write the merged model to the new directory out, whole or not at all."""
    deltas = Deltas(adapter)
    files = _weight_files(model)

    def fill(directory: Path) -> None:
        total = 0
        for file in files:
            total += _merge_file(file, directory / file.name, deltas, dtype)
        if deltas.missing:
            name = sorted(deltas.missing)[0]
            raise UserError(f"the adapter changes {name}, which is not among the base's weights")
        _copy_rest(model, directory)
        _write_config(model, directory, dtype)
        if (model / INDEX).is_file():
            index = json.loads((model / INDEX).read_text())
            index["metadata"] = {**index.get("metadata", {}), "total_size": total}
            (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    new_directory(out, "warmstart.json", about, fill)


def _weight_files(model: Path) -> list[Path]:
    """The files that transformers loads."""
    if (model / "model.safetensors").is_file() or not (model / INDEX).is_file():
        return [model / "model.safetensors"]
    index = json.loads((model / INDEX).read_text())
    return [model / name for name in sorted(set(index["weight_map"].values()))]


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
    if "quantization_config" in config:
        raise UserError("quantised weights cannot be merged")
    for part in (config, *(v for v in config.values() if isinstance(v, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = dtype
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
