"""Adapters on disk: exports in PEFT's format, and checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from empo2_trainer.protocol import UserError

Tensors = dict[str, Tensor]
CHECKPOINT, OPTIMIZER = "adapter.safetensors", "optimizer.safetensors"


def peft_config(
    base_model: str, rank: int, alpha: float, targets: list[str], excluded: list[str]
) -> dict[str, Any]:
    """The content of adapter_config.json. PEFT's own file lists the targets in random order, and
    sometimes lacks the names, which servers need."""
    return {
        "exclude_modules": excluded or None,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def write_peft(directory: Path, config: dict[str, Any], weights: Tensors) -> None:
    """Write adapter_config.json and adapter_model.safetensors (float32)."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file(on_cpu(weights), directory / "adapter_model.safetensors", {"format": "pt"})


def module_names(weights: Tensors) -> list[str]:
    """The names of the adapted modules."""
    names = (name.removeprefix("base_model.model.").split(".lora_")[0] for name in weights)
    return list(dict.fromkeys(names))


def last_names(modules: list[str]) -> list[str]:
    """The last part of every module's name, sorted. Servers match targets by it."""
    return sorted({name.rsplit(".", 1)[-1] for name in modules})


def write_checkpoint(directory: Path, weights: Tensors, optimizer: Tensors) -> None:
    """Write the adapter and the optimizer's state exactly."""
    write_tensors(directory / CHECKPOINT, weights)
    write_tensors(directory / OPTIMIZER, optimizer)


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write one file of tensors."""
    save_file(on_cpu(tensors), path)


def read_checkpoint(directory: Path) -> tuple[Tensors, Tensors]:
    """The adapter and the optimizer's state of a checkpoint. The state is empty in a checkpoint of
    a trainer that gives only adapters."""
    optimizer = directory / OPTIMIZER
    return load_file(directory / CHECKPOINT), load_file(optimizer) if optimizer.exists() else {}


def copy_into(parameters: dict[str, torch.nn.Parameter], saved: Tensors) -> None:
    """Overwrite an adapter's weights. A UserError names the first one that does not fit."""
    if parameters.keys() != saved.keys():
        odd = sorted(parameters.keys() ^ saved.keys())[0]
        raise UserError(f"the checkpoint's adapter has other modules than the model: {odd}")
    for name, p in parameters.items():
        if p.shape != saved[name].shape:
            raise UserError(f"{name} is {tuple(saved[name].shape)}, the model's {tuple(p.shape)}")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(saved[name])


def on_cpu(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors in main memory, detached."""
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
