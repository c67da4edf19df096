"""Runs on other machines: archives of checkpoints, and the companion beside such a run."""

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from empo2_trainer import archives, companion, server
from empo2_trainer.futures import Futures
from empo2_trainer.protocol import UserError
from empo2_trainer.server import Api
from empo2_trainer.store import Store
from tests.conftest import make_trainer
from tests.test_server import TOKEN, Client


@pytest.fixture
def client(model_dir: Path, tmp_path: Path) -> Iterator[Client]:
    """A client of a trainer of its own."""
    trainer = make_trainer(model_dir, tmp_path / "served", "unused")
    with (
        ThreadPoolExecutor(1) as executor,
        TestClient(Api(trainer, Futures(executor, 0.05), TOKEN, poll=30.0).app()) as http,
    ):
        yield Client(http)


def files_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def saved(client: Client) -> tuple[str, dict[str, bytes]]:
    """A checkpoint of a new model: the place of its operations, and its files."""
    client.create(seed=3)
    path = client.result(client.ask("save_weights", 1, path="far"))["path"]
    place = f"/api/v1/training_runs/{client.model}/checkpoints/weights/{path.rsplit('/', 1)[1]}"
    r = client.http.get(place + "/archive", headers=client.headers, follow_redirects=False)
    assert r.status_code == 302
    assert r.headers["location"] == "download"  # relative: a proxy may be in front
    r = client.http.get(place + "/download", headers=client.headers)
    assert r.status_code == 200
    return place, files_of(r.content)


def upload(client: Client, name: str, files: dict[str, bytes]) -> Any:
    return client.http.post(
        f"/api/v1/upload_checkpoint?name={name}", content=tar_of(files), headers=client.headers
    )


def test_checkpoint_moves_to_another_place(client: Client) -> None:
    place, files = saved(client)
    assert set(files) == {"adapter.safetensors", "optimizer.safetensors", "meta.json"}
    assert client.http.delete(place, headers=client.headers).status_code == 204
    assert client.http.get(place + "/archive", headers=client.headers).status_code == 404
    r = upload(client, "moved", files)
    assert r.status_code == 200, r.text
    load = {"path": r.json()["path"], "optimizer": True}
    assert "error" not in client.result(client.ask("load_weights", 2, **load))


@pytest.mark.parametrize("fault", ["content", "manifest", "name", "none"])
def test_damaged_archive_is_refused(client: Client, fault: str) -> None:
    _, files = saved(client)
    name = "damaged"
    if fault == "content":
        files["adapter.safetensors"] += b"x"
    elif fault == "manifest":
        del files["meta.json"]
    elif fault == "name":
        files["../evil"] = b""
    else:
        name = "../up"
    assert upload(client, name, files).status_code == 400


def test_archives_need_the_token(client: Client) -> None:
    place, files = saved(client)
    client.headers = {"X-API-Key": "other"}
    assert upload(client, "x", files).status_code == 401
    for method, path in (("GET", "/archive"), ("GET", "/download"), ("DELETE", "")):
        r = client.http.request(method, place + path, headers=client.headers)
        assert r.status_code == 401


def test_archives_have_one_bound(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    place, files = saved(client)
    archive = tar_of(files)
    monkeypatch.setattr(archives, "MAX_ARCHIVE", len(archive) - 1)
    url = "/api/v1/upload_checkpoint?name=large"
    for content in (archive, iter([archive[:1000], archive[1000:]])):  # with its length, in chunks
        r = client.http.post(url, content=content, headers=client.headers)
        assert (r.status_code, "larger than" in r.text) == (413, True)
    monkeypatch.setattr(archives, "MAX_ARCHIVE", 1000)
    r = client.http.get(place + "/download", headers=client.headers)
    assert (r.status_code, "larger than" in r.text) == (413, True)
    monkeypatch.setattr(server, "MAX_BODY", 10)
    r = client.http.post(
        "/api/v1/create_session", content=iter([b'{"tags":', b"[]}"]), headers=client.headers
    )
    assert r.status_code == 413


def test_checkpoints_that_no_run_fetched_are_removed(client: Client, tmp_path: Path) -> None:
    _, files = saved(client)
    store = Store(tmp_path / "served" / "checkpoints", manifest="meta.json")
    names = {"v000003-0a1b2c3d", "v000004-0a1b2c3d", "000003", "far"}
    for name in names - {"far"}:
        assert upload(client, name, files).status_code == 200
    long_ago = time.time() - archives.TRANSIT_SECONDS - 60
    for name in names - {"v000004-0a1b2c3d"}:
        os.utime(store.root / name, (long_ago, long_ago))
    archives.remove_leftovers(store)
    assert {p.name for p in store.root.iterdir()} == names - {"v000003-0a1b2c3d"}


@pytest.fixture
def exported(model_dir: Path, tmp_path: Path) -> Path:
    """A PEFT adapter as SkyRL writes it: no names of modules, alpha 32."""
    trainer = make_trainer(model_dir, tmp_path / "there", formats=("peft",))
    for p in trainer.get("m").optimizer.parameters.values():
        torch.nn.init.normal_(p, std=0.1)
    folder = Path(trainer.export("m", "v1", False)["dir"])
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"target_modules": None, "lora_alpha": 32.0}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_import_keeps_the_function(model_dir: Path, tmp_path: Path, exported: Path) -> None:
    c = companion.load(str(model_dir), tmp_path / "here", ("peft", "gguf"))
    remote = {"url": "http://there", "path": "tinker://m/weights/v1"}
    given = companion.ImportAdapter(str(exported), "000001", 4, 8.0, remote)
    folder = Path(c.import_adapter(given)["dir"])
    assert json.loads((folder / "meta.json").read_text())["remote"] == remote
    before = load_file(exported / "adapter_model.safetensors")
    after = load_file(folder / "adapter.safetensors")
    assert before.keys() == after.keys()
    for name, t in before.items():
        torch.testing.assert_close(after[name], t * 4 if ".lora_B." in name else t)

    out = Path(c.export_checkpoint(companion.ExportCheckpoint("000001", "v000001"))["dir"])
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["lora_alpha"] == 8.0
    assert "q_proj" in config["target_modules"]
    assert (out / "adapter.gguf").stat().st_size > 0

    # This machine's own trainer goes on from it, with a fresh optimizer.
    trainer = make_trainer(model_dir, tmp_path / "here")
    trainer.load("m", "tinker://m/weights/000001", True)
    parameters = trainer.get("m").optimizer.parameters
    for name, t in after.items():
        torch.testing.assert_close(parameters[name].detach(), t)
    assert trainer.get("m").optimizer.steps == 0


def test_export_equals_the_trainers(model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_dir, tmp_path / "run")
    trainer.save("m", "000001", False)
    own = Path(trainer.export("m", "v000001", False)["dir"])
    files = {p.name: p.read_bytes() for p in own.iterdir()}
    c = companion.load(str(model_dir), tmp_path / "run", ("peft", "gguf"))
    c.export_checkpoint(companion.ExportCheckpoint("000001", "v000001"))
    assert files == {p.name: p.read_bytes() for p in own.iterdir()}


def test_import_refuses_what_it_does_not_know(
    model_dir: Path, tmp_path: Path, exported: Path
) -> None:
    c = companion.load(str(model_dir), tmp_path / "here", ("peft",))
    with pytest.raises(UserError, match="rank 4, the run 8"):
        c.import_adapter(companion.ImportAdapter(str(exported), "000001", 8, 8.0))
    config = json.loads((exported / "adapter_config.json").read_text())
    (exported / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(UserError, match="use_dora"):
        c.import_adapter(companion.ImportAdapter(str(exported), "000001", 4, 8.0))
    save_file({"model.norm.weight": torch.ones(2)}, exported / "adapter_model.safetensors")
    with pytest.raises(UserError, match="only LoRA"):
        c.import_adapter(companion.ImportAdapter(str(exported), "000001", 4, 8.0))
