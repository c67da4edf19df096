"""The process seen from outside: ready line, its end, and errors at start."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from empo2_trainer.process import check_token

PACKAGE_ROOT = Path(__file__).parent.parent
DEADLINE = 120  # seconds; only a hang takes that long


def start(*args: str, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "empo2_trainer", *args],
        cwd=PACKAGE_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **env},
    )


def finish(child: subprocess.Popen[bytes]) -> tuple[int, bytes, list[Any]]:
    """Exit code, rest of stdout, and stderr's JSON lines."""
    assert child.stdin
    assert child.stdout
    assert child.stderr
    code = child.wait(timeout=DEADLINE)
    out, err = child.stdout.read(), child.stderr.read()
    child.stdin.close()
    return code, out, [json.loads(line) for line in err.splitlines()]


def test_a_served_process_ends_with_its_stdin(model_dir: Path, tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / "v000001-0a1b2c3d"  # of a run that was killed long ago
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    flags = ("--model", str(model_dir), "--root", str(tmp_path), "--threads", "1")
    child = start("serve", *flags, EMPO2_TRAINER_TOKEN="secret")
    assert child.stdin
    assert child.stdout
    ready = json.loads(child.stdout.readline())
    assert ready | {"port": 0} == {
        "event": "ready",
        "port": 0,
        "pid": child.pid,
        "model": str(model_dir),
        "vocab_size": 300,
    }
    url = f"http://127.0.0.1:{ready['port']}/api/v1/"
    with urllib.request.urlopen(f"{url}healthz", timeout=DEADLINE) as r:
        assert r.status == 200
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}create_session", b"{}", headers)
    with urllib.request.urlopen(request, timeout=DEADLINE) as r:
        assert json.load(r)["session_id"]
    child.stdin.close()
    code = child.wait(timeout=DEADLINE)
    assert child.stderr
    lines = [json.loads(line) for line in child.stderr.read().splitlines()]
    assert (code, child.stdout.read()) == (0, b"")
    assert all(line["event"] == "log" for line in lines)
    assert not left.exists()


def test_requests_that_wait_at_the_end_are_no_errors(model_dir: Path, tmp_path: Path) -> None:
    """A result that never comes is waited for; the end of the process cuts the request off."""
    flags = ("--model", str(model_dir), "--root", str(tmp_path), "--gap-wait", str(10 * DEADLINE))
    child = start("serve", *flags, EMPO2_TRAINER_TOKEN="secret")
    assert child.stdout
    assert child.stdin
    port = json.loads(child.stdout.readline())["port"]

    def post(path: str, body: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
        connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
        return connection

    def answer(connection: http.client.HTTPConnection) -> Any:
        return json.load(connection.getresponse())

    session = answer(post("create_session", {}))["session_id"]
    body = {"session_id": session, "model_seq_id": 0, "base_model": "tiny"}
    model = answer(post("create_model", {**body, "lora_config": {"rank": 4}}))
    answer(post("retrieve_future", {"request_id": model["request_id"]}))
    gap = answer(post("optim_step", {"model_id": model["model_id"], "seq_id": 2}))
    waiting = post("retrieve_future", {"request_id": gap["request_id"]})
    answer(post("create_session", {}))  # the request before it has begun
    child.stdin.close()
    assert child.wait(timeout=DEADLINE) == 0
    assert child.stderr
    logged = [json.loads(line) for line in child.stderr.read().splitlines()]
    assert [line for line in logged if line["level"] in ("error", "critical")] == []
    waiting.close()


def test_sigterm_while_loading_ends_quietly(model_dir: Path, tmp_path: Path) -> None:
    child = start("serve", "--model", str(model_dir), "--root", str(tmp_path / "run"))
    while not (tmp_path / "run" / "adapters").exists():
        assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert finish(child)[:2] == (0, b"")


NO_TENSORS = "\b" + 7 * "\0" + "{}      "  # a safetensors file: a length of 8, then the header


def directory(path: Path, **files: str) -> str:
    path.mkdir()
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return str(path)


def refusals(tmp: Path) -> list[tuple[list[str], str, str]]:
    gpt2 = {"config_json": '{"model_type": "gpt2"}', "model_safetensors": NO_TENSORS}
    return [
        (["--model", str(tmp / "none")], "no such directory", "local directory"),
        (["--model", directory(tmp / "a")], "no config.json", "Hugging Face"),
        (["--model", directory(tmp / "b", config_json="{}")], "no model.safetensors", "download"),
        (["--model", directory(tmp / "c", config_json="{")], "config.json:", "repair"),
        (["--model", directory(tmp / "d", **gpt2)], "no GGUF conversion", '"vllm" or "sglang"'),
    ]


def test_a_failed_start_gives_the_reason(tmp_path: Path) -> None:
    for flags, error, hint in refusals(tmp_path):
        child = start("serve", "--root", str(tmp_path / "run"), *flags)
        code, out, lines = finish(child)
        assert (code, out) == (1, b"")
        assert lines[-1]["event"] == "fatal"
        assert error in lines[-1]["error"]
        assert hint in lines[-1]["hint"]


def test_a_taken_port_and_a_bad_root_are_named(model_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--model", str(model_dir), "--root", str(tmp_path), "--port", port)
        code, _, lines = finish(start("serve", *flags))
    assert code == 1
    assert "already in use" in lines[-1]["error"]
    assert "--port" in lines[-1]["hint"]
    (tmp_path / "file").write_text("")
    child = start("serve", "--model", str(model_dir), "--root", str(tmp_path / "file"))
    code, _, lines = finish(child)
    assert code == 1
    assert "adapters" in lines[-1]["error"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_token_is_only_for_this_machine(host: str) -> None:
    flags = ("--model", "none", "--root", "none", "--host", host)
    code, out, lines = finish(start("serve", *flags, EMPO2_TRAINER_TOKEN=""))
    assert (code, out) == (1, b"")
    assert "without a token" in lines[-1]["error"]
    assert "EMPO2_TRAINER_TOKEN" in lines[-1]["hint"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_no_token(host: str) -> None:
    check_token(host, "")
    check_token("0.0.0.0", "secret")


def test_a_missing_package_is_named(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    broken = "raise ImportError('libcudart.so is missing')"
    (tmp_path / "torch" / "__init__.py").write_text(broken)
    flags = ("--model", str(model_dir), "--root", str(tmp_path / "run"))
    code, _, lines = finish(start("serve", *flags, PYTHONPATH=str(tmp_path)))
    assert code == 1
    assert "libcudart" in lines[-1]["error"]
    assert "pip install" in lines[-1]["hint"]


def test_gguf_from_the_command_line(model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "base.gguf"
    code, _, lines = finish(start("gguf", "--model", str(model_dir), "--out", str(out)))
    assert (code, lines) == (0, [])
    assert out.read_bytes()[:4] == b"GGUF"
    code, _, lines = finish(start("gguf", "--model", str(tmp_path), "--out", str(out)))
    assert (code, lines[-1]["event"]) == (1, "fatal")


@pytest.mark.parametrize(
    "flag", ["--formats=onnx", "--dtype=int8", "--quantize=int3", "--micro-batch-tokens=-1"]
)
def test_bad_flags_are_refused(flag: str) -> None:
    code = start("serve", "--model", "m", "--root", "r", flag).wait(timeout=DEADLINE)
    assert code == 2


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio switches Nagle's algorithm off where the listener says that it is TCP."""
    import asyncio

    from empo2_trainer.process import _listen

    async def nodelay() -> int:
        seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            seen.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _listen("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(accepted, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            value = await seen
            writer.close()
            server.close()
        return value

    assert asyncio.run(nodelay()) != 0
