"""Real tokenizers of well-known models as GGUF: a real llama-server encodes as they do."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from empo2_trainer import gguf_export
from empo2_trainer.chat_template import chat_template, other_templates
from empo2_trainer.gguf_tokenizer import read_tokenizer, split_name, strips_after_controls
from empo2_trainer.protocol import UserError
from tests.test_gguf import llama_server

FOLDER = os.environ.get("EMPO2_TOKENIZERS", "")
real = pytest.mark.skipif(
    not FOLDER, reason="NOT RUN: EMPO2_TOKENIZERS names no folder; scripts/test sets it"
)
SPLITS = {
    "qwen3": "qwen2",
    "llama3_1": "llama-bpe",
    "deepseek_v3": "deepseek-v3",
    "gptoss": "gpt-4o",
}
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "It's a test, don't worry. We'll see; they've IT'S and DON'T.",
    "x = [1, 22, 333];\n\treturn \"a_b\" != 'C'",
    "In 2024, 1234567 people paid 3.14159.",
    "Größe 3,5 µm – naïve café",
    "日本語のテキスト、漢字とカナ。 русский",
    "🙂🚀 ☂ ok",
    "  two  spaces \n\n\nlines    \t end  ",
    "HTTPServer camelCase snake_case",
    "<|im_end|></s><end_of_turn> are plain text",
]


def plain_ids(directory: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def write_tiny_model(directory: Path, tokenizer: Path) -> Path:
    """The smallest llama with a real vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    parsed = read_tokenizer(tokenizer)
    ids = [*parsed["model"]["vocab"].values(), *(a["id"] for a in parsed["added_tokens"])]
    config = LlamaConfig(
        vocab_size=max(ids) + 1,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        dtype=torch.float32,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((tokenizer / name).read_bytes())
    return directory


@real
@pytest.mark.parametrize("name", [*SPLITS, "llama2", "gemma3"])
def test_llama_server_encodes_as_the_model_does(name: str, tmp_path: Path) -> None:
    source = Path(FOLDER) / name
    if name in SPLITS:
        assert split_name(read_tokenizer(source)) == SPLITS[name]
    model = write_tiny_model(tmp_path / "model", source)
    gguf_export.write_model(str(model), tmp_path / "m.gguf")
    with llama_server(tmp_path / "m.gguf", None) as post:
        for text in TEXTS:
            if name == "gemma3":  # </s> is HTML there, and to llama.cpp a control token
                text = text.replace("</s>", "")
            body = {"content": text, "add_special": False, "parse_special": False}
            assert post("/tokenize", body)["tokens"] == plain_ids(source, text), text


@real
@pytest.mark.parametrize(("name", "has"), [("qwen3", True), ("llama2", False)])
def test_real_templates(name: str, has: bool) -> None:
    assert (chat_template(Path(FOLDER) / name) is not None) == has


def test_the_default_of_several_templates(tmp_path: Path) -> None:
    def write(name: str, template: Any) -> None:
        text = json.dumps({"chat_template": template}, ensure_ascii=False)
        (tmp_path / name).write_text(text, encoding="utf-8")

    assert chat_template(tmp_path) is None
    tools = {"name": "tool_use", "template": "tools"}
    write("tokenizer_config.json", [tools])
    assert chat_template(tmp_path) is None
    assert other_templates(tmp_path) == ["tool_use"]
    write("tokenizer_config.json", [{"name": "default", "template": "é"}, tools])
    assert chat_template(tmp_path) == "é"
    write("tokenizer_config.json", {"default": "object"})
    assert chat_template(tmp_path) == "object"
    write("chat_template.json", "json")
    assert chat_template(tmp_path) == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja", encoding="utf-8")
    assert chat_template(tmp_path) == "jinja"


@pytest.mark.parametrize(
    ("pattern", "more"),
    [
        (r"\p{N}{1,3}|\p{L}+", {}),  # like llama-3's, but not the same
        (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s+", {}),
        (None, {"normalizer": {"type": "Lowercase"}}),
    ],
)
def test_a_resemblance_is_not_enough(pattern: str | None, more: dict[str, Any]) -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": pattern is None}
    parts: list[dict[str, Any]] = [level]
    if pattern:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        parts.insert(0, split)
    tokenizer = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}, **more}
    with pytest.raises(UserError, match="no GGUF conversion"):
        split_name(tokenizer)


def test_gpt2_and_smollm_are_told_apart() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    assert split_name({"pre_tokenizer": level}) == "gpt-2"
    both = {"type": "Sequence", "pretokenizers": [digits, level]}
    assert split_name({"pre_tokenizer": both}) == "smollm"


@pytest.mark.parametrize(
    ("stripping", "want"), [([], False), (["</s>", "<|user|>"], True), (["<|user|>"], None)]
)
def test_tokens_that_strip(tmp_path: Path, stripping: list[str], want: bool | None) -> None:
    names = ["<|endoftext|>", "<unk>", "<s>", "</s>", "<|user|>"]
    added = [{"content": n, "special": True, "rstrip": n in stripping} for n in names]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    if want is None:
        with pytest.raises(UserError, match=r"only <\|user\|> strip"):
            strips_after_controls(tmp_path)
    else:
        assert strips_after_controls(tmp_path) == want
