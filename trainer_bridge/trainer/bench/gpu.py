"""Speed and memory on a GPU: our trainer against a plain loop of transformers and peft.

Models of Qwen2.5's shapes with random weights are built from their configuration; nothing is
downloaded. Both trainers get the same rows with every position trained, LoRA of rank 16 on all
linear layers, and a bfloat16 base. The plain loop uses gradient checkpointing and batches of at
most 16,384 tokens. Ours decides by its budget, and is also forced to checkpoint. One pass warms
up, then the fastest of the measured passes counts. Results go to stdout and, as JSON, to --out.

    python trainer_bridge/trainer/bench/gpu.py [--models 0.5B,1.5B,7B] [--lengths 1024,4096,16384]
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from empo2_trainer import allocator

allocator.tune()

import torch  # noqa: E402
from real_model import LOSS, RANK, make_rows, plain, wrap  # noqa: E402

from empo2_trainer import losses, memory, step, usage  # noqa: E402
from empo2_trainer.budget import Cost  # noqa: E402
from empo2_trainer.model import Policy  # noqa: E402
from empo2_trainer.protocol import LoraSpec  # noqa: E402

PLAIN_TOKENS = 16384  # in one batch of the plain loop
KINDS = ("ours", "ours, checkpointed", "plain")

# hidden size, MLP size, layers, heads, KV heads, tied
SHAPES = {
    "tiny": (64, 128, 2, 4, 2, True),
    "0.5B": (896, 4864, 24, 14, 2, True),
    "1.5B": (1536, 8960, 28, 12, 2, True),
    "7B": (3584, 18944, 28, 28, 4, False),
}


def build(name: str, dtype: torch.dtype, device: torch.device, vocab: int) -> Any:
    """A random model of a shape of Qwen2.5."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, mlp, layers, heads, kv, tied = SHAPES[name]
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
        initializer_range=0.02,
    )
    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Qwen2ForCausalLM(config).to(device).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def our_policy(hf: Any, device: torch.device) -> Policy:
    """A Policy around a model that exists already."""
    policy = Policy.around(hf, device)
    policy.add_adapter("bench", LoraSpec(rank=RANK, alpha=2.0 * RANK), 1)
    return policy


def seconds(device: torch.device, work: Any) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gradient_norm(parameters: list[Any]) -> float:
    grads = [p.grad for p in parameters if p.grad is not None]
    return float(torch.stack([g.float().norm() for g in grads]).norm())


def measure(
    kind: str, policy: Any, rows: list[Any], device: torch.device, passes: int
) -> dict[str, Any]:
    """Tokens/s, peak memory over the base and the gradient's norm."""
    batch = max(1, PLAIN_TOKENS // len(rows[0].tokens)) if kind == "plain" else 0
    loss = losses.parse("empo2", LOSS)
    parameters = policy.trained
    extra: dict[str, float] = {}

    def work() -> None:
        for p in parameters:
            p.grad = None
        if kind.startswith("ours"):
            extra.update(step.run(policy, rows, loss, True).usage.wire())
        else:
            plain(policy, rows, batch)

    memory.collect(device)
    base = torch.cuda.memory_allocated(device) if device.type == "cuda" else memory.peak(device)
    memory.reset_peak(device)
    try:
        times = [seconds(device, work) for _ in range(passes + 1)][1:]
    except Exception as e:
        return {"kind": kind, "error": f"{type(e).__name__}: {e}"}
    tokens = sum(len(row.tokens) for row in rows)
    result = {
        "kind": kind,
        "tokens_per_second": tokens / min(times),
        "seconds": min(times),
        "peak_over_base_bytes": memory.peak(device) - base,
        "base_bytes": base,
        "norm": gradient_norm(parameters),
    }
    return result | {k.split(":")[0]: v for k, v in extra.items() if k != "seconds:sum"}


def mfu(policy: Policy, rows: list[Any], tokens_per_second: float) -> float:
    """Model FLOP utilisation by the same count for both trainers."""
    counts = usage.Usage(
        row_tokens=sum(len(r.tokens) for r in rows),
        squared_tokens=sum(len(r.tokens) ** 2 for r in rows),
    )
    rate = counts.flops(policy, True) * tokens_per_second / counts.row_tokens
    return rate / (usage.peak_flops(policy.device) or float("inf"))


def bench(name: str, args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    results = []
    flops_of = None
    for kind in KINDS:
        hf = build(name, dtype, device, args.vocab)
        policy: Any = wrap(hf, True) if kind == "plain" else our_policy(hf, device)
        if kind == "ours, checkpointed":
            policy.budget(True).kept = Cost(1e15, 0)
        flops_of = flops_of or Counted(policy)
        for length in args.lengths:
            count = max(1, args.tokens // length)
            rows = make_rows([length] * count, args.vocab)
            r = measure(kind, policy, rows, device, args.passes)
            r |= {"model": name, "length": length, "rows": count}
            if "error" not in r:
                r["mfu"] = mfu(flops_of, rows, r["tokens_per_second"])  # type: ignore[arg-type]
            results.append(r)
            print(line(r), flush=True)
            args.save(results)
        del policy, hf
        gc.collect()
        memory.release(device)
    return results


class Counted:
    """What the count of operations reads of a policy, without its weights."""

    def __init__(self, policy: Policy) -> None:
        self.device = policy.device
        self.matrix_weights = policy.matrix_weights
        self.attention_width = policy.attention_width


def profile(args: argparse.Namespace, device: torch.device) -> None:
    """A table of the most expensive kernels for the first model and each length."""
    loss, tables = losses.parse("empo2", LOSS), []
    policy = our_policy(
        build(args.models.split(",")[0], torch.bfloat16, device, args.vocab), device
    )
    for length in args.lengths:
        rows = make_rows([length] * max(1, args.tokens // length), args.vocab)
        step.run(policy, rows, loss, True)
        with torch.profiler.profile() as p:
            step.run(policy, rows, loss, True)
        order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        tables.append(p.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60))
    args.profile.write_text("\n".join(tables))


def checks(device: torch.device, vocab: int) -> dict[str, Any]:
    """Facts on the smallest model: budgets, types and 4 bits give the same gradient; what happens
    when memory runs out."""
    name = "0.5B" if device.type == "cuda" else "tiny"
    length = 2048 if device.type == "cuda" else 32
    rows = make_rows([length, length // 2, length // 4], vocab)
    loss = losses.parse("empo2", LOSS)
    found: dict[str, Any] = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        policy = our_policy(build(name, dtype, device, vocab), device)
        for how, size in (("kept", 1e15), ("checkpointed", 1.0)):
            budget = policy.budget(True)
            budget.size = size
            for p in policy.trained:
                p.grad = None
            done = step.run(policy, rows, loss, True)
            found[f"{dtype} {how}"] = {
                "norm": gradient_norm(policy.trained),
                "loss": done.metrics.loss,
                "loss_scale": policy.loss_scale,
                **done.usage.wire(),
            }
        del policy
        memory.collect(device)
    if device.type == "cuda":
        for title, check in (("out of memory", exhaust), ("nf4", four_bits)):
            try:
                found[title] = check(device, vocab)
            except Exception as e:
                found[title] = f"{type(e).__name__}: {e}"
            memory.collect(device)
    return found


def four_bits(device: torch.device, vocab: int) -> dict[str, Any]:
    """The same model from a folder in bfloat16 and in NF4: memory and loss."""
    loss, rows = losses.parse("cross_entropy", {}), make_rows([2048], vocab)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        build("1.5B", torch.bfloat16, device, vocab).save_pretrained(directory)
        for quantize in ("none", "nf4"):
            memory.collect(device)
            policy = Policy(directory, "bfloat16", str(device), quantize)
            policy.add_adapter("bench", LoraSpec(rank=RANK, alpha=2.0 * RANK), 1)
            found[f"{quantize} base_bytes"] = torch.cuda.memory_allocated(device)
            done = step.run(policy, rows, loss, True)
            found[f"{quantize} loss"] = done.metrics.loss
            found[f"{quantize} norm"] = gradient_norm(policy.trained)
            del policy
    return found


def exhaust(device: torch.device, vocab: int) -> dict[str, Any]:
    """A budget far above the card's memory: the trainer finds one that fits."""
    policy = our_policy(build("7B", torch.bfloat16, device, vocab), device)
    budget = policy.budget(True)
    budget.size, budget.tokens = 1e15, 1 << 20
    rows = make_rows([16384] * 2, vocab)
    done = step.run(policy, rows, losses.parse("empo2", LOSS), True)
    return {"norm": gradient_norm(policy.trained), "tokens": budget.tokens, **done.usage.wire()}


def line(r: dict[str, Any]) -> str:
    head = f"{r['model']:>5} {r['rows']:>3} x {r['length']:>6} {r['kind']:18}"
    if "error" in r:
        return f"{head} {r['error']}"
    return (
        f"{head} {r['tokens_per_second']:10.0f} tokens/s  MFU {100 * r['mfu']:5.1f} %"
        f"  +{r['peak_over_base_bytes'] / 1e9:6.2f} GB over {r['base_bytes'] / 1e9:5.2f}"
        f"  norm {r['norm']:.5g}  micro-batches {r.get('micro_batches', 0):.0f}"
        f" (checkpointed {r.get('checkpointed_micro_batches', 0):.0f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="0.5B,1.5B,7B")
    parser.add_argument("--lengths", default="1024,4096,16384")
    parser.add_argument("--tokens", type=int, default=32768, help="tokens in a pass")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", type=Path, help="write where a pass of ours spends its time")
    parser.add_argument("--checks", action="store_true", help="also compare types and budgets")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.lengths = [int(n) for n in args.lengths.split(",")]
    device = torch.device(args.device)
    everything: list[dict[str, Any]] = []

    def save(results: list[dict[str, Any]]) -> None:
        if args.out:
            args.out.write_text(json.dumps(everything + results, indent=1))

    args.save = save
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device), torch.__version__, flush=True)
    for name in filter(None, args.models.split(",")):
        everything += bench(name, args, device)
    if args.profile:
        profile(args, device)
    if args.checks:
        everything.append({"checks": checks(device, args.vocab)})
        print(json.dumps(everything[-1], indent=1))
        save([])


if __name__ == "__main__":
    main()
