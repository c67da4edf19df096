"""Conversion from Hugging Face's format to GGUF: base models and LoRA adapters for llama.cpp.

The result is float32, since sampling and training must agree on log-probs. llama-server then
differs from torch by rounding only. `gguf_arch` has the supported architectures.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from empo2_trainer.gguf_arch import Array, Shape, check_base, full_config
from empo2_trainer.gguf_tokenizer import add_tokenizer, strips_after_controls
from empo2_trainer.model_dir import weight_files
from empo2_trainer.protocol import UserError
from empo2_trainer.store import replace_file
from empo2_trainer.weights import check_weights


def write_model(directory: str, out: Path) -> None:
    """Convert a model directory, tokenizer included, into one file. The write is atomic."""
    from gguf import GGMLQuantizationType, GGUFWriter

    check_base(full_config(directory))
    check_weights(directory)
    shape = Shape(directory)
    sources, extra = _sources(directory, shape), shape.extra_tensors()

    def write(path: Path) -> None:
        writer = GGUFWriter(path, shape.arch.name)
        shape.add_to(writer, _title(directory))
        add_tokenizer(writer, Path(directory), shape.given, shape.config)
        kind = GGMLQuantizationType.F32
        sizes = {target: source.size for target, source in sources.items()}
        for target, size in (sizes | {n: v.shape for n, v in extra.items()}).items():
            count = 4 * int(np.prod(size))
            writer.add_tensor_info(target, size, np.dtype(np.float32), count, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for source in sources.values():
            writer.write_tensor_data(source.read(shape))
        for values in extra.values():
            writer.write_tensor_data(values)
        writer.close()

    replace_file(out, write)


@dataclass
class Source:
    """Where a tensor of the GGUF file comes from: one tensor, or one of each expert."""

    one: tuple[int, ...]  # the size of each
    experts: bool
    places: list[tuple[Path, str]]  # file and name

    @property
    def size(self) -> tuple[int, ...]:
        """The size in GGUF."""
        return (len(self.places), *self.one) if self.experts else self.one

    def read(self, shape: Shape) -> Array:
        """The values as llama.cpp stores them. Only this tensor is in memory."""
        from safetensors import safe_open

        parts = []
        for file, name in self.places:
            with safe_open(file, framework="pt") as tensors:
                parts.append(shape.converted(name, _array(tensors.get_tensor(name))))
        return np.stack(parts) if self.experts else parts[0]


EXPERT = re.compile(r"\.experts\.(\d+)\.")


def _sources(directory: str, shape: Shape) -> dict[str, Source]:
    """The model's tensors by their names in GGUF."""
    from safetensors import safe_open

    names = _names(shape)
    found: dict[str, Source] = {}
    for file in weight_files(directory):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys(), key=_order):
                if not shape.in_text(name) or (shape.tied and name.endswith("lm_head.weight")):
                    continue
                target = _gguf_name(names, shape.module(EXPERT.sub(".experts.", name)))
                size = tuple(tensors.get_slice(name).get_shape())
                source = Source(size, bool(EXPERT.search(name)), [])
                found.setdefault(target, source).places.append((file, name))
    for source in found.values():
        source.places.sort(key=lambda place: _order(place[1]))  # experts may be in several files
    return found


def _order(name: str) -> tuple[str, int]:
    expert = EXPERT.search(name)
    return EXPERT.sub(".experts.", name), int(expert[1]) if expert else 0


def _title(directory: str) -> str:
    """A name that does not depend on the folder's: llama.cpp looks for phi-3 in it, and then strips
    white space after control tokens."""
    return "phi-3" if strips_after_controls(Path(directory)) else "model"


def write_adapter(
    out: Path, directory: str, config: dict[str, Any], weights: dict[str, Tensor]
) -> None:
    """Convert a LoRA adapter, given PEFT's configuration and weights by PEFT's names."""
    from gguf import GGUFWriter

    _check_adapter(config)
    shape = Shape(directory)
    names = _names(shape)
    scale = config["r"] ** 0.5 if config.get("use_rslora") else 1.0
    writer = GGUFWriter(out, shape.arch.name)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]) * scale)
    for name, tensor in sorted(weights.items()):
        module, _, side = name.removeprefix("base_model.model.").partition(".lora_")
        target = _gguf_name(names, f"{shape.module(module)}.weight")
        rows = _array(tensor)
        if side == "A.weight":
            writer.add_tensor(f"{target}.lora_a", rows)
        else:
            writer.add_tensor(f"{target}.lora_b", shape.converted(f"{module}.", rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_modules(directory: str, modules: list[str]) -> None:
    """Refuse modules whose adapters have no name in GGUF."""
    shape = Shape(directory)
    names = _names(shape)
    for module in modules:
        _gguf_name(names, f"{shape.module(module)}.weight")


def _check_adapter(config: dict[str, Any]) -> None:
    unsupported = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")
    for key in unsupported:
        if config.get(key):
            raise UserError(f"no GGUF conversion for adapters with {key}")
    if config.get("bias", "none") != "none":
        raise UserError("no GGUF conversion for adapters with biases")


def _names(shape: Shape) -> Any:
    return _name_map(shape.arch.name, shape.layers)


@cache
def _name_map(arch_name: str, layers: int) -> Any:
    """The map takes milliseconds to build, as long as the rest of a small export."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch_name)
    return gguf.get_tensor_name_map(arch, layers)


def _gguf_name(names: Any, name: str) -> str:
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise UserError(f"no GGUF name for tensor {name}")
    return str(found)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().cpu().contiguous().numpy()
    return array
