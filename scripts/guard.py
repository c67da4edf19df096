"""Compare the plans, token ids, tips and evaluations of two folders of runs.

Log-probs, times and adapter files may differ between two runs with the same
seed. Everything else must be equal.
"""

import json
import sqlite3
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path


def unpack(packed: bytes) -> list[list[int]]:
    """Return the token ids of each turn (sampler/rollout/pack.go)."""
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = packed[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    assert number() == 1, "another format of the numbers"
    turns = []
    for _ in range(number()):
        turns.append([number() for _ in range(max(0, number() - 1))])
        number()  # of log-probs
    return turns


def facts(path: Path) -> Iterator[tuple[str, object]]:
    """Yield (name, value) for everything in a run's database that must be equal."""
    db = sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True)
    for step, text in db.execute("SELECT step, plan FROM plans ORDER BY step"):
        plan = json.loads(text)
        for g, group in enumerate(plan["groups"]):
            drawn = [(e["mode"], e["seed"]) for e in group["episodes"]]
            yield f"step {step} group {g}: plan", [group["task"]["id"], drawn]
    episodes = "SELECT * FROM episodes ORDER BY step, grp, episode"
    db.row_factory = sqlite3.Row
    for row in db.execute(episodes):
        name = f"step {row['step']} group {row['grp']} episode {row['episode']}"
        text, packed = row["trajectory"], "tokens" in row.keys() and row["tokens"]
        trajectory = json.loads(text if isinstance(text, str) else zlib.decompress(text, -15))
        turns = trajectory["turns"] or []
        ids = unpack(zlib.decompress(packed, -15)) if packed else [turn["ids"] for turn in turns]
        yield f"{name}: outcome", [row["mode"], row["stop"], row["score"]]
        yield f"{name}: token ids", ids
        yield f"{name}: tips shown", [[tip["text"] for tip in turn.get("tips", [])] for turn in turns]
        yield f"{name}: tip written", trajectory["tip"]
    for step, kind, text in db.execute("SELECT step, kind, result FROM evaluations ORDER BY 1, 2"):
        result = json.loads(text)
        yield f"evaluation {kind} after step {step}", [result["episodes"], result["success"], result["score"]]


def compare(before: Path, after: Path) -> int:
    """Print the first differences of one run and return how many facts differ."""
    old, new = dict(facts(before)), dict(facts(after))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    first = f", the first: {differing[0]}" if differing else ""
    print(f"{before.parent.name}: {len(old)} facts, {len(differing)} differ{first}")
    for name in differing[:3]:
        print(f"  {name}\n    before: {old.get(name)}\n    after:  {new.get(name)}")
    return len(differing)


def main() -> int:
    before, after = (Path(arg) for arg in sys.argv[1:3])
    runs = sorted(path.relative_to(before) for path in before.glob("**/run.db"))
    missing = [str(run) for run in runs if not (after / run).exists()]
    if not runs or missing:
        print(f"error: {before} has {len(runs)} runs; {after} lacks {missing}")
        return 1
    return 1 if sum([compare(before / run, after / run) for run in runs]) else 0


if __name__ == "__main__":
    sys.exit(main())
