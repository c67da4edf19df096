"""Pre-training conversations, their loss weights and soft targets, and batches of them.

All conversations are simulated in houses for pre-training (or for gates). A conversation shows
the tips of a notebook in the format of the Go program. The target at each lever token is the exact
distribution of a policy that follows its tips.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch

from vault_pretraining import world
from vault_pretraining.tokenizer import IM_END, IM_START, Encoder

KNOWN_MASS = 0.97  # on the lever that a tip says to pull
FAILING_MASS = 0.01  # on all levers that tips say to avoid, together
WEIGHT_LEVER, WEIGHT_AVOID, WEIGHT_FORMAT, WEIGHT_TIP, WEIGHT_REPEAT = 3.0, 6.0, 0.2, 1.0, 0.15
UNKNOWN, KNOWN, FAILING = range(3)  # what the shown tips say about a door

Notebook = list[tuple[world.Fact, ...]]


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: inclusive ranges of doors and levers, most tips per door."""

    doors: tuple[int, int]
    levers: tuple[int, int]
    tips: int


@dataclass
class Target:
    """The soft target at one lever token: what was known, and the mass of each lever."""

    position: int
    kind: int
    mass: dict[str, float]
    listed: tuple[str, ...]
    failing: frozenset[str]


@dataclass
class Row:
    """One conversation as tokens. weights[i] belongs to the prediction of ids[i]."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    tip_start: int = 0
    depth: int = 0

    def add(self, ids: list[int], weight: float = 0.0) -> None:
        """Append tokens of one weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)


def draw_notebook(rng: Random, variation: world.Variation) -> Notebook:
    """The distinct tips of past episodes. The episodes were stopped by one unsolved door or had one
    skill, or the tips are scattered facts, which give more practice in avoiding levers."""
    k, kind = len(variation.doors), rng.random()
    if kind < 0.3:
        return _scattered(rng, variation)
    episodes = rng.randint(1, 12 * k)
    if kind < 0.65:
        frontier, early = rng.randrange(k), rng.choice((0.7, 0.95))
        skill = [early] * frontier + [0.0] * (k - frontier)
    else:
        skill = [rng.choice((0.3, 0.6, 0.9, rng.random()))] * k
    tips = [world.past_episode(rng, variation, skill) for _ in range(episodes)]
    return list(dict.fromkeys(tips))


def _scattered(rng: Random, variation: world.Variation) -> Notebook:
    """True tips of one or two facts about any doors, most of them warnings."""
    tips: Notebook = []
    for _ in range(rng.randint(2, 5 * len(variation.doors))):
        count = rng.choice((1, 1, 2))
        indices = sorted(rng.sample(range(len(variation.doors)), count))
        tips.append(tuple(_true_fact(rng, variation, index) for index in indices))
    return list(dict.fromkeys(tips))


def _true_fact(rng: Random, variation: world.Variation, index: int) -> world.Fact:
    right = variation.right[index]
    if rng.random() < 0.1:
        return world.Fact(variation.doors[index], "pull", right)
    wrong = rng.choice([name for name in variation.listed[index] if name != right])
    return world.Fact(variation.doors[index], "avoid", wrong)


def lever_mass(
    door: str, listed: tuple[str, ...], facts: set[world.Fact]
) -> tuple[int, dict[str, float], frozenset[str]]:
    """What shown facts say about a door, the target mass of each listed lever, and the failing."""
    right = [name for name in listed if world.Fact(door, "pull", name) in facts]
    failing = frozenset(name for name in listed if world.Fact(door, "avoid", name) in facts)
    if right:
        rest = (1 - KNOWN_MASS) / (len(listed) - 1)
        return KNOWN, {name: KNOWN_MASS if name in right else rest for name in listed}, failing
    if not failing:
        return UNKNOWN, {name: 1 / len(listed) for name in listed}, failing
    bad = FAILING_MASS / len(failing)
    good = (1 - FAILING_MASS) / (len(listed) - len(failing))
    return FAILING, {name: bad if name in failing else good for name in listed}, failing


def draw_conversation(
    rng: Random, house_class: str, stage: Stage, guided: float = 0.7
) -> world.Conversation:
    """Play in a fresh house; with probability guided a notebook's tips are shown on the way."""
    house = world.draw_house(rng, house_class)
    k, m = rng.randint(*stage.doors), rng.randint(*stage.levers)
    variation = world.draw_variation(rng, house, k, m)
    notebook = draw_notebook(rng, variation) if rng.random() < guided else []
    most = rng.randint(1, stage.tips)
    return play(rng, variation, notebook, most)


def play(
    rng: Random, variation: world.Variation, notebook: Notebook, most: int
) -> world.Conversation:
    """Play a variation, showing at each door up to most unseen tips that mention it."""
    conversation = world.Conversation(variation, partial=rng.random() < 0.25)
    unseen, facts = rng.sample(notebook, len(notebook)), set[world.Fact]()
    skill = rng.choice((0.75, 0.92))
    for index, door in enumerate(variation.doors):
        tips = [tip for tip in unseen if any(fact.door == door for fact in tip)]
        tips = [] if rng.random() < 0.1 else tips[:most]
        unseen = [tip for tip in unseen if tip not in tips]
        facts.update(fact for tip in tips for fact in tip)
        lever = _pull(rng, variation, index, facts, skill)
        conversation.turns.append(world.Turn(index, tips, lever))
        if lever != variation.right[index]:
            break
    return conversation


def _pull(
    rng: Random, variation: world.Variation, index: int, facts: set[world.Fact], skill: float
) -> str:
    """The simulated policy's lever: mostly the right one, so that episodes reach many doors."""
    door, listed, right = variation.doors[index], variation.listed[index], variation.right[index]
    kind, _, failing = lever_mass(door, listed, facts)
    if rng.random() < (0.97 if kind == KNOWN else skill):
        return right
    if rng.random() < 0.03:
        return rng.choice([name for name in world.LEVERS if name not in listed])
    wrong = [name for name in listed if name != right]
    return rng.choice([name for name in wrong if name not in failing] or wrong)


def build_row(encoder: Encoder, conversation: world.Conversation) -> Row:
    """Tokens, weights and soft targets of a conversation, rendered with its tips."""
    row, facts, result = Row(), set[world.Fact](), ""
    variation = conversation.variation
    _message(row, encoder, f"system\n{world.SYSTEM}")
    for turn in conversation.turns:
        row.add([IM_START])
        row.add(encoder.encode(f"user\n{result}"))
        _add_tips(row, encoder, turn.tips, facts)
        row.add(encoder.encode(world.state_text(variation, turn.index)))
        row.add([IM_END])
        _add_action(row, encoder, variation, turn, facts)
        result = world.result_text(variation, turn, conversation.partial) + "\n"
    _message(row, encoder, f"user\n{result}{world.REQUEST}")
    tip = world.tip_text(world.episode_facts(variation, conversation.turns))
    row.add([IM_START, *encoder.encode("assistant\n")])
    row.tip_start, row.depth = len(row.ids), len(conversation.turns)
    row.add([*encoder.encode(tip), IM_END], WEIGHT_TIP)
    return row


def _message(row: Row, encoder: Encoder, text: str) -> None:
    row.add([IM_START, *encoder.encode(text), IM_END, *encoder.encode("\n")])


def _add_tips(row: Row, encoder: Encoder, tips: Notebook, facts: set[world.Fact]) -> None:
    """Append shown tips; the lever of a fact that was already shown has a small weight."""
    if tips:
        row.add(encoder.encode("Tips:\n"))
    for tip in tips:
        start = len(row.ids) + 2  # after the dash and " At"
        row.add(encoder.encode(f"- {world.tip_text(tip)}\n"))
        for number, fact in enumerate(tip):  # each fact is "at", door, verdict, lever, comma
            if fact in facts:
                row.weights[start + 5 * number + 2] = WEIGHT_REPEAT
            facts.add(fact)


def _add_action(
    row: Row, encoder: Encoder, variation: world.Variation, turn: world.Turn, facts: set[world.Fact]
) -> None:
    door, listed = variation.doors[turn.index], variation.listed[turn.index]
    kind, mass, failing = lever_mass(door, listed, facts)
    row.add([*encoder.encode("\n"), IM_START, *encoder.encode("assistant\n")])
    row.add(encoder.encode("pull"), WEIGHT_FORMAT)
    row.targets.append(Target(len(row.ids), kind, mass, listed, failing))
    row.add(encoder.encode(f" {turn.lever}"), WEIGHT_AVOID if kind == FAILING else WEIGHT_LEVER)
    row.add([IM_END], WEIGHT_FORMAT)
    row.add(encoder.encode("\n"))


@dataclass
class Batch:
    """Padded rows and the flat positions that carry loss.

    ids (B, T); at, label, weight (N,) for the N weighted predictions: at is the flat index b·T + t
    of the token before the predicted one. soft (S,) indexes those N; mass (S, 20) is in the order
    of world.LEVERS; kind (S,) is UNKNOWN, KNOWN or FAILING.
    """

    ids: torch.Tensor
    at: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor
    soft: torch.Tensor
    mass: torch.Tensor
    kind: torch.Tensor


def collate(rows: list[Row]) -> Batch:
    """Pad rows on the right (attention is causal, so padding needs no mask)."""
    length = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), length), np.int64)
    weights = np.zeros((len(rows), length), np.float32)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = row.ids
        weights[b, : len(row.ids)] = row.weights
    flat = np.flatnonzero(weights)  # (N,), never at t = 0
    order = {name: i for i, name in enumerate(world.LEVERS)}
    targets = [(b * length + t.position, t) for b, row in enumerate(rows) for t in row.targets]
    mass = np.zeros((len(targets), len(order)), np.float32)
    for s, (_, target) in enumerate(targets):
        for name, value in target.mass.items():
            mass[s, order[name]] = value
    return Batch(
        ids=torch.from_numpy(ids),
        at=torch.from_numpy(flat - 1),
        label=torch.from_numpy(ids.reshape(-1)[flat]),
        weight=torch.from_numpy(weights.reshape(-1)[flat]),
        soft=torch.from_numpy(np.searchsorted(flat, [place for place, _ in targets])),
        mass=torch.from_numpy(mass),
        kind=torch.tensor([target.kind for _, target in targets]),
    )


def batches(rng: Random, encoder: Encoder, stage: Stage, tokens: int) -> Iterator[Batch]:
    """A pool of fresh conversations as batches of rows of like length, about tokens each."""
    rows: list[Row] = []
    budget = 8 * tokens
    while budget > 0:
        rows.append(build_row(encoder, draw_conversation(rng, world.PRETRAIN, stage)))
        budget -= len(rows[-1].ids)
    rows.sort(key=lambda row: len(row.ids))
    groups: list[list[Row]] = [[]]
    for row in rows:
        if (len(groups[-1]) + 1) * len(row.ids) > tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    return map(collate, groups)
