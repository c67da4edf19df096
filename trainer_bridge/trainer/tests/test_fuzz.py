"""Random requests: whatever a client sends, the trainer answers and stays alive.

A seeded program changes valid requests of every endpoint: values of other types and sizes, fields
that are missing or new, texts that are no JSON. No answer may be a server error or hold a
traceback, and afterwards the trainer must train as before. EMPO2_FUZZ_REQUESTS sets their number.
"""

import copy
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from empo2_trainer.futures import Futures
from empo2_trainer.server import Api
from tests.conftest import make_trainer, wire_batch

TOKEN = "tml-secret"
REQUESTS = int(os.environ.get("EMPO2_FUZZ_REQUESTS", "200"))
LOSSES = ["cross_entropy", "ppo", "importance_sampling", "empo2"]
SCALARS: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    -(2**63),
    10**40,
    0.5,
    1e308,
    -1e-320,
    "",
    "x",
    "1",
    "NaN",
    "../up",
    "/etc/passwd",
    "a\x00b",
    "\ud800",
    "é🙂" * 40,
    "y" * 5000,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
]
RAW = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe",
    b'{"a": \xc3\x28}',
    b"[" * 20000,
    b'{"model_id": "m", "seq_id": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"model_id": NaN}',
    b'{"text": "\\ud800"}',
]


class Fuzzer:
    """Sends changed requests to one trainer."""

    def __init__(self, http: TestClient, rng: random.Random) -> None:
        self.http, self.rng = http, rng
        self.headers = {"X-API-Key": TOKEN}
        self.statuses: Counter[int] = Counter()
        self.seq = 0
        self.session = self.post("create_session", {})["session_id"]
        self.models = 0
        self.model = ""

    def post(self, path: str, body: Any) -> Any:
        return self.http.post(f"/api/v1/{path}", json=body, headers=self.headers).json()

    def create(self) -> None:
        """Open a fresh model in place of the last: that may wait for a seq_id that never comes."""
        if self.model:
            self.post("unload_model", {"model_id": self.model})
        self.models, self.seq = self.models + 1, 0
        body = {"session_id": self.session, "model_seq_id": self.models, "base_model": ""}
        ack = self.post("create_model", body | {"lora_config": {"rank": 2}})
        self.model = ack["model_id"]
        assert self.result(ack["request_id"])["type"] == "create_model"

    def result(self, request_id: str) -> Any:
        while True:
            r = self.post("retrieve_future", {"request_id": request_id})
            if r.get("type") != "try_again":
                return r

    def valid(self) -> tuple[str, dict[str, Any]]:
        """A request that the trainer would accept."""
        rng = self.rng
        order = {"model_id": self.model, "seq_id": self.seq + 1}
        batch = wire_batch(rng.randrange(9), rng.choice(LOSSES))
        batch["data"] = batch["data"][: rng.randrange(1, 3)]
        name = rng.choice(["a", "b"])
        options: list[tuple[str, dict[str, Any]]] = [
            ("forward", order | {"forward_input": batch}),
            ("forward_backward", order | {"forward_backward_input": batch}),
            ("optim_step", order | {"adam_params": {"learning_rate": 1e-3, "beta1": 0.9}}),
            ("save_weights", order | {"path": name, "overwrite": True}),
            ("load_weights", order | {"path": f"tinker://{self.model}/weights/{name}"}),
            ("save_weights_for_sampler", order | {"path": name, "overwrite": True}),
            ("get_info", {"model_id": self.model}),
            ("unload_model", {"model_id": "none"}),
            ("session_heartbeat", {"session_id": self.session}),
            ("create_session", {"sdk_version": "0.24.1"}),
            ("retrieve_future", {"request_id": "none"}),
            ("client/config", {"sdk_version": "0.24.1"}),
            ("telemetry", {"events": []}),
            (
                "create_model",
                {
                    "session_id": "none",
                    "model_seq_id": 7,
                    "base_model": "",
                    "lora_config": {"rank": 2, "alpha": 4.0, "target_modules": "attention"},
                },
            ),
            ("tokenize", {"text": "it's one", "special": True}),
            ("detokenize", {"tokens": [1, 2, 3]}),
            ("control_token", {"text": "<|im_end|>"}),
            ("render", {"messages": [{"role": "user", "content": "go"}], "generation": True}),
        ]
        return rng.choice(options)

    def changed(self, value: Any) -> Any:
        """The value with one or two random changes."""
        root = {"": copy.deepcopy(value)}
        for _ in range(self.rng.randrange(1, 3)):
            places = list(_places(root))
            container, key = self.rng.choice(places)
            self._change(container, key)
        return root[""]

    def _change(self, container: Any, key: Any) -> None:
        match self.rng.randrange(8):
            case 0 if key != "":
                del container[key]
            case 1 if isinstance(container, list):
                container.insert(0, self.rng.choice(SCALARS))
            case 2 if isinstance(container, dict) and key != "":
                container["extra"] = container[key]
            case 3 if isinstance(container[key], list):
                container[key] = container[key] * 3
            case _:
                container[key] = copy.deepcopy(self.rng.choice(SCALARS))

    def once(self) -> None:
        """Send one request and its result's, and check both answers."""
        path, body = self.valid()
        if self.rng.random() < 0.1:
            content = self.rng.choice(RAW)
        else:
            # Python writes a lone surrogate as an escape, as other clients may.
            content = json.dumps(self.changed(body)).encode()
            if self.rng.random() < 0.1:
                content = content[: self.rng.randrange(len(content))]
        r = self.http.post(f"/api/v1/{path}", content=content, headers=self.headers)
        self.statuses[r.status_code] += 1
        shown = f"{path} {content[:300]!r}: {r.status_code} {r.text[:300]}"
        assert r.status_code < 500, shown
        assert "Traceback" not in r.text, shown
        answer = r.json()
        if r.status_code == 200 and "request_id" in answer and answer.get("type") != "try_again":
            result = self.result(answer["request_id"])
            assert result.get("category") in (None, "user"), f"{shown}, then {result}"
            assert "Traceback" not in str(result), shown
            if "seq_id" in body:
                self.create()


def _places(root: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value in its container, at most the first few of a list."""
    items = root.items() if isinstance(root, dict) else enumerate(root[:4])
    for key, value in list(items):
        yield root, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


@pytest.fixture(scope="module")
def fuzzer(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    trainer = make_trainer(model_dir, tmp_path_factory.mktemp("fuzzed"), "unused")
    with ThreadPoolExecutor(1) as executor:
        api = Api(trainer, Futures(executor, gap_wait=0.01), TOKEN, poll=5.0)
        with TestClient(api.app(), raise_server_exceptions=False) as http:
            yield Fuzzer(http, random.Random(20260))


def _trains(f: Fuzzer) -> float:
    """The loss of a fixed batch with a fresh adapter, and an optimizer step."""
    f.create()
    batch = {"forward_backward_input": wire_batch(1, "cross_entropy")}
    asked = f.post("forward_backward", {"model_id": f.model, "seq_id": 1, **batch})
    out = f.result(asked["request_id"])
    asked = f.post("optim_step", {"model_id": f.model, "seq_id": 2, "adam_params": {}})
    step = f.result(asked["request_id"])
    assert step["metrics"]["grad_norm:mean"] > 0, step
    return float(out["metrics"]["loss:sum"])


def test_random_requests_do_no_harm(fuzzer: Fuzzer) -> None:
    before = _trains(fuzzer)
    fuzzer.create()
    for _ in range(REQUESTS):
        fuzzer.once()
    assert fuzzer.http.get("/api/v1/healthz").json() == {"status": "ok"}
    assert _trains(fuzzer) == pytest.approx(before, rel=1e-6)
    assert {200, 400} <= set(fuzzer.statuses), fuzzer.statuses
    print(f"{REQUESTS} random requests, by status: {dict(fuzzer.statuses)}")
