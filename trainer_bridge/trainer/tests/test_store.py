"""Checkpoints and exports: exact, complete or absent, idempotent."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from empo2_trainer.protocol import AdamParams, LoraSpec, UserError
from empo2_trainer.store import Store, StoreError, replace_file
from tests.conftest import SPEC, checked, make_trainer, wire_batch

ADAM = AdamParams(learning_rate=1e-2, weight_decay=0.01, grad_clip_norm=1.0)


def train(trainer: Any, steps: range) -> None:
    for i in steps:
        trainer.run("m", *checked(wire_batch(i, kl=0.1)), backward=True)
        trainer.optim_step("m", ADAM)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.models["m"].optimizer.parameters.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_restored_run_continues_bit_for_bit(model_dir: Path, tmp_path: Path) -> None:
    first = make_trainer(model_dir, tmp_path)
    train(first, range(3))
    path = first.save("m", "000003", overwrite=False)["path"]
    train(first, range(3, 5))
    second = make_trainer(model_dir, tmp_path)
    train(second, range(7, 8))
    second.load("m", path, optimizer=True)
    train(second, range(3, 5))
    assert same(weights(first), weights(second))
    second.load("m", path, optimizer=False)
    train(second, range(3, 5))
    assert not same(weights(first), weights(second))


def test_loading_clears_accumulated_gradients(trainer: Any) -> None:
    path = trainer.save("m", "a", overwrite=False)["path"]
    trainer.run("m", *checked(wire_batch(1)), backward=True)
    trainer.load("m", path, optimizer=True)
    with pytest.raises(UserError, match="without gradients"):
        trainer.optim_step("m", ADAM)


def test_an_overwritten_checkpoint_is_not_taken_for_its_namesake(trainer: Any) -> None:
    path = trainer.save("m", "fin", overwrite=False)["path"]
    trainer.create("n", SPEC)
    train(trainer, range(2))  # of m, so that n has other weights
    trainer.load("n", "tinker://n/weights/fin", optimizer=True)  # n continues for m
    trainer.save("m", "fin", overwrite=True)
    trainer.load("n", path, optimizer=True)
    trainer.save("n", "fin", overwrite=True)
    with pytest.raises(UserError, match="model n has overwritten fin"):
        trainer.load("m", path, optimizer=True)
    trainer.load("m", "tinker://n/weights/fin", optimizer=True)
    trainer.load("m", "tinker://earlier/weights/fin", optimizer=True)


def test_a_checkpoint_of_another_shape_is_refused(trainer: Any) -> None:
    path = trainer.save("m", "a", overwrite=False)["path"]
    trainer.create("n", LoraSpec(rank=2, alpha=8.0))
    with pytest.raises(UserError, match="a has rank 4, the model 2"):
        trainer.load("n", path, optimizer=True)


def test_a_damaged_checkpoint_is_refused(trainer: Any) -> None:
    saved = trainer.save("m", "a", overwrite=False)
    file = Path(saved["dir"]) / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    before = weights(trainer)
    with pytest.raises(StoreError, match="differs from its manifest"):
        trainer.load("m", saved["path"], optimizer=True)
    assert same(before, weights(trainer))


def test_equal_content_is_idempotent_other_content_is_not(trainer: Any) -> None:
    first = trainer.export("m", "v000001", overwrite=False)
    stamp = Path(first["dir"]).stat().st_mtime_ns
    assert trainer.export("m", "v000001", overwrite=False) == first
    assert Path(first["dir"]).stat().st_mtime_ns == stamp
    train(trainer, range(1))
    with pytest.raises(UserError, match="exists with other content"):
        trainer.export("m", "v000001", overwrite=False)
    trainer.export("m", "v000001", overwrite=True)
    assert Path(first["dir"]).stat().st_mtime_ns != stamp
    assert [p.name for p in Path(first["dir"]).parent.iterdir()] == ["v000001"]
    modes = {p.stat().st_mode & 0o777 for p in Path(first["dir"]).iterdir()}
    assert modes == {0o644}


def test_a_damaged_export_is_written_again(trainer: Any) -> None:
    exported = Path(trainer.export("m", "v000001", overwrite=False)["dir"])
    file = exported / "adapter_model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    trainer.export("m", "v000001", overwrite=False)
    assert file.read_bytes() == good


def test_other_users_can_enter_an_export_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store = Store(tmp_path / "adapters")
        written = store.write("v000001", {}, lambda d: (d / "a").touch())
    finally:
        os.umask(before)
    for folder in (written, written.parent):
        assert folder.stat().st_mode & 0o777 == 0o755
    assert (written / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EIO, "I/O")])
def test_a_failing_disk_leaves_nothing_incomplete(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number).lower().replace("input/output", "I/O"))

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match=words):
            trainer.export("m", "v1", overwrite=False)
    assert list(trainer.adapters.root.iterdir()) == []
    assert trainer.export("m", "v1", overwrite=False)["dir"]


def test_a_root_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"prepare .*file"):
        Store(tmp_path / "file" / "adapters")


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-v1-77").mkdir()
    (tmp_path / ".tmp-v1-77" / "x").write_text("half")
    store = Store(tmp_path)
    assert list(store.root.iterdir()) == []


def test_a_single_file_is_replaced_atomically(tmp_path: Path) -> None:
    target = tmp_path / "new" / "f"
    replace_file(target, lambda p: p.write_text("one") and None)

    def fail(path: Path) -> None:
        path.write_text("tw")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(StoreError, match="no space left"):
        replace_file(target, fail)
    assert target.read_text() == "one"
    assert [p.name for p in target.parent.iterdir()] == ["f"]
