"""A training step of TRL's GRPO trainer against ours, on SmolLM2-135M with the same rows.

The rows are those of two groups: a prompt per group, completions of different lengths, advantages,
no KL. TRL gets them as its GRPOTrainer would after generation, padded, in batches of --batch rows,
and computes its loss and the gradient. Ours gets the same tokens. Neither updates the weights, so
that every pass costs the same. Each trainer runs in a process of its own: one pass to warm up, then
the fastest of the measured passes in CPU seconds of one thread. The adapters begin with different
random matrices, so that the norms of the gradients are close but not equal.

    python trainer_bridge/trainer/bench/trl_step.py [--prompt 256] [--completion 64,192]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from empo2_trainer import allocator

KINDS = ("ours", "trl", "trl, checkpointed")
RANK, GROUPS, VOCAB = 16, 2, 49152
OLD = -11.0  # log-prob of the tokens under the policy that sampled them


def make_rows(args: argparse.Namespace) -> list[tuple[list[int], list[int], float]]:
    """Prompt, completion and advantage of each row."""
    import numpy as np

    rng, rows = np.random.default_rng(1), []
    low, high = (int(n) for n in args.completion.split(","))
    for _ in range(GROUPS):
        prompt = rng.integers(3, VOCAB, args.prompt).tolist()
        for i in range(args.rows // GROUPS):
            completion = rng.integers(3, VOCAB, int(rng.integers(low, high + 1))).tolist()
            rows.append((prompt, completion, 1.0 if i % 2 else -1.0))
    return rows


def ours(directory: str, rows: list[Any], args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """A pass, the trained weights and the device."""
    import numpy as np
    from real_model import LOSS, our_policy

    from empo2_trainer import losses, step
    from empo2_trainer.datums import Sequence

    policy, loss = our_policy(directory), losses.parse("empo2", LOSS)
    sequences = []
    for prompt, completion, advantage in rows:
        tokens = np.array(prompt + completion, np.int64)
        trained = (np.arange(len(tokens) - 1) >= len(prompt) - 1).astype(np.float32)
        scale = np.float32(advantage / len(completion) / len(rows))
        sequences.append(
            Sequence(
                tokens=tokens[:-1],
                targets=tokens[1:],
                loss_mask=trained > 0,
                importance_weights=trained,
                logprobs=np.float32(OLD) * trained,
                advantages=scale * trained,
                kl=0 * trained,
                entropy=0 * trained,
                floor_mask=trained > 0,
            )
        )
    return lambda: step.run(policy, sequences, loss, True), policy.trained, policy.device


def trl(
    directory: str, rows: list[Any], args: argparse.Namespace, checkpointed: bool
) -> tuple[Any, Any, Any]:
    """The same of TRL."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=8,
        num_generations=8,
        beta=0.0,
        epsilon_high=1e6,  # no token is clipped
        epsilon=1.0,
        loss_type="grpo",
        gradient_checkpointing=checkpointed,
        model_init_kwargs={"dtype": "float32"},
        report_to=[],
    )
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = GRPOTrainer(
        model=directory,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        peft_config=lora,
    )
    trainer.current_gradient_accumulation_steps = len(rows) // args.batch
    trainer.model.train()
    if checkpointed:  # the trainer itself does so at the start of its own loop only
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        trainer.model.enable_input_require_grads()
    batches = [trl_inputs(rows[i : i + args.batch]) for i in range(0, len(rows), args.batch)]

    def work() -> None:
        for inputs in batches:
            trainer.compute_loss(trainer.model, dict(inputs)).backward()

    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return work, trained, torch.device("cpu")


def trl_inputs(rows: list[Any]) -> dict[str, Any]:
    """A batch as GRPOTrainer has it after generation: prompts left-, completions right-padded."""
    import torch

    prompts, completions = [r[0] for r in rows], [r[1] for r in rows]
    longest = [max(map(len, part)) for part in (prompts, completions)]

    def tensor(part: list[list[int]]) -> Any:
        return torch.tensor(part)

    return {
        "prompt_ids": tensor([[0] * (longest[0] - len(p)) + p for p in prompts]),
        "prompt_mask": tensor([[0] * (longest[0] - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": tensor([c + [0] * (longest[1] - len(c)) for c in completions]),
        "completion_mask": tensor(
            [[1] * len(c) + [0] * (longest[1] - len(c)) for c in completions]
        ),
        "advantages": torch.tensor([r[2] for r in rows]),
        "old_per_token_logps": torch.full((len(rows), longest[1]), OLD),
    }


def measure(kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Tokens/s, peak over the base and the gradient's norm, in this process."""
    if kind == "ours":
        allocator.tune()
    import torch
    from smollm2 import folder

    from empo2_trainer import memory

    torch.set_num_threads(1)
    rows, directory = make_rows(args), str(folder())
    if kind == "ours":
        work, trained, device = ours(directory, rows, args)
    else:
        work, trained, device = trl(directory, rows, args, kind != "trl")
    memory.release(device)
    memory.reset_peak(device)
    base, times, peaks = memory.peak(device), [], []
    for _ in range(args.passes + 1):
        for p in trained:
            p.grad = None
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
        peaks.append(memory.peak(device))
    tokens = sum(len(r[0]) + len(r[1]) for r in rows)
    norm = sum(float(p.grad.double().square().sum()) for p in trained if p.grad is not None) ** 0.5
    return {"speed": tokens / min(times[1:]), "peak": max(peaks) - base, "norm": norm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a group's prompt")
    parser.add_argument("--completion", default="64,192", help="fewest and most tokens")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4, help="rows of a pass of TRL")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--kinds", default=";".join(KINDS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    print("trainer              tokens per CPU second   over the base   grad norm")
    for kind in args.kinds.split(";"):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", kind]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{kind:20} ended with {done.returncode}")
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        line = f"{kind:20} {r['speed']:21.1f} {r['peak'] / 1e9:12.2f} GB {r['norm']:11.5g}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
