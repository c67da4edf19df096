"""The base model with its LoRA adapters: features, head, and which adapter is on.

`features` are what the head reads. For a model whose logits are a linear map of the decoder's last
hidden state, scaled or soft-capped at most (verified at load), they are that state, and the logits
of a few positions at a time are computed. For any other model they are its logits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from empo2_trainer import budget, memory
from empo2_trainer.budget import Budget
from empo2_trainer.checkpointing import Checkpointing
from empo2_trainer.fused import fuse, keep_attention_small
from empo2_trainer.model_dir import UNKNOWN_MODEL, LoadError, check_directory
from empo2_trainer.packing import Packing
from empo2_trainer.protocol import LoraSpec
from empo2_trainer.ranks import Ranks
from empo2_trainer.sharding import Sharding, device_mesh
from empo2_trainer.targets import Targets, check_support, peft_targets, select
from empo2_trainer.threads import Threads
from empo2_trainer.weights import check_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FIRST_LOSS_SCALE = 2.0**16  # of a float16 base


class Policy:
    """A frozen base model and its adapters. Owned by one thread."""

    def __init__(
        self,
        directory: str,
        dtype: str = "float32",
        device: str = "auto",
        quantize: str = "none",
        micro_batch_tokens: int = 0,
        memory_share: float = 1.0,
        ranks: Ranks | None = None,
        sharded: bool = False,
    ) -> None:
        check_directory(directory)
        where = _device(device)
        ranks = ranks or Ranks()
        sharding = None
        if sharded:
            hf, sharding = _load_sharded(directory, DTYPES[dtype], where, ranks)
        else:
            hf = _load(directory, DTYPES[dtype], where, quantize)
        self._wrap(hf, where, sharding)
        self.directory, self.ranks = directory, ranks
        self.micro_batch_tokens, self.memory_share = micro_batch_tokens, memory_share

    @classmethod
    def around(cls, hf: Any, device: torch.device) -> "Policy":
        """A policy over a frozen model in eval mode that is in place already."""
        policy = cls.__new__(cls)
        policy._wrap(hf, device)
        return policy

    def _wrap(self, hf: Any, device: torch.device, sharding: Sharding | None = None) -> None:
        self.hf, self.device, self.directory = hf, device, ""
        self.ranks, self.sharding = Ranks(), sharding
        # The rows that the running pass has done, and all of its rows; (0, 0): there is none.
        self.passed = (0, 0)
        self.request_rows = 0  # of all ranks; 0: those of this rank are all
        keep_attention_small()
        self.micro_batch_tokens, self.memory_share = 0, 1.0
        text_config = hf.config.get_text_config()
        self.vocab_size = int(text_config.vocab_size)
        self.context = int(getattr(text_config, "max_position_embeddings", 0) or 1 << 20)
        self.architecture = str(hf.config.model_type)
        self.peft: Any = None
        self.loss_scale = FIRST_LOSS_SCALE if hf.dtype == torch.float16 else 1.0
        self.scale, self.cap = 1.0, 0.0
        self.plain_head = self._has_plain_head(text_config)
        self.checkpointing = Checkpointing(hf)
        self.packing = Packing(text_config)
        self.threads: Threads | None = None  # None: the operator chose them
        self._budgets: dict[bool, Budget] = {}
        self._active = ""
        self._lora_layers: list[Any] = []
        self._weights: dict[str, list[torch.nn.Parameter]] = {}

    # Adapters

    def add_adapter(self, name: str, spec: LoraSpec, seed: int) -> Targets:
        """Create an adapter (B = 0) and return the modules that it has."""
        from peft import LoraConfig, get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

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
        fuse(self.hf, self.sharding.whole if self.sharding else lambda module: nullcontext())
        self._lora_layers = [m for m in self.hf.modules() if isinstance(m, BaseTunerLayer)]
        self.activate(name)
        self.checkpointing.skip_last_products(lambda: self._small_gradients(name))
        if self.device.type == "cpu":
            self.packing.trial(self.features, self.device, self.hf.dtype)
        return targets

    def remove_adapter(self, name: str) -> None:
        """Free an adapter's weights."""
        self.peft.delete_adapter(name)
        self._weights.pop(name, None)
        self._active = ""

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
        if name != self._active:
            self.peft.set_adapter(name)
            self._active = name

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The active adapter's weights."""
        if self._active not in self._weights:
            self._weights[self._active] = list(self.parameters(self._active).values())
        return self._weights[self._active]

    @contextmanager
    def base(self) -> Iterator[None]:
        """The model without any adapter and without gradients."""
        for layer in self._lora_layers:  # PEFT's own switch walks through all modules
            layer._disable_adapters = True
        try:
            with torch.no_grad():
                yield
        finally:
            for layer in self._lora_layers:
                layer._disable_adapters = False

    # Forward

    def features(self, ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """What the head reads: (B, T, F), differentiable by the active adapter."""
        inputs = {"input_ids": ids, "use_cache": False}
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        if self.plain_head:
            return self.hf.get_decoder()(**inputs).last_hidden_state
        return self.hf(**inputs).logits

    def head(self, features: Tensor) -> Tensor:
        """Logits (N, V) in float32 of features (N, F)."""
        if not self.plain_head:
            return features.float()
        unembed = self.hf.get_output_embeddings()
        bias = getattr(unembed, "bias", None)
        logits = torch.nn.functional.linear(features, unembed.weight, bias)
        if self.scale != 1:
            logits = logits.mul_(self.scale)
        if self.cap:
            logits = logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits.float()

    def head_backward(self, d_logits: Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """dL/dfeatures (N, F) from dL/dlogits (N, V), times loss_scale; may overwrite d_logits."""
        if self.loss_scale != 1:
            d_logits = d_logits.mul_(self.loss_scale)
        if not self.plain_head:
            return d_logits.to(dtype)
        if self.cap:
            d_logits = d_logits.mul_(1 - (logits / self.cap).square_())
        if self.scale != 1:
            d_logits = d_logits.mul_(self.scale)
        return d_logits.to(dtype) @ self.hf.get_output_embeddings().weight

    @property
    def progress(self) -> tuple[int, int]:
        """The rows of the running request that are done, as far as this rank can tell, and all."""
        done, share = self.passed
        rows = self.request_rows or share
        return (done * rows // share, rows) if share else (0, 0)

    @property
    def matrix_weights(self) -> int:
        """Weights of the base that every token is multiplied by."""
        embeddings = self.hf.get_input_embeddings().weight.numel()
        tied = self.hf.get_output_embeddings().weight is self.hf.get_input_embeddings().weight
        return int(self.hf.num_parameters()) - (0 if tied else embeddings)

    @property
    def attention_width(self) -> int:
        """Values of all heads of all layers that a pair of tokens costs."""
        config = self.hf.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return int(config.num_hidden_layers * heads * width)

    def budget(self, backward: bool) -> Budget:
        """The limits of a micro-batch; the first call of either kind measures them."""
        if backward not in self._budgets:
            base = self.hf.get_output_embeddings()
            width = base.weight.shape[-1] if self.plain_head else self.vocab_size
            item = self.hf.dtype.itemsize
            shape = budget.Shape(
                device=self.device,
                layers=max(1, len(self.checkpointing.layers)),
                hidden_bytes=int(self.hf.config.get_text_config().hidden_size) * item,
                end_bytes=4 * width * item,
                parameters=self.hf.num_parameters(),
                can_checkpoint=bool(self.checkpointing.layers),
                own=self._own_addresses(),
                sharers=self.ranks.size if self.device.type == "cpu" else 1,
            )
            self._budgets[backward] = budget.measure(
                self.features,
                self.checkpointing.scope,
                shape,
                self.micro_batch_tokens,
                self.memory_share,
            )
        return self._budgets[backward]

    def _own_addresses(self) -> Callable[[int], bool]:
        """Whether a parameter or buffer lies at an address. A sharded layer's weights are whole
        only while it computes."""
        kept: list[Tensor] = [*self.hf.parameters(), *self.hf.buffers()]
        plain = [t for t in kept if not hasattr(t, "to_local")]
        own, sharding = {t.untyped_storage().data_ptr() for t in plain}, self.sharding
        if sharding is None:
            return own.__contains__
        return lambda address: address in own or address in sharding.storages

    def _small_gradients(self, name: str) -> list[Tensor]:
        """The active adapter's gradients for a row of a few tokens."""
        ids = torch.arange(4, device=self.device)[None] % self.vocab_size
        with torch.enable_grad():
            value = self.features(ids).float().sum()
        weights = list(self.parameters(name).values())
        found = torch.autograd.grad(value, weights, allow_unused=True)
        return [g for g in found if g is not None]

    def _has_plain_head(self, config: Any) -> bool:
        """Find the head's form: linear, scaled, or soft-capped. Sets scale and cap."""
        ids = torch.arange(8, device=self.device)[None] % self.vocab_size
        divisor = getattr(config, "logits_scaling", None) or 1.0
        factor = getattr(config, "logit_scale", None) or 1.0
        cap = getattr(config, "final_logit_softcapping", None) or 0.0
        forms = {(1.0, 0.0), (1.0, float(cap)), (1.0 / divisor, 0.0), (float(factor), 0.0)}
        self.plain_head = True
        try:
            with torch.no_grad():
                logits = self.hf(input_ids=ids, use_cache=False).logits.float()
                features = self.features(ids)
                for self.scale, self.cap in sorted(forms):
                    plain = self.head(features)
                    same = plain.shape == logits.shape
                    if same and torch.allclose(plain, logits, atol=1e-4, rtol=1e-4):
                        return True
        except (AttributeError, TypeError, RuntimeError):
            pass
        self.scale, self.cap = 1.0, 0.0
        return False


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise LoadError(f"device {name}: {e}", "use --device cpu, or auto") from e
    return device


def _load(directory: str, dtype: torch.dtype, device: torch.device, quantize: str) -> Any:
    """The frozen base model. Weights go from the file to their place one at a time."""
    from transformers import AutoModelForCausalLM

    check_weights(directory)
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    if quantize != "none":
        options |= _quantization(dtype, device)
    try:
        hf = AutoModelForCausalLM.from_pretrained(directory, **options)
        if quantize == "none":
            hf = hf.to(device)
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        if memory.is_out_of_memory(e):
            size = f"{memory.gigabytes(memory.free(device))} are free on {device}"
            hint = "use --dtype bfloat16, a smaller model, or a device with more memory"
            raise LoadError(f"model {directory} does not fit: {size}", hint) from e
        raise LoadError(f"model {directory}: {e}", UNKNOWN_MODEL) from e
    return hf.eval().requires_grad_(False)


def _load_sharded(
    directory: str, dtype: torch.dtype, device: torch.device, ranks: Ranks
) -> tuple[Any, Sharding]:
    """The base model with sharded layers. One rank after the other holds all of it, in main
    memory."""
    mesh, found = device_mesh(device), []
    for mine in ranks.turns():
        if mine:
            hf = _load(directory, dtype, torch.device("cpu"), "none")
            found.append((hf, Sharding(hf, device, mesh)))
    return found[0]


def _quantization(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Options that load a base in 4 bits (NF4). The adapter computes in dtype."""
    if device.type != "cuda":
        raise LoadError(
            f"quantize nf4 on {device}: 4-bit bases need a CUDA GPU",
            "start with --quantize none, or with --device cuda",
        )
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        raise LoadError(
            f"quantize nf4: {' and '.join(missing)} not installed",
            "install the trainer's optional packages: pip install '<trainer dir>[nf4]'",
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == torch.float32 else dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def alpha_of(spec: LoraSpec) -> float:
    """LoRA's alpha: 2·rank unless given."""
    alpha = 2.0 * spec.rank if spec.alpha is None else spec.alpha
    return int(alpha) if alpha == int(alpha) else alpha
