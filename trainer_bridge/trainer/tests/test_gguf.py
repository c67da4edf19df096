"""Exports as other programs read them: PEFT, and a real llama-server for GGUF files."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from empo2_trainer import gguf_export
from empo2_trainer.gguf_tokenizer import split_name
from empo2_trainer.protocol import UserError
from tests.conftest import make_trainer
from tests.test_training import nudge

VAULT = Path(__file__).parents[1] / "vault_pretraining" / "weights"
SERVER = """
import json, os, sys
import xllamacpp as xlc
a = json.loads(sys.argv[1])
p = xlc.CommonParams()
p.hostnames, p.port, p.model.path = ["127.0.0.1"], 0, a["model"]
p.n_parallel, p.n_ctx = 1, 256
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.flash_attn_type = xlc.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
p.cache_type_k = p.cache_type_v = xlc.ggml_type.GGML_TYPE_F32
p.cache_ram_mib, p.ui, p.warmup, p.fit_params, p.verbosity = 0, False, False, False, 1
if a["adapter"]:
    p.lora_adapters = [xlc.CommonAdapterLoraInfo(a["adapter"], 1.0)]
server = xlc.Server(p)
print(json.dumps({"address": server.listening_address}), flush=True)
while os.read(0, 4096):
    pass
os._exit(0)
"""


@contextmanager
def llama_server(model: Path, adapter: Path | None) -> Iterator[Any]:
    """POST to a llama-server with the exact flags."""
    config = json.dumps({"model": str(model), "adapter": str(adapter) if adapter else ""})
    child = subprocess.Popen(
        [sys.executable, "-c", SERVER, config],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )
    assert child.stdin
    assert child.stdout
    try:
        address = json.loads(child.stdout.readline())["address"]

        def post(path: str, body: dict[str, Any]) -> Any:
            request = urllib.request.Request(f"{address}{path}", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=60) as r:
                return json.load(r)

        yield post
    finally:
        child.stdin.close()
        child.wait(timeout=30)


def next_logprobs(
    post: Any, prompt: list[int], vocab: int, more: dict[str, Any] | None = None
) -> dict[int, float]:
    """Log-probs of the next token over the vocabulary. A sampled token that is not complete UTF-8
    has no entry; then another seed is tried."""
    for seed in range(50):
        body = {"prompt": prompt, "n_predict": 1, "n_probs": vocab, "seed": seed, "top_k": 0}
        flat = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "return_tokens": True}
        answer = post("/completion", body | flat | (more or {}))
        if answer.get("completion_probabilities"):
            top = answer["completion_probabilities"][0]["top_logprobs"]
            return {e["id"]: e["logprob"] for e in top}
    raise AssertionError("no token with an entry in 50 tries")


def trainers(policy: Any, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = policy.head(policy.features(torch.tensor([prompt]))[0, -1:])
    return logits.log_softmax(-1)[0]


def assert_parity(policy: Any, gguf: Path, adapter: Path | None, prompts: list[list[int]]) -> None:
    with llama_server(gguf, adapter) as post:
        for prompt in prompts:
            got = next_logprobs(post, prompt, policy.vocab_size)
            want = trainers(policy, prompt)
            assert len(got) > policy.vocab_size // 2
            assert max(abs(lp - float(want[i])) for i, lp in got.items()) < 1e-4


PROMPTS = [[5, 9, 200, 40, 41], [(7 * i * i + 3) % 250 for i in range(120)]]


@pytest.mark.skipif(not (VAULT / "model.safetensors").exists(), reason="no vault weights here")
def test_the_embedded_policy_agrees_with_llama_server(tmp_path: Path) -> None:
    t = make_trainer(VAULT, tmp_path / "run")
    gguf_export.write_model(str(VAULT), tmp_path / "base.gguf")
    nudge(t)
    adapter = Path(t.export("m", "v1", overwrite=False)["dir"])
    text = "<|im_start|>user\nLevers: jade, amber. Door 2 of 4 is iron.<|im_end|>\n"
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(VAULT / "tokenizer.json")).encode(text).ids
    assert_parity(t.policy, tmp_path / "base.gguf", adapter / "adapter.gguf", [ids])
    with llama_server(tmp_path / "base.gguf", None) as post:
        body = {"content": text, "add_special": False, "parse_special": True}
        assert post("/tokenize", body)["tokens"] == ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_adapters_that_llama_cpp_cannot_apply_are_refused(
    model_dir: Path, tmp_path: Path, change: Any, message: str
) -> None:
    config = {"r": 4, "lora_alpha": 8, **change}
    with pytest.raises(UserError, match=message):
        gguf_export.write_adapter(tmp_path / "a.gguf", str(model_dir), config, {})
    assert list(tmp_path.iterdir()) == []


def test_unknown_pre_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match="pre-tokenizer"):
        split_name({"pre_tokenizer": {"type": "Whitespace"}})
