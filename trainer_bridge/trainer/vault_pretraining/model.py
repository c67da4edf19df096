"""A small implementation of the Qwen2 architecture for pre-training, and its export to HF format.

It equals transformers' Qwen2ForCausalLM (a test compares them). The weights of all layers are
stacked, so that the optimizer updates two tensors. Logits are computed only where there is a loss.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GenerationConfig, Qwen2Config

ROPE_THETA = 10_000.0
EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """Sizes of the policy."""

    vocab: int = 512
    hidden: int = 64
    layers: int = 4
    heads: int = 2
    ffn: int = 128


class Policy(nn.Module):
    """Qwen2 with tied embeddings. L layers, D hidden, F feed-forward, V vocabulary."""

    def __init__(self, shape: Shape, generator: torch.Generator, init: float = 0.08) -> None:
        super().__init__()
        self.shape = shape
        n, d, f = shape.layers, shape.hidden, shape.ffn

        def normal(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*size, generator=generator) * init)

        self.embed = normal(shape.vocab, d)  # (V, D)
        self.attn = normal(n, 4, d, d)  # query, key, value, output
        self.mlp = normal(n, 3, f, d)  # gate, up, down transposed
        self.bias = nn.Parameter(torch.zeros(n, 3 * d))  # query, key, value
        self.norms = nn.Parameter(torch.ones(n, 2, d))
        self.norm = nn.Parameter(torch.ones(d))

    def forward(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) after the flat positions at (N,) of ids (B, T)."""
        d = self.shape.hidden
        x = F.embedding(ids, self.embed)  # (B, T, D)
        turns = rope(ids.shape[1], d // self.shape.heads)
        layers = zip(
            self.attn.unbind(0),
            self.mlp.unbind(0),
            self.bias.unbind(0),
            self.norms.unbind(0),
            strict=True,
        )
        for attn, mlp, bias, norms in layers:
            qkv = F.linear(rms_norm(x, norms[0]), attn[:3].reshape(3 * d, d), bias)
            x = x + F.linear(self._attend(qkv, turns), attn[3])
            gate, up, down = mlp.unbind(0)
            h = rms_norm(x, norms[1])
            x = x + (F.silu(F.linear(h, gate)) * F.linear(h, up)) @ down
        x = x.reshape(-1, d)[at]  # (N, D)
        return F.linear(rms_norm(x, self.norm), self.embed)

    def _attend(self, qkv: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Causal attention, neighbouring dimensions rotated in pairs: (B, T, 3D) -> (B, T, D)."""
        b, t, _ = qkv.shape
        parts = qkv.view(b, t, 3, self.shape.heads, -1)  # (B, T, 3, H, E)
        qk, v = torch.split(parts, (2, 1), 2)
        pairs = torch.view_as_complex(qk.unflatten(-1, (-1, 2)))  # (B, T, 2, H, E/2)
        q, k = torch.view_as_real(pairs * turns).flatten(-2).unbind(2)  # (B, T, H, E)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v[:, :, 0].transpose(1, 2), is_causal=True
        )
        return out.transpose(1, 2).reshape(b, t, -1)


def rope(length: int, size: int) -> torch.Tensor:
    """The rotary embedding as unit complex numbers (T, 1, 1, E/2)."""
    inverse = ROPE_THETA ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse)
    return torch.polar(torch.ones_like(angles), angles)[:, None, None]


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x / rms(x) · weight over the last axis."""
    return F.rms_norm(x, (x.shape[-1],), weight, EPS)


def halves(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (D, ...) of rotated pairs in HF's order: each head's first members, then its second."""
    shape = tensor.shape[1:]
    return tensor.reshape(heads, -1, 2, *shape).transpose(1, 2).reshape(-1, *shape)


def pairs(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of halves."""
    shape = tensor.shape[1:]
    return tensor.reshape(heads, 2, -1, *shape).transpose(1, 2).reshape(-1, *shape)


ATTN_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")


def to_hf(policy: Policy) -> dict[str, torch.Tensor]:
    """The weights under transformers' names, in fp32."""
    tensors = {"model.embed_tokens.weight": policy.embed, "model.norm.weight": policy.norm}
    heads = policy.shape.heads
    for n in range(policy.shape.layers):
        prefix = f"model.layers.{n}"
        for i, name in enumerate(ATTN_NAMES):
            weight = policy.attn[n, i]
            tensors[f"{prefix}.self_attn.{name}.weight"] = (
                halves(weight, heads) if i < 2 else weight
            )
        for i, bias in enumerate(policy.bias[n].chunk(3)):
            name = f"{prefix}.self_attn.{ATTN_NAMES[i]}.bias"
            tensors[name] = halves(bias, heads) if i < 2 else bias
        tensors[f"{prefix}.mlp.gate_proj.weight"] = policy.mlp[n, 0]
        tensors[f"{prefix}.mlp.up_proj.weight"] = policy.mlp[n, 1]
        tensors[f"{prefix}.mlp.down_proj.weight"] = policy.mlp[n, 2].T
        tensors[f"{prefix}.input_layernorm.weight"] = policy.norms[n, 0]
        tensors[f"{prefix}.post_attention_layernorm.weight"] = policy.norms[n, 1]
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def from_hf(tensors: dict[str, torch.Tensor], shape: Shape) -> Policy:
    """The inverse of to_hf."""
    policy = Policy(shape, torch.Generator())
    with torch.no_grad():
        policy.embed.copy_(tensors["model.embed_tokens.weight"])
        policy.norm.copy_(tensors["model.norm.weight"])
        for n in range(shape.layers):
            prefix = f"model.layers.{n}"
            for i, name in enumerate(ATTN_NAMES):
                weight = tensors[f"{prefix}.self_attn.{name}.weight"]
                policy.attn.data[n, i].copy_(pairs(weight, shape.heads) if i < 2 else weight)
            for i, part in enumerate(policy.bias.data[n].chunk(3)):
                bias = tensors[f"{prefix}.self_attn.{ATTN_NAMES[i]}.bias"]
                part.copy_(pairs(bias, shape.heads) if i < 2 else bias)
            policy.mlp.data[n, 0].copy_(tensors[f"{prefix}.mlp.gate_proj.weight"])
            policy.mlp.data[n, 1].copy_(tensors[f"{prefix}.mlp.up_proj.weight"])
            policy.mlp.data[n, 2].copy_(tensors[f"{prefix}.mlp.down_proj.weight"].T)
            policy.norms.data[n, 0].copy_(tensors[f"{prefix}.input_layernorm.weight"])
            policy.norms.data[n, 1].copy_(tensors[f"{prefix}.post_attention_layernorm.weight"])
    return policy


def load(directory: Path) -> Policy:
    """Read a policy that save wrote; fp32."""
    config = json.loads((directory / "config.json").read_text())
    shape = Shape(
        config["vocab_size"],
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["intermediate_size"],
    )
    return from_hf(load_file(directory / "model.safetensors"), shape)


def save(policy: Policy, directory: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (fp16)."""
    hf_config(policy.shape).save_pretrained(directory)
    generation = GenerationConfig(eos_token_id=2, pad_token_id=0)
    generation.save_pretrained(directory)
    tensors = {name: tensor.half() for name, tensor in to_hf(policy).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def hf_config(shape: Shape) -> Qwen2Config:
    """The Qwen2Config of a shape."""
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        initializer_range=0.08,
        rms_norm_eps=EPS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        dtype="float16",
    )
