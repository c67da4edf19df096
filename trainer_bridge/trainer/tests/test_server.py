"""The protocol over HTTP: order, repeated requests, errors, authentication."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from empo2_trainer.futures import Futures
from empo2_trainer.server import Api
from empo2_trainer.sessions import SILENT_TICKS
from tests.conftest import computed, make_trainer, wire_batch

TOKEN = "tml-secret"


class Client:
    """A client of a server in this process."""

    def __init__(self, http: TestClient) -> None:
        self.http = http
        self.headers = {"X-API-Key": TOKEN}
        self.model = ""

    def post(self, path: str, body: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        kwargs.setdefault("headers", self.headers)
        return self.http.post(f"/api/v1/{path}", json=body or {}, **kwargs)

    def ask(self, op: str, seq_id: int, **fields: Any) -> str:
        r = self.post(op, {"model_id": self.model, "seq_id": seq_id, **fields})
        assert r.status_code == 200, r.text
        return str(r.json()["request_id"])

    def result(self, request_id: str) -> Any:
        r = self.post("retrieve_future", {"request_id": request_id})
        assert r.status_code == 200, r.text
        return r.json()

    def create(self, **lora: Any) -> Any:
        session = self.post("create_session", {"sdk_version": "0.24.1"}).json()["session_id"]
        body = {"session_id": session, "model_seq_id": 0, "base_model": "tiny"}
        ack = self.post("create_model", {**body, "lora_config": {"rank": 4, **lora}}).json()
        self.model = ack["model_id"]
        return self.result(ack["request_id"])


@pytest.fixture(scope="module")
def served(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    trainer = make_trainer(model_dir, tmp_path_factory.mktemp("served"), "unused")
    with ThreadPoolExecutor(1) as executor:
        futures = Futures(executor, gap_wait=0.05)
        with TestClient(Api(trainer, futures, TOKEN, poll=30.0).app()) as http:
            yield http, trainer, futures, executor


@pytest.fixture
def client(served: Any) -> Client:
    c = Client(served[0])
    assert c.create()["type"] == "create_model"
    return c


def test_a_session_from_start_to_export(client: Client) -> None:
    assert (
        client.post("client/config", {"sdk_version": "0.24.1"}).json()["proto_write_fwdbwd"]
        is False
    )
    assert client.http.get("/api/v1/healthz").json() == {"status": "ok"}
    models = client.http.get("/api/v1/get_server_capabilities", headers=client.headers).json()
    assert models["supported_models"][0]["max_context_length"] == 256
    info = client.post("get_info", {"model_id": client.model}).json()
    assert (info["is_lora"], info["lora_rank"]) == (True, 4)
    out = client.result(client.ask("forward", 1, forward_input=wire_batch(1, "cross_entropy")))
    assert [len(o["logprobs"]["data"]) for o in out["loss_fn_outputs"]] == [5, 17, 9, 30, 2]
    batch = wire_batch(1)
    out = client.result(client.ask("forward_backward", 2, forward_backward_input=batch))
    assert "loss:sum" in out["metrics"]
    assert "metrics" in client.result(client.ask("optim_step", 3, adam_params={}))
    saved = client.result(client.ask("save_weights", 4, path="session-1"))
    assert saved["path"] == f"tinker://{client.model}/weights/session-1"
    published = client.result(client.ask("save_weights_for_sampler", 5, path="v000001"))
    names = sorted(p.name for p in Path(published["dir"]).iterdir())
    assert names == [
        "adapter.gguf",
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    loaded = client.result(client.ask("load_weights", 6, path=saved["path"], optimizer=True))
    assert loaded["model_id"] == client.model
    assert client.post("telemetry", {"events": []}).json() == {"status": "accepted"}
    unload = client.post("unload_model", {"model_id": client.model}).json()
    assert client.result(unload["request_id"])["type"] == "unload_model"
    assert client.post("get_info", {"model_id": client.model}).status_code == 404


def test_models_without_heartbeats_are_unloaded(model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_dir, tmp_path, "unused")
    with ThreadPoolExecutor(1) as executor:
        api = Api(trainer, Futures(executor, gap_wait=0.05), TOKEN, poll=30.0)
        with TestClient(api.app()) as http:
            killed, alive = Client(http), Client(http)
            killed.create()
            alive.create()
            session = {"session_id": alive.model.split(":")[0]}
            for _ in range(SILENT_TICKS + 1):
                assert alive.post("session_heartbeat", session).status_code == 200
                assert http.portal
                http.portal.call(api.free_silent)
            assert "metrics" not in alive.result(alive.ask("optim_step", 1))  # after the unload
            assert set(trainer.models) == {alive.model, "unused"}
            session = {"session_id": killed.model.split(":")[0]}
            assert killed.post("session_heartbeat", session).status_code == 410
            assert alive.post("get_info", {"model_id": alive.model}).status_code == 200


def test_requests_run_in_order_of_seq_id(client: Client, served: Any) -> None:
    hold = threading.Event()
    served[3].submit(hold.wait)
    batch = {"forward_backward_input": wire_batch(2)}
    third = client.ask("optim_step", 3)
    second = client.ask("forward_backward", 2, **batch)
    first = client.ask("forward_backward", 1, **batch)
    hold.set()
    assert "metrics" in client.result(third)
    one, two = client.result(first), client.result(second)
    assert one["loss_fn_outputs"] == two["loss_fn_outputs"]
    assert computed(one["metrics"]) == computed(two["metrics"])


def test_a_replay_gets_the_same_answer_and_runs_once(client: Client) -> None:
    batch = {"forward_backward_input": wire_batch(3)}
    ids = {client.ask("forward_backward", 1, **batch) for _ in range(3)}
    step = {client.ask("optim_step", 2) for _ in range(3)}
    assert len(ids) == len(step) == 1
    assert client.result(step.pop()) == client.result(client.ask("optim_step", 2))
    r = client.post("optim_step", {"model_id": client.model, "seq_id": 1})
    assert r.status_code == 409
    assert r.headers["x-should-retry"] == "false"
    assert "used before" in r.json()["detail"]


def test_create_model_is_idempotent(client: Client) -> None:
    session = client.model.split(":")[0]
    body = {"session_id": session, "model_seq_id": 1, "base_model": "tiny"}
    again = [client.post("create_model", body).json() for _ in range(2)]
    assert again[0] == again[1]
    other = {**body, "lora_config": {"rank": 2}}
    assert client.post("create_model", other).status_code == 409


def test_a_missing_number_is_waited_for_and_then_skipped(client: Client) -> None:
    assert "error" in client.result(client.ask("optim_step", 4))
    r = client.post("optim_step", {"model_id": client.model, "seq_id": 2})
    assert r.status_code == 409
    assert "too late" in r.json()["detail"]


def test_a_restored_client_starts_where_it_was(client: Client, served: Any) -> None:
    served[1].save(client.model, "000041", overwrite=True)
    path = "tinker://another:train:0/weights/000041"
    request = client.ask("load_weights", 4100, path=path, optimizer=True)
    assert client.result(request)["path"] == path
    assert "loss_fn_outputs" in client.result(
        client.ask("forward", 4101, forward_input=wire_batch(1, "cross_entropy"))
    )


def test_a_result_that_is_not_ready_is_asked_for_again(client: Client, served: Any) -> None:
    hold = threading.Event()
    served[3].submit(hold.wait)
    trainer, futures = served[1], served[2]
    with TestClient(Api(trainer, futures, TOKEN, poll=0.01).app()) as impatient:
        request = client.ask("optim_step", 1)
        r = impatient.post(
            "/api/v1/retrieve_future", json={"request_id": request}, headers=client.headers
        )
        trainer.policy.passed = (3, 8)
        r2 = impatient.post(
            "/api/v1/retrieve_future", json={"request_id": request}, headers=client.headers
        )
        trainer.policy.passed = (0, 0)
    again = {"type": "try_again", "request_id": request, "queue_state": "active"}
    assert r.json() == again
    assert r2.json() == again | {"rows": [3, 8]}
    hold.set()
    assert client.result(request)["category"] == "user"


def broken(**change: Any) -> dict[str, Any]:
    batch = wire_batch(1)
    datum = batch["data"][1]
    for name, value in change.items():
        if name == "tokens":
            datum["model_input"]["chunks"] = [{"tokens": value}]
        elif value is None:
            del datum["loss_fn_inputs"][name]
        else:
            datum["loss_fn_inputs"][name] = value
    return batch


LONG = {"data": [1.0] * 300}
BAD_BATCHES: list[tuple[dict[str, Any], str]] = [
    (broken(logprobs=None), "datum 1: loss_fn empo2 needs loss_fn_inputs logprobs"),
    (broken(reward={"data": []}), "does not read reward: it reads target_tokens, logprobs"),
    (broken(loss_mask={"data": [1.0]}), "loss_mask has 1 values for 17 input tokens"),
    (broken(loss_mask={"data": [1e39] * 17}), "loss_mask has a value that is not finite"),
    (broken(loss_mask={"data": [1] * 17, "dtype": "float8"}), "dtype 'float8'"),
    (broken(loss_mask={"data": [1] * 17, "shape": [17, 1]}), "shape [17, 1]"),
    (broken(loss_mask={"data": [1] * 17, "sparse_crow_indices": [0]}), "sparse"),
    (broken(target_tokens={"data": [1.5] * 17}), "must be integers"),
    (broken(target_tokens={"data": [300] * 17}), "id 300 outside the vocabulary of 300"),
    (broken(tokens=[5] * 16 + [-1]), "model_input has id -1 outside"),
    (broken(tokens=[]), "no tokens"),
    (
        broken(tokens=[1] * 300, loss_mask=LONG),
        "300 tokens are more than the model's context of 256",
    ),
    ({**wire_batch(1), "data": []}, "data is empty"),
    ({**wire_batch(1), "loss_fn": "grpo"}, "unknown loss_fn 'grpo'"),
    ({**wire_batch(1), "loss_fn_config": {"eps": 1.0}}, "has no key 'eps'"),
    ({"data": 5, "loss_fn": "ppo"}, "Expected `array`, got `int`"),
]


@pytest.mark.parametrize(("batch", "message"), BAD_BATCHES, ids=[m for _, m in BAD_BATCHES])
def test_bad_data_fails_as_a_future(client: Client, batch: dict[str, Any], message: str) -> None:
    out = client.result(client.ask("forward_backward", 1, forward_backward_input=batch))
    assert out["category"] == "user"
    assert message in out["error"]
    assert "metrics" not in client.result(client.ask("optim_step", 2))  # no gradient, no gap


@pytest.mark.parametrize("bad", ["invalid", "not finite"])
def test_a_step_without_a_part_of_its_gradient_is_refused(client: Client, bad: str) -> None:
    good, part = wire_batch(1), wire_batch(2)
    if bad == "invalid":
        part["loss_fn"] = "grpo"
    else:
        inputs = part["data"][0]["loss_fn_inputs"]
        inputs["logprobs"]["data"] = [-1e4] * len(inputs["logprobs"]["data"])
    batches = [good, part, good]
    asked = [
        client.ask("forward_backward", 1 + i, forward_backward_input=b)
        for i, b in enumerate(batches)
    ]
    asked.append(client.ask("optim_step", 4))
    first, refused, last, step = [client.result(r) for r in asked]
    assert "metrics" in first
    assert "metrics" in last
    assert refused["category"] == "user"
    assert "optim_step after a forward_backward that failed" in step["error"]
    # The refusal cleared the gradient: the next step is that of its own gradient.
    again = [
        client.ask("forward_backward", 5, forward_backward_input=good),
        client.ask("optim_step", 6),
    ]
    metrics = [client.result(r)["metrics"] for r in again]
    client.create()
    alone = [
        client.ask("forward_backward", 1, forward_backward_input=good),
        client.ask("optim_step", 2),
    ]
    expected = [client.result(r)["metrics"] for r in alone]
    assert metrics[1]["grad_norm:mean"] == pytest.approx(expected[1]["grad_norm:mean"], rel=1e-4)


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("optim_step", {"adam_params": {"beta1": 1.0}}, "beta1"),
        ("optim_step", {"adam_params": {"learning_rate": -1}}, "learning_rate"),
        ("save_weights", {"path": "../x"}, "letters, digits"),
        ("save_weights_for_sampler", {"sampling_session_seq_id": 0}, "path is missing"),
        ("load_weights", {"path": "tinker://a/weights/absent"}, "absent is not in"),
        ("load_weights", {"path": "tinker://a/sampler_weights/x"}, "must be tinker://"),
    ],
)
def test_bad_operations_fail_as_a_future(
    client: Client, path: str, fields: dict[str, Any], message: str
) -> None:
    if path == "optim_step":
        client.ask("forward_backward", 1, forward_backward_input=wire_batch(1))
    out = client.result(client.ask(path, 2 if path == "optim_step" else 1, **fields))
    assert out["category"] == "user"
    assert message in out["error"]


def test_http_refusals(client: Client) -> None:
    assert client.post("create_session", headers={}).status_code == 401
    assert client.post("create_session", headers={"Authorization": "Bearer no"}).status_code == 401
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post("create_session", headers=bearer).status_code == 200
    r = client.post("asample")
    assert r.status_code == 404
    assert "cannot sample" in r.json()["detail"]
    proto = {**client.headers, "content-type": "application/x-protobuf"}
    r = client.http.post("/api/v1/forward_backward", content=b"\x08", headers=proto)
    assert r.status_code == 415
    assert "0.24.1" in r.json()["detail"]
    assert (
        client.http.post("/api/v1/get_info", content=b"{", headers=client.headers).status_code
        == 400
    )
    assert client.post("retrieve_future", {"request_id": "7"}).status_code == 404
    assert client.post("session_heartbeat", {"session_id": "old"}).status_code == 410
    session = client.model.split(":")[0]
    assert client.post("session_heartbeat", {"session_id": session}).status_code == 200


def test_another_base_model_is_refused(client: Client) -> None:
    session = client.model.split(":")[0]
    body = {"session_id": session, "model_seq_id": 7, "base_model": "Qwen/Qwen3-8B"}
    out = client.result(client.post("create_model", body).json()["request_id"])
    assert out["category"] == "user"
    assert "is not served" in out["error"]


def test_the_bridges_golden_request_is_understood() -> None:
    import msgspec

    from empo2_trainer.datums import check
    from empo2_trainer.protocol import ForwardBackward

    golden = Path(__file__).parent.parent / "testdata" / "wire_golden.json"
    if not golden.exists():
        pytest.skip("the bridge's golden file is not there")
    request = msgspec.json.decode(golden.read_bytes(), type=ForwardBackward)
    sequences, loss = check(request.forward_backward_input, 512, 2048)
    assert loss.name == "empo2"
    assert [len(s.tokens) for s in sequences] == [len(s.kl) for s in sequences]
