"""The operations of the server. Every method runs on the one thread that owns torch.

If a request is invalid, a method raises UserError and does not change the model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo2_trainer import export, gguf_export, memory, merge, step
from empo2_trainer.datums import Sequence
from empo2_trainer.losses import Loss
from empo2_trainer.model import Policy, alpha_of
from empo2_trainer.optimizer import Optimizer
from empo2_trainer.protocol import AdamParams, LoraSpec, UserError, tensor
from empo2_trainer.store import Store
from empo2_trainer.targets import peft_excluded, select

OUTPUT_TYPES = {"cross_entropy": "CrossEntropyLossReturn"}
MAX_RANK = 1024


@dataclass
class Model:
    """One adapter in training."""

    model_id: str
    adapter: str  # its name inside PEFT
    rank: int
    alpha: float
    optimizer: Optimizer

    @property
    def about(self) -> dict[str, Any]:
        """The description of the adapter in a manifest."""
        return {"rank": self.rank, "alpha": self.alpha}


class Trainer:
    """A base model, its adapters in training and the run directory that they are saved to."""

    def __init__(self, policy: Policy, root: Path, seed: int, formats: tuple[str, ...]) -> None:
        self.policy = policy
        self.seed = seed
        self.formats = formats
        self.adapters = Store(root / "adapters")
        self.checkpoints = Store(root / "checkpoints", manifest="meta.json")
        self._writers: dict[str, list[str]] = {}  # models that wrote a checkpoint, by its name
        self.models: dict[str, Model] = {}
        self._created = 0

    def create(self, model_id: str, spec: LoraSpec) -> dict[str, Any]:
        """A new adapter whose output equals the base model's."""
        if not 1 <= spec.rank <= MAX_RANK:
            raise UserError(f"lora_config rank = {spec.rank}: must be within 1..{MAX_RANK}")
        alpha = alpha_of(spec)
        if not 0 < alpha < 1e6:
            raise UserError(f"lora_config alpha = {alpha}: must be positive")
        modules = select(self.policy.hf, spec).modules
        if "gguf" in self.formats:
            gguf_export.check_modules(self.policy.directory, modules)
        if "merged" in self.formats:
            merge.check_modules(self.policy.directory, modules)
        self._created += 1
        adapter = f"m{self._created}"
        seed = self.seed if spec.seed is None else spec.seed
        targets = self.policy.add_adapter(adapter, spec, seed)
        optimizer = Optimizer(self.policy.parameters(adapter))
        self.models[model_id] = Model(model_id, adapter, spec.rank, alpha, optimizer)
        return {
            "model_id": model_id,
            "type": "create_model",
            "target_modules": targets.patterns,
            "skipped_modules": targets.skipped,
        }

    def get(self, model_id: str) -> Model:
        """A model by its id."""
        if model_id not in self.models:
            raise UserError(f"unknown model_id {model_id!r}: create_model comes first")
        return self.models[model_id]

    def unload(self, model_id: str) -> dict[str, Any]:
        """Remove a model. Its saved files stay."""
        self.policy.remove_adapter(self.get(model_id).adapter)
        del self.models[model_id]
        return {"model_id": model_id, "type": "unload_model"}

    def run(
        self, model_id: str, sequences: list[Sequence], loss: Loss, backward: bool
    ) -> dict[str, Any]:
        """forward or forward_backward. After a failure no part of the gradient remains."""
        model = self.get(model_id)
        self.policy.activate(model.adapter)
        try:
            result = step.run(self.policy, sequences, loss, backward)
            if backward:
                model.optimizer.accept()
            elif self.policy.device.type == "cuda":
                memory.release(self.policy.device)  # a server may share the GPU
        except Exception as e:
            if backward:
                model.optimizer.incomplete = str(e)
            raise
        finally:
            model.optimizer.clear()
        return {
            "loss_fn_output_type": OUTPUT_TYPES.get(loss.name, "TorchLossReturn"),
            "loss_fn_outputs": [{"logprobs": tensor(values)} for values in result.logprobs],
            "metrics": result.metrics.wire() | result.usage.wire(),
        }

    def refuse(self, model_id: str, message: str) -> dict[str, Any]:
        """Fail a forward_backward that is invalid: a gradient without it is incomplete."""
        if model_id in self.models:
            self.models[model_id].optimizer.incomplete = message
        raise UserError(message)

    def optim_step(self, model_id: str, adam: AdamParams) -> dict[str, Any]:
        """Apply the pending gradient."""
        return {"metrics": self.get(model_id).optimizer.step(adam)}

    def save(self, model_id: str, name: str, overwrite: bool) -> dict[str, Any]:
        """Write a checkpoint: adapter and optimizer."""
        model = self.get(model_id)
        optimizer = model.optimizer
        about = {
            **model.about,
            "version_name": name,
            "base_model": self.policy.directory,
            "optimizer_steps": optimizer.steps,
        }
        path = self.checkpoints.write(
            name,
            about,
            lambda d: export.write_checkpoint(d, {**optimizer.parameters}, optimizer.state()),
            overwrite,
        )
        self._writers.setdefault(name, []).append(model_id)
        return {
            "path": f"tinker://{model_id}/weights/{name}",
            "dir": str(path),
            "type": "save_weights",
        }

    def load(self, model_id: str, path: str, optimizer: bool) -> dict[str, Any]:
        """Restore a checkpoint; without optimizer, its state is reset."""
        model = self.get(model_id)
        owner, name = checkpoint_name(path)
        writers = self._writers.get(name, [])
        if owner in writers and writers[-1] != owner:
            raise UserError(f"path {path!r}: model {writers[-1]} has overwritten {name}")
        about = self.checkpoints.verify(name)
        for key, value in model.about.items():
            if about.get(key) != value:
                raise UserError(f"{name} has {key} {about.get(key)}, the model {value}")
        weights, state = export.read_checkpoint(self.checkpoints.root / name)
        export.copy_into(model.optimizer.parameters, weights)
        model.optimizer.restore(state if optimizer else {})
        return {"path": path, "model_id": model_id, "type": "load_weights"}

    def export(self, model_id: str, name: str, overwrite: bool) -> dict[str, Any]:
        """Write the adapter for inference servers, in every format of the run."""
        model = self.get(model_id)
        weights = {n: p.detach() for n, p in model.optimizer.parameters.items()}
        modules = export.module_names(weights)
        config = export.peft_config(
            self.policy.directory,
            model.rank,
            model.alpha,
            export.last_names(modules),
            peft_excluded(self.policy.hf, modules),
        )

        def fill(directory: Path) -> None:
            if "peft" in self.formats:
                export.write_peft(directory, config, weights)
            if "gguf" in self.formats:
                target = directory / "adapter.gguf"
                gguf_export.write_adapter(target, self.policy.directory, config, weights)

        about = {**model.about, "version_name": name, "base_model": self.policy.directory}
        path = self.adapters.write(name, about, fill, overwrite)
        if self.policy.device.type == "cuda":
            memory.release(self.policy.device)  # a server may wake up on the same GPU
        return {
            "path": f"tinker://{model_id}/sampler_weights/{name}",
            "sampling_session_id": None,
            "dir": str(path),
            "type": "save_weights_for_sampler",
        }


def checkpoint_name(path: str) -> tuple[str, str]:
    """Model and name in tinker://<model>/weights/<name>; the model may be of an earlier process."""
    parts = path.removeprefix("tinker://").split("/")
    if not path.startswith("tinker://") or len(parts) != 3 or parts[1] != "weights":
        raise UserError(f"path {path!r}: must be tinker://<model_id>/weights/<name>")
    return parts[0], parts[2]
