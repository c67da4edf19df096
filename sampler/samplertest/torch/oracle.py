"""Random LoRA adapters, log-probs of torch, and models as GGUF, for tests of inference servers.

Arguments: the trainer's sources and the model. One JSON object per line in and out.
"""

import copy
import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import torch
from empo2_trainer.export import module_names, peft_config, write_peft
from transformers import AutoModelForCausalLM

RANK, ALPHA = 4, 8.0
base = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32).eval()
models = {"": base}


def adapter(path, seed, format):
    """Write a random adapter and keep the merged model."""
    noise = torch.Generator().manual_seed(seed)
    merged, weights = copy.deepcopy(base), {}
    for name, module in merged.named_modules():
        if not name.endswith("_proj"):
            continue
        rows, columns = module.weight.shape
        a = torch.randn(RANK, columns, generator=noise) / columns**0.5
        b = torch.randn(rows, RANK, generator=noise) * 0.2
        weights[f"base_model.model.{name}.lora_A.weight"] = a
        weights[f"base_model.model.{name}.lora_B.weight"] = b
        module.weight.data += (ALPHA / RANK) * b @ a
    if format == "gguf":
        from empo2_trainer.gguf_export import write_adapter

        write_adapter(Path(path), sys.argv[2], peft_config(sys.argv[2], RANK, ALPHA, [], []), weights)
    else:
        config = peft_config(sys.argv[2], RANK, ALPHA, module_names(weights), [])
        write_peft(Path(path), config, weights)
    models[path] = merged


def convert(model, path):
    """Write a model as GGUF."""
    from empo2_trainer.gguf_export import write_model

    write_model(model, Path(path))


@torch.no_grad()
def score(path, tokens):
    """log π(tokens[i+1] | tokens[:i+1]) for every i."""
    ids = torch.tensor([tokens])
    logprobs = models[path](ids).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()


for line in sys.stdin:
    question = json.loads(line)
    answer = []
    if "seed" in question:
        adapter(question["adapter"], question["seed"], question["format"])
    elif "model" in question:
        convert(question["model"], question["gguf"])
    else:
        answer = score(question["adapter"], question["tokens"])
    print(json.dumps(answer), flush=True)
