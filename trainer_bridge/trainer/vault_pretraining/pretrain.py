"""Pre-train the vault's policy: `python -m vault_pretraining.pretrain --out DIR`.

Two processes of one thread each average their gradients. The number of steps is fixed (--minutes
times STEPS_PER_MINUTE), so that the result does not depend on the machine's speed. The first phase
goes through the curriculum. A stage ends when the policy follows and writes tips well, or at the
stage's step limit. The first phase ends before its learning rate has decayed. The second phase is
short: it starts from the rounded weights with new optimizer states, and its rate decays to 0.
"""

import argparse
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from vault_pretraining import data, gates, model, tokenizer
from vault_pretraining.muon import Muon

STEPS_PER_MINUTE = 212.5
MAIN, HORIZON = 16 / 17, 112 / 85  # first phase and its schedule's length, as parts of all steps
FINISH_RATE, FINISH_WARM_UP, FINISH_SEED = 0.5, 10, 1000
WORLD_SIZE = 2
TOKENS = 4096  # per process and step
MUON_LR, ADAM_LR, ADAM_BETAS, DECAY = 0.012, 2e-3, (0.9, 0.98), 0.01
WARM_UP, FLAT, CLIP = 50, 0.4, 1.0
STAGES = (
    data.Stage((2, 2), (3, 4), 3),
    data.Stage((2, 3), (3, 6), 5),
    data.Stage((2, 4), (4, 7), 8),
    gates.FINAL,
)
MOVE_ON = (0.80, 0.85, 0.88)  # smoothed follow mass that ends a stage, beside tips > MOVE_ON_TIP
MOVE_ON_TIP = 0.95
STAGE_END = (0.2, 0.3, 0.4)  # fraction of all steps after which a stage ends in any case
EVERY = 100  # steps between lines of progress
NAMES = ("loss", "follow", "avoid", "tip")


@dataclass
class Progress:
    """The curriculum's stage and smoothed training figures in the order of NAMES."""

    stage: int = 0
    figures: tuple[float, ...] = (7.0, 0.0, 0.0, 0.0)

    def update(self, batch: list[float], done: float) -> bool:
        """Add a step's figures. Returns whether a new stage begins. done is the run's fraction."""
        pairs = zip(self.figures, batch, strict=True)
        self.figures = tuple(0.98 * old + 0.02 * new for old, new in pairs)
        if self.stage + 1 == len(STAGES):
            return False
        able = self.figures[1] > MOVE_ON[self.stage] and self.figures[3] > MOVE_ON_TIP
        if able or done > STAGE_END[self.stage]:
            self.stage += 1
            self.figures = (self.figures[0], 0.0, 0.0, self.figures[3])
            return True
        return False


def rate(step: int, horizon: int) -> float:
    """First phase's learning rate over its peak: warm-up, flat, then linear decay to 0."""
    left = (horizon - step) / (horizon * (1 - FLAT))
    return min((step + 1) / WARM_UP, left, 1.0)


def finish_rate(step: int, steps: int) -> float:
    """Second phase's learning rate over the peak: short warm-up, linear decay to 0."""
    return min((step + 1) / FINISH_WARM_UP, 1.0) * FINISH_RATE * (steps - step) / steps


def phases(minutes: float) -> tuple[int, int, int]:
    """Steps of both phases, and the horizon of the first one's schedule."""
    steps = max(2, round(minutes * STEPS_PER_MINUTE))
    main = min(steps - 1, round(steps * MAIN))
    return main, steps - main, round(steps * HORIZON)


def losses(
    policy: model.Policy, batch: data.Batch, levers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean KL of a batch, and its figures (4,) in the order of NAMES. levers (20,)."""
    logp = policy(batch.ids, batch.at).log_softmax(-1)  # (N, V)
    each = -logp.gather(1, batch.label[:, None])[:, 0]  # (N,)
    lever_logp = logp[batch.soft][:, levers]  # (S, 20)
    entropy = torch.special.entr(batch.mass).sum(-1)  # (S,)
    each = each.index_put((batch.soft,), -(batch.mass * lever_logp).sum(-1) - entropy)
    loss = (each * batch.weight).sum() / batch.weight.sum()
    with torch.no_grad():
        probs = lever_logp.exp()
        known, failing = batch.kind == data.KNOWN, batch.kind == data.FAILING
        follow = probs[known][batch.mass[known] > 0.5]
        good = (probs * (batch.mass > 2 * data.FAILING_MASS))[failing].sum(-1)
        tip = (-each[batch.weight == data.WEIGHT_TIP]).exp()
        figures = torch.stack([loss.detach(), _mean(follow), _mean(good), _mean(tip)])
    return loss, figures


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean() if len(values) else torch.zeros(())


class Learner:
    """One process of the run: its share of the data, and the averaged update."""

    def __init__(self, rank: int, seed: int, steps: int, out: Path) -> None:
        self.rank, self.steps, self.progress = rank, steps, Progress()
        self.rate: Callable[[int, int], float] = rate
        self.encoder = tokenizer.Encoder(tokenizer.load(out))
        self.levers = torch.tensor(self.encoder.levers)
        self.rng = Random(f"pretrain/{seed}/{rank}")
        self.policy = model.Policy(model.Shape(), torch.Generator().manual_seed(seed))
        matrices = [self.policy.attn, self.policy.mlp]
        others = [p for p in self.policy.parameters() if all(p is not m for m in matrices)]
        self.muon = Muon(list(matrices), MUON_LR)
        self.adam = torch.optim.AdamW(others, ADAM_LR, ADAM_BETAS, weight_decay=DECAY)
        self.stream: Iterator[data.Batch] = iter(())

    def step(self, step: int) -> int:
        """One update; returns the tokens that this process read."""
        batch = self._next()
        loss, figures = losses(self.policy, batch, self.levers)
        self.policy.zero_grad()
        loss.backward()
        shared = self._share(figures)
        self._update(self.rate(step, self.steps))
        if self.progress.update(shared, step / self.steps):
            self.stream = iter(())
        return batch.ids.numel()

    def _next(self) -> data.Batch:
        batch = next(self.stream, None)
        if batch is None:
            stage = STAGES[self.progress.stage]
            self.stream = iter(data.batches(self.rng, self.encoder, stage, TOKENS))
            batch = next(self.stream)
        return batch

    def _share(self, figures: torch.Tensor) -> list[float]:
        """Average gradients and figures over the processes, in one message."""
        grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads] + [figures])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        *parts, mean = torch.split(flat, [grad.numel() for grad in grads] + [len(figures)])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
        return [float(value) for value in mean]

    def _update(self, scale: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), CLIP)
        for group in self.adam.param_groups:
            group["lr"] = ADAM_LR * scale
        self.adam.step()
        self.muon.step(scale, DECAY)

    def continue_from(self, out: Path) -> None:
        """Start the second phase from the first one's saved weights and last stage."""
        with torch.no_grad():
            for mine, saved in zip(
                self.policy.parameters(), model.load(out).parameters(), strict=True
            ):
                mine.copy_(saved)
        self.rate = finish_rate
        self.progress = Progress(len(STAGES) - 1, (0.0, 0.0, 0.0, 0.0))


def run_process(rank: int, rendezvous: str, seed: int, minutes: float, out: Path) -> None:
    """Train in one of the processes; the first prints progress and saves."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD_SIZE
    )
    main, finish, horizon = phases(minutes)
    tokens = train(Learner(rank, seed, horizon, out), main, out)
    dist.barrier()  # the weights are saved
    second = Learner(rank, seed + FINISH_SEED, finish, out)
    second.continue_from(out)
    dist.barrier()  # and read by all
    tokens += train(second, finish, out)
    if rank == 0:
        (out / "tokens.txt").write_text(str(tokens))
    dist.destroy_process_group()


def train(learner: Learner, steps: int, out: Path) -> int:
    """Make a phase's steps, save, and return the tokens that all processes read."""
    tokens, start = 0, time.monotonic()
    for step in range(steps):
        tokens += learner.step(step) * WORLD_SIZE
        if learner.rank == 0 and (step + 1) % EVERY == 0:
            report(step + 1, steps, tokens, time.monotonic() - start, learner.progress)
    if learner.rank == 0:
        model.save(learner.policy, out)
    return tokens


def report(step: int, steps: int, tokens: int, seconds: float, progress: Progress) -> None:
    """Print one line of progress."""
    figures = " ".join(f"{n} {v:.3f}" for n, v in zip(NAMES, progress.figures, strict=True))
    speed, left = tokens / seconds, seconds / step * (steps - step)
    print(
        f"step {step}/{steps} stage {progress.stage + 1} {figures} {speed:,.0f} tokens/s"
        f" ETA {left:.0f} s",
        flush=True,
    )


def sha256(path: Path) -> str:
    """The file's SHA-256 as hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def provenance(args: argparse.Namespace, seconds: float) -> dict[str, object]:
    """The origin of the weights and the results of the gates."""
    out = args.out
    encoder = tokenizer.Encoder(tokenizer.load(out))
    policy = model.load(out)
    count = out / "tokens.txt"
    tokens = int(count.read_text())
    count.unlink()
    command = "python -m vault_pretraining.pretrain --out DIR"
    return {
        "command": f"{command} --minutes {args.minutes:g} --seed {args.seed}",
        "seed": args.seed,
        "steps": sum(phases(args.minutes)[:2]),
        "tokens": tokens,
        "seconds": round(seconds),
        "hardware": f"{WORLD_SIZE} processes of one thread, {platform.machine()} CPU cores",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "gates": gates.all_gates(policy, encoder, args.seed, 1000),
        "sha256": {name: sha256(out / name) for name in ("model.safetensors", "tokenizer.json")},
    }


def main() -> None:
    """Train tokenizer and policy, measure the gates, and write everything to --out."""
    parser = argparse.ArgumentParser(description="Pre-train the vault's policy.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--minutes", type=float, default=20, help="scales the steps; default 20")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    tokenizer.save(tokenizer.train(tokenizer.corpus(args.seed)), args.out)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{folder}/rendezvous", args.seed, args.minutes, args.out)
        spawn(run_process, arguments, nprocs=WORLD_SIZE)
    torch.set_num_threads(1)
    found = provenance(args, time.monotonic() - start)
    text = json.dumps(found, indent=2) + "\n"
    (args.out / "PROVENANCE.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
