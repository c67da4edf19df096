"""The vault's houses, episodes and texts. The Go environment renders the same ones.

A house is a hidden rule door -> lever. A hash of that rule assigns a house to pre-training, to its
gates or to reinforcement learning, so that the three sets are disjoint for all seeds.
testdata/vault_golden.json has words, hashes and texts for the tests of both sides.
"""

from dataclasses import dataclass, field
from random import Random

# fmt: off
DOORS = (
    "iron", "oak", "clay", "glass", "copper", "marble", "velvet", "paper", "stone", "silver",
    "cedar", "ivory", "bronze", "slate", "wicker", "chalk",
)
LEVERS = (
    "jade", "amber", "bone", "salt", "brass", "coral", "onyx", "pearl", "ruby", "tin", "wax",
    "cork", "flint", "opal", "lead", "horn", "moss", "ash", "reed", "silk",
)
# fmt: on
HOUSE_DOORS = 8
HOUSE_LEVERS = 12

SYSTEM = (
    "You walk a corridor of locked doors. One lever opens each door. A wrong lever ends the walk."
)
OPENS = "It opens."
OUT = "It opens. You are out. Score 100."
REQUEST = "Write one tip for the next walk."

PRETRAIN, GATE, RL = "pretrain", "gate", "rl"
CLASSES = (PRETRAIN, PRETRAIN, GATE, RL)  # indexed by hash modulo 4

Message = dict[str, str]


@dataclass(frozen=True)
class House:
    """Eight doors, twelve levers and the hidden rule; every right lever is one of the twelve."""

    doors: tuple[str, ...]
    levers: tuple[str, ...]
    rule: dict[str, str]


@dataclass(frozen=True)
class Variation:
    """One corridor of a house: its doors in their order and the levers listed at each."""

    doors: tuple[str, ...]
    listed: tuple[tuple[str, ...], ...]
    right: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """What one pulled lever taught. verdict is "pull" (it opened the door) or "avoid"."""

    door: str
    verdict: str
    lever: str


@dataclass
class Turn:
    """One door of a conversation: the tips shown above its state and the lever pulled there."""

    index: int
    tips: list[tuple[Fact, ...]]
    lever: str


@dataclass
class Conversation:
    """An episode in a variation with the tips shown on the way; partial adds partial scores."""

    variation: Variation
    turns: list[Turn] = field(default_factory=list)
    partial: bool = False


def canonical(rule: dict[str, str]) -> str:
    """The canonical string of a house: door=lever pairs in the order of the doors, joined by ;."""
    return ";".join(f"{door}={rule[door]}" for door in sorted(rule))


def fnv1a(text: str) -> int:
    """FNV-1a, 64 bits, of the text's UTF-8 bytes."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def house_class(rule: dict[str, str]) -> str:
    """The part of the partition that a house belongs to."""
    return CLASSES[fnv1a(canonical(rule)) % 4]


def draw_house(rng: Random, wanted: str) -> House:
    """Draw houses until one falls in the wanted class."""
    while True:
        doors = tuple(rng.sample(DOORS, HOUSE_DOORS))
        levers = tuple(rng.sample(LEVERS, HOUSE_LEVERS))
        rule = {door: rng.choice(levers) for door in doors}
        if house_class(rule) == wanted:
            return House(doors, levers, rule)


def draw_variation(rng: Random, house: House, k: int, m: int) -> Variation:
    """Draw k of the house's doors, each listing its right lever among m of the house's."""
    doors = tuple(rng.sample(house.doors, k))
    right = tuple(house.rule[door] for door in doors)
    return Variation(doors, tuple(_list_levers(rng, house, lever, m) for lever in right), right)


def _list_levers(rng: Random, house: House, right: str, m: int) -> tuple[str, ...]:
    levers = [right, *rng.sample([lever for lever in house.levers if lever != right], m - 1)]
    rng.shuffle(levers)
    return tuple(levers)


def state_text(variation: Variation, index: int) -> str:
    """What the policy sees at a door. The door comes last, close to the answer."""
    levers = ", ".join(variation.listed[index])
    count = len(variation.doors)
    return f"Levers: {levers}. Door {index + 1} of {count} is {variation.doors[index]}."


def action_text(lever: str) -> str:
    """The one well-formed action."""
    return f"pull {lever}"


def result_text(variation: Variation, turn: Turn, partial: bool = False) -> str:
    """The answer to a pulled lever. partial scores 100/K per opened door, rounded down."""
    count = len(variation.doors)
    if turn.lever == variation.right[turn.index]:
        return OUT if turn.index + 1 == count else OPENS
    listed = turn.lever in variation.listed[turn.index]
    score = 100 * turn.index // count if partial else 0
    first = "An alarm rings." if listed else "Nothing happens."
    return f"{first} The walk is over. Score {score}."


def episode_facts(variation: Variation, turns: list[Turn]) -> tuple[Fact, ...]:
    """The facts that an episode showed, door by door: the content of its tip."""
    return tuple(_fact(variation, turn.index, turn.lever) for turn in turns)


def _fact(variation: Variation, index: int, lever: str) -> Fact:
    verdict = "pull" if lever == variation.right[index] else "avoid"
    return Fact(variation.doors[index], verdict, lever)


def tip_text(facts: tuple[Fact, ...]) -> str:
    """The tip for some facts. The verdict comes before the lever, so that a causal model knows
    it when it reads the lever."""
    text = ", ".join(f"at {fact.door} {fact.verdict} {fact.lever}" for fact in facts)
    return f"A{text[1:]}."


def past_episode(rng: Random, variation: Variation, skill: list[float]) -> tuple[Fact, ...]:
    """The facts of a simulated episode that pulls the right lever of door i with skill[i]."""
    facts: list[Fact] = []
    for index, right in enumerate(variation.right):
        lever = right
        if rng.random() >= skill[index]:
            lever = rng.choice([name for name in variation.listed[index] if name != right])
        facts.append(_fact(variation, index, lever))
        if lever != right:
            break
    return tuple(facts)


def messages(conversation: Conversation, with_tips: bool = True) -> list[Message]:
    """The chat, with the reflection request and its tip at the end.

    Without tips the tip lines and their header are dropped and nothing else changes.
    """
    variation, result = conversation.variation, ""
    chat = [{"role": "system", "content": SYSTEM}]
    for turn in conversation.turns:
        lines = [result] if result else []
        if with_tips and turn.tips:
            lines += ["Tips:", *(f"- {tip_text(tip)}" for tip in turn.tips)]
        lines.append(state_text(variation, turn.index))
        chat.append({"role": "user", "content": "\n".join(lines)})
        chat.append({"role": "assistant", "content": action_text(turn.lever)})
        result = result_text(variation, turn, conversation.partial)
    tip = tip_text(episode_facts(variation, conversation.turns))
    chat.append({"role": "user", "content": f"{result}\n{REQUEST}"})
    chat.append({"role": "assistant", "content": tip})
    return chat


def chatml(chat: list[Message]) -> str:
    """The chat as ChatML text, as the tokenizer's chat template renders it."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in chat)
