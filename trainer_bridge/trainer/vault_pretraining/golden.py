"""Write testdata/vault_golden.json: hashes and texts that the Go environment must reproduce.

`python -m vault_pretraining.golden FILE`. Both test suites read the file.
"""

import json
import sys
from pathlib import Path
from random import Random

from vault_pretraining import world

HOUSES = 24

CORRIDOR = world.Variation(
    doors=("iron", "oak", "clay"),
    listed=(
        ("jade", "amber", "bone", "salt"),
        ("bone", "coral", "jade", "onyx"),
        ("silk", "reed", "ash", "moss"),
    ),
    right=("jade", "onyx", "ash"),
)
OAK_FAILS = (world.Fact("iron", "pull", "jade"), world.Fact("oak", "avoid", "bone"))
IRON_FAILS = (world.Fact("iron", "avoid", "amber"),)
CLAY_FAILS = (
    world.Fact("iron", "pull", "jade"),
    world.Fact("oak", "pull", "onyx"),
    world.Fact("clay", "avoid", "moss"),
)
PAIR = world.Variation(
    doors=("velvet", "chalk"),
    listed=(("tin", "wax", "cork"), ("lead", "horn", "opal")),
    right=("wax", "lead"),
)


def episodes() -> list[world.Conversation]:
    """Episodes that show every text: out, alarm, unlisted lever, tips at some doors or at none."""
    turn = world.Turn
    return [
        world.Conversation(
            CORRIDOR,
            [
                turn(0, [OAK_FAILS, IRON_FAILS], "jade"),
                turn(1, [CLAY_FAILS], "onyx"),
                turn(2, [], "ash"),
            ],
        ),
        world.Conversation(CORRIDOR, [turn(0, [IRON_FAILS], "amber")]),
        world.Conversation(CORRIDOR, [turn(0, [], "jade"), turn(1, [OAK_FAILS], "bone")]),
        world.Conversation(CORRIDOR, [turn(0, [], "jade"), turn(1, [], "ruby")]),
        world.Conversation(PAIR, [turn(0, [], "wax"), turn(1, [], "lead")]),
        world.Conversation(PAIR, [turn(0, [], "wax"), turn(1, [], "horn")]),
    ]


def partition() -> list[dict[str, object]]:
    """Houses of any class, with their canonical string, hash and class."""
    rng = Random("golden")
    found: list[dict[str, object]] = []
    for _ in range(HOUSES):
        levers = rng.sample(world.LEVERS, world.HOUSE_LEVERS)
        doors = rng.sample(world.DOORS, world.HOUSE_DOORS)
        rule = {door: rng.choice(levers) for door in doors}
        text = world.canonical(rule)
        found.append(
            {
                "rule": rule,
                "canonical": text,
                "fnv1a": str(world.fnv1a(text)),
                "class": world.house_class(rule),
            }
        )
    return found


def conversation(episode: world.Conversation) -> dict[str, object]:
    """One explicit episode and its message lists, with tips and with tips dropped."""
    variation = episode.variation
    turns = [
        {
            "tips": [world.tip_text(tip) for tip in turn.tips],
            "action": world.action_text(turn.lever),
        }
        for turn in episode.turns
    ]
    return {
        "k": len(variation.doors),
        "m": len(variation.listed[0]),
        "doors": variation.doors,
        "levers": variation.listed,
        "right": variation.right,
        "turns": turns,
        "with_tips": world.messages(episode),
        "without_tips": world.messages(episode, with_tips=False),
        "chatml": world.chatml(world.messages(episode)),
    }


def golden() -> dict[str, object]:
    """The file's content. The last message of a list is the episode's exact tip."""
    return {
        "words": {"doors": world.DOORS, "levers": world.LEVERS},
        "partition": partition(),
        "conversations": [conversation(episode) for episode in episodes()],
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(golden(), indent=1) + "\n")
