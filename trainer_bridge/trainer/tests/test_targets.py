"""Which modules are adapted: keywords, names, and what is never adapted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from empo2_trainer.protocol import LoraSpec, UserError
from empo2_trainer.targets import select
from tests.conftest import checked, make_trainer, wire_batch

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def adapted(trainer: Any, model_id: str) -> list[str]:
    names = trainer.models[model_id].optimizer.parameters
    return sorted({n.removeprefix("base_model.model.").split(".lora_")[0] for n in names})


def layers(names: list[str], count: int = 2) -> list[str]:
    return sorted(
        f"model.layers.{i}.{'self_attn' if n in ATTENTION else 'mlp'}.{n}"
        for i in range(count)
        for n in names
    )


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, layers(ATTENTION + MLP)),
        ({"target_modules": "all-linear"}, layers(ATTENTION + MLP)),
        ({"target_modules": ["all-linear"]}, layers(ATTENTION + MLP)),
        ({"target_modules": "attention"}, layers(ATTENTION)),
        ({"target_modules": ["q_proj", "mlp.down_proj"]}, layers(["q_proj", "down_proj"])),
        ({"target_modules": ["layers.1.self_attn.q_proj"]}, ["model.layers.1.self_attn.q_proj"]),
        ({"train_mlp": False}, layers(ATTENTION)),
        ({"train_attn": False}, layers(MLP)),
    ],
)
def test_modules_are_adapted_as_named(trainer: Any, spec: dict[str, Any], want: list[str]) -> None:
    answer = trainer.create("n", LoraSpec(rank=2, **spec))
    assert adapted(trainer, "n") == want
    assert {p.split(".")[-1] for p in answer["target_modules"]} == {n.split(".")[-1] for n in want}
    assert answer["skipped_modules"] == {}
    trainer.run("n", *checked(wire_batch(1)), backward=True)
    exported = trainer.export("n", "v000001", False)
    assert (Path(exported["dir"]) / "adapter.gguf").exists()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("linear", "target_modules 'linear': valid are all-linear, attention or a list"),
        (["qq_proj"], "no module is named 'qq_proj': the linear layers are down_proj, gate_proj"),
        ([""], "no module is named ''"),
        ([], "selects no module"),
        (["norm"], "model.norm (Qwen2RMSNorm) cannot be adapted: not a linear layer"),
        (["embed_tokens"], "(Embedding) cannot be adapted: not a linear layer"),
        (["q_proj", "lm_head"], "lm_head (Linear) cannot be adapted: the output embedding"),
    ],
)
def test_modules_that_cannot_be_adapted_are_errors(trainer: Any, wanted: Any, message: str) -> None:
    before = trainer.run("m", *checked(wire_batch(1)), backward=False)
    with pytest.raises(UserError) as e:
        trainer.create("n", LoraSpec(rank=2, target_modules=wanted))
    assert message in str(e.value)
    after = trainer.run("m", *checked(wire_batch(1)), backward=False)
    assert after["loss_fn_outputs"] == before["loss_fn_outputs"]


def test_layers_that_peft_does_not_know_are_refused(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    def refuse(*args: Any) -> None:
        raise ValueError("Target module is not supported")

    monkeypatch.setattr(peft, "inject_adapter_in_model", refuse)
    with pytest.raises(UserError, match=r"PEFT cannot adapt .*q_proj \(Linear\): Target"):
        trainer.create("n", LoraSpec(rank=2))
    assert "n" not in trainer.models


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(4, 8, 8))


class Multimodal(nn.Module):
    """Names and shapes of a mixture of experts with a vision tower."""

    def __init__(self) -> None:
        super().__init__()

        def attention() -> nn.ModuleDict:
            return nn.ModuleDict({"q_proj": nn.Linear(8, 8)})

        def experts() -> nn.ModuleDict:
            parts = {"gate": nn.Linear(8, 4), "experts": Experts(), "shared": nn.Linear(8, 8)}
            return nn.ModuleDict(parts)

        layers = [nn.ModuleDict({"self_attn": attention(), "mlp": experts()}) for _ in range(2)]
        self.visual = nn.ModuleDict({"attn": attention(), "merger": nn.Linear(8, 8)})
        self.language_model = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.connector = nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 8)

    def get_decoder(self) -> nn.Module:
        return self.language_model

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def test_towers_routers_and_packed_experts_are_skipped_and_reported() -> None:
    got = select(Multimodal(), LoraSpec())
    assert got.patterns == [
        "language_model.layers.*.self_attn.q_proj",
        "language_model.layers.*.mlp.shared",
    ]
    assert len(got.modules) == 4
    assert got.skipped == {
        "visual.attn.q_proj": "outside the language model",
        "visual.merger": "outside the language model",
        "connector": "outside the language model",
        "language_model.layers.*.mlp.gate": "a router",
        "language_model.layers.*.mlp.experts": "experts in one tensor",
    }
    named = select(Multimodal(), LoraSpec(target_modules=["q_proj"]))
    assert named.patterns == ["language_model.layers.*.self_attn.q_proj"]
    assert named.skipped == {"visual.attn.q_proj": "outside the language model"}
    with pytest.raises(UserError, match=r"mlp.gate \(Linear\) cannot be adapted: a router"):
        select(Multimodal(), LoraSpec(target_modules=["gate"]))


def test_the_tower_is_not_adapted_by_a_name_that_it_shares() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    from empo2_trainer.targets import peft_targets

    model = Multimodal()
    targets = peft_targets(model, select(model, LoraSpec(target_modules=["q_proj"])).modules)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), model)
    adapted = {n.split(".lora_")[0] for n, _ in model.named_parameters() if ".lora_" in n}
    assert adapted == {f"language_model.layers.{i}.self_attn.q_proj" for i in range(2)}


def test_a_checkpoint_of_other_modules_is_refused(model_dir: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_dir, tmp_path)
    trainer.save("m", "000001", False)
    trainer.create("n", LoraSpec(rank=4, alpha=8.0, target_modules="attention"))
    with pytest.raises(UserError, match="other modules than the model"):
        trainer.load("n", "tinker://m/weights/000001", True)
