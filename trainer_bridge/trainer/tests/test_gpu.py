"""What matters on a GPU, as far as it can be tested without one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from empo2_trainer import memory
from tests.conftest import checked, make_model, wire_batch


def test_an_export_frees_the_gpus_cache(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on the same GPU wakes afterwards, and needs the memory."""
    freed: list[str] = []
    monkeypatch.setattr(memory, "release", lambda device: freed.append(device.type))
    sequences, loss = checked(wire_batch(1))
    trainer.run("m", sequences, loss, backward=True)
    assert freed == []
    monkeypatch.setattr(trainer.policy, "device", torch.device("cuda"))
    trainer.export("m", "v1", False)
    assert freed == ["cuda"]


def test_float32_on_a_gpu_gets_the_memory_efficient_attention(trainer: Any) -> None:
    from transformers.integrations import sdpa_attention

    def asked(dtype: torch.dtype, is_cuda: bool) -> bool:
        key = SimpleNamespace(dtype=dtype, is_cuda=is_cuda, shape=(1, 2, 8, 64))
        return bool(sdpa_attention.use_gqa_in_sdpa(None, key, key))

    assert asked(torch.bfloat16, True)
    assert asked(torch.float32, False)
    assert not asked(torch.float32, True)


def test_an_adapter_of_a_4_bit_base_is_exported(tmp_path: Path) -> None:
    """The export has the names and sizes of the adapter of an unquantised base."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    if not torch.cuda.is_available():
        pytest.skip("4-bit bases need a CUDA GPU")
    from safetensors.torch import load_file

    from empo2_trainer.model import Policy
    from empo2_trainer.trainer import Trainer
    from tests.conftest import SPEC

    directory = make_model(tmp_path / "m", "qwen2", hidden_size=128, intermediate_size=128)
    sizes = []
    for quantize in ("none", "nf4"):
        policy = Policy(str(directory), "bfloat16", "cuda", quantize)
        trainer = Trainer(policy, tmp_path / quantize, 0, ("peft", "gguf"))
        trainer.create("m", SPEC)
        trainer.run("m", *checked(wire_batch(1)), backward=True)
        trainer.export("m", "v1", False)
        files = tmp_path / quantize / "adapters" / "v1"
        sizes.append(
            {n: t.shape for n, t in load_file(files / "adapter_model.safetensors").items()}
        )
        assert (files / "adapter.gguf").stat().st_size > 0
    assert sizes[0] == sizes[1]
