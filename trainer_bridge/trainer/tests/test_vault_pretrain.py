"""Pre-training: weights and soft targets, the optimizer, the model and the committed weights."""

import json
from pathlib import Path
from random import Random

import pytest
import torch

from vault_pretraining import data, gates, golden, model, pretrain, tokenizer, world
from vault_pretraining.muon import Muon, orthogonalise

WEIGHTS = Path(__file__).parents[1] / "vault_pretraining/weights"


@pytest.fixture(scope="module", name="encoder")
def open_encoder() -> tokenizer.Encoder:
    """The committed tokenizer."""
    return tokenizer.Encoder(tokenizer.load(WEIGHTS))


def test_lever_mass_follows_what_the_tips_say() -> None:
    listed = ("jade", "amber", "bone", "salt")
    avoid = {world.Fact("oak", "avoid", "jade"), world.Fact("oak", "avoid", "amber")}
    other = {world.Fact("clay", "pull", "bone")}
    kind, mass, _ = data.lever_mass("oak", listed, other)
    assert kind == data.UNKNOWN
    assert set(mass.values()) == {0.25}
    kind, mass, failing = data.lever_mass("oak", listed, avoid | other)
    assert kind == data.FAILING
    assert failing == {"jade", "amber"}
    assert mass == pytest.approx({"jade": 0.005, "amber": 0.005, "bone": 0.495, "salt": 0.495})
    kind, mass, _ = data.lever_mass("oak", listed, avoid | {world.Fact("oak", "pull", "salt")})
    assert kind == data.KNOWN
    assert mass["salt"] == 0.97
    assert sum(mass.values()) == pytest.approx(1)


def test_weights_of_a_walk_by_hand(encoder: tokenizer.Encoder) -> None:
    episode = golden.episodes()[2]  # jade opens iron, then a tip warns of bone and bone is pulled
    row = data.build_row(encoder, episode)
    words = [encoder.tokenizer.decode([i], skip_special_tokens=False) for i in row.ids]
    carried = [(w, x) for w, x in zip(words, row.weights, strict=True) if x]
    actions = [("pull", 0.2), (" jade", 3.0), ("<|im_end|>", 0.2)]
    actions += [("pull", 0.2), (" bone", 6.0), ("<|im_end|>", 0.2)]
    tip = ["At", " iron", " pull", " jade", ",", " at", " oak", " avoid", " bone", "."]
    assert carried == [*actions, *((word, 1.0) for word in [*tip, "<|im_end|>"])]
    assert [target.kind for target in row.targets] == [data.UNKNOWN, data.FAILING]


def test_repeated_facts_have_a_small_weight(encoder: tokenizer.Encoder) -> None:
    fact = world.Fact("iron", "avoid", "amber")
    tips = [(fact,), (fact, world.Fact("oak", "avoid", "bone"))]
    episode = world.Conversation(golden.CORRIDOR, [world.Turn(0, tips, "jade")])
    row = data.build_row(encoder, episode)
    repeats = [row.ids[i] for i, weight in enumerate(row.weights) if weight == data.WEIGHT_REPEAT]
    assert repeats == encoder.encode(" amber")


def test_batches_predict_from_the_token_before(encoder: tokenizer.Encoder) -> None:
    rows = [data.build_row(encoder, episode) for episode in golden.episodes()[:3]]
    batch = data.collate(rows)
    assert torch.equal(batch.ids.reshape(-1)[batch.at + 1], batch.label)
    assert len(batch.soft) == sum(len(row.targets) for row in rows)
    assert torch.allclose(batch.mass.sum(1), torch.ones(len(batch.mass)))
    assert set(batch.label[batch.soft].tolist()) <= set(encoder.levers)


def test_muon_steps_are_orthogonal_and_downhill() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 64, 32, generator=generator)))
    assert values.min() > 0.5
    assert values.max() < 1.3
    weight = torch.randn(8, 8, generator=generator, requires_grad=True)
    muon, losses = Muon([weight], lr=0.05), []
    for _ in range(30):
        weight.grad = None
        loss = weight.square().sum()
        loss.backward()
        muon.step(1.0)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_small_forward_equals_transformers() -> None:
    from transformers import Qwen2ForCausalLM

    shape = model.Shape()
    policy = model.Policy(shape, torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy.bias.normal_(generator=torch.Generator().manual_seed(1))
    reference = Qwen2ForCausalLM(model.hf_config(shape)).float()
    reference.load_state_dict(model.to_hf(policy), strict=False)
    reference.tie_weights()
    ids = torch.randint(0, 400, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = reference(ids).logits.reshape(-1, shape.vocab)
        assert torch.allclose(policy(ids, torch.arange(80)), want, atol=1e-5)
        again = model.from_hf(model.to_hf(policy), shape)
        assert torch.equal(again(ids, torch.arange(80)), policy(ids, torch.arange(80)))


def test_a_short_training_lowers_the_loss(encoder: tokenizer.Encoder) -> None:
    policy = model.Policy(model.Shape(), torch.Generator().manual_seed(0))
    others = [policy.embed, policy.bias, policy.norms, policy.norm]
    muon, adam = Muon([policy.attn, policy.mlp], 0.012), torch.optim.AdamW(others, 2e-3)
    levers, losses = torch.tensor(encoder.levers), []
    stream = data.batches(Random(0), encoder, data.Stage((2, 2), (3, 4), 3), 1024)
    for batch in [batch for _, batch in zip(range(4), stream, strict=False)] * 5:
        loss, _ = pretrain.losses(policy, batch, levers)
        policy.zero_grad()
        loss.backward()
        muon.step(1.0)
        adam.step()
        losses.append(float(loss.detach()))
    assert len(losses) == 20
    assert losses[-1] < 0.75 * losses[0]


def test_a_stage_ends_when_it_is_learned_or_late() -> None:
    able, late = pretrain.Progress(figures=(0.1, 0.9, 0.5, 0.99)), pretrain.Progress()
    assert able.update([0.1, 0.9, 0.5, 0.99], 0.01)
    assert able.stage == 1
    assert not late.update([7.0, 0.0, 0.0, 0.0], 0.1)
    assert late.update([7.0, 0.0, 0.0, 0.0], 0.21)
    assert late.stage == 1


def test_committed_weights_are_those_of_the_provenance() -> None:
    provenance = json.loads((WEIGHTS / "PROVENANCE.json").read_text())
    for name, digest in provenance["sha256"].items():
        assert pretrain.sha256(WEIGHTS / name) == digest


def test_committed_weights_pass_modest_gates(encoder: tokenizer.Encoder) -> None:
    found = gates.measure(model.load(WEIGHTS), encoder, gates.conversations(9, 64))
    assert found["follow"] > 0.85
    assert found["avoidance"] > 0.7
    assert found["tip"] > 0.85
    assert found["listed"] > 0.97
    assert found["entropy"] > 0.95
    assert found["format"] > 0.98


def test_phases_add_up_and_the_rates_end_at_zero() -> None:
    main, finish, horizon = pretrain.phases(20)
    assert (main, finish, horizon) == (4000, 250, 5600)
    assert pretrain.rate(horizon, horizon) == 0
    assert pretrain.finish_rate(finish, finish) == 0
    assert 0.4 < pretrain.rate(main, horizon) < pretrain.rate(horizon // 3, horizon) == 1
    assert pretrain.finish_rate(20, finish) == 0.5 * 230 / 250
