"""The base model with its LoRA adapters: features, head, and which adapter is on.

`features` are what the head reads. For a model whose logits are a plain linear map of the
decoder's last hidden state (checked at load, not believed) they are that state, and only the
positions that matter meet the vocabulary. For any other model they are its logits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from empo2_trainer.fused import fuse
from empo2_trainer.model_dir import LoadError, check_directory
from empo2_trainer.protocol import LoraSpec
from empo2_trainer.targets import Targets, check_support, peft_targets, select

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy:
    """A frozen base model and its adapters. Owned by one thread."""

    def __init__(self, directory: str, dtype: str = "float32", device: str = "auto") -> None:
        check_directory(directory)
        from transformers import AutoModelForCausalLM

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.directory = directory
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as e:
            raise LoadError(f"device {device}: {e}", "use --device cpu, or auto") from e
        try:
            hf = AutoModelForCausalLM.from_pretrained(
                directory, dtype=DTYPES[dtype], local_files_only=True
            )
            self.hf: Any = hf.to(self.device).eval().requires_grad_(False)
        except (OSError, ValueError, KeyError, RuntimeError) as e:
            raise LoadError(
                f"model {directory}: {e}", "is it a causal language model that transformers knows?"
            ) from e
        text_config = self.hf.config.get_text_config()
        self.vocab_size = int(text_config.vocab_size)
        self.context = int(getattr(text_config, "max_position_embeddings", 0) or 1 << 20)
        self.architecture = str(self.hf.config.model_type)
        self.peft: Any = None
        self.plain_head = self._has_plain_head()

    # Adapters

    def add_adapter(self, name: str, spec: LoraSpec, seed: int) -> Targets:
        """Create an adapter (B = 0) and return the modules that it has."""
        from peft import LoraConfig, get_peft_model

        targets = select(self.hf, spec)
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=alpha_of(spec),  # type: ignore[arg-type, unused-ignore]
            target_modules=peft_targets(self.hf, targets.modules),
            task_type="CAUSAL_LM",
        )
        check_support(self.hf, targets.modules, spec.rank)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.peft is None:
                self.peft = get_peft_model(self.hf, config, adapter_name=name)
            else:
                self.peft.add_adapter(name, config)
        self.peft.eval()
        fuse(self.hf)
        return targets

    def remove_adapter(self, name: str) -> None:
        """Free an adapter's weights."""
        self.peft.delete_adapter(name)

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's weights under PEFT's own names, sorted."""
        mark = f".{name}."
        found = {
            "base_model.model." + key.replace(mark, "."): p
            for key, p in self.hf.named_parameters()
            if mark in key and ".lora_" in key
        }
        return dict(sorted(found.items()))

    def activate(self, name: str) -> None:
        """Make one adapter the one that is applied and trained."""
        self.peft.set_adapter(name)

    @contextmanager
    def base(self) -> Iterator[None]:
        """The model without any adapter and without gradients."""
        with self.peft.disable_adapter(), torch.no_grad():
            yield

    # Forward

    def features(self, ids: Tensor) -> Tensor:
        """What the head reads: (B, T, F), differentiable by the active adapter."""
        if self.plain_head:
            out = self.hf.get_decoder()(input_ids=ids, use_cache=False)
            return out.last_hidden_state
        return self.hf(input_ids=ids, use_cache=False).logits

    def head(self, features: Tensor) -> Tensor:
        """Logits (N, V) in float32 of features (N, F)."""
        if not self.plain_head:
            return features.float()
        unembed = self.hf.get_output_embeddings()
        bias = getattr(unembed, "bias", None)
        return torch.nn.functional.linear(features, unembed.weight, bias).float()

    def head_backward(self, d_logits: Tensor, dtype: torch.dtype) -> Tensor:
        """dL/dfeatures (N, F) from dL/dlogits (N, V)."""
        if not self.plain_head:
            return d_logits.to(dtype)
        return d_logits.to(dtype) @ self.hf.get_output_embeddings().weight

    def _has_plain_head(self) -> bool:
        ids = torch.arange(8, device=self.device)[None] % self.vocab_size
        try:
            with torch.no_grad():
                logits = self.hf(input_ids=ids, use_cache=False).logits.float()
                self.plain_head = True
                plain = self.head(self.features(ids))
        except (AttributeError, TypeError, RuntimeError):
            return False
        return plain.shape == logits.shape and torch.allclose(plain, logits, atol=1e-4, rtol=1e-4)


def alpha_of(spec: LoraSpec) -> float:
    """LoRA's alpha: 2·rank unless given."""
    alpha = 2.0 * spec.rank if spec.alpha is None else spec.alpha
    return int(alpha) if alpha == int(alpha) else alpha
