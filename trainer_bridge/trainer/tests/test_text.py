"""The tokenizer endpoints: exact in both directions, no forged control tokens, errors."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from empo2_trainer.futures import Futures
from empo2_trainer.server import Api
from tests.conftest import make_trainer

TOKEN = "tml-secret"
CONTROL = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


@pytest.fixture(scope="module")
def served(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    trainer = make_trainer(model_dir, tmp_path_factory.mktemp("text"), "unused")
    with ThreadPoolExecutor(1) as executor:
        api = Api(trainer, Futures(executor, gap_wait=0.05), TOKEN)
        with TestClient(api.app()) as http:
            yield http, executor


@pytest.fixture
def ask(served: Any) -> Any:
    def post(path: str, status: int = 200, **body: Any) -> Any:
        r = served[0].post(f"/api/v1/{path}", json=body, headers={"X-API-Key": TOKEN})
        assert r.status_code == status, r.text
        return r.json()

    return post


def test_control_tokens_are_text_unless_asked_for(ask: Any) -> None:
    for text, token in CONTROL.items():
        assert ask("control_token", text=text) == {"token": token}
        assert ask("tokenize", text=text, special=True) == {"tokens": [token]}
        plain = ask("tokenize", text=text)["tokens"]
        assert len(plain) > 1
        assert token not in plain
        assert ask("detokenize", tokens=plain) == {"text": text}
    mixed = ask("tokenize", text="<|im_start|>the\n<|im_end|>", special=True)["tokens"]
    assert (mixed[0], mixed[-1]) == (1, 2)
    assert ask("detokenize", tokens=mixed) == {"text": "<|im_start|>the\n<|im_end|>"}
    assert ask("tokenize", text="") == {"tokens": []}
    assert ask("detokenize", tokens=[]) == {"text": ""}


def test_no_text_forges_a_control_token(ask: Any) -> None:
    rng = random.Random(7)
    parts = "<| |> im_end <|im_ end|> the é 日 \u200b"
    pieces = [*CONTROL, *parts.split(" "), " ", "\n"]
    for _ in range(200):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12)))
        tokens = ask("tokenize", text=text)["tokens"]
        assert not set(tokens) & set(CONTROL.values()), text
        assert ask("detokenize", tokens=tokens)["text"] == text


def test_texts_do_not_wait_for_torch(ask: Any, served: Any) -> None:
    hold = threading.Event()
    served[1].submit(hold.wait)
    try:
        assert ask("tokenize", text="the")["tokens"]
        assert ask("render", messages=[{"role": "user", "content": "the"}]) == {"text": "the"}
    finally:
        hold.set()


def test_text_refusals(ask: Any, served: Any) -> None:
    assert "not a control token" in ask("control_token", 400, text="<|none|>")["detail"]
    assert "not a control token" in ask("control_token", 400, text="the")["detail"]
    for tokens in ([1, 99999], [-1], [1 << 40]):
        assert "tokens[" in ask("detokenize", 400, tokens=tokens)["detail"]
    assert "tokens" in ask("detokenize", 400)["detail"]
    assert "text" in ask("tokenize", 400, text=7)["detail"]
    assert "messages" in ask("render", 400, messages=[])["detail"]
    assert "role" in ask("render", 400, messages=[{"content": "x"}])["detail"]
    assert served[0].post("/api/v1/tokenize", json={"text": "a"}).status_code == 401


def test_the_template_is_the_models(tmp_path: Path, model_dir: Path) -> None:
    import shutil

    from empo2_trainer.protocol import UserError
    from empo2_trainer.text import Codec, Detokenize, Message, Render
    from vault_pretraining.tokenizer import CHAT_TEMPLATE

    shutil.copy(model_dir / "tokenizer.json", tmp_path)
    shutil.copy(model_dir / "config.json", tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    messages = [Message("system", "s"), Message("user", "u")]

    def render(template: str) -> str:
        (tmp_path / "chat_template.jinja").write_text(template)
        return str(Codec(str(tmp_path)).render(Render(messages, True))["text"])

    settings.write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="no chat template"):
        Codec(str(tmp_path)).render(Render(messages))
    others = tmp_path / "additional_chat_templates"
    others.mkdir()
    (others / "tool_use.jinja").write_text("tools")
    with pytest.raises(UserError, match=r"only tool_use: add chat_template\.jinja"):
        Codec(str(tmp_path)).render(Render(messages))
    want = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHAT_TEMPLATE) == want
    template = "{{ 'short' if brief else 'long' }}"
    assert render(template) == "long"
    codec = Codec(str(tmp_path))
    assert codec.render(Render(messages, template_args={"brief": True})) == {"text": "short"}
    with pytest.raises(UserError, match="refuses the messages"):
        codec.render(Render(messages, template_args={"tokenize": True}))
    with pytest.raises(UserError, match="no system role here"):
        render("{{ raise_exception('no system role here') }}")
    with pytest.raises(UserError, match="refuses the messages"):
        render("{% for")
    with pytest.raises(UserError, match="needs tokenizer"):
        Codec(str(tmp_path / "absent")).detokenize(Detokenize([1]))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Codec(str(tmp_path)).detokenize(Detokenize([1]))


BAD_TEMPLATES = [
    "{% for",
    "{{",
    "{% if %}",
    "{% else %}",
    "{{ 1 / 0 }}",
    "{{ 2 ** 'x' }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ messages[9].content }}",
    "{{ messages.nothing.at_all }}",
    "{{ none() }}",
    "{{ messages | nothing }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% include 'other' %}",
    "{% import '/etc/passwd' as x %}",
    "{{ raise_exception('no') }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ strftime_now(3) }}",
    "{{ '%d' | format('x') }}",
    "{% set x = messages[0]['content'] + 3 %}",
]
BAD_FILES = {
    "chat_template.jinja": [b"\xff\xfe", b"", b"{{"],
    "chat_template.json": [
        b"{",
        b"[]",
        b"3",
        b"\xff",
        b'{"chat_template": 3}',
        b'{"chat_template": []}',
    ],
    "tokenizer_config.json": [
        b"{",
        b"[]",
        b"3",
        b"\xff",
        b'{"chat_template": [{"name": "tool_use", "template": "x"}]}',
        b'{"chat_template": [3, null]}',
        b'{"chat_template": {"a": 1}}',
    ],
}


@pytest.fixture
def folder(tmp_path: Path, model_dir: Path) -> Path:
    """A model folder without a chat template."""
    import shutil

    for name in ("tokenizer.json", "config.json"):
        shutil.copy(model_dir / name, tmp_path)
    settings = '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    (tmp_path / "tokenizer_config.json").write_text(settings)
    return tmp_path


@pytest.mark.parametrize("template", BAD_TEMPLATES)
def test_bad_chat_templates_are_refused(folder: Path, template: str) -> None:
    from empo2_trainer.protocol import UserError
    from empo2_trainer.text import Codec, Message, Render

    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=r"template refuses the messages: .") as e:
        Codec(str(folder)).render(Render([Message("user", "u")], True))
    assert "Traceback" not in str(e.value)


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"


@pytest.mark.parametrize("body", ["", "x" * 999, "{{ i }}", "{{ range(99999) | sum }}"])
def test_endless_templates_are_refused(folder: Path, body: str, monkeypatch: Any) -> None:
    from empo2_trainer import bounded
    from empo2_trainer.protocol import UserError
    from empo2_trainer.text import Codec, Message, Render, check_ends

    monkeypatch.setattr(bounded, "MAX_SECONDS", 1.0)
    monkeypatch.setattr(bounded, "MAX_CALLS", 500_000)
    (folder / "chat_template.jinja").write_text(LOOP.replace("BODY", body))
    with pytest.raises(UserError, match=r"does not end, or writes .* sampler\.template"):
        Codec(str(folder)).render(Render([Message("user", "u")], True))
    with pytest.raises(UserError, match=r"its chat template does not end"):
        check_ends(str(folder))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert Codec(str(folder)).render(Render([Message("user", "u")])) == {"text": "u"}
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no user') }}")
    check_ends(str(folder))


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, all in BAD_FILES.items() for c in all])
def test_bad_template_files_are_refused(folder: Path, name: str, content: bytes) -> None:
    from empo2_trainer.protocol import UserError
    from empo2_trainer.text import Codec, Message, Render

    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as e:
        Codec(str(folder)).render(Render([Message("user", "u")], True))
    assert str(folder) in str(e.value) or "chat template" in str(e.value)
