"""Memory and speed on a real model, SmolLM2-135M, against a plain loop of transformers and peft.

Three trainers get the same random rows with every position trained (empo2's loss, no KL): ours,
the plain loop row by row, and the plain loop with gradient checkpointing. Each pair of trainer and
row length runs in a process of its own: one pass to warm up, then measured passes. Memory is the
peak over the loaded base with its adapter; tokens/s count CPU seconds of one thread, since those
hold on a busy machine too.

    python trainer_bridge/trainer/bench/real_model.py [--lengths 512,2048,8192] [--rows 1,4]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from empo2_trainer import allocator

KINDS = ("ours", "plain", "checkpointed")
RANK = 16
PLAIN_LONGEST = 4096  # tokens of a row; the plain loop takes some 3 MB a token
HIGH = 1e6  # no token is clipped, so that every position has a gradient
LOSS = {
    "logprob_floor": -1e30,
    "clip_low_threshold": 0,
    "clip_high_threshold": HIGH,
    "dual_clip": 0,
}


def make_rows(lengths: list[int], vocab: int, kl: float = 0.0) -> list[Any]:
    """Random rows whose old log-probs are those of a random guess."""
    import numpy as np

    from empo2_trainer.datums import Sequence

    rng, rows = np.random.default_rng(1), []
    for i, n in enumerate(lengths):
        tokens = rng.integers(3, vocab, n + 1)
        one = np.ones(n, np.float32)
        advantages = one * np.float32(1 if i % 2 else -1) / n
        rows.append(
            Sequence(
                tokens=tokens[:-1],
                targets=tokens[1:],
                loss_mask=one > 0,
                importance_weights=one,
                logprobs=-np.log(vocab) * one,
                advantages=advantages,
                kl=np.float32(kl) * one,
                entropy=0 * one,
                floor_mask=one > 0,
            )
        )
    return rows


def ours(policy: Any, rows: list[Any]) -> float:
    """One forward_backward of the trainer."""
    from empo2_trainer import losses, step

    loss = losses.parse("empo2", LOSS)
    return step.run(policy, rows, loss, True).metrics.loss


def plain(policy: Any, rows: list[Any], batch: int = 1) -> float:
    """What one writes first: the same loss with autograd, so many rows of one length at a time."""
    import numpy as np
    import torch

    model, total = policy.peft, 0.0

    def stack(name: str, part: list[Any]) -> Any:
        return torch.from_numpy(np.stack([getattr(r, name) for r in part])).to(policy.device)

    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        logits = model(input_ids=stack("tokens", part), use_cache=False).logits.float()
        targets = stack("targets", part)
        logp = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]  # (B, T)
        a = stack("advantages", part)
        ratio = (logp - stack("logprobs", part)).exp()
        loss = -torch.minimum(ratio * a, ratio.clamp(0, HIGH) * a).sum()
        loss.backward()
        total += loss.item()
    return total


def plain_policy(directory: str, checkpointed: bool, dtype: str = "float32") -> Any:
    """A PEFT model as its own manual has it, in the shape that `plain` takes."""
    import torch
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    return wrap(hf, checkpointed)


def wrap(hf: Any, checkpointed: bool) -> Any:
    """LoRA on all linear layers; the model is in train mode if it is checkpointed."""
    from types import SimpleNamespace

    import torch
    from peft import LoraConfig, get_peft_model

    if checkpointed:
        hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        hf.enable_input_require_grads()
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    torch.manual_seed(1)  # the adapter is ours, value by value
    model = get_peft_model(hf, config)
    model.train(checkpointed)
    trained = [p for p in model.parameters() if p.requires_grad]
    return SimpleNamespace(peft=model, device=hf.device, trained=trained)


def our_policy(directory: str) -> Any:
    from empo2_trainer.model import Policy
    from empo2_trainer.protocol import LoraSpec

    policy = Policy(directory, device="cpu")
    policy.add_adapter("bench", LoraSpec(rank=RANK, alpha=2.0 * RANK), 1)
    return policy


def measure(kind: str, lengths: list[int], passes: int, threads: int) -> dict[str, float]:
    """Peak over the base in bytes and CPU seconds per pass, in this process."""
    if kind == "ours":
        allocator.tune()
    import torch
    from smollm2 import folder

    from empo2_trainer import memory

    torch.set_num_threads(threads)
    directory = str(folder())
    work: Callable[[Any, list[Any]], float]
    if kind == "ours":
        policy, work = our_policy(directory), ours
    else:
        policy, work = plain_policy(directory, kind == "checkpointed"), plain
    rows = make_rows(lengths, 49152)
    work(policy, make_rows([16], 49152))  # libraries take their own buffers
    memory.release(policy.device)
    memory.reset_peak(policy.device)
    base = memory.peak(policy.device)
    times, loss = [], 0.0
    for _ in range(passes + 1):
        for p in policy.trained:
            p.grad = None
        start = time.process_time()
        loss = work(policy, rows)
        times.append(time.process_time() - start)
    norm = sum(float(p.grad.double().square().sum()) for p in policy.trained) ** 0.5
    peak = max(memory.peak(policy.device) - base, 0)
    seconds = min(times[1:])
    return {"peak": peak, "base": base, "seconds": seconds, "loss": loss, "norm": norm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="512,2048,8192")
    parser.add_argument("--rows", default="1", help="rows of each length in a pass")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, length, rows = args.one.split(",")
        result = measure(kind, [int(length)] * int(rows), args.passes, args.threads)
        print(json.dumps(result))
        return
    print("rows x tokens   trainer        over the base   tokens per CPU second   grad norm")
    for length in args.lengths.split(","):
        for rows in args.rows.split(","):
            for kind in args.kinds.split(","):
                if kind == "plain" and int(length) > PLAIN_LONGEST:
                    print(f"{rows} x {length:>6}   {kind:13} not tried: its memory")
                    continue
                command = [sys.executable, __file__, "--one", f"{kind},{length},{rows}"]
                command += ["--passes", str(args.passes), "--threads", str(args.threads)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    print(f"{rows} x {length:>6}   {kind:13} ended with {done.returncode}")
                    continue
                r = json.loads(done.stdout.splitlines()[-1])
                speed = int(rows) * int(length) / r["seconds"]
                print(
                    f"{rows} x {length:>6}   {kind:13} {r['peak'] / 1e9:10.2f} GB {speed:17.1f}"
                    f" {r['norm']:17.6g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
