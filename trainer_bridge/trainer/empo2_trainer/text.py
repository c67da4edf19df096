"""The model's own tokenizer and chat template, for clients that cannot rely on their inference
server's.

This module does not use torch. The tokenizers are loaded at the first request and may be used by
several threads.
"""

import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from empo2_trainer.bounded import TooLong, bounded, join
from empo2_trainer.chat_template import chat_template, other_templates
from empo2_trainer.protocol import UserError

MAX_TEXT = 16 << 20  # characters, or tokens, of one request
ENDLESS = (
    f"does not end, or writes more than {MAX_TEXT >> 20} million characters: correct its loops "
    "(chat_template.jinja, or chat_template in tokenizer_config.json)"
)


class Tokenize(Struct):
    """POST tokenize: with special, control tokens written in the text become their ids. Without,
    they are plain text. No tokens are added."""

    text: str
    special: bool = False


class Detokenize(Struct):
    """POST detokenize: control tokens become their text."""

    tokens: list[int]


class ControlToken(Struct):
    """POST control_token: the id of a control token by its text."""

    text: str


class Message(Struct):
    """One message of a conversation."""

    role: str
    content: str


class Render(Struct):
    """POST render: a conversation in the model's chat template, as text."""

    messages: list[Message]
    add_generation_prompt: bool = False
    template_args: dict[str, Any] = {}  # handed to the template, e.g. enable_thinking


class Codec:
    """Text to token ids and back, by the files of a Hugging Face model directory."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self._lock = threading.Lock()

    def operations(self) -> dict[str, Callable[[bytes], dict[str, Any]]]:
        """The handler of each endpoint: request body to answer."""
        decode = msgspec.json.decode
        return {
            "tokenize": lambda body: self.tokenize(decode(body, type=Tokenize)),
            "detokenize": lambda body: self.detokenize(decode(body, type=Detokenize)),
            "control_token": lambda body: self.control_token(decode(body, type=ControlToken)),
            "render": lambda body: self.render(decode(body, type=Render)),
        }

    def tokenize(self, r: Tokenize) -> dict[str, Any]:
        """Ids of a text."""
        _check_size(len(r.text), "characters")
        plain, special = self._both()
        tokenizer = special if r.special else plain
        return {"tokens": tokenizer.encode(r.text, add_special_tokens=False).ids}

    def detokenize(self, r: Detokenize) -> dict[str, Any]:
        """Text of ids. Invalid UTF-8 becomes U+FFFD."""
        _check_size(len(r.tokens), "tokens")
        plain, _ = self._both()
        size = plain.get_vocab_size(with_added_tokens=True)
        for i, token in enumerate(r.tokens):
            if not 0 <= token < 1 << 32 or plain.id_to_token(token) is None:
                raise UserError(f"tokens[{i}] = {token}: not one of the tokenizer's {size} tokens")
        return {"text": plain.decode(r.tokens, skip_special_tokens=False)}

    def control_token(self, r: ControlToken) -> dict[str, Any]:
        """The id of a control token: a token that the tokenizer marks as special."""
        plain, _ = self._both()
        added = plain.get_added_tokens_decoder()
        for token, entry in added.items():
            if entry.special and entry.content == r.text:
                return {"token": token}
        names = ", ".join(sorted(e.content for e in added.values() if e.special)[:20])
        raise UserError(f"{r.text!r} is not a control token; the model has {names or 'none'}")

    def render(self, r: Render) -> dict[str, Any]:
        """A conversation in the model's own template."""
        from jinja2 import TemplateError

        if not r.messages:
            raise UserError("messages is empty")
        with self._lock:
            chat, template = self._chat, self._template
        if not template:
            others = ", ".join(other_templates(Path(self.directory)))
            none = f"no default chat template, only {others}" if others else "no chat template"
            raise UserError(
                f"model {self.directory} has {none}: add chat_template.jinja to its "
                "folder, or name the template that it was trained with in sampler.template"
            )
        messages = [{"role": m.role, "content": m.content} for m in r.messages]

        def render() -> Any:
            _bound(template)
            return chat.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=r.add_generation_prompt,
                **r.template_args,
            )

        try:
            text = bounded(render)
        except TooLong as e:
            raise UserError(
                f"the chat template of model {self.directory} {ENDLESS}, or name the template that "
                "the model was trained with in sampler.template"
            ) from e
        except Exception as e:  # a template is a program: whatever it raises is about the model
            why = str(e) if isinstance(e, TemplateError) else f"{type(e).__name__}: {e}"
            raise UserError(f"the model's chat template refuses the messages: {why}") from e
        return {"text": text}

    def _both(self) -> tuple[Any, Any]:
        with self._lock:
            return self._tokenizers

    @cached_property
    def _tokenizers(self) -> tuple[Any, Any]:
        """Two tokenizers, since parsing of control tokens is a tokenizer's state: off, on."""
        from tokenizers import Tokenizer

        file = self.directory / "tokenizer.json"
        if not file.exists():
            raise UserError(f"model {self.directory} needs tokenizer.json, its fast tokenizer")
        both = []
        for plain in (True, False):
            try:
                tokenizer = Tokenizer.from_file(str(file))
            except Exception as e:  # the library raises nothing more specific
                raise UserError(f"{file}: {e}") from e
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = plain
            both.append(tokenizer)
        return both[0], both[1]

    @cached_property
    def _template(self) -> str | None:
        try:
            return chat_template(self.directory)
        except ValueError as e:  # not JSON, or not UTF-8
            raise UserError(f"chat template of model {self.directory}: {e}") from e

    @cached_property
    def _chat(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(str(self.directory), local_files_only=True)
        except Exception as e:  # the library raises nothing more specific for a bad file
            raise UserError(f"tokenizer of model {self.directory}: {e}") from e


def check_ends(directory: str) -> None:
    """Refuses a model whose chat template does not end: llama-server would not start."""
    try:
        Codec(directory).render(Render([Message("user", "a")], True))
    except UserError as e:
        if isinstance(e.__cause__, TooLong):
            raise UserError(f"its chat template {ENDLESS}") from e


def _bound(template: str) -> None:
    """Bounds what a template writes, and refuses a power, which cannot be interrupted."""
    from jinja2 import TemplateError, nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template).environment
    environment.concat = join(MAX_TEXT)
    if environment.parse(template).find(nodes.Pow) is not None:
        raise TemplateError("it uses the operator **, whose result is not bounded")


def _check_size(n: int, what: str) -> None:
    if n > MAX_TEXT:
        raise UserError(f"{n} {what} are above the limit of {MAX_TEXT}")
