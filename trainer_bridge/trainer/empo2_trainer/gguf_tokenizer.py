"""Conversion of a byte-level BPE tokenizer from `tokenizers` to GGUF metadata."""

import json
from pathlib import Path
from typing import Any

from empo2_trainer.protocol import UserError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType


def add_tokenizer(writer: Any, directory: Path, config: dict[str, Any]) -> None:
    """Write vocabulary, merges, special ids and chat template."""
    tokenizer = _json(directory / "tokenizer.json")
    if tokenizer is None:
        raise UserError(f"{directory}: no tokenizer.json: llama.cpp needs a vocabulary")
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise UserError(f"no GGUF conversion for a tokenizer of type {model.get('type')!r}")
    tokens, types = _vocabulary(model["vocab"], tokenizer["added_tokens"], config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if not merges:
        raise UserError("no GGUF conversion for a BPE tokenizer without merges")
    writer.add_token_merges(merges)
    generation = _json(directory / "generation_config.json") or {}
    for kind in ("bos", "eos", "pad"):
        value = config.get(f"{kind}_token_id")
        value = generation.get(f"{kind}_token_id") if value is None else value
        value = value[0] if isinstance(value, list) else value
        if value is not None:
            getattr(writer, f"add_{kind}_token_id")(int(value))
    writer.add_add_bos_token(False)
    template = _chat_template(directory)
    if template:
        writer.add_chat_template(template)


def split_name(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer, the pattern that splits text before BPE."""
    pre = tokenizer.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", [pre])
    for part in parts:
        pattern = part.get("pattern", {}).get("Regex", "")
        if part.get("type") == "Split" and r"\p{N}{1,3}" in pattern:
            return "llama-bpe"
        if part.get("type") == "Split" and r"|\p{N}|" in pattern:
            return "qwen2"
    if len(parts) == 1 and parts[0].get("type") == "ByteLevel" and parts[0].get("use_regex", True):
        return "gpt-2"
    raise UserError("no GGUF conversion for this pre-tokenizer: known are qwen2, llama-3 and gpt-2")


def _vocabulary(
    vocab: dict[str, int], added: list[dict[str, Any]], size: int
) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    for text, i in vocab.items():
        _check_id(i, size)
        tokens[i], types[i] = text, NORMAL
    for entry in added:
        _check_id(entry["id"], size)
        tokens[entry["id"]] = entry["content"]
        types[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
    return tokens, types


def _check_id(i: int, size: int) -> None:
    if i >= size:
        raise UserError(f"tokenizer.json has id {i}, config.json a vocabulary of {size}")


def _chat_template(directory: Path) -> str | None:
    jinja = directory / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text()
    template = (_json(directory / "tokenizer_config.json") or {}).get("chat_template")
    return template if isinstance(template, str) else None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
