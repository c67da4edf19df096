"""A merged model computes what base and adapter compute together."""

import json
import random
from pathlib import Path

import pytest
import torch

from empo2_trainer import export, merge
from empo2_trainer.model import Policy
from empo2_trainer.model_dir import stored_tensors
from empo2_trainer.protocol import UserError
from empo2_trainer.targets import select
from empo2_trainer.trainer import Trainer
from tests.conftest import SPEC, VOCAB, make_model
from tests.test_architectures import CASES, Case, build


def adapter_of(policy: Policy, directory: Path) -> Path:
    """An adapter whose weights are random, exported for servers."""
    policy.add_adapter("m1", SPEC, 3)
    policy.activate("m1")
    generator = torch.Generator().manual_seed(5)
    weights = {}
    with torch.no_grad():
        for name, p in policy.parameters("m1").items():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
            weights[name] = p.detach()
    directory.mkdir()
    modules = export.module_names(weights)
    config = export.peft_config("base", SPEC.rank, 8.0, export.last_names(modules), [])
    export.write_peft(directory, config, weights)
    return directory


def logits(policy: Policy, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return policy.head(policy.features(ids)).float()


def assert_merges(policy: Policy, directory: Path) -> None:
    """The merged model computes what the policy with an adapter does, and not what it does without
    it."""
    ids = torch.tensor([[random.Random(1).randrange(VOCAB) for _ in range(20)]])
    plain = logits(policy, ids)
    adapter = adapter_of(policy, directory / "adapter")
    want = logits(policy, ids)
    base, out = Path(policy.directory), directory / "out"
    merge.merge(base, adapter, out, "float32", {"note": "x"})
    merged = Policy(str(out), "float32", "cpu", "none", 0)
    assert torch.allclose(logits(merged, ids), want, atol=1e-4)
    assert not torch.allclose(want, plain, atol=1e-2)
    assert stored_tensors(str(out)).keys() == stored_tensors(str(base)).keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_architecture_merges(case: Case, tmp_path: Path) -> None:
    policy = Policy(str(build(case, tmp_path / "base")), "float32", "cpu", "none", 0)
    merge.check_modules(policy.directory, select(policy.hf, SPEC).modules)
    assert_merges(policy, tmp_path)


@pytest.mark.parametrize("names", ["model.language_model.", "language_model.model."])
def test_both_names_of_a_language_model_in_files_merge(names: str, tmp_path: Path) -> None:
    """Hubs have folders of several versions of transformers."""
    base = build(next(c for c in CASES if c.kind == "Gemma3"), tmp_path / "base")
    stored = export.load_file(base / "model.safetensors")
    old, new = "language_model.model.", names
    export.save_file(
        {name.replace(old, new): value for name, value in stored.items()},
        base / "model.safetensors",
    )
    policy = Policy(str(base), "float32", "cpu", "none", 0)
    assert_merges(policy, tmp_path)


def test_a_folder_of_the_bare_decoder_merges(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "qwen2")
    stored = export.load_file(base / "model.safetensors")
    export.save_file(
        {name.removeprefix("model."): value for name, value in stored.items()},
        base / "model.safetensors",
    )
    assert_merges(Policy(str(base), "float32", "cpu", "none", 0), tmp_path)


def test_what_cannot_be_merged_is_refused_before_training(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    base = tmp_path / "base"  # its linear layers have transposed weights
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        base
    )
    policy = Policy(str(base), "float32", "cpu", "none", 0)
    with pytest.raises(UserError, match=r"transformer\.h\.0\.attn\.c_attn \(Conv1D\) cannot"):
        Trainer(policy, tmp_path / "run", 0, ("peft", "merged")).create("m", SPEC)
    Trainer(policy, tmp_path / "run", 0, ("peft",)).create("m", SPEC)


def test_merged_equals_base_with_adapter(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "qwen2")
    policy = Policy(str(base), "float32", "cpu", "none", 0)
    assert_merges(policy, tmp_path)
    about = json.loads((tmp_path / "out" / "warmstart.json").read_text())
    assert about["note"] == "x"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= about["files"].keys()


def test_shards_stay_and_bfloat16_is_stored(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = make_model(tmp_path / "base", "qwen2")
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(sharded, max_shard_size="50KB")
    (sharded / "model.gguf").write_text("not copied")
    policy = Policy(str(sharded), "float32", "cpu", "none", 0)
    adapter = adapter_of(policy, tmp_path / "adapter")
    merge.merge(sharded, adapter, tmp_path / "out", "bfloat16", {})
    names = {p.name for p in sharded.glob("*.safetensors")}
    assert len(names) > 1
    assert {p.name for p in (tmp_path / "out").glob("*.safetensors")} == names
    assert not (tmp_path / "out" / "model.gguf").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert merged.dtype == torch.bfloat16
    name = "model.layers.0.self_attn.q_proj"
    sides = {n: p for n, p in policy.parameters("m1").items() if f"{name}.lora" in n}
    a, b = (sides[f"base_model.model.{name}.lora_{s}.weight"] for s in "AB")
    plain = AutoModelForCausalLM.from_pretrained(sharded).get_parameter(f"{name}.weight")
    want = (plain.float() + 8.0 / SPEC.rank * b @ a).bfloat16()
    assert torch.allclose(merged.get_parameter(f"{name}.weight"), want, atol=1e-6)


def test_an_adapter_of_another_model_leaves_nothing(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "qwen2")
    adapter = adapter_of(Policy(str(base), "float32", "cpu", "none", 0), tmp_path / "adapter")
    weights = export.load_file(adapter / "adapter_model.safetensors")
    odd = {name.replace("layers.0.", "layers.9."): value for name, value in weights.items()}
    export.save_file(odd, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"layers\.9\..* not among the base's weights"):
        merge.merge(base, adapter, tmp_path / "out", "float32", {})
    assert not list(tmp_path.glob("*out*"))
