"""The chat template in a model directory. This module does not use torch."""

import json
from pathlib import Path
from typing import Any

DEFAULT = "default"


def chat_template(directory: Path) -> str | None:
    """The template as text; None if the model has none.

    It is in chat_template.jinja, in chat_template.json, or in tokenizer_config.json, in this order.
    Of several named templates it is the one called default.
    """
    jinja = directory / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _default(_object(directory / name).get("chat_template"))
        if template is not None:
            return template
    return None


def other_templates(directory: Path) -> list[str]:
    """The names of the templates that are not the default one."""
    named = {p.stem for p in (directory / "additional_chat_templates").glob("*.jinja")}
    for name in ("chat_template.json", "tokenizer_config.json"):
        templates = _object(directory / name).get("chat_template")
        if isinstance(templates, list):
            named |= {str(t.get("name")) for t in templates if isinstance(t, dict)}
        elif isinstance(templates, dict):
            named |= set(templates)
    return sorted(named - {DEFAULT})


def _default(templates: Any) -> str | None:
    """One template of a text, a list of named ones, or an object of them."""
    if isinstance(templates, list):
        templates = {t.get("name"): t.get("template") for t in templates if isinstance(t, dict)}
    if isinstance(templates, dict):
        templates = templates.get(DEFAULT)
    return templates if isinstance(templates, str) and templates else None


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}
