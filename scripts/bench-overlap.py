"""Compare a run that samples and trains in turn with one that does both at the same time.

Usage: bench-overlap.py EMPO2 [--houses 11,12] [--steps N] [--out FOLDER] [--set KEY=VALUE ...]

Each house is trained with rollout.max_staleness 0 and then 1, one run at a time, with one thread for the
server and one for the trainer. The second run then goes on until it has trained for as many seconds as the
first one. The table has the seconds of a step, the idle share of each side and the success of the evaluations.
With --out, the same command continues.
"""

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TURN, OVERLAPPED, SECONDS = "in turn", "overlapped", "overlapped, same seconds"
STALENESS = {TURN: 0, OVERLAPPED: 1, SECONDS: 1}  # rollout.max_staleness by arm


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("empo2")
    p.add_argument("--houses", default="11,12,13,14,15")
    p.add_argument("--steps", type=int, default=48)
    p.add_argument("--out", type=Path)
    p.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def train(args, out, house, staleness, *limits):
    """Train one run, or continue it, and return its folder."""
    name = f"house{house}-staleness{staleness}"
    sets = [
        f"run.dir={out}",
        f"run.name={name}",
        f"run.seed={house}",
        f"run.steps={args.steps}",
        f"env.vault.houses=[{house}]",
        "env.vault.doors=5",
        "eval.every=8",
        "sampler.llamacpp.threads=1",
        "trainer.threads=1",
        f"rollout.max_staleness={staleness}",
        *args.sets,
        *limits,
    ]
    command = [args.empo2, "run", "--profile", "demo", *(w for s in sets for w in ("--set", s))]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}")
    return out / name


def read(run, last=None):
    """The metrics of the steps and the evaluations of a run, up to a step."""
    db = sqlite3.connect(f"file:{run / 'run.db'}?mode=ro", uri=True)
    steps = [json.loads(m) for (m,) in db.execute("SELECT metrics FROM steps ORDER BY step")]
    evaluations = [json.loads(r) for (r,) in db.execute("SELECT result FROM evaluations ORDER BY step, kind")]
    db.close()
    last = last or len(steps)
    return steps[:last], [e for e in evaluations if e["kind"] == "eval" and e["step"] <= last]


def measure(steps, evaluations):
    """Means over the steps after the first one, whose sampling has nothing beside it."""
    n, steps = len(steps), steps[1:]
    total = sum(s["seconds"]["total"] for s in steps)
    sampling = sum(s.get("overlap", {}).get("sampling", s["seconds"]["sample"]) for s in steps)
    training = sum(s["seconds"]["train"] for s in steps)
    staleness = [s.get("overlap", {}).get("staleness", {"mean": 0, "max": 0, "dropped": 0}) for s in steps]
    return {
        "seconds_per_step": total / len(steps),
        "server_idle": 1 - sampling / total,
        "trainer_idle": 1 - training / total,
        "staleness_mean": statistics.fmean(s["mean"] for s in staleness),
        "staleness_max": max(s["max"] for s in staleness),
        "dropped": sum(s["dropped"] for s in staleness),
        "curve": {e["step"]: e["success"] for e in evaluations},
        "steps": n,
        "train_seconds": evaluations[-1]["train_seconds"],
    }


def table(results):
    print(
        "\n| arm | house | s/step | server idle | trainer idle | staleness mean, max | dropped | "
        "success % after steps |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for arm, of in results.items():
        for house, r in of.items():
            curve = " ".join(f"{step}:{100 * s:.0f}" for step, s in r["curve"].items())
            print(
                f"| {arm} | {house} | {r['seconds_per_step']:.2f} | {100 * r['server_idle']:.0f} % | "
                f"{100 * r['trainer_idle']:.0f} % | {r['staleness_mean']:.2f}, {r['staleness_max']} | "
                f"{r['dropped']} | {curve} |"
            )
    print("\n| arm, mean over houses | s/step | server idle | trainer idle | steps | seconds | success % at the end |")
    print("|---|---|---|---|---|---|---|")
    for arm, of in results.items():
        mean = {
            k: statistics.fmean(r[k] for r in of.values())
            for k in ("seconds_per_step", "server_idle", "trainer_idle", "steps", "train_seconds")
        }
        end = statistics.fmean(list(r["curve"].values())[-1] for r in of.values())
        print(
            f"| {arm} | {mean['seconds_per_step']:.2f} | {100 * mean['server_idle']:.0f} % | "
            f"{100 * mean['trainer_idle']:.0f} % | {mean['steps']:.1f} | {mean['train_seconds']:.0f} | "
            f"{100 * end:.1f} |"
        )
    ratios = [results[TURN][h]["seconds_per_step"] / results[OVERLAPPED][h]["seconds_per_step"] for h in results[TURN]]
    print(
        f"\nsteps per second, overlapped / in turn: {statistics.fmean(ratios):.2f}"
        f" (houses: {', '.join(f'{r:.2f}' for r in ratios)})"
    )


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        results = {arm: {} for arm in STALENESS}
        for house in args.houses.split(","):
            for arm, staleness in STALENESS.items():
                print(f"house {house}, {arm}", file=sys.stderr, flush=True)
                limits = []
                if arm == SECONDS:
                    seconds = results[TURN][house]["train_seconds"]
                    limits = [f"run.steps={20 * args.steps}", f"run.max_seconds={seconds}"]
                run = train(args, out, house, staleness, *limits)
                results[arm][house] = measure(*read(run, None if arm == SECONDS else args.steps))
    if args.json:
        print(json.dumps(results))
    else:
        table(results)


if __name__ == "__main__":
    main()
