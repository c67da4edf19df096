"""What the conversion to GGUF must know about each architecture. This module does not use torch.

Two questions are answered separately. `check_adapter`: can an adapter be written? It needs names of
modules and, for some architectures, an order of rows. `check_base`: can the base model itself be
written? It also needs every number of config.json that changes what the model computes. If only the
second answer is no, a GGUF file of the user's own can be served.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empo2_trainer.model_dir import model_config
from empo2_trainer.protocol import UserError

ALL_F32 = 0  # LLAMA_FTYPE_ALL_F32
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Arch:
    """An architecture of transformers as llama.cpp knows it."""

    name: str  # in GGUF
    base: bool = True  # the base model can be converted, not only its adapters
    # llama.cpp rotates neighbours and Hugging Face rotates halves: rows of q and k are reordered.
    interleaved: bool = False
    offset_norms: bool = False  # the weights of norms are stored without their 1


ARCHITECTURES = {
    "llama": Arch("llama", interleaved=True),
    "mistral": Arch("llama", interleaved=True),
    "qwen2": Arch("qwen2"),
    "qwen3": Arch("qwen3"),
    "qwen3_moe": Arch("qwen3moe"),
    "gemma2": Arch("gemma2", offset_norms=True),
    "gemma3_text": Arch("gemma3", offset_norms=True),
    "gemma3": Arch("gemma3", offset_norms=True),
    "phi3": Arch("phi3"),
    "smollm3": Arch("smollm3", interleaved=True),
    "olmo2": Arch("olmo2"),
    "granite": Arch("granite", interleaved=True),
    "gpt_oss": Arch("gpt-oss", base=False),
}


def check_adapter(config: dict[str, Any]) -> Arch:
    """Refuse models whose adapters cannot be written as GGUF."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"no GGUF conversion for adapters of {kind!r}: known are {known}")
    return ARCHITECTURES[kind]


def check_base(config: dict[str, Any]) -> None:
    """Refuse models that cannot be written as GGUF themselves."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES or not ARCHITECTURES[kind].base:
        known = ", ".join(k for k, arch in ARCHITECTURES.items() if arch.base)
        raise UserError(f"no GGUF conversion for {kind!r}: known are {known}")
    text = text_config(config)
    for block in (config, text):
        if block.get("quantization_config"):
            raise UserError("no GGUF conversion for quantized weights")
    rope = Rope(text)
    if rope.kind not in ROPES or (rope.kind == "llama3" and kind not in LLAMA3_ROPE):
        raise UserError(f"no GGUF conversion for rope scaling of type {rope.kind!r} in {kind}")
    for problem in (_attention_scale(kind, text), _layer_kinds(kind, text), _rest(kind, text)):
        if problem:
            raise UserError(f"no GGUF conversion for {kind} with {problem}")


ROPES = ("default", "linear", "yarn", "llama3")
LLAMA3_ROPE = ("llama", "mistral", "smollm3")


def read_config(directory: str) -> dict[str, Any]:
    """The parsed config.json."""
    text = (Path(directory) / "config.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def full_config(directory: str) -> dict[str, Any]:
    """config.json with the values that it leaves out, as transformers fills them in. That of an
    architecture without conversion is returned as it is."""
    if read_config(directory).get("model_type") not in ARCHITECTURES:
        return read_config(directory)
    return _full_config(directory, (Path(directory) / "config.json").stat().st_mtime_ns)


@cache
def _full_config(directory: str, changed: int) -> dict[str, Any]:
    """Reading it takes as long as a small export."""
    config: dict[str, Any] = model_config(directory).to_dict()
    return config


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of config.json about the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def _attention_scale(kind: str, c: dict[str, Any]) -> str:
    """llama.cpp derives the scale of attention from the heads, except for the largest model."""
    if not kind.startswith("gemma"):
        return ""
    width = c.get("head_dim") or 256
    largest = {"gemma2": 46, "gemma3": 62, "gemma3_text": 62}[kind]
    if c.get("num_hidden_layers") == largest:
        width = c["hidden_size"] / c["num_attention_heads"]
    scalar = c.get("query_pre_attn_scalar", 256)
    return "" if scalar == width else f"query_pre_attn_scalar = {scalar}, but heads of {width}"


def _layer_kinds(kind: str, c: dict[str, Any]) -> str:
    """llama.cpp has a fixed pattern of layers for these architectures."""
    layers = c.get("num_hidden_layers", 0)
    if kind == "smollm3":
        rotated = c.get("no_rope_layers") or [(i + 1) % 4 for i in range(layers)]
        usual = [int((i + 1) % 4 != 0) for i in range(layers)]
        return "" if [int(bool(x)) for x in rotated] == usual else "an unusual no_rope_layers"
    period = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}.get(kind)
    kinds = c.get("layer_types")
    if period is None or not kinds:
        return ""
    usual_kinds = [FULL if (i + 1) % period == 0 else SLIDING for i in range(layers)]
    return "" if list(kinds) == usual_kinds else "an unusual layer_types"


FULL, SLIDING = "full_attention", "sliding_attention"


def _rest(kind: str, c: dict[str, Any]) -> str:
    """Other settings that llama.cpp does not compute."""
    if kind == "phi3" and c.get("partial_rotary_factor", 1.0) not in (1.0, None):
        return "partial_rotary_factor"
    if kind.startswith("gemma") and c.get("use_bidirectional_attention"):
        return "use_bidirectional_attention"
    if kind == "qwen3_moe" and not c.get("norm_topk_prob", True):
        return "norm_topk_prob = false"
    if kind == "qwen3_moe" and (c.get("mlp_only_layers") or c.get("decoder_sparse_step", 1) != 1):
        return "layers without experts"
    if (c.get("rope_parameters") or {}).get("truncate") is False:
        return "rope_parameters.truncate = false"
    if kind not in ("llama", "mistral", "qwen2") and c.get("attention_bias"):
        return "attention_bias"
    return "mlp_bias" if kind != "llama" and c.get("mlp_bias") else ""


class Rope:
    """Rotary embeddings: base and scaling of the layers with full attention."""

    def __init__(self, c: dict[str, Any]) -> None:
        given = c.get("rope_parameters") or {}
        local = given.get(SLIDING) or {}
        full = given.get(FULL) or given or {}
        self.scaling: dict[str, Any] = {**full, **(c.get("rope_scaling") or {})}
        self.kind = str(self.scaling.get("rope_type") or self.scaling.get("type") or "default")
        self.theta = float(full.get("rope_theta") or c.get("rope_theta") or 10000.0)
        self.local_theta = float(local.get("rope_theta") or c.get("rope_local_base_freq") or 10000)
        self.factor = float(self.scaling.get("factor") or 1.0)
        self.original = int(
            self.scaling.get("original_max_position_embeddings")
            or c.get("original_max_position_embeddings")
            or c.get("max_position_embeddings")
            or 0
        )

    def llama3_factors(self, width: int) -> Array:
        """What llama.cpp divides each of the width/2 frequencies by."""
        s = self.scaling
        low, high = float(s["low_freq_factor"]), float(s["high_freq_factor"])
        out = []
        for i in range(0, width, 2):
            turns = self.original * self.theta ** (-i / width) / (2 * math.pi)
            smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
            out.append(1 / ((1 - smooth) / self.factor + smooth))
        return np.array(out, dtype=np.float32)

    def add_to(self, writer: Any) -> None:
        """Write base and scaling. The factors of llama3 are a tensor."""
        from gguf import RopeScalingType

        writer.add_rope_freq_base(self.theta)
        if self.kind in ("linear", "yarn"):
            writer.add_rope_scaling_type(RopeScalingType(self.kind))
            writer.add_rope_scaling_factor(self.factor)
        if self.kind == "yarn":
            self._add_yarn(writer)

    def _add_yarn(self, writer: Any) -> None:
        s = self.scaling
        writer.add_rope_scaling_orig_ctx_len(self.original)
        writer.add_rope_scaling_yarn_beta_fast(float(s.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(s.get("beta_slow") or 1))
        usual = 0.1 * math.log(self.factor) + 1  # what llama.cpp multiplies by itself
        wanted = float(s.get("attention_factor") or usual)
        writer.add_rope_scaling_attn_factors(wanted / usual)


class Shape:
    """A model's config.json as GGUF needs it. given is what the file has of the language model,
    config has all values."""

    def __init__(self, directory: str) -> None:
        whole = read_config(directory)
        self.arch = check_adapter(whole)
        self.kind = str(whole["model_type"])
        self.given = text_config(whole)
        self.config = c = text_config(full_config(directory))
        self.layers = int(c["num_hidden_layers"])
        self.hidden = int(c["hidden_size"])
        self.heads = int(c["num_attention_heads"])
        self.kv_heads = int(c.get("num_key_value_heads") or self.heads)
        self.head_dim = int(c.get("head_dim") or self.hidden // self.heads)
        self.rope = Rope(c)
        tied = whole.get("tie_word_embeddings")
        self.tied = bool(c.get("tie_word_embeddings") if tied is None else tied)

    @property
    def window(self) -> int:
        """Tokens that every layer sees; 0: all of them."""
        c = self.config
        if self.kind == "qwen2" and not c.get("use_sliding_window"):
            return 0
        return int(c.get("sliding_window") or 0)

    @property
    def context(self) -> int:
        """The longest text for which llama.cpp computes what the model does. llama.cpp computes no
        sliding window for these architectures, so that the text must fit the window."""
        longest = int(self.config["max_position_embeddings"])
        if self.kind in ("mistral", "phi3", "qwen2") and self.window:
            return min(longest, self.window)
        return longest

    def module(self, name: str) -> str:
        """A module's name without the parts that only models with towers have."""
        return name.replace("language_model.model.", "model.").replace("language_model.", "")

    def in_text(self, name: str) -> bool:
        """Whether a tensor belongs to the language model."""
        return not re.search(r"(^|\.)(vision_tower|multi_modal_projector|rotary_emb)\.", name)

    def converted(self, name: str, values: Array) -> Array:
        """A tensor, or an adapter's B, as llama.cpp stores it."""
        if self.arch.offset_norms and name.endswith("norm.weight"):
            return values + 1
        if not self.arch.interleaved or not (".q_proj." in name or ".k_proj." in name):
            return values
        heads = self.heads if ".q_proj." in name else self.kv_heads
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))

    def extra_tensors(self) -> dict[str, Array]:
        """Tensors of the GGUF file that are numbers in config.json."""
        if self.rope.kind != "llama3":
            return {}
        return {"rope_freqs.weight": self.rope.llama3_factors(self.head_dim)}

    def add_to(self, writer: Any, name: str) -> None:
        """Write the model's numbers."""
        c = self.config
        writer.add_type("model")
        writer.add_name(name)
        writer.add_file_type(ALL_F32)
        writer.add_block_count(self.layers)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.hidden)
        writer.add_feed_forward_length(int(c["intermediate_size"]))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_layer_norm_rms_eps(float(c["rms_norm_eps"]))
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        self.rope.add_to(writer)
        if self.arch.name in ("llama", "phi3", "smollm3", "granite"):
            writer.add_rope_dimension_count(self.head_dim)
            writer.add_vocab_size(int(c["vocab_size"]))
        if self.arch.offset_norms:
            self._add_gemma(writer)
        if self.kind == "granite":
            self._add_granite(writer)
        if self.kind == "qwen3_moe":
            writer.add_expert_count(int(c.get("num_experts") or c["num_local_experts"]))
            writer.add_expert_used_count(int(c["num_experts_per_tok"]))
            writer.add_expert_feed_forward_length(int(c["moe_intermediate_size"]))

    def _add_gemma(self, writer: Any) -> None:
        c = self.config
        writer.add_sliding_window(int(c.get("sliding_window") or c["max_position_embeddings"]))
        if self.arch.name == "gemma3":
            writer.add_rope_freq_base_swa(self.rope.local_theta)
        if c.get("attn_logit_softcapping"):
            writer.add_attn_logit_softcapping(float(c["attn_logit_softcapping"]))
        if c.get("final_logit_softcapping"):
            writer.add_final_logit_softcapping(float(c["final_logit_softcapping"]))

    def _add_granite(self, writer: Any) -> None:
        c = self.config
        writer.add_attention_scale(float(c.get("attention_multiplier", 1.0)))
        writer.add_embedding_scale(float(c.get("embedding_multiplier", 1.0)))
        writer.add_residual_scale(float(c.get("residual_multiplier", 1.0)))
        writer.add_logit_scale(float(c.get("logits_scaling", 1.0)))
