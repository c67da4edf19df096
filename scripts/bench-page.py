"""Measures the CPU time of the live page beside a run, in one run.

Usage: bench-page.py EMPO2 [ARGUMENT of empo2 run …]. It trains the demonstration (12 steps).
Beside it, three processes of empo2 view serve the run: one to a client that asks as a tab with the
view Now does, one to a client like a tab with the view Episodes, and one to nobody. The CPU time
of the run includes its server and its trainer.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path


class Page:
    """A process of empo2 view, with a client that keeps its answers as a browser does."""

    def __init__(self, empo2: str, run: Path) -> None:
        self.process = subprocess.Popen(
            [empo2, "view", str(run)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.address = next(word for word in line.split() if word.startswith("http://")).rstrip("/")
        self.connection = http.client.HTTPConnection(self.address.removeprefix("http://"))
        self.base = f"/api/runs/{run.name}/"
        self.tags: dict[str, str] = {}
        self.events = self.answers = 0

    def ask(self, path: str) -> bytes:
        """Asks for an answer; empty: it is the one before."""
        self.connection.request("GET", path, headers={"If-None-Match": self.tags.get(path, "")})
        self.answers += 1
        answer = self.connection.getresponse()
        body = answer.read()
        assert answer.status in (200, 304), (path, answer.status, body)
        self.tags[path] = answer.headers.get("ETag", "")
        return body

    def follow(self, view: str, name: str) -> None:
        """Asks at each event of the run, as app.js and the view do, until the page ends."""
        seen: dict[str, object] = {}
        try:
            events = f"{self.address}/api/events?run={name}"
            with urllib.request.urlopen(events, timeout=600) as stream:
                for line in stream:
                    if line.startswith(b"data: "):
                        self.events += 1
                        self.change(view, json.loads(line[6:]), seen)
        except (OSError, http.client.HTTPException):
            pass

    def change(self, view: str, event: dict[str, object], seen: dict[str, object]) -> None:
        """Asks for what an event may have changed."""

        def new(what: str, value: object) -> bool:
            before, seen[what] = seen.get(what), value
            return value != before

        if new("commits", (event["live"], event["steps"], event["version"])):
            self.ask("/api/runs")
        stored = (event["steps"], event["episodes"], event["untrained"])
        if view == "episodes" and new("stored", stored):
            self.ask(self.base + "episodes?kind=training&limit=100")
        if view == "now" and (now := self.ask(self.base + "now")):
            answer = json.loads(now)
            if new("news", (answer["news"], answer["live"])):
                self.ask(self.base + "series")

    def end(self) -> float:
        """Ends the process and returns its CPU time."""
        self.process.terminate()
        return cpu(self.process.pid)


def cpu(pid: int) -> float:
    """Waits for a process and returns its CPU time, with that of its own children."""
    _, _, usage = os.wait4(pid, 0)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    empo2, arguments = sys.argv[1], sys.argv[2:]
    views = ["now", "episodes", ""]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "vault"
        settings = ["--profile", "demo", "--set", f"run.dir={folder}", "--set", "run.steps=12"]
        training = subprocess.Popen([empo2, "run", *settings, *arguments], stdout=sys.stderr)
        while not (run / "run.db-wal").exists():
            assert training.poll() is None, "the run has ended early"
            time.sleep(0.1)
        began = time.monotonic()
        pages = [Page(empo2, run) for _ in views]
        for page, view in zip(pages, views, strict=True):
            if view:
                threading.Thread(target=page.follow, args=(view, run.name), daemon=True).start()
        run_cpu = cpu(training.pid)
        took = time.monotonic() - began
        time.sleep(1)
        used = [page.end() for page in pages]
    print(f"the run: {run_cpu:.2f} s of CPU in {took:.0f} s")
    for page, view, spent in zip(pages, views, used, strict=True):
        reader = f"a tab with the view {view.title()}" if view else "no reader"
        print(
            f"the page with {reader}: {spent:.2f} s of CPU "
            f"({page.events} events, {page.answers} answers), "
            f"{100 * spent / run_cpu:.2f} % of the run's, {100 * spent / took:.2f} % of a core"
        )


if __name__ == "__main__":
    main()
