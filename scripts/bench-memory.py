"""Runs a command and prints the largest resident memory of it and its children, by program.

    python scripts/bench-memory.py empo2 run -c my.toml
"""

import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = {"empo2_trainer": "trainer", '"slots"': "llama-server", "scienceworld.jar": "java"}


def processes(parent: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [parent]
    for pid in found:
        found += children.get(pid, [])
    return found


def peaks(parent: int) -> dict[tuple[str, int], float]:
    """The peak of each process so far in GB, by program and process id."""
    out = {}
    for pid in processes(parent):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        names = [name for mark, name in PROGRAMS.items() if mark in command]
        name = "empo2" if pid == parent else names[0] if names else ""
        resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        if name and resident:
            out[name, pid] = int(resident[0]) / 1e6 * 1.024
    return out


def main() -> None:
    child = subprocess.Popen(sys.argv[1:])
    largest: dict[tuple[str, int], float] = {}
    while child.poll() is None:
        for key, size in peaks(child.pid).items():
            largest[key] = max(size, largest.get(key, 0))
        time.sleep(0.2)
    for name in ("empo2", "trainer", "llama-server", "java"):
        sizes = [size for (program, _), size in largest.items() if program == name]
        if sizes:
            print(f"{name:13} {max(sizes):6.2f} GB at most in one of {len(sizes)} processes")
    sys.exit(child.returncode)


if __name__ == "__main__":
    main()
