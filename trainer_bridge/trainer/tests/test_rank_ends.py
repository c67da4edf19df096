"""How several ranks end: none outlives another, and none hangs."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.test_process import DEADLINE, finish, start


def started(model_dir: Path, root: Path, *flags: str) -> tuple["subprocess.Popen[bytes]", int, int]:
    """A served trainer of two ranks, its port and the other rank's process id."""
    common = ("--model", str(model_dir), "--root", str(root), "--threads", "1", "--formats", "peft")
    child = start("serve", *common, "--device", "cpu", "--gpus", "2", *flags)
    assert child.stdout
    line = child.stdout.readline()
    if not line:
        assert child.stderr
        raise AssertionError(child.stderr.read().decode())
    ready = json.loads(line)
    (follower,) = ready["followers"]
    return child, ready["port"], follower


def ends(pid: int) -> bool:
    """Whether a process ends before the deadline."""
    return not _wait(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"  # nobody waits for an orphan's end here


def _wait(done: Any) -> bool:
    """Whether the deadline has passed."""
    late = threading.Event()
    timer = threading.Timer(DEADLINE, late.set)
    timer.start()
    while not late.is_set() and not done():
        late.wait(0.05)
    timer.cancel()
    return late.is_set()


def test_a_killed_follower_takes_rank_0_along(model_dir: Path, tmp_path: Path) -> None:
    """As if rank 0 had been killed, so that a lack of memory is noticed in either case."""
    child, _, follower = started(model_dir, tmp_path, "--parallel", "data")
    os.kill(follower, signal.SIGKILL)
    code, _, lines = finish(child)
    assert code == -signal.SIGKILL
    assert lines[-1]["event"] == "fatal"
    assert lines[-1]["error"] == f"rank 1 (process {follower}) was killed by SIGKILL"


def test_no_follower_outlives_rank_0(model_dir: Path, tmp_path: Path) -> None:
    child, _, follower = started(model_dir, tmp_path, "--parallel", "fsdp2")
    child.kill()
    assert ends(follower)
    finish(child)


def test_ranks_end_in_order_with_stdin(model_dir: Path, tmp_path: Path) -> None:
    child, _, follower = started(model_dir, tmp_path, "--parallel", "data")
    assert child.stdin
    child.stdin.close()
    assert child.wait(timeout=DEADLINE) == 0
    assert ends(follower)
    assert child.stderr
    lines = [json.loads(line) for line in child.stderr.read().splitlines()]
    assert [line for line in lines if line["event"] == "fatal"] == []
    assert any(line.get("rank") == 0 for line in lines)


def test_a_rank_that_hangs_does_not_hang_the_others(model_dir: Path, tmp_path: Path) -> None:
    child, port, follower = started(
        model_dir, tmp_path, "--parallel", "data", "--rank-timeout", "9"
    )
    os.kill(follower, signal.SIGSTOP)
    session = _post(port, "create_session", {})["session_id"]
    body = {"session_id": session, "model_seq_id": 0, "base_model": "", "lora_config": {"rank": 2}}
    _post(port, "create_model", body)
    code, _, lines = finish(child)
    assert code == 1
    assert "another rank has ended or did not answer before the deadline" in lines[-1]["error"]
    assert ends(follower)


def _post(port: int, path: str, body: Any) -> Any:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
    return json.load(connection.getresponse())


def test_what_stops_a_follower_at_start_is_told(model_dir: Path, tmp_path: Path) -> None:
    """Only rank 1 lacks torch."""
    lacks = "import sys\nif 'follow' in sys.orig_argv:\n    sys.modules['torch'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(lacks)
    flags = ("--model", str(model_dir), "--root", str(tmp_path / "run"), "--formats", "peft")
    child = start("serve", *flags, "--device", "cpu", "--gpus", "2", PYTHONPATH=str(tmp_path))
    code, out, lines = finish(child)
    assert (code, out) == (1, b"")
    assert (lines[-1]["event"], lines[-1]["rank"]) == ("fatal", 1)
    assert lines[-1]["error"].startswith("rank 1: import: ")
    assert "pip install" in lines[-1]["hint"]


@pytest.mark.parametrize("flag", ["--gpus=0", "--gpus=2000", "--parallel=ddp"])
def test_bad_rank_flags_are_refused(flag: str) -> None:
    assert start("serve", "--model", "m", "--root", "r", flag).wait(timeout=DEADLINE) == 2


def test_gpus_that_torch_does_not_find(model_dir: Path, tmp_path: Path) -> None:
    flags = ("--model", str(model_dir), "--root", str(tmp_path), "--gpus", "64")
    code, _, lines = finish(start("serve", *flags))
    assert code == 1
    assert "gpus is 64, and torch finds" in lines[-1]["error"]
