"""Selection of the modules that get a LoRA adapter.

Only linear layers of the language model can be adapted. Three kinds are never adapted:

- vision and audio towers and their projectors, since rollouts have no images;
- routers of mixtures of experts, since servers cannot load adapted routers;
- the output embedding, for the same reason.

Experts whose weights are stored in one three-dimensional tensor are no linear layers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from empo2_trainer.protocol import LoraSpec, UserError

ALL_LINEAR, ATTENTION = "all-linear", "attention"
TOWER = re.compile("vision|visual|image|img|video|audio|speech|projector")
ROUTERS = {"gate", "router", "routers", "shared_expert_gate", "gating", "wg"}


@dataclass(frozen=True)
class Targets:
    """Modules to adapt, by full name, and modules that are not adapted, as pattern → reason."""

    modules: list[str]
    skipped: dict[str, str]

    @property
    def patterns(self) -> list[str]:
        """The modules with * in place of layer numbers, each once."""
        return list(dict.fromkeys(_pattern(name) for name in self.modules))


def select(model: Any, spec: LoraSpec) -> Targets:
    """The modules that a specification names. A UserError says what cannot be adapted."""
    if not (spec.train_attn or spec.train_mlp):
        raise UserError("lora_config trains nothing: set train_attn or train_mlp")
    wanted = spec.target_modules
    if isinstance(wanted, list) and len(wanted) == 1 and wanted[0] in (ALL_LINEAR, ATTENTION):
        wanted = wanted[0]
    modules = dict(original_modules(model))
    inside, output = _decoder_prefix(model), model.get_output_embeddings()
    reasons = {
        name: OUTPUT if module is output else _reason(name, module, inside)
        for name, module in modules.items()
    }
    if isinstance(wanted, str):
        candidates = {n: r for n, r in reasons.items() if r != NOT_LINEAR and r != OUTPUT}
        chosen = _by_keyword(wanted, spec, candidates)
    else:
        chosen = _by_name(wanted, modules, reasons)
    adapted = [name for name in chosen if not reasons[name]]
    if not adapted:
        raise UserError(f"target_modules {wanted!r} selects no module: {_choices(reasons)}")
    skipped = {_pattern(name): reasons[name] for name in chosen if reasons[name]}
    return Targets(adapted, skipped)


def original_modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the model without the layers that PEFT wrapped around them."""
    for name, module in model.named_modules():
        parts = name.split(".")
        if "base_layer" not in parts and not any(p.startswith("lora_") for p in parts):
            yield name, getattr(module, "base_layer", module)


def peft_targets(model: Any, modules: list[str]) -> list[str] | str:
    """The modules as PEFT's target_modules: last names if they select nothing else, else a
    regular expression of full names."""
    last = {name.rsplit(".", 1)[-1] for name in modules}
    chosen = set(modules)
    named = {n for n, _ in original_modules(model) if n.rsplit(".", 1)[-1] in last}
    if named == chosen:
        return sorted(last)
    return "|".join(re.escape(name) for name in modules)


def peft_excluded(model: Any, adapted: list[str]) -> list[str]:
    """The modules that have the last name of an adapted one, but no adapter. PEFT matches by last
    names when it loads an export, and servers read no other form."""
    last, chosen = {name.rsplit(".", 1)[-1] for name in adapted}, set(adapted)
    names = (name for name, _ in original_modules(model))
    return [n for n in names if n.rsplit(".", 1)[-1] in last and n not in chosen]


def check_support(model: Any, modules: list[str], rank: int) -> None:
    """Refuse kinds of linear layers that PEFT cannot adapt, before it changes the model."""
    from peft import LoraConfig, inject_adapter_in_model

    originals = dict(original_modules(model))
    kinds = {type(originals[name]): name for name in reversed(modules)}
    config = LoraConfig(r=rank, target_modules=["layer"])
    for kind, name in kinds.items():
        try:
            with torch.random.fork_rng():
                inject_adapter_in_model(config, nn.ModuleDict({"layer": originals[name]}))
        except (ValueError, TypeError, RuntimeError, ImportError, AttributeError) as e:
            text = f"target_modules: PEFT cannot adapt {name} ({kind.__name__}): {e}"
            raise UserError(text) from e


NOT_LINEAR, OUTPUT = "not a linear layer", "the output embedding: servers cannot load it"


def _reason(name: str, module: nn.Module, inside: str) -> str:
    """Why a module is not adapted; empty if it can be. Names of the language model's modules start
    with inside."""
    from transformers.pytorch_utils import Conv1D

    parts = name.split(".")
    linear = isinstance(module, nn.Linear | Conv1D)
    convolution = isinstance(module, nn.Conv1d)  # of linear attention
    if not linear and not convolution and not _holds_experts(module):
        return NOT_LINEAR
    if any(TOWER.search(part) for part in parts) or not name.startswith(inside):
        return "outside the language model"
    if any(part in ROUTERS for part in parts):
        return "a router"
    if convolution:
        return "a convolution"
    return "" if linear else "experts in one tensor"


def _holds_experts(module: nn.Module) -> bool:
    return any(p.dim() == 3 for p in module.parameters(recurse=False))


def _decoder_prefix(model: Any) -> str:
    """The common beginning of the names of the language model's modules; empty if unknown."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    name = next((n for n, m in model.named_modules() if m is decoder), "")
    return f"{name}." if name else ""


def _by_keyword(wanted: str, spec: LoraSpec, candidates: dict[str, str]) -> list[str]:
    attention = [name for name in candidates if _in_attention(name)]
    if wanted == ATTENTION:
        return attention
    if wanted != ALL_LINEAR:
        raise UserError(
            f"target_modules {wanted!r}: valid are {ALL_LINEAR}, {ATTENTION} or a list of names"
        )
    rest = [name for name in candidates if not _in_attention(name)]
    keep = set(attention * spec.train_attn + rest * spec.train_mlp)
    return [name for name in candidates if name in keep]


def _by_name(
    wanted: list[str], modules: dict[str, nn.Module], reasons: dict[str, str]
) -> list[str]:
    """Modules whose name is an entry or ends in one, as PEFT matches them."""
    chosen = set()
    for entry in wanted:
        found = [n for n in modules if n == entry or n.endswith(f".{entry}")]
        if not found or not entry:
            raise UserError(f"target_modules: no module is named {entry!r}: {_choices(reasons)}")
        if all(reasons[n] for n in found):
            kind = type(modules[found[0]]).__name__
            raise UserError(
                f"target_modules: {found[0]} ({kind}) cannot be adapted: {reasons[found[0]]}; "
                + _choices(reasons)
            )
        chosen.update(found)
    return [name for name in modules if name in chosen]


def _in_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.split(".")[:-1])


def _choices(reasons: dict[str, str]) -> str:
    names = sorted({name.rsplit(".", 1)[-1] for name, reason in reasons.items() if not reason})
    return f"the linear layers are {', '.join(names) or 'none'}"


def _pattern(name: str) -> str:
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
