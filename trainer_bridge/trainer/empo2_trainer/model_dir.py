"""Checks of a model directory that do not need torch, so that errors appear quickly at start."""

import json
from pathlib import Path
from typing import Any


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
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise LoadError(
            f"model {directory}: no config.json",
            "--model must be a Hugging Face model directory (config.json, *.safetensors)",
        ) from None
    except ValueError as e:
        raise LoadError(f"model {directory}: config.json: {e}", "repair or re-download it") from e
    _refuse_quantized(directory, config)
    weight_files(directory)
    return config


ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(directory: str) -> list[Path]:
    """The files of the model's weights, as transformers chooses them: one file, or those that the
    index lists. Others in the folder do not belong to the model."""
    path = Path(directory)
    if (path / ONE_FILE).exists():
        return [path / ONE_FILE]
    if not (path / INDEX).exists():
        others = ", ".join(sorted(p.name for p in path.glob("*.safetensors"))[:3])
        there = f" (there is {others})" if others else ""
        raise LoadError(
            f"model {directory}: no {ONE_FILE} and no {INDEX}{there}",
            "download the weights in the format of transformers, or convert them: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)",
        )
    try:
        listed = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, AttributeError) as e:
        raise LoadError(f"model {directory}: {INDEX}: {e}", "download it again") from e
    files = [path / name for name in sorted(set(listed))]
    missing = next((f.name for f in files if not f.exists()), "")
    if missing:
        hint = f"{INDEX} lists it: download it into the folder"
        raise LoadError(f"model {directory}: {missing} is missing", hint)
    return files


def _refuse_quantized(directory: str, config: dict[str, Any]) -> None:
    """Weights in 4 or 8 bits cannot be trained further, and log-probs would be compared with
    another rounding."""
    nested = config.get("text_config") or {}
    block = config.get("quantization_config") or nested.get("quantization_config")
    if block:
        method = block.get("quant_method", "unknown method")
        raise LoadError(
            f"model {directory}: its weights are quantised ({method})",
            "name the folder of the original model, in bfloat16 or float32; "
            'trainer.quantize = "nf4" quantises it while it is loaded',
        )
