"""Checks of a model directory that do not need torch, so that errors appear quickly at start."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLOATS = ("F64", "F32", "F16", "BF16")  # what safetensors calls them


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
    weight_files(directory)
    _refuse_quantized(directory, config)
    return config


def model_config(directory: str) -> Any:
    """The model's configuration in transformers, with the values that config.json leaves out
    because they are the defaults of its class."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as e:  # whatever is raised, the file is at fault
        raise LoadError(f"model {directory}: config.json: {e}", UNKNOWN_MODEL) from e


UNKNOWN_MODEL = "is it a causal language model that transformers knows?"
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


Stored = tuple[str, tuple[int, ...]]  # dtype and shape of a tensor


def stored_tensors(directory: str) -> dict[str, Stored]:
    """The tensors of the model's files by name. Only the headers are read."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Stored] = {}
    for file in weight_files(directory):
        try:
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118, it is no dictionary
                    view = tensors.get_slice(name)
                    found[name] = (view.get_dtype(), tuple(view.get_shape()))
        except (SafetensorError, OSError) as e:
            hint = "its weights are damaged: repair or re-download them"
            raise LoadError(f"model {directory}: {file.name}: {e}", hint) from e
    return found


def _refuse_quantized(directory: str, config: dict[str, Any]) -> None:
    """Weights in 4 or 8 bits cannot be trained further, and log-probs would be compared with
    another rounding."""
    found = next(_quantization_blocks(config), "")
    if not found and (Path(directory) / "quantize_config.json").exists():  # older GPTQ
        found = "quantize_config.json"
    if not found:
        names = (
            name for name, stored in stored_tensors(directory).items() if _packed(name, stored)
        )
        found = next((f"the tensor {name}" for name in names), "")
    if found:
        raise LoadError(
            f"model {directory}: its weights are quantised ({found})",
            "name the folder of the original model, in bfloat16 or float32; "
            'trainer.quantize = "nf4" quantises it while it is loaded',
        )


METHODS = {  # keys of config.json, with the method if the block does not name it
    "quantization_config": "unknown method",
    "compression_config": "compressed-tensors",
    "quantization": "MLX",
}


def _quantization_blocks(config: dict[str, Any]) -> Iterator[str]:
    """The methods of all blocks about quantisation, wherever they are."""
    for key, value in config.items():
        if isinstance(value, dict):
            if key in METHODS and value:
                yield str(value.get("quant_method") or METHODS[key])
            yield from _quantization_blocks(value)


def _packed(name: str, stored: Stored) -> bool:
    """Whether a tensor has weights as small integers."""
    last = name.rsplit(".", 1)[-1]
    return last in ("qweight", "weight_packed", "W_q") or (
        last == "weight" and stored[0] not in FLOATS
    )
