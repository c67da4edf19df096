"""A table of architectures, as tiny random models: each loads, trains as plain peft does, and is
exported to PEFT and to GGUF, as a base and as an adapter, and a real llama-server agrees.

The README shows this table. A test compares the two.
"""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from empo2_trainer import gguf_arch, gguf_export
from empo2_trainer.gguf_arch import ARCHITECTURES, check_adapter, check_base
from empo2_trainer.model import Policy
from empo2_trainer.model_dir import model_config
from empo2_trainer.protocol import LoraSpec, UserError
from empo2_trainer.targets import select
from empo2_trainer.trainer import Trainer
from tests.conftest import VOCAB, checked, wire_batch, write_tokenizer
from tests.test_gguf import PROMPTS, llama_server, next_logprobs, trainers
from tests.test_training import nudge

README = Path(__file__).parents[3] / "README.md"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16}
LINEAR = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}
TIED = {"tie_word_embeddings": True}
EXACT = 1e-4
ROUNDED = 4e-4  # a value near the middle of two in half precision is rounded to either


@dataclass(frozen=True)
class Case:
    """A model: its class in transformers without suffix, its settings, and what is expected."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # beginnings of names, with the reason
    base: str = ""  # why the base cannot be converted; empty: it can
    adapter: str = ""
    omitted: tuple[str, ...] = ()  # common settings that the model does not have


CASES = [
    Case("llama", "Llama", {"attention_bias": True, "mlp_bias": True}),
    Case(
        'llama (rope "llama3")', "Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}
    ),
    Case("llama (yarn)", "Llama", {"rope_parameters": YARN}),
    Case("mistral", "Mistral", {"sliding_window": None, "head_dim": 16}),
    Case("mistral (sliding window)", "Mistral", {"sliding_window": 130}),
    Case("qwen2 (yarn)", "Qwen2", {"rope_parameters": YARN}),
    Case("qwen2 (tied)", "Qwen2", TIED),
    Case("qwen3", "Qwen3", {"head_dim": 16}),
    Case(
        "qwen3_moe",
        "Qwen3Moe",
        MOE | {"norm_topk_prob": True},
        {"model.layers.*.mlp.experts": "experts in one tensor"},
    ),
    Case(
        "gemma2",
        "Gemma2",
        GEMMA
        | {"num_hidden_layers": 4, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    Case("gemma3_text", "Gemma3Text", GEMMA | {"num_hidden_layers": 6}),
    Case(
        "gemma3 (with images)",
        "Gemma3",
        GEMMA | {"num_hidden_layers": 6},
        {"model.vision_tower": "outside the language model"},
    ),
    Case("phi3", "Phi3", {"sliding_window": None}),
    Case("smollm3", "SmolLM3", {"num_hidden_layers": 4}),
    Case("olmo2", "Olmo2"),
    Case(
        "granite",
        "Granite",
        {
            "logits_scaling": 4.0,
            "attention_multiplier": 0.3,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
        },
    ),
    Case(
        "gpt_oss",
        "GptOss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
        {"model.layers.*.mlp.experts": "experts in one tensor"},
        base="no GGUF conversion for 'gpt_oss'",
    ),
    Case(
        "qwen3_5_text",
        "Qwen3_5Text",
        LINEAR,
        {"model.layers.*.linear_attn.conv1d": "a convolution"},
        base="no GGUF conversion for 'qwen3_5_text'",
        adapter="no GGUF conversion for adapters of 'qwen3_5_text'",
    ),
]
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def build(case: Case, directory: Path) -> Path:
    """Write the model. Biases and the weights of norms are random too."""
    import transformers

    settings = {k: v for k, v in (COMMON | case.settings).items() if k not in case.omitted}
    if case.kind == "Gemma3":
        text = transformers.Gemma3TextConfig(**settings)
        config = transformers.Gemma3Config(
            text_config=text.to_dict(), vision_config=TOWER, mm_tokens_per_image=4
        )
        architecture = transformers.Gemma3ForConditionalGeneration
    else:
        config = getattr(transformers, case.kind + "Config")(**settings)
        name = case.kind.removesuffix("Text") + "ForCausalLM"
        architecture = getattr(transformers, name)
    offset = case.kind.startswith(("Gemma", "Qwen3_5"))
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = architecture(config)
        for name, p in model.named_parameters():
            if p.dim() == 1 and not name.endswith(("A_log", "dt_bias")):
                torch.nn.init.normal_(p, mean=float("norm" in name and not offset), std=0.2)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_architecture(case: Case, tmp_path: Path) -> None:
    model = build(case, tmp_path / "model")
    formats = ("peft",) if case.adapter else ("peft", "gguf")
    trainer = Trainer(Policy(str(model), device="cpu"), tmp_path / "run", 0, formats)
    made = trainer.create("m", LoraSpec(rank=4, alpha=8.0, seed=3))
    beginnings = "|".join(map(re.escape, case.skipped)) or "$"
    found = {re.sub(f"({beginnings}).*", r"\1", k): v for k, v in made["skipped_modules"].items()}
    assert found == case.skipped
    assert not any("router" in name or name.endswith("gate") for name in made["target_modules"])
    assert trainer.policy.plain_head, "the whole vocabulary's logits are computed at once"
    nudge(trainer)
    sequences, loss = checked(wire_batch(1, "cross_entropy"))
    got = trainer.run("m", sequences, loss, backward=True)
    exported = Path(trainer.export("m", "v1", overwrite=False)["dir"])
    plain = plain_peft(model, exported)
    assert_same_gradient(trainer, got, plain, sequences)
    for prompt in PROMPTS:
        with torch.no_grad():
            want = plain(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(trainers(trainer.policy, prompt), want, atol=3e-5, rtol=0)
    assert_gguf(case, trainer, exported, tmp_path / "base.gguf")


def plain_peft(model: Path, adapter: Path) -> Any:
    """The exported adapter in transformers and peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(adapter), is_trainable=True).eval()


def assert_same_gradient(trainer: Any, got: Any, plain: Any, sequences: Any) -> None:
    total = torch.zeros(())
    for s in sequences:
        logits = plain(input_ids=torch.from_numpy(s.tokens)[None]).logits[0].float()
        logp = logits.log_softmax(-1).gather(-1, torch.from_numpy(s.targets)[:, None])[:, 0]
        total = total - (logp * torch.from_numpy(s.loss_mask * s.importance_weights)).sum()
    total.backward()
    assert got["metrics"]["loss:sum"] == pytest.approx(float(total.detach()), rel=1e-4)
    weights = {n.replace(".default.", "."): p for n, p in plain.named_parameters()}
    pending = trainer.models["m"].optimizer.pending
    assert set(pending) == {name for name in weights if ".lora_" in name}
    for name, g in pending.items():
        want = weights[name].grad
        scale = float(want.abs().max())
        torch.testing.assert_close(g, want, rtol=1e-3, atol=1e-3 * scale + 1e-7, msg=name)


def assert_gguf(case: Case, trainer: Any, exported: Path, base: Path) -> None:
    """What can be converted equals the trainer; anything else is refused."""
    model = trainer.policy.directory
    if case.adapter:
        with pytest.raises(UserError, match=case.adapter):
            check_adapter({"model_type": trainer.policy.architecture})
    else:
        assert (exported / "adapter.gguf").exists()
    if case.base:
        with pytest.raises(UserError, match=case.base):
            gguf_export.write_model(model, base)
        if not case.adapter:
            assert_same_values(exported)
        return
    gguf_export.write_model(model, base)
    tolerance = ROUNDED if compute_gelu_as_llama_cpp(trainer.policy.hf) else EXACT
    with llama_server(base, exported / "adapter.gguf") as post:
        for prompt in PROMPTS:
            with_adapter = next_logprobs(post, prompt, VOCAB)
            assert_close(with_adapter, trainers(trainer.policy, prompt), tolerance)
            with trainer.policy.base():
                want = trainers(trainer.policy, prompt)
            off = {"lora": [{"id": 0, "scale": 0.0}]}
            assert_close(next_logprobs(post, prompt, VOCAB, off), want, tolerance)


def assert_same_values(exported: Path) -> None:
    """No server can load the base, so the adapter's values in both formats are compared."""
    import gguf
    from safetensors.torch import load_file

    def ordered(tensors: list[torch.Tensor]) -> list[list[float]]:
        return sorted(sorted(t.float().flatten().tolist()) for t in tensors)

    reader = gguf.GGUFReader(exported / "adapter.gguf")
    found = [torch.from_numpy(t.data.copy()) for t in reader.tensors]
    assert ordered(found) == ordered(
        list(load_file(exported / "adapter_model.safetensors").values())
    )


class HalfPrecisionGELU(torch.nn.Module):
    """llama.cpp's GELU on a CPU: argument and value are rounded to half precision. This is the
    whole reason why gemma differs by 1e-3 nats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, inner))


def compute_gelu_as_llama_cpp(hf: Any) -> bool:
    """Replace the activations; False if the model has no GELU."""
    found = [
        module
        for module in hf.modules()
        if type(getattr(module, "act_fn", None)).__name__.startswith("GELU")
    ]
    for module in found:
        module.act_fn = HalfPrecisionGELU()
    return bool(found)


def assert_close(got: dict[int, float], want: torch.Tensor, tolerance: float) -> None:
    assert len(got) > VOCAB // 2
    assert max(abs(lp - float(want[i])) for i, lp in got.items()) < tolerance


def test_only_tested_architectures_are_converted() -> None:
    tested = {case.name.split(" ")[0]: case for case in CASES if not (case.base and case.adapter)}
    assert set(tested) == set(ARCHITECTURES)
    assert {name for name, case in tested.items() if not case.base} == {
        name for name, arch in ARCHITECTURES.items() if arch.base
    }


def omit_defaults(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A config.json in the short form of transformers 4: without values that equal defaults."""
    kept = {
        k: v
        for k, v in config.items()
        if k == "model_type" or k not in defaults or v != defaults[k]
    }
    for part in ("text_config", "vision_config"):
        if part in kept:
            kept[part] = omit_defaults(kept[part], defaults[part])
    return kept


SCALE = "query_pre_attn_scalar"  # must equal head_dim


def short_form(case: Case) -> Case:
    """The case with the default number of heads and context, which its config.json leaves out."""
    usual = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    numbers = {k: v for k, v in case.settings.items() if k not in ("head_dim", SCALE)}
    return replace(case, settings=numbers | {"hidden_size": 128}, omitted=usual)


SHORT = [short_form(case) for case in CASES if not case.base]


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_a_config_without_default_values_is_converted_alike(case: Case, tmp_path: Path) -> None:
    """google/gemma-3-4b-it has such a config.json."""
    model = build(case, tmp_path / "model")
    path = model / "config.json"
    config = json.loads(path.read_text())
    gguf_export.write_model(str(model), tmp_path / "full.gguf")
    short = omit_defaults(config, type(model_config(str(model)))().to_dict())
    text = gguf_arch.text_config(short)
    assert not {"num_attention_heads", "rms_norm_eps", "max_position_embeddings"} & text.keys()
    path.write_text(json.dumps(short))
    gguf_export.write_model(str(model), tmp_path / "short.gguf")
    assert (tmp_path / "full.gguf").read_bytes() == (tmp_path / "short.gguf").read_bytes()
    policy = Policy(str(model), device="cpu")
    gguf_export.check_modules(str(model), select(policy.hf, LoraSpec(rank=4)).modules)


def table() -> str:
    """The README's table: models with the same results share a line."""
    lines: dict[str, list[str]] = {}
    for case in CASES:
        adapter = "no" if case.adapter else "written, values compared" if case.base else "yes"
        result = f"| yes | {adapter} | {'no' if case.base else 'yes'} |"
        lines.setdefault(result, []).append(case.name)
    head = "| `model_type` | trains, PEFT adapter | adapter as GGUF | base as GGUF |"
    return "\n".join(
        [
            head,
            "|---|---|---|---|",
            *(f"| {', '.join(names)} {result}" for result, names in lines.items()),
        ]
    )


def test_the_readme_shows_this_table() -> None:
    if not README.exists():
        pytest.skip("no README here")
    assert table() in README.read_text(encoding="utf-8"), table()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "for 'gpt2': known are llama, mistral, qwen2"),
        ({"model_type": "gpt_oss"}, "for 'gpt_oss': known are"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, "'longrope' in phi3"),
        ({"model_type": "qwen2", "rope_parameters": LLAMA3}, "'llama3' in qwen2"),
        ({"model_type": "qwen2", "quantization_config": {"bits": 4}}, "quantized"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 99}, "query_pre_attn_scalar = 99"),
        ({"model_type": "smollm3", "num_hidden_layers": 2, "no_rope_layers": [0, 1]}, "no_rope"),
        (
            {"model_type": "gemma3_text", "num_hidden_layers": 1, "layer_types": ["full_attention"]}
            | {"query_pre_attn_scalar": 256},
            "layer_types",
        ),
        ({"model_type": "phi3", "partial_rotary_factor": 0.75}, "partial_rotary_factor"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        ({"model_type": "qwen3_moe", "norm_topk_prob": False}, "norm_topk_prob"),
    ],
)
def test_what_llama_cpp_computes_differently_is_no_base(config: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_base(config)


def test_values_that_are_left_out_are_checked_too(tmp_path: Path) -> None:
    """The default of transformers is false, and llama.cpp always normalises."""
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_moe"}')
    with pytest.raises(UserError, match="norm_topk_prob = false"):
        check_base(gguf_arch.full_config(str(tmp_path)))


def test_a_base_that_cannot_be_converted_may_have_adapters() -> None:
    """A GGUF file of one's own can be served then."""
    for config in ({"model_type": "gpt_oss"}, {"model_type": "phi3", "rope_scaling": LLAMA3}):
        check_adapter(config)
        with pytest.raises(UserError):
            check_base(config)
