"""Conversion from Hugging Face's format to GGUF: base models and LoRA adapters for llama.cpp.

The result is float32, since sampling and training must agree on log-probs. llama-server then
differs from torch by less than 1e-5. Supported architectures: qwen2, qwen3, llama.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from empo2_trainer.gguf_tokenizer import add_tokenizer
from empo2_trainer.model_dir import check_convertible
from empo2_trainer.protocol import UserError
from empo2_trainer.store import replace_file

ALL_F32 = 0  # LLAMA_FTYPE_ALL_F32
Array = NDArray[np.float32]


class Shape:
    """The numbers of a model's config.json that GGUF needs."""

    def __init__(self, directory: str) -> None:
        self.config: dict[str, Any] = json.loads((Path(directory) / "config.json").read_text())
        check_convertible(self.config)
        c = self.config
        self.arch = str(c["model_type"])
        self.layers = int(c["num_hidden_layers"])
        self.hidden = int(c["hidden_size"])
        self.heads = int(c["num_attention_heads"])
        self.kv_heads = int(c.get("num_key_value_heads") or self.heads)
        self.head_dim = int(c.get("head_dim") or self.hidden // self.heads)
        rope = c.get("rope_parameters") or {}
        self.rope_theta = float(rope.get("rope_theta") or c.get("rope_theta") or 10000.0)

    def permuted(self, name: str, rows: Array) -> Array:
        """Reorder the rows of the q and k matrices (or of their lora_B), since llama.cpp rotates
        neighbours and Hugging Face rotates halves. Only the architecture llama needs it."""
        if self.arch != "llama" or not (".q_proj." in name or ".k_proj." in name):
            return rows
        heads = self.heads if ".q_proj." in name else self.kv_heads
        halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def write_model(directory: str, out: Path) -> None:
    """Convert a model directory, tokenizer included, into one file. The write is atomic."""
    from gguf import GGMLQuantizationType, GGUFWriter

    shape = Shape(directory)
    tied = bool(shape.config.get("tie_word_embeddings"))
    names = _names(shape)

    def write(path: Path) -> None:
        writer = GGUFWriter(path, shape.arch)
        _add_config(writer, shape, Path(directory).resolve().name)
        add_tokenizer(writer, Path(directory), shape.config)
        sizes = list(_tensor_sizes(directory, tied))
        for name, size in sizes:
            count = 4 * int(np.prod(size))
            kind = GGMLQuantizationType.F32
            writer.add_tensor_info(_gguf_name(names, name), size, np.dtype(np.float32), count, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in _tensors(directory, [name for name, _ in sizes]):
            writer.write_tensor_data(shape.permuted(name, _array(tensor)))
        writer.close()

    replace_file(out, write)


def write_adapter(
    out: Path, directory: str, config: dict[str, Any], weights: dict[str, Tensor]
) -> None:
    """Convert a LoRA adapter, given PEFT's configuration and weights by PEFT's names."""
    from gguf import GGUFWriter

    _check_adapter(config)
    shape = Shape(directory)
    names = _names(shape)
    scale = config["r"] ** 0.5 if config.get("use_rslora") else 1.0
    writer = GGUFWriter(out, shape.arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]) * scale)
    for name, tensor in sorted(weights.items()):
        module, _, side = name.removeprefix("base_model.model.").partition(".lora_")
        target = _gguf_name(names, f"{module}.weight")
        rows = _array(tensor)
        if side == "A.weight":
            writer.add_tensor(f"{target}.lora_a", rows)
        else:
            writer.add_tensor(f"{target}.lora_b", shape.permuted(f"{module}.", rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_modules(directory: str, modules: list[str]) -> None:
    """Refuse modules whose adapters have no name in GGUF."""
    names = _names(Shape(directory))
    for module in modules:
        _gguf_name(names, f"{module}.weight")


def _check_adapter(config: dict[str, Any]) -> None:
    unsupported = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")
    for key in unsupported:
        if config.get(key):
            raise UserError(f"no GGUF conversion for adapters with {key}")
    if config.get("bias", "none") != "none":
        raise UserError("no GGUF conversion for adapters with biases")


def _add_config(writer: Any, shape: Shape, name: str) -> None:
    c = shape.config
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(ALL_F32)
    writer.add_block_count(shape.layers)
    writer.add_context_length(int(c["max_position_embeddings"]))
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(int(c["intermediate_size"]))
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(float(c["rms_norm_eps"]))
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    if shape.arch == "llama":
        writer.add_rope_dimension_count(shape.head_dim)
        writer.add_vocab_size(int(c["vocab_size"]))


def _names(shape: Shape) -> Any:
    return _name_map(shape.arch, shape.layers)


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


def _files(directory: str) -> list[Path]:
    return sorted(Path(directory).glob("*.safetensors"))


def _tensor_sizes(directory: str, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and sizes of the tensors to convert, in the order in which they are written."""
    from safetensors import safe_open

    for file in _files(directory):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                if not (tied and name == "lm_head.weight") and "rotary_emb" not in name:
                    yield name, tuple(tensors.get_slice(name).get_shape())


def _tensors(directory: str, wanted: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the same files in the same order, one in memory at a time."""
    from safetensors import safe_open

    keep = set(wanted)
    for file in _files(directory):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                if name in keep:
                    yield name, tensors.get_tensor(name)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().cpu().contiguous().numpy()
    return array
