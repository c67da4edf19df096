"""Checks of a model directory that do not need torch, so that errors appear quickly at start."""

import json
from pathlib import Path
from typing import Any

from empo2_trainer.protocol import UserError

GGUF_ARCHITECTURES = ("qwen2", "qwen3", "llama")


class LoadError(Exception):
    """The model cannot be loaded. hint is the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def check_directory(directory: str) -> dict[str, Any]:
    """The parsed config.json of a Hugging Face model directory."""
    path = Path(directory)
    if not path.is_dir():
        raise LoadError(f"model {directory}: no such directory", "give --model a local directory")
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
    except OSError:
        raise LoadError(
            f"model {directory}: no config.json",
            "--model must be a Hugging Face model directory (config.json, *.safetensors)",
        ) from None
    except ValueError as e:
        raise LoadError(f"model {directory}: config.json: {e}", "repair or re-download it") from e
    if not any(path.glob("*.safetensors")):
        raise LoadError(
            f"model {directory}: no *.safetensors", "download the weights or convert them"
        )
    return config


def check_convertible(config: dict[str, Any]) -> None:
    """Refuse models that the conversion to GGUF does not support."""
    arch = config.get("model_type")
    if arch not in GGUF_ARCHITECTURES:
        raise UserError(
            f"no GGUF conversion for {arch!r}: known are {', '.join(GGUF_ARCHITECTURES)}"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise UserError(f"no GGUF conversion for rope scaling of type {kind!r}")
    if config.get("use_sliding_window"):
        raise UserError("no GGUF conversion for sliding-window attention")
    if arch == "llama" and (config.get("attention_bias") or config.get("mlp_bias")):
        raise UserError("no GGUF conversion for llama with biases")
    if "quantization_config" in config:
        raise UserError("no GGUF conversion for quantized weights")
