"""Folders that transformers loads with random values, or not at all, are refused at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from empo2_trainer import gguf_export
from empo2_trainer.model import Policy
from empo2_trainer.model_dir import INDEX, ONE_FILE, LoadError, check_directory
from empo2_trainer.weights import check_weights
from tests.conftest import make_model
from tests.test_architectures import CASES, build

DOWN = "model.layers.0.mlp.down_proj"
Tensors = dict[str, torch.Tensor]


def rewrite(model: Path, change: Callable[[Tensors], Any]) -> None:
    """Change the tensors of a model's file."""
    tensors = load_file(model / ONE_FILE)
    change(tensors)
    save_file(tensors, model / ONE_FILE, {"format": "pt"})


def configure(model: Path, **keys: Any) -> None:
    """Set keys of config.json."""
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def split(model: Path, listed: int, second: Tensors | None = None) -> None:
    """Two files in place of one, of which the index lists the first ones. second replaces the
    tensors of the second."""
    tensors = load_file(model / ONE_FILE)
    (model / ONE_FILE).unlink()
    names, files = sorted(tensors), ["model-00001-of-00002", "model-00002-of-00002"]
    half = len(names) // 2
    for file, part in zip(files, (names[:half], names[half:]), strict=True):
        held = {n: tensors[n] for n in part}
        if second is not None and file == files[1]:
            held = second
        save_file(held, model / f"{file}.safetensors", {"format": "pt"})
    index = {n: f"{files[i >= half]}.safetensors" for i, n in enumerate(names)}
    index = {n: f for n, f in index.items() if f.split(".")[0] in files[:listed]}
    (model / INDEX).write_text(json.dumps({"weight_map": index}))


def pack(name: str, dtype: torch.dtype) -> Callable[[Tensors], Any]:
    """Replace a weight by one of small integers with another name."""

    def change(tensors: Tensors) -> None:
        tensors.pop(f"{DOWN}.weight")
        tensors[f"{DOWN}.{name}"] = torch.zeros(4, 4, dtype=dtype)

    return change


MISSING = f"{DOWN}.weight is missing in its files"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing tensor": (lambda m: rewrite(m, lambda t: t.pop(f"{DOWN}.weight")), MISSING),
    "missing biases": (
        lambda m: rewrite(m, lambda t: [t.pop(n) for n in list(t) if n.endswith("q_proj.bias")]),
        r"q_proj\.bias and 1 more are missing",
    ),
    "another shape": (
        lambda m: configure(m, intermediate_size=48),
        r"is \[32, 64\] in its files, and \[32, 48\] by its config",
    ),
    "an index of one shard": (lambda m: split(m, 1), r"layers\.1\..* are missing"),
    "a shard of another model": (
        lambda m: split(m, 2, {"x": torch.zeros(2)}),
        r"layers\.1\..* are missing",
    ),
    "no head": (lambda m: configure(m, tie_word_embeddings=False), r"lm_head\.weight is missing"),
    "GPTQ": (lambda m: rewrite(m, pack("qweight", torch.int32)), r"quantised .*tensor .*qweight"),
    "MLX": (
        lambda m: rewrite(m, pack("weight", torch.int32)),
        r"quantised .*tensor .*down_proj\.weight",
    ),
    "MLX by its config": (
        lambda m: configure(m, quantization={"bits": 4, "group_size": 64}),
        r"quantised \(MLX\)",
    ),
    "older GPTQ": (
        lambda m: (m / "quantize_config.json").write_text("{}"),
        r"quantised \(quantize_config\.json\)",
    ),
    "a nested block": (
        lambda m: configure(m, text_config={"quantization_config": {"quant_method": "awq"}}),
        r"quantised \(awq\)",
    ),
    "compressed tensors": (
        lambda m: configure(m, compression_config={"format": "int"}),
        r"quantised \(compressed-tensors\)",
    ),
    "a damaged file": (lambda m: (m / ONE_FILE).write_text("x"), r"model\.safetensors: .*header"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_refused(kind: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "qwen2")
    spoil, message = BROKEN[kind]
    spoil(model)
    with pytest.raises(LoadError, match=message) as e:
        Policy(str(model), device="cpu")
    assert str(model) in str(e.value)
    assert "download" in e.value.hint or "original model" in e.value.hint


@pytest.mark.parametrize("keys", [{"num_attention_heads": "4"}, {"model_type": "unknown"}])
def test_a_config_that_transformers_refuses_is_named(keys: Any, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "qwen2")
    configure(model, **keys)
    with pytest.raises(LoadError, match=r"config\.json: ") as e:
        Policy(str(model), device="cpu")
    assert "transformers" in e.value.hint


def test_nothing_is_converted_from_a_broken_folder(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "qwen2")
    rewrite(model, lambda tensors: tensors.pop(f"{DOWN}.weight"))
    with pytest.raises(LoadError, match=MISSING):
        gguf_export.write_model(str(model), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (r"experts.3.", r"experts\.down_proj is \[3, .* and \[4, "),
        (r"experts.3.gate_proj", r"experts\.gate_up_proj cannot be made of the tensors"),
    ],
)
def test_a_missing_expert_is_refused(missing: str, message: str, tmp_path: Path) -> None:
    case = next(c for c in CASES if c.name == "qwen3_moe")
    model = build(case, tmp_path / "model")
    rewrite(model, lambda t: [t.pop(n) for n in list(t) if "layers.1" in n and missing in n])
    with pytest.raises(LoadError, match=message):
        check_weights(str(model))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whole_models_are_accepted(case: Any, tmp_path: Path) -> None:
    model = build(case, tmp_path / "model")
    check_directory(str(model))
    check_weights(str(model))
