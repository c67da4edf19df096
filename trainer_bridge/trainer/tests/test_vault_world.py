"""The vault's partition and texts, and the golden file that Go reads too."""

import json
from pathlib import Path
from random import Random

import pytest

from vault_pretraining import data, gates, golden, tokenizer, world

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "vault_pretraining/weights"


def test_golden_file_is_what_the_code_renders() -> None:
    want = json.loads((ROOT / "testdata/vault_golden.json").read_text())
    assert json.loads(json.dumps(golden.golden())) == want


def test_fnv1a_of_known_strings() -> None:
    assert world.fnv1a("") == 0xCBF29CE484222325
    assert world.fnv1a("a") == 0xAF63DC4C8601EC8C


@pytest.mark.parametrize("wanted", [world.PRETRAIN, world.GATE, world.RL])
def test_drawn_houses_stay_in_their_class(wanted: str) -> None:
    rng = Random(1)
    for _ in range(200):
        house = world.draw_house(rng, wanted)
        assert world.house_class(house.rule) == wanted
        assert set(house.rule) == set(house.doors)
        assert set(house.rule.values()) <= set(house.levers)


def test_every_house_has_exactly_one_class() -> None:
    found = {world.CLASSES[remainder] for remainder in range(4)}
    assert found == {world.PRETRAIN, world.GATE, world.RL}
    rule = world.draw_house(Random(2), world.RL).rule
    shuffled = dict(reversed(rule.items()))
    assert world.house_class(shuffled) == world.RL


def test_dropping_tips_changes_nothing_else() -> None:
    for episode in gates.conversations(3, 50):
        bare = world.messages(episode, with_tips=False)
        for full, short in zip(world.messages(episode), bare, strict=True):
            lines = full["content"].split("\n")
            kept = [s for s in lines if s != "Tips:" and not s.startswith("- ")]
            assert "\n".join(kept) == short["content"]


@pytest.fixture(scope="module", name="encoder")
def open_encoder() -> tokenizer.Encoder:
    """The committed tokenizer."""
    return tokenizer.Encoder(tokenizer.load(WEIGHTS))


def test_doors_and_levers_are_single_tokens(encoder: tokenizer.Encoder) -> None:
    for word in (*world.DOORS, *world.LEVERS):
        assert len(encoder.tokenizer.encode(f" {word}").ids) == 1


def test_texts_tokenize_like_the_sum_of_their_lines(encoder: tokenizer.Encoder) -> None:
    checked = 0
    for episode in gates.conversations(4, 400):
        for message in world.messages(episode):
            text = f"{message['role']}\n{message['content']}"
            whole = encoder.tokenizer.encode(text).ids
            lines = text.splitlines(keepends=True)
            parts = [i for line in lines for i in encoder.tokenizer.encode(line).ids]
            assert parts == whole == encoder.encode(text)
            checked += 1
    assert checked > 2000


def test_rows_hold_the_tokens_of_the_rendered_chat(encoder: tokenizer.Encoder) -> None:
    for episode in gates.conversations(5, 100):
        text = world.chatml(world.messages(episode)).removesuffix("\n")
        assert data.build_row(encoder, episode).ids == encoder.tokenizer.encode(text).ids
