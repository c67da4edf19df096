"""A tiny random Qwen2 with a byte-level tokenizer, and rows to train it on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from empo2_trainer.protocol import LoraSpec

VOCAB = 300
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPEC = LoraSpec(rank=4, alpha=8.0, seed=3)


def write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e")]
    texts = names + alphabet + ["".join(pair) for pair in merges]
    vocab = {text: i for i, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    tokenizer.save(str(directory / "tokenizer.json"))
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


def make_model(directory: Path, arch: str, **shape: Any) -> Path:
    """A random model with grouped-query attention; biases and norms are random too."""
    import torch
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    kinds: dict[str, Any] = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": False, "head_dim": 16}),
        "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
        "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 16, "query_pre_attn_scalar": 16}),
        "granite": (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 4.0}),
    }
    config_type, model_type, more = kinds[arch]
    common = {
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
    config = config_type(**common | more | shape)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = model_type(config)
        for name, p in model.named_parameters():
            if p.dim() == 1:
                torch.nn.init.normal_(p, mean=float("norm" in name), std=0.2)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tiny Qwen2."""
    import torch

    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen2")


@pytest.fixture
def trainer(model_dir: Path, tmp_path: Path) -> Any:
    """A trainer with one model called m."""
    return make_trainer(model_dir, tmp_path / "run")


def make_trainer(
    model_dir: Path,
    root: Path,
    model_id: str = "m",
    dtype: str = "float32",
    formats: tuple[str, ...] = ("peft", "gguf"),
) -> Any:
    from empo2_trainer.model import Policy
    from empo2_trainer.trainer import Trainer

    t = Trainer(Policy(str(model_dir), dtype, "cpu"), root, 0, formats)
    t.create(model_id, SPEC)
    return t


# Metrics that say what a pass cost rather than what it computed.
COSTS = ("seconds", "tokens_per_second", "peak_memory", "micro_batch", "padding", "checkpointed")


def computed(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that do not depend on the machine or on the micro-batches."""
    return {key: value for key, value in metrics.items() if not key.startswith(COSTS)}


def wire_datum(
    rng: random.Random, length: int, loss_fn: str, kl: float = 0.0, entropy: float = 0.0
) -> dict[str, Any]:
    """A datum with a prompt of a third of its length, as it travels."""
    tokens = [rng.randrange(VOCAB) for _ in range(length + 1)]
    mask = [float(i >= length // 3) for i in range(length)]
    arrays = {
        "weights": mask,
        "loss_mask": mask,
        "logprobs": [m * -rng.uniform(1, 9) for m in mask],
        "advantages": [m * rng.uniform(-1, 1) for m in mask],
        "kl": [m * kl for m in mask],
        "entropy": [m * entropy for m in mask],
    }
    wanted = {
        "cross_entropy": ["weights"],
        "ppo": ["logprobs", "advantages"],
        "importance_sampling": ["logprobs", "advantages"],
        "empo2": ["loss_mask", "logprobs", "advantages", "kl", "entropy"],
    }[loss_fn]
    inputs: dict[str, Any] = {"target_tokens": {"data": tokens[1:], "dtype": "int64"}}
    inputs |= {n: {"data": arrays[n], "dtype": "float32", "shape": [length]} for n in wanted}
    return {"model_input": {"chunks": [{"tokens": tokens[:-1]}]}, "loss_fn_inputs": inputs}


def wire_batch(
    seed: int,
    loss_fn: str = "empo2",
    kl: float = 0.0,
    config: dict[str, float] | None = None,
    entropy: float = 0.0,
) -> dict[str, Any]:
    """Five rows of unlike length."""
    rng = random.Random(seed)
    data = [wire_datum(rng, n, loss_fn, kl, entropy) for n in (5, 17, 9, 30, 2)]
    return {"data": data, "loss_fn": loss_fn, "loss_fn_config": config or {}}


def checked(batch: dict[str, Any]) -> Any:
    """A wire batch as the trainer takes it: (sequences, loss)."""
    import msgspec

    from empo2_trainer.datums import check
    from empo2_trainer.protocol import LossInput

    return check(msgspec.convert(batch, LossInput, strict=False), VOCAB, 256)
