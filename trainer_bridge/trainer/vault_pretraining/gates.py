"""Abilities that a pre-trained policy must have, measured in held-out houses.

follow: mass on the lever that a shown tip says to pull. avoidance: mass off levers that shown tips
say to avoid, where no tip knows the right one. tip: reflections written exactly (greedy). listed:
mass on the door's listed levers. entropy: of the lever where nothing is known, over log M. format:
mass on the other tokens of an action.
"""

import math
from collections import defaultdict
from random import Random

import torch

from vault_pretraining import data, world
from vault_pretraining.model import Policy
from vault_pretraining.tokenizer import Encoder

FINAL = data.Stage((2, 6), (4, 8), 10)
DEEP = 4  # doors from which an episode's tip counts as deep


def conversations(seed: int, count: int) -> list[world.Conversation]:
    """Conversations through gate houses, as in the last stage of pre-training."""
    rng = Random(f"gates/{seed}")
    return [data.draw_conversation(rng, world.GATE, FINAL) for _ in range(count)]


def loop_conversations(
    seed: int, count: int, k: int, m: int, most: int
) -> list[world.Conversation]:
    """Conversations like those of the RL loop: up to most tips per door from 3·k past episodes."""
    rng = Random(f"loop/{seed}/{k}/{m}")
    conversations = []
    for _ in range(count):
        variation = world.draw_variation(rng, world.draw_house(rng, world.GATE), k, m)
        skill = [rng.choice((0.3, 0.6, 0.9))] * k
        episodes = [world.past_episode(rng, variation, skill) for _ in range(3 * k)]
        conversations.append(data.play(rng, variation, list(dict.fromkeys(episodes)), most))
    return conversations


@torch.no_grad()
def measure(
    policy: Policy, encoder: Encoder, conversations: list[world.Conversation]
) -> dict[str, float]:
    """The gates' means over conversations, without gates that no conversation measures."""
    found: dict[str, list[float]] = defaultdict(list)
    for conversation in conversations:
        row = data.build_row(encoder, conversation)
        ids = torch.tensor([row.ids])  # (1, T)
        logits = policy(ids, torch.arange(len(row.ids)))  # (T, V)
        probs = logits.softmax(-1)
        for target in row.targets:
            _lever_gates(found, target, probs[target.position - 1], encoder)
            place = target.position
            found["format"].append(float(probs[place - 2, row.ids[place - 1]]))
            found["format"].append(float(probs[place, row.ids[place + 1]]))
        wanted = ids[0, row.tip_start :]
        exact = bool((logits[row.tip_start - 1 : -1].argmax(-1) == wanted).all())
        found["tip"].append(float(exact))
        if row.depth >= DEEP:
            found["tip_deep"].append(float(exact))
    return {name: round(sum(values) / len(values), 4) for name, values in sorted(found.items())}


def _lever_gates(
    found: dict[str, list[float]], target: data.Target, probs: torch.Tensor, encoder: Encoder
) -> None:
    """Add one lever token's figures. probs (V,)."""
    mass = dict(zip(world.LEVERS, probs[encoder.levers].tolist(), strict=True))
    found["listed"].append(sum(mass[name] for name in target.listed))
    if target.kind == data.KNOWN:
        right = max(target.mass, key=lambda name: target.mass[name])
        found["follow"].append(mass[right])
        found["follow_greedy"].append(float(max(mass, key=lambda name: mass[name]) == right))
    elif target.kind == data.FAILING:
        found["avoidance"].append(1 - sum(mass[name] for name in target.failing))
    else:
        entropy = -float((probs * probs.clamp_min(1e-30).log()).sum())
        found["entropy"].append(entropy / math.log(len(target.listed)))


def all_gates(policy: Policy, encoder: Encoder, seed: int, count: int) -> dict[str, object]:
    """The gates, and the same figures in the RL loop's settings, with and without tips."""
    deep = loop_conversations(seed, count // 2, 5, 8, 3)
    bare = [
        world.Conversation(t.variation, [_without_tips(turn) for turn in t.turns]) for t in deep
    ]
    return {
        "conversations": count,
        "unseen": measure(policy, encoder, conversations(seed, count)),
        "k5_m8_3_tips": measure(policy, encoder, deep),
        "k5_m8_without_tips": measure(policy, encoder, bare),
        "k3_m4_10_tips": measure(policy, encoder, loop_conversations(seed, count // 2, 3, 4, 10)),
    }


def _without_tips(turn: world.Turn) -> world.Turn:
    return world.Turn(turn.index, [], turn.lever)
