"""Steps per second and memory of the ScienceWorld Python package.

BenchmarkSteps in envs/scienceworld measures the same task and the same actions.
Here each environment has its own process, because the package needs that. Run
it with a Python that has `scienceworld` installed:

    python -m venv VENV && VENV/bin/pip install scienceworld==1.2.3
    VENV/bin/python scripts/bench-scienceworld.py --envs 8 --steps 100
"""

import argparse
import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier

SCRIPT = [
    "teleport to kitchen", "look around", "open cupboard", "wait1", "teleport to greenhouse", "wait1",
    "teleport to hallway", "inventory", "teleport to outside", "wait1",
]  # fmt: skip


def resident_mib(pid: int) -> float:
    """Memory of a process and its children, in MiB (Linux)."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        kib = next((int(line.split()[1]) for line in file if line.startswith("VmRSS:")), 0)
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = [int(child) for child in file.read().split()]
    return kib / 1024 + sum(resident_mib(child) for child in children)


def work(steps: int, start: Barrier, results: "multiprocessing.Queue[tuple[float, float]]") -> None:
    """Warm up one environment, wait for the others, then take the steps."""
    from scienceworld import ScienceWorldEnv

    env = ScienceWorldEnv("")
    env.load("find-living-thing", 0, "easy")
    env.reset()
    for action in 20 * SCRIPT:
        env.step(action)
    start.wait()
    began = time.monotonic()
    for k in range(steps):
        env.step(SCRIPT[k % len(SCRIPT)])
    results.put((time.monotonic() - began, resident_mib(os.getpid())))
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100, help="of each environment")
    args = parser.parse_args()
    start = multiprocessing.Barrier(args.envs)
    results: multiprocessing.Queue[tuple[float, float]] = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=work, args=(args.steps, start, results)) for _ in range(args.envs)]
    for worker in workers:
        worker.start()
    measured = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(took for took, _ in measured)
    memory = sum(mib for _, mib in measured) / args.envs
    print(f"{args.envs} environments: {args.envs * args.steps / seconds:.1f} steps/s, {memory:.0f} MiB each")


if __name__ == "__main__":
    main()
