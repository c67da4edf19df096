"""Seconds of one forward_backward by one process and by two ranks, on the CPU.

Three trainers with the same model and rows take turns; only one computes at a time. The whole of a
request is timed: rows are sent to the other rank, and gradients summed. Throughput is by the clock,
which other work on the machine distorts; the CPU time of all ranks together shows what a second
rank costs: with two idle cores the clock gains twice the ratio of CPU times. Ratios are of medians.

    python trainer_bridge/trainer/bench/ranks.py [--rounds 7] [--model DIR]

Without --model a random Qwen2 of 6 M weights is made. Two ranks need two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

ONE = "one process, one thread"
KINDS = {
    ONE: ["--threads", "1"],
    "two ranks, data": ["--threads", "1", "--gpus", "2", "--parallel", "data"],
    "two ranks, fsdp2": ["--threads", "1", "--gpus", "2", "--parallel", "fsdp2"],
}
ROWS, SHORTEST, LONGEST, VOCAB = 16, 100, 300, 472


def make_rows() -> list[Any]:
    """Rows of unlike length with random tokens. The last quarter is trained, with exact KL."""
    import numpy as np

    from empo2_trainer.datums import Sequence

    rng, rows = Random(1), []
    for i in range(ROWS):
        length = rng.randrange(SHORTEST, LONGEST)
        tokens = np.array([rng.randrange(3, VOCAB) for _ in range(length + 1)], dtype=np.int64)
        mask = np.arange(length) >= length * 3 // 4
        trained = mask.astype(np.float32)
        rows.append(
            Sequence(
                tokens=tokens[:-1],
                targets=tokens[1:],
                loss_mask=mask,
                importance_weights=np.ones(length, np.float32),
                logprobs=-6 * trained,
                advantages=(1.0 if i % 2 else -1.0) * trained,
                kl=np.float32(0.3) * trained,
                entropy=np.zeros(length, np.float32),
                floor_mask=np.ones(length, np.bool_),
            )
        )
    return rows


def make_model(directory: Path) -> None:
    """A random Qwen2 of 6 layers of width 256."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)


def child(flags: list[str]) -> None:
    """A trainer that computes a pass for each line of stdin. It writes the seconds by the clock and
    of CPU, and the loss."""
    from empo2_trainer.__main__ import parser
    from empo2_trainer.losses import parse
    from empo2_trainer.process import _load, configure_logging, take_stdout
    from empo2_trainer.protocol import LoraSpec

    out = take_stdout()
    configure_logging()
    trainer, followers = _load(parser().parse_args(["serve", *flags]))
    trainer.create("bench", LoraSpec(rank=16, alpha=32.0, seed=1))
    rows, loss = make_rows(), parse("empo2", {"logprob_floor": -1e30})
    os.write(out, b"ready\n")
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), cpu_seconds(followers)
        metrics = trainer.run("bench", rows, loss, backward=True)["metrics"]
        seconds = time.perf_counter() - started
        cpu = cpu_seconds(followers) - cpu
        os.write(out, json.dumps([seconds, cpu, metrics["loss:sum"]]).encode() + b"\n")
        trainer.models["bench"].optimizer.pending = None
    os._exit(0)  # the other rank ends with this one


def cpu_seconds(followers: Any) -> float:
    """CPU time of this process and of the other ranks."""
    pids = followers.pids if followers is not None else []
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime, see proc(5)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def start(model: Path, root: Path, flags: list[str]) -> "subprocess.Popen[str]":
    """A child, ready."""
    common = ["--model", str(model), "--root", str(root), "--device", "cpu", "--formats", "peft"]
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", *common, *flags],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    if process.stdout.readline() != "ready\n":
        sys.exit(f"{' '.join(flags)}: it did not start")
    return process


def measure(
    trainers: dict[str, "subprocess.Popen[str]"], rounds: int
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """Seconds by the clock and of CPU of each round, and losses. The first round warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    losses: dict[str, float] = {}
    for i in range(rounds + 1):
        for name, process in trainers.items():
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            wall, cpu, losses[name] = json.loads(process.stdout.readline())
            if i:
                times[name].append((wall, cpu))
    return times, losses


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or Path(scratch) / "model"
        if not args.model:
            make_model(model)
        trainers = {
            name: start(model, Path(scratch) / str(i), flags)
            for i, (name, flags) in enumerate(KINDS.items())
        }
        times, losses = measure(trainers, args.rounds)
        for process in trainers.values():
            assert process.stdin
            process.stdin.close()
            process.wait(timeout=60)
    print(f"forward_backward, {ROWS} rows of {SHORTEST} to {LONGEST} tokens, rank 16, exact KL:")
    medians = {
        n: [statistics.median(v) for v in zip(*found, strict=True)] for n, found in times.items()
    }
    for name, (wall, cpu) in medians.items():
        ratios = f"throughput {medians[ONE][0] / wall:.2f}x, CPU time {cpu / medians[ONE][1]:.2f}x"
        print(f"  {name:24} {wall:6.2f} s, {cpu:6.2f} s CPU: {ratios}, loss {losses[name]:.4f}")


if __name__ == "__main__":
    main()
