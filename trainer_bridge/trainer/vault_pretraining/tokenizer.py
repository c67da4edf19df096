"""The byte-level BPE of the vault's policy, trained on the vault's own texts.

It splits text like Qwen2 (without the normalizer), which transformers and llama.cpp both call
`qwen2`. A newline ends a piece, so that the tokens of a text are those of its lines.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from vault_pretraining import world

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END, IM_START, IM_END = range(3)
VOCAB_LIMIT = 512
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ASCII_SPLIT = re.compile(
    r"[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n'"
    " + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def corpus(seed: int, houses: int = 4000) -> Iterator[str]:
    """ChatML texts of random episodes through pre-training houses, with tips."""
    rng = Random(f"tokenizer/{seed}")
    for _ in range(houses):
        house = world.draw_house(rng, world.PRETRAIN)
        k = rng.randint(2, 6)
        variation = world.draw_variation(rng, house, k, rng.randint(4, 8))
        tips = [world.past_episode(rng, variation, [0.7] * k) for _ in range(3)]
        turns = []
        for index, fact in enumerate(world.past_episode(rng, variation, [0.8] * k)):
            turns.append(world.Turn(index, tips if index == 0 else [], fact.lever))
        chat = world.messages(world.Conversation(variation, turns, rng.random() < 0.5))
        yield from (f"{m['role']}\n{m['content']}" for m in chat)


def train(texts: Iterable[str]) -> Tokenizer:
    """Train the BPE to saturation; every door and lever becomes one token."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_LIMIT,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    for word in (*world.DOORS, *world.LEVERS):
        if len(tokenizer.encode(f" {word}").ids) != 1:
            raise ValueError(f"train tokenizer: {word!r} is not one token")
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the ChatML template)."""
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": SPECIALS[IM_END],
        "pad_token": SPECIALS[END],
        "unk_token": None,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text)


def load(directory: Path) -> Tokenizer:
    """Read a tokenizer that save wrote."""
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


class Encoder:
    """Encodes the vault's ASCII texts piece by piece from a cache: much faster than a call per
    text, equal in result (a test compares them)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.cache: dict[str, list[int]] = {}
        self.levers = [self.encode(f" {name}")[0] for name in world.LEVERS]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        ids: list[int] = []
        for piece in ASCII_SPLIT.findall(text):
            found = self.cache.get(piece)
            if found is None:
                found = self.cache[piece] = self.tokenizer.encode(piece).ids
            ids += found
        return ids
