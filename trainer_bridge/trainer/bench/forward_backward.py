"""CPU seconds of one forward_backward against a plain loop of transformers and peft.

The rival is what one writes first: row by row, the whole log_softmax with autograd, a second
forward with the adapter off for the exact KL. Both get the same rows (64 x 300 tokens, a quarter of
them trained), one thread, in turns; the ratio is of their medians.

    python trainer_bridge/trainer/bench/forward_backward.py [--rounds 5]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from empo2_trainer import losses, step
from empo2_trainer.datums import Sequence
from empo2_trainer.model import Policy
from empo2_trainer.protocol import LoraSpec

WEIGHTS = Path(__file__).parents[1] / "vault_pretraining" / "weights"
ROWS, LENGTH, VOCAB = 64, 300, 472


def make_rows(rng: Random) -> list[Sequence]:
    """Random tokens; the last quarter of each row is trained with advantage ±1."""
    rows = []
    for i in range(ROWS):
        tokens = np.array([rng.randrange(3, VOCAB) for _ in range(LENGTH + 1)], dtype=np.int64)
        mask = np.arange(LENGTH) >= LENGTH * 3 // 4
        trained = mask.astype(np.float32)
        sign = 1.0 if i % 2 else -1.0
        rows.append(
            Sequence(
                tokens=tokens[:-1],
                targets=tokens[1:],
                loss_mask=mask,
                importance_weights=np.ones(LENGTH, np.float32),
                logprobs=-6 * trained,
                advantages=sign * trained,
                kl=np.float32(0.3) * trained,
                entropy=np.zeros(LENGTH, np.float32),
                floor_mask=np.ones(LENGTH, np.bool_),
            )
        )
    return rows


def plain(policy: Policy, rows: list[Sequence]) -> float:
    """The alternative: empo2's loss, row by row with autograd. Returns the loss."""
    model, total = policy.peft, 0.0
    for row in rows:
        ids = torch.from_numpy(row.tokens)[None]
        logp_all = model(ids).logits[0].float().log_softmax(-1)  # (T, V)
        with torch.no_grad(), model.disable_adapter():
            base = model(ids).logits[0].float().log_softmax(-1)  # (T, V)
        logp = logp_all.gather(1, torch.from_numpy(row.targets)[:, None])[:, 0]  # (T,)
        w, a = torch.from_numpy(row.loss_mask), torch.from_numpy(row.advantages)
        ratio = (logp - torch.from_numpy(row.logprobs)).exp()
        gain = torch.minimum(ratio * a, ratio.clamp(0.8, 1.3) * a)
        gain = torch.where(a < 0, torch.maximum(gain, 10 * a), gain) * (logp.detach() >= -5)
        kl = (logp_all.exp() * (logp_all - base)).sum(-1)
        loss = -(w * gain).sum() + (torch.from_numpy(row.kl) * kl).sum()
        loss.backward()
        total += loss.item()
    return total


def clear(policy: Policy) -> None:
    for p in policy.parameters("bench").values():
        p.grad = None


def cpu_seconds(work: Callable[[], float]) -> tuple[float, float]:
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    policy = Policy(str(WEIGHTS), device="cpu")
    policy.add_adapter("bench", LoraSpec(rank=8, alpha=16.0), 1)
    policy.activate("bench")
    loss, rows = losses.parse("empo2", {}), make_rows(Random(1))
    times: dict[str, list[float]] = {"empo2": [], "plain": []}
    values: dict[str, float] = {}
    for i in range(rounds + 1):  # the first round warms up
        for name, work in (
            ("empo2", lambda: step.run(policy, rows, loss, True).metrics.loss),
            ("plain", lambda: plain(policy, rows)),
        ):
            seconds, values[name] = cpu_seconds(work)
            clear(policy)
            if i > 0:
                times[name].append(seconds)
    ours, theirs = (statistics.median(times[name]) for name in ("empo2", "plain"))
    print(f"forward_backward, {ROWS} rows x {LENGTH} tokens, rank 8, exact KL, one thread:")
    print(f"  empo2 {ours:.2f} s CPU, plain {theirs:.2f} s: ratio {theirs / ours:.2f}")
    print(f"  losses {values['empo2']:.4f} and {values['plain']:.4f}")


if __name__ == "__main__":
    main()
