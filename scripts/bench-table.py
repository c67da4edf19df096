"""Prints the results of Go benchmarks as a table, with ratios, and writes them as JSON.

    go test -bench . ./... | python scripts/bench-table.py [--json FILE]

Reads lines of `go test -bench` from standard input; other lines go to standard error. A
name that ends with @RIVAL is the result of a rival in the same run: the table shows ours
divided by it, for each unit that both have. A rival that is a program prints such lines
itself.
"""

import argparse
import json
import re
import sys

LINE = re.compile(r"^Benchmark(\S+?)(?:-\d+)?\s+(\d+)\s+(.*)$")

QUIET = ("goos: ", "goarch: ", "cpu: ", "PASS", "ok ")


def parse(line: str) -> dict | None:
    """Returns a benchmark's name, number of operations and values by unit, or None for another line."""
    found = LINE.match(line)
    if not found:
        return None
    fields = found[3].split()
    if len(fields) < 2 or len(fields) % 2:
        return None
    values = {unit: float(value) for value, unit in zip(fields[::2], fields[1::2])}
    return {"name": found[1], "operations": int(found[2]), "values": values}


def ratios(results: list[dict]) -> list[dict]:
    """Returns ours divided by each rival's result of the same name and unit."""
    by_name = {r["name"]: r for r in results}
    out = []
    for r in results:
        name, _, rival = r["name"].partition("@")
        if not rival or name not in by_name:
            continue
        for unit, value in r["values"].items():
            ours = by_name[name]["values"].get(unit)
            if ours is not None and value:
                out.append({"name": name, "rival": rival, "unit": unit, "ours": ours, "theirs": value,
                            "ratio": ours / value})
    return out


def number(x: float) -> str:
    """Returns a number with four digits that mean something."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="the file for the results")
    args = parser.parse_args()
    results, package = [], ""
    for line in sys.stdin:
        result = parse(line)
        if result is None:
            if line.startswith("pkg: "):
                package = "/".join(line.split("/")[3:]).strip() + " "
            elif not line.startswith(QUIET):
                print(line, end="", file=sys.stderr)
            continue
        result["name"] = package + result["name"]
        results.append(result)
        print(result["name"], "", *(f"{number(v)} {u}" for u, v in result["values"].items()), sep="  ", flush=True)
    compared = ratios(results)
    if compared:
        print("\nours divided by the rival's, in this run")
    for c in compared:
        print(f"  {c['name']}  {number(c['ours'])} / {number(c['theirs'])} {c['unit']} ({c['rival']}) = "
              f"{number(c['ratio'])}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"results": results, "ratios": compared}, f, indent=1)
    if not results:
        sys.exit("no benchmark has printed a result")


if __name__ == "__main__":
    main()
