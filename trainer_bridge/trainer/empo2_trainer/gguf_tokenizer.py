"""Conversion of a tokenizer from `tokenizers` to GGUF metadata.

llama.cpp has two kinds of byte-pair encoding. "gpt2" splits text by a pattern first and works on
bytes. "llama" comes from SentencePiece: it has no pattern, writes a space as ▁, and encodes unknown
characters as byte tokens. Everything that llama.cpp would do differently is refused.
"""

import json
from pathlib import Path
from typing import Any

from empo2_trainer.chat_template import chat_template
from empo2_trainer.protocol import UserError
from empo2_trainer.text import check_ends

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
SPACE = "▁"
CASELESS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPELLED = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
MIXED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CASELESS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CASELESS}?"
)
# Whole patterns, in the order in which they split, and llama.cpp's names for them.
SPLITS = {
    (f"{CASELESS}|{WORDS}|\\p{{N}}{{1,3}}|{REST}",): "llama-bpe",
    (f"{CASELESS}|{WORDS}|\\p{{N}}|{REST}",): "qwen2",
    (
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
        "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ): "deepseek-v3",
    (rf"{MIXED}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",): "gpt-4o",
}


def add_tokenizer(
    writer: Any, directory: Path, given: dict[str, Any], config: dict[str, Any]
) -> None:
    """Write vocabulary, merges or scores, special ids and chat template. given is what config.json
    has of the language model, config has all values."""
    tokenizer = read_tokenizer(directory)
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise UserError(f"no GGUF conversion for a tokenizer of type {model.get('type')!r}")
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    if not merges:
        raise UserError("no GGUF conversion for a BPE tokenizer without merges")
    size = int(config["vocab_size"])
    tokens, types = _vocabulary(model["vocab"], tokenizer["added_tokens"], size)
    if model.get("byte_fallback"):
        _add_pieces(writer, tokenizer, (tokens, types), merges)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split_name(tokenizer))
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(pair) for pair in merges])
    generation = _json(directory / "generation_config.json") or {}
    _add_special_ids(writer, (given, generation, config))
    template = chat_template(directory)
    if template:
        check_ends(str(directory))
        writer.add_chat_template(template)


def read_tokenizer(directory: Path) -> dict[str, Any]:
    """The parsed tokenizer.json."""
    tokenizer = _json(directory / "tokenizer.json")
    if tokenizer is None:
        raise UserError(f"{directory}: no tokenizer.json: llama.cpp needs a vocabulary")
    found: dict[str, Any] = tokenizer
    return found


def split_name(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer: the whole pattern that splits text before BPE."""
    kind = (tokenizer.get("normalizer") or {}).get("type")
    parts = _parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    normalizers = _parts(tokenizer.get("normalizer"), "normalizers")
    if normalizers and [n.get("type") for n in normalizers] != ["NFC"]:
        raise UserError(f"no GGUF conversion for a tokenizer with the normalizer {kind}")
    *splits, last = parts or [{}]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        patterns = tuple(s.get("pattern", {}).get("Regex", "") for s in splits)
        if last.get("use_regex", True):
            name = _gpt2_name(splits)
        else:
            plain = all(s.get("type") == "Split" and _isolated(s) for s in splits)
            name = SPLITS.get(tuple(_plain(p) for p in patterns), "") if plain else ""
        if name:
            return name
    known = ", ".join(sorted({*SPLITS.values(), "gpt-2", "smollm"}))
    raise UserError(f"no GGUF conversion for this pre-tokenizer: known are those of {known}")


def _gpt2_name(splits: list[dict[str, Any]]) -> str:
    digits = [{"type": "Digits", "individual_digits": True}]
    return {0: "gpt-2"}.get(len(splits), "smollm" if splits == digits else "")


def _isolated(split: dict[str, Any]) -> bool:
    """Whether matches and the text between them become parts. Removed and inverted is the same for
    a pattern that matches everything, as old files have it."""
    behavior, invert = split.get("behavior"), bool(split.get("invert"))
    return (behavior == "Isolated" and not invert) or (behavior == "Removed" and invert)


def _plain(pattern: str) -> str:
    """A pattern with one of the two spellings of English suffixes."""
    return pattern.replace(SPELLED, CASELESS)


def _parts(block: Any, key: str) -> list[dict[str, Any]]:
    if not block:
        return []
    found: list[dict[str, Any]] = block[key] if block.get("type") == "Sequence" else [block]
    return found


def _add_pieces(
    writer: Any,
    tokenizer: dict[str, Any],
    vocabulary: tuple[list[str], list[int]],
    merges: list[list[str]],
) -> None:
    """A tokenizer from SentencePiece. llama.cpp merges the pair with the highest score first; the
    order of the merges gives the scores."""
    tokens, types = vocabulary
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    lowest = float(-len(rank) - 1)
    unknown = tokenizer["model"].get("unk_token")
    for i, text in enumerate(tokens):
        if text == unknown:
            types[i] = UNKNOWN
        elif types[i] == NORMAL and len(text) == 6 and text.startswith("<0x"):
            types[i] = BYTE
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(rank[t]) if t in rank else lowest for t in tokens])
    writer.add_token_types(types)
    writer.add_add_space_prefix(_begins_with_space(tokenizer))


def _begins_with_space(tokenizer: dict[str, Any]) -> bool:
    """Whether a text gets a space at its beginning."""
    normalizers = _parts(tokenizer.get("normalizer"), "normalizers")
    pre = _parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    kinds = [n.get("type") for n in normalizers]
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if kinds == ["Prepend", "Replace"] and normalizers[1] == replaces and not pre:
        return True
    merged = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    if normalizers == [replaces] and pre in ([], [merged | {"invert": False}]):
        return False
    metaspace = len(pre) == 1 and pre[0].get("type") == "Metaspace"
    if not normalizers and metaspace and not pre[0].get("split", True):
        return bool(pre[0].get("prepend_scheme", "always") != "never")
    raise UserError("no GGUF conversion for this normalizer of a SentencePiece tokenizer")


NEVER_STRIPPED = {"<unk>", "<s>", "<|endoftext|>"}


def strips_after_controls(directory: Path) -> bool:
    """Whether control tokens swallow the white space after them, as Phi-3's do."""
    added = [a for a in read_tokenizer(directory)["added_tokens"] if a["special"] or a["rstrip"]]
    stripping = {a["content"] for a in added if a["rstrip"]}
    if not stripping:
        return False
    # llama.cpp looks these four up by their text.
    if {a["content"] for a in added} - stripping == NEVER_STRIPPED and "</s>" in stripping:
        return True
    some = ", ".join(sorted(stripping)[:5])
    raise UserError(f"no GGUF conversion for a tokenizer in which only {some} strip white space")


def _add_special_ids(writer: Any, sources: tuple[dict[str, Any], ...]) -> None:
    """The first source that has an id counts."""
    for kind in ("bos", "eos", "pad"):
        found = (source.get(f"{kind}_token_id") for source in sources)
        value = next((v for v in found if v is not None), None)
        value = value[0] if isinstance(value, list) else value
        if value is not None:
            getattr(writer, f"add_{kind}_token_id")(int(value))
    writer.add_add_bos_token(False)


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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
